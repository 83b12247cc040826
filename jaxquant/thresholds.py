"""The whole function of a convention, found by bisection, and its use on the device (specs/25-conventions.md).

Finding the table is host arithmetic on integer keys; the codes come from jaxquant's own functions, in blocks of fixed
size so that they compile once.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxquant import _inputs, _sharding
from jaxquant._constants import bitcast
from jaxquant.affine import quantize
from jaxquant.codec import encode
from jaxquant.requantize import requantize
from refquant import checks
from refquant.conventions import Affine, Cast, Rescale
from refquant.conventions.steps import Domain, StepFunction, check_storage, distance, probe_keys, seed_keys
from refquant.formats import Format, IntFormat
from refquant.kinds import kinds

__all__ = ["StepFunction", "apply", "distance", "probes", "tabulate", "thresholds"]

BLOCK = 4096
PLACES = 256  # that are searched for a jump
LIMIT = 1 << 17


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

    def code_of(keys: np.ndarray) -> np.ndarray:
        return _in_blocks(function, _host_inputs(keys, domain))

    starts, values = _bisect(code_of, limit, domain)
    check_storage(values[values.astype(storage) != values].tolist(), storage)
    return StepFunction(tuple(starts.tolist()), tuple(values.tolist()), domain, storage)


@kinds
def apply(steps: StepFunction, x: Array) -> Array:
    """The codes of x, read from the table on the device.

    Args:
      steps: a step function.
      x: float32 or int32, the steps' domain, any shape.
    Returns:
      codes in the steps' storage dtype, shape of x.
    Raises:
      TypeError: x has another dtype.

    Spec: CNV-2 (specs/25-conventions.md).  Class: exact.
    """
    x = _inputs.array(x)
    if str(x.dtype) != steps.domain:
        raise TypeError(f"apply: x has dtype {x.dtype}, need {steps.domain} (the domain of the steps)")
    return _look_up(np.array(steps.starts, np.int32), np.array(steps.codes, steps.storage), x)


def probes(*steps: StepFunction) -> Array:
    """The inputs that tell step functions of one domain apart: every start and its neighbours.

    Args:
      *steps: the candidates, one domain.
    Returns:
      float32 or int32, ascending in the total order, one axis.

    Spec: CNV-5 (specs/25-conventions.md).  Class: exact.
    """
    return jnp.asarray(_host_inputs(np.array(probe_keys(*steps), np.int64), steps[0].domain))


@_sharding.jit
def _look_up(starts: Array, codes: Array, x: Array) -> Array:
    return codes[jnp.searchsorted(starts, _keys(x), side="right") - 1]


def _keys(x: Array) -> Array:
    """The keys of inputs, int32; integer steps, so that subnormals keep their place."""
    if x.dtype == jnp.int32:
        return x
    bits = bitcast(x, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _function(convention: Affine | Cast | Rescale, fmt: Format, scale: float, zero_point: float) -> Callable:
    if isinstance(convention, Cast):
        return lambda x: encode(x, fmt=fmt, cast=convention)
    if isinstance(convention, Rescale):
        multiplier = np.float32(scale) if convention.multiplier == "f32" else float(scale)
        return lambda x: requantize(x, multiplier, np.int32(zero_point), fmt=fmt, rescale=convention)
    zero = np.float32(zero_point) if convention.zero == "bias" else np.int32(zero_point)
    zero = zero if isinstance(fmt, IntFormat) else None
    return lambda x: quantize(x, np.float32(scale), zero, fmt=fmt, convention=convention)


def _in_blocks(codes: Callable[[np.ndarray], Array], x: np.ndarray) -> np.ndarray:
    """The codes of x, computed in blocks of one shape."""
    padded = np.pad(x, (0, -len(x) % BLOCK))
    parts = [np.asarray(codes(padded[i : i + BLOCK])) for i in range(0, len(padded), BLOCK)]
    return np.concatenate(parts)[: len(x)]


def _bisect(code_of: Callable[[np.ndarray], np.ndarray], limit: int, domain: Domain) -> tuple[np.ndarray, np.ndarray]:
    """CNV-3: wherever the ends of an interval have different codes, halve it, until it is one key wide."""
    ends = np.array(seed_keys(), np.int64)
    values = code_of(ends)
    intervals = (ends[:-1], ends[1:], values[:-1], values[1:])
    while True:
        intervals = tuple(part[intervals[2] != intervals[3]] for part in intervals)
        low, high, below, above = intervals
        if len(low) > limit:  # there are at least as many steps
            checks.few_steps(len(low), limit, _widest(code_of, intervals, domain))
        if not np.any(high > low + 1):
            break
        middle = low + (high - low) // 2
        between = code_of(middle)
        halves = ((low, middle), (middle, high), (below, between), (between, above))
        intervals = tuple(np.append(*half) for half in halves)
    order = np.argsort(high)
    return np.append(ends[:1], high[order]), np.append(values[:1], above[order])


def _widest(
    code_of: Callable[[np.ndarray], np.ndarray], intervals: tuple[np.ndarray, ...], domain: Domain
) -> tuple[object, object, object]:
    """The widest of the jumps near zero, narrowed to one key: the input after it, and the codes after and before."""
    order = np.argsort(abs(intervals[0]), kind="stable")
    left, right, below, above = (part[order].astype(np.int64) for part in intervals)
    some = np.flatnonzero(abs(above - below) * 2 >= max(abs(above - below)))[:PLACES]
    left, right, below, above = left[some], right[some], below[some], above[some]
    while max(right - left) > 1:
        middle = left + (right - left) // 2
        codes = code_of(middle).astype(np.int64)
        first = abs(codes - below) >= abs(above - codes)
        left, below = np.where(first, [left, below], [middle, codes])
        right, above = np.where(first, [middle, codes], [right, above])
    k = int(np.argmax(abs(above - below)))
    return _host_inputs(right[k : k + 1], domain)[0], above[k], below[k]


def _host_inputs(keys: np.ndarray, domain: str) -> np.ndarray:
    """The float32 patterns or accumulators at keys."""
    if domain == "int32":
        return keys.astype(np.int32)
    return np.where(keys >= 0, keys, 0x7FFFFFFF - keys).astype(np.uint32).view(np.float32)
