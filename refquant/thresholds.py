"""The whole function of a convention, found by bisection: at most a few hundred steps (specs/25-conventions.md)."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from refquant import checks
from refquant.affine import quantize
from refquant.arguments import as_array
from refquant.codec import encode
from refquant.conventions import Affine, Cast, Rescale
from refquant.conventions.steps import Domain, StepFunction, check_storage, distance, probe_keys, seed_keys
from refquant.formats import Format, IntFormat
from refquant.kinds import kinds
from refquant.requantize import requantize

Array = np.ndarray[Any, Any]

__all__ = ["StepFunction", "apply", "distance", "probes", "tabulate", "thresholds"]

LIMIT = 1 << 17
PLACES = 256  # that are searched for a jump


@kinds
def thresholds(
    convention: Affine | Cast | Rescale, fmt: Format, scale: float = 1.0, zero_point: float = 0
) -> StepFunction:
    """The code of all 2**32 inputs as steps.

    Args:
      convention: `Affine`: quantize with scale and zero point; `Cast`: encode, without them; `Rescale`: requantize an
        int32 accumulator, with scale as its multiplier.
      fmt: the format of the codes.
      scale: a real number; rounded to binary32 except for the multiplier of "f64" and fixed-point rescales.
      zero_point: an integer, or under zero "bias" a real number.
    Returns:
      the step function; its keys are total-order keys of binary32 patterns, or accumulators.
    Raises:
      TypeError: scale or zero point is no number, or the zero point no integer where it must be one.
      ValueError: a zero point beyond int32.

    Spec: CNV-2, CNV-3 (specs/25-conventions.md).  Class: exact.
    Example:
      >>> from refquant.conventions import DEFAULT
      >>> from refquant.formats import ALL
      >>> thresholds(DEFAULT, ALL["int2"], 0.1).codes
      (-2, -1, 0, 1, -2)
    """
    checks.number("thresholds", "scale", scale)
    checks.number("thresholds", "zero_point", zero_point)
    if not (isinstance(convention, Affine) and convention.zero == "bias"):
        checks.int32_value("thresholds", "zero_point", zero_point)
    domain = "int32" if isinstance(convention, Rescale) else "float32"
    return tabulate(_function(convention, fmt, scale, zero_point), domain=domain, storage=fmt.storage)


def tabulate(
    function: Callable[[Array], Array],
    *,
    domain: Domain = "float32",
    storage: str = "int8",
    limit: int = LIMIT,
) -> StepFunction:
    """Any function of 2**32 inputs as steps: a kernel of yours, say.

    The table is complete where the function is monotone between neighbouring `seed_keys` (a quarter of an octave
    apart); to be sure, compare it with the function on the `probes` of other candidates.

    Args:
      function: codes of a one-axis array of the domain's dtype.
      domain: "float32" or "int32".
      storage: dtype of the codes.
      limit: the most steps there may be.  Every convention to at most 16 bits has fewer than the default.
    Returns:
      the step function.
    Raises:
      ValueError: more steps, as of a function that wraps instead of saturating; the text says where its code jumps.
        A code that storage does not hold.

    Spec: CNV-3 (specs/25-conventions.md).  Class: exact.
    Example:
      >>> tabulate(lambda x: (x > 1).astype("int8")).codes
      (0, 1, 0)
    """
    checks.within("tabulate", "limit", limit, 1, 2**32, "steps of a function of 2**32 inputs, CNV-3")

    def code_of(keys: Array) -> Array:
        return np.asarray(function(_inputs(keys, domain)))

    starts, values = _bisect(code_of, limit, domain)
    check_storage(values[values.astype(storage) != values].tolist(), storage)
    return StepFunction(tuple(starts.tolist()), tuple(values.tolist()), domain, storage)


@kinds
def apply(steps: StepFunction, x: Array) -> Array:
    """The codes of x, read from the table.

    Args:
      steps: a step function.
      x: float32 or int32, the steps' domain, any shape.
    Returns:
      codes in the steps' storage dtype, shape of x.
    Raises:
      TypeError: x has another dtype.

    Spec: CNV-2 (specs/25-conventions.md).  Class: exact.
    """
    x = as_array(x)
    if str(x.dtype) != steps.domain:
        raise TypeError(f"apply: x has dtype {x.dtype}, need {steps.domain} (the domain of the steps)")
    place = np.searchsorted(np.array(steps.starts, np.int32), _keys(x), side="right") - 1
    return np.array(steps.codes, steps.storage)[place]


def probes(*steps: StepFunction) -> Array:
    """The inputs that tell step functions of one domain apart: every start and its neighbours.

    Args:
      *steps: the candidates, one domain.
    Returns:
      float32 or int32, ascending in the total order, one axis.

    Spec: CNV-5 (specs/25-conventions.md).  Class: exact.
    """
    return _inputs(np.array(probe_keys(*steps), np.int64), steps[0].domain)


def _function(convention: Affine | Cast | Rescale, fmt: Format, scale: float, zero_point: float) -> Callable:
    if isinstance(convention, Cast):
        return lambda x: encode(x, fmt=fmt, cast=convention)
    if isinstance(convention, Rescale):
        multiplier = np.float32(scale) if convention.multiplier == "f32" else float(scale)
        return lambda x: requantize(x, multiplier, np.int32(zero_point), fmt=cast("IntFormat", fmt), rescale=convention)
    held = np.asarray(scale, np.float32)
    zero = np.asarray(zero_point, np.float32 if convention.zero == "bias" else np.int32)
    zero = zero if isinstance(fmt, IntFormat) else None
    return lambda x: quantize(x, held, zero, fmt=fmt, convention=convention)


def _bisect(code_of: Callable[[Array], Array], limit: int, domain: Domain) -> tuple[Array, Array]:
    """CNV-3: between two keys with different codes lies a step; halve all such intervals down to one key."""
    keys = np.array(seed_keys(), np.int64)
    codes = code_of(keys)
    first = codes[:1]
    low, high = keys[:-1], keys[1:]
    low_codes, high_codes = codes[:-1], codes[1:]
    while True:
        apart = low_codes != high_codes
        low, high, low_codes, high_codes = low[apart], high[apart], low_codes[apart], high_codes[apart]
        if low.size > limit:  # each of them has a step of its own
            checks.few_steps(low.size, limit, _jump(code_of, low, low_codes, high_codes, high, domain))
        if np.all(high - low == 1):
            break
        middle = (low + high) >> 1
        codes = code_of(middle)
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
        low_codes, high_codes = np.concatenate([low_codes, codes]), np.concatenate([codes, high_codes])
    order = np.argsort(high)
    return np.concatenate([keys[:1], high[order]]), np.concatenate([first, high_codes[order]])


def _jump(
    code_of: Callable[[Array], Array], low: Array, low_codes: Array, high_codes: Array, high: Array, domain: Domain
) -> tuple[object, object, object]:
    """An input where the code jumps, its code and the one before: the widest of the jumps that the first places hide.

    A place is an interval whose ends differ by half as much as any; each is halved into the half with the wider jump.
    """
    rise = _rise(low_codes, high_codes)
    places = np.flatnonzero(2 * rise >= rise.max())
    places = places[np.argsort(np.abs(low[places]), kind="stable")][:PLACES]
    low, high, before, after = low[places], high[places], low_codes[places], high_codes[places]
    while np.any(high - low > 1):
        middle = (low + high) >> 1
        code = code_of(middle)
        left = _rise(before, code) >= _rise(code, after)
        low, before = np.where(left, low, middle), np.where(left, before, code)
        high, after = np.where(left, middle, high), np.where(left, code, after)
    widest = np.argmax(_rise(before, after))
    return _inputs(high[widest : widest + 1], domain)[0], after[widest], before[widest]


def _rise(before: Array, after: Array) -> Array:
    return np.abs(after.astype(np.int64) - before)


def _inputs(keys: Array, domain: str) -> Array:
    """The float32 patterns or accumulators at keys."""
    if domain == "int32":
        return keys.astype(np.int32)
    flip = np.where(keys < 0, 0x7FFFFFFF, 0)
    return (keys ^ flip).astype(np.int32).view(np.float32)


def _keys(x: Array) -> Array:
    """The keys of inputs, int32."""
    bits = np.ascontiguousarray(x).view(np.int32).reshape(x.shape)
    return bits if x.dtype == np.int32 else bits ^ ((bits >> 31) & 0x7FFFFFFF)
