"""From int32 accumulators to codes: float and fixed-point rescaling (specs/50-requantize.md)."""

from typing import Any

import numpy as np

from refquant import checks
from refquant.arguments import as_array, shape_of
from refquant.conventions.rescale import (
    FRACTION_BITS,
    RESCALE,
    Rescale,
    check_accumulator,
    check_broadcast,
    check_fixed,
    check_integer,
    check_multiplier,
    check_part,
    check_zero_point,
    fixed_point,
    multipliers,
)
from refquant.formats import IntFormat
from refquant.kinds import kinds
from refquant.rounding import to_integer

Array = np.ndarray[Any, Any]

INT32 = np.iinfo(np.int32)


@kinds
def requantize(
    acc: Array, multiplier: Any, zero_point: Any = None, *, fmt: IntFormat, rescale: Rescale = RESCALE
) -> Array:
    """Codes of accumulators: round(acc * multiplier) + zero_point, saturated to the format.

    Args:
      acc: int32, any shape.
      multiplier: s_in * s_weight / s_out.  "f32": float32; "f64" and the fixed-point forms: real numbers (a Python
        float or a float64 array).  Its shape broadcasts to acc's.
      zero_point: int32, broadcasts to acc's shape, within ±2**23; None is 0.
      fmt: an integer format.
      rescale: how.
    Returns:
      codes in fmt's storage dtype, shape of acc.
    Raises:
      TypeError: dtypes of acc, zero_point, or of an "f32" multiplier.
      ValueError: shapes that do not broadcast; a multiplier that is not finite ("f64", fixed point).

    Spec: RSC-1..RSC-9 (specs/50-requantize.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> requantize(np.int32([5, -5, 1000]), np.float32(0.5), np.int32(3), fmt=ALL["int8"]).tolist()
      [5, 1, 127]
    """
    acc, zero = _operands("requantize", acc, zero_point, multiplier, fmt)
    if rescale.multiplier in FRACTION_BITS:
        pairs = [fixed_point(m, rescale) for m in multipliers("requantize", multiplier, rescale)]
        q, shift = (part.reshape(np.shape(multiplier)) for part in np.array(pairs, np.int64).reshape(-1, 2).T)
        return _fixed(acc, q, shift, zero, fmt, rescale)
    if rescale.multiplier == "f64":
        multipliers("requantize", multiplier, rescale)
        multiplier = np.asarray(multiplier, np.float64)
    else:
        multiplier = as_array(multiplier, np.float32)
        check_multiplier("requantize", multiplier.dtype)
    return _float(acc, multiplier, zero, fmt, rescale)


@kinds
def requantize_fixed(
    acc: Array, q: Any, shift: Any, zero_point: Any = None, *, fmt: IntFormat, rescale: Rescale
) -> Array:
    """`requantize` with the multiplier already in fixed point: about q * 2**(shift - fraction bits).

    Args:
      acc: int32, any shape.
      q: int32, broadcasts to acc's shape, as `conventions.fixed_point` gives it.
      shift: int32, as q; > 0 shifts left.
      zero_point: int32, broadcasts to acc's shape, within ±2**23; None is 0.
      fmt: an integer format.
      rescale: "q31", "q15" or "q8".
    Returns:
      codes in fmt's storage dtype, shape of acc.
    Raises:
      TypeError: dtypes of acc, q, shift or zero_point.
      ValueError: shapes that do not broadcast; a float rescale.

    Spec: RSC-4..RSC-8 (specs/50-requantize.md).  Class: exact.
    Example:
      >>> from refquant.conventions import RESCALES
      >>> from refquant.formats import ALL
      >>> requantize_fixed(np.int32([5, -5]), 2**30, 0, fmt=ALL["int8"], rescale=RESCALES["gemmlowp"].point).tolist()
      [3, -2]
    """
    check_fixed("requantize_fixed", rescale)
    acc, zero = _operands("requantize_fixed", acc, zero_point, q, fmt)
    check_broadcast("requantize_fixed", "shift", shape_of(shift), acc.shape)
    q, shift = (_part("requantize_fixed", name, v) for name, v in (("q", q), ("shift", shift)))
    return _fixed(acc, q, shift, zero, fmt, rescale)


def _part(function: str, argument: str, value: Any) -> Array:
    """q or shift as int32."""
    checks.int32_value(function, argument, value)
    array = _int32(value)
    check_part(function, argument, array.dtype)
    return array


def _fixed(acc: Array, q: Any, shift: Any, zero: Array, fmt: IntFormat, rescale: Rescale) -> Array:
    q, shift, wide = np.int64(q), np.int64(shift), acc.astype(np.int64)
    if rescale.steps == "double":
        left = np.clip(shift, 0, 31)
        shifted = np.clip(wide << left, INT32.min, INT32.max)  # RSC-4 saturating
        high = np.minimum(shifted * q + (1 << 30) >> 31, INT32.max)  # RSC-4 ties up
        result = _shift_right(high, np.clip(-shift, 0, 31), rescale.ties)  # RSC-5
    else:
        right = FRACTION_BITS[rescale.multiplier] - shift
        result = _shift_right(wide * q, np.clip(right, 0, 62), rescale.ties)  # RSC-6
        result = np.clip(result, INT32.min, INT32.max) << np.clip(-right, 0, 31)  # a shift beyond the fraction
    return _saturate(result, zero, acc.shape, fmt)  # RSC-8


@np.errstate(all="ignore")
def _float(acc: Array, multiplier: Array, zero: Array, fmt: IntFormat, rescale: Rescale) -> Array:
    product = acc.astype(multiplier.dtype) * multiplier  # RSC-2 two roundings
    whole = to_integer(product, rescale.ties).astype(np.float64)  # RND-1
    if rescale.overflow == "i32":
        outside = (whole < INT32.min) | (whole > INT32.max)
        whole = np.where(outside, np.float64(INT32.min), whole)  # RSC-9
    whole = np.where(np.isnan(whole), -np.inf, whole)  # RSC-8 NaN takes qmin
    return _saturate(np.clip(whole, INT32.min, INT32.max).astype(np.int64), zero, acc.shape, fmt)


def _shift_right(value: Array, by: Array, ties: str) -> Array:
    """value / 2**by, rounded to nearest, ties away from zero or up; by = 0 keeps value."""
    half = np.where(by > 0, np.int64(1) << np.maximum(by - 1, 0), 0)
    below = (value < 0) & (by > 0) & (ties == "away")
    return value + half - below >> by


def _saturate(value: Array, zero: Array, shape: tuple[int, ...], fmt: IntFormat) -> Array:
    code = np.clip(value + zero, fmt.qmin, fmt.qmax).astype(fmt.storage)
    return np.broadcast_to(code, shape).copy()


def _int32(value: Any) -> Array:
    """A Python int has no dtype of its own and becomes int32."""
    return as_array(value, np.int32)


def _operands(function: str, acc: Array, zero_point: Any, multiplier: Any, fmt: IntFormat) -> tuple[Array, Array]:
    acc = as_array(acc)
    checks.plain(multiplier)
    check_accumulator(function, acc.dtype)
    checks.int32_value(function, "zero_point", zero_point)
    zero = _int32(0 if zero_point is None else zero_point)
    check_zero_point(function, zero.dtype)
    check_integer(function, fmt.name, isinstance(fmt, IntFormat))
    check_broadcast(function, "multiplier", shape_of(multiplier), acc.shape)
    check_broadcast(function, "zero_point", zero.shape, acc.shape)
    return acc, zero.astype(np.int64)
