"""From int32 accumulators to codes, without 64-bit integers (specs/50-requantize.md)."""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxquant import _exact, _inputs, _sharding, _wide
from jaxquant.rounding import to_integer
from refquant import checks
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

TOP = np.uint32(2**31)
FAR = 2**30  # beyond every code minus every zero point, so saturation there is saturation


@kinds
def requantize(
    acc: Array, multiplier: Any, zero_point: Any = None, *, fmt: IntFormat, rescale: Rescale = RESCALE
) -> Array:
    """Codes of accumulators: round(acc * multiplier) + zero_point, saturated to the format.

    Args:
      acc: int32, any shape.
      multiplier: s_in * s_weight / s_out.  "f32": float32; "f64" and the fixed-point forms: real numbers that are known
        when this is traced (a Python float or a NumPy float64 array).  Its shape broadcasts to acc's.
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
      >>> requantize(jnp.int32([5, -5, 1000]), jnp.float32(0.5), jnp.int32(3), fmt=ALL["int8"]).tolist()
      [5, 1, 127]
    """
    acc, zero = _operands("requantize", acc, zero_point, multiplier, fmt)
    if rescale.multiplier in FRACTION_BITS:
        q, shift = _host(multiplier, rescale, partial(fixed_point, rescale=rescale), (np.int32, np.int32), acc.ndim)
        return _fixed(acc, q, shift, zero, fmt=fmt, rescale=rescale)
    if rescale.multiplier == "f64":
        parts = _host(multiplier, rescale, _binary64, (np.uint32, np.uint32, np.int32, np.int32), acc.ndim)
        return _float64(acc, *parts, zero, fmt=fmt, rescale=rescale)
    multiplier = _inputs.array(multiplier, np.float32)
    check_multiplier("requantize", multiplier.dtype)
    return _float32(acc, _ranked(acc, multiplier), zero, fmt=fmt, rescale=rescale)


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
      >>> requantize_fixed(jnp.int32([5, -5]), 2**30, 0, fmt=ALL["int8"], rescale=RESCALES["gemmlowp"].point).tolist()
      [3, -2]
    """
    check_fixed("requantize_fixed", rescale)
    acc, zero = _operands("requantize_fixed", acc, zero_point, q, fmt)
    check_broadcast("requantize_fixed", "shift", _inputs.shape_of(shift), acc.shape)
    q, shift = (_part("requantize_fixed", name, v) for name, v in (("q", q), ("shift", shift)))
    return _fixed(acc, _ranked(acc, q), _ranked(acc, shift), zero, fmt=fmt, rescale=rescale)


def _part(function: str, argument: str, value: Any) -> Any:
    checks.int32_value(function, argument, value)
    array = _int32(value)
    check_part(function, argument, array.dtype)
    return array


def _int32(value: Any) -> Any:
    """A Python int has no dtype of its own and becomes int32."""
    return _inputs.array(value, np.int32)


@partial(_sharding.jit, static_argnames=("fmt", "rescale"))
def _fixed(acc: Array, q: Array, shift: Array, zero: Array, *, fmt: IntFormat, rescale: Rescale) -> Array:
    if rescale.steps == "double":
        moved = _shift_left(acc, jnp.clip(shift, 0, 31))  # RSC-4 saturating
        high = _high_product(moved, q)  # RSC-4 ties up
        result = _shift_right(high, jnp.clip(-shift, 0, 31), rescale.ties)  # RSC-5
    else:
        right = FRACTION_BITS[rescale.multiplier] - shift
        result = _shift_right_wide(_wide.multiply(acc, q), jnp.clip(right, 0, 62), rescale.ties)  # RSC-6
        result = _shift_left(result, jnp.clip(-right, 0, 31))  # a shift beyond the fraction
    return _saturate(result, zero, acc.shape, fmt)  # RSC-8


@partial(_sharding.jit, static_argnames=("fmt", "rescale"))
def _float32(acc: Array, multiplier: Array, zero: Array, *, fmt: IntFormat, rescale: Rescale) -> Array:
    product = _exact.rounded(acc.astype(jnp.float32) * _exact.rounded(multiplier))  # RSC-2 two roundings
    whole = to_integer(product, rescale.ties)  # RND-1
    if rescale.overflow == "i32":
        outside = (whole < -(2.0**31)) | (whole >= 2.0**31)
        whole = jnp.where(outside, -jnp.inf, whole)  # RSC-9
    whole = jnp.where(jnp.isnan(whole), -jnp.inf, whole)  # RSC-8 NaN takes qmin
    return _saturate(jnp.clip(whole, -FAR, FAR).astype(jnp.int32), zero, acc.shape, fmt)


@partial(_sharding.jit, static_argnames=("fmt", "rescale"))
def _float64(
    acc: Array,
    high: Array,
    low: Array,
    fraction: Array,
    negative: Array,
    zero: Array,
    *,
    fmt: IntFormat,
    rescale: Rescale,
) -> Array:
    """RSC-2 in binary64 on integers: (high * 2**32 + low) * 2**-fraction is the multiplier."""
    minus = (acc < 0) != (negative > 0)
    size = jnp.where(acc < 0, -acc, acc).astype(jnp.uint32)
    product = _wide.multiply_limbs(size, high, low)
    extra = jnp.maximum(_wide.bit_length(product) - 53, 0)
    product = _wide.round_limbs(product, extra, "even", minus)  # RSC-2 to 53 bits
    point = fraction - extra
    whole = _wide.round_limbs(product, jnp.clip(point, 0, 95), rescale.ties, minus)  # RND-1
    nonzero = (product[0] | product[1] | product[2]) > 0
    beyond = ((whole[1] | whole[2]) > 0) | (whole[0] > TOP) | ((point < 0) & nonzero)
    if rescale.overflow == "i32":
        beyond, minus = _first_beyond(whole[0], beyond, minus)  # RSC-9
    small = jnp.where(beyond | (whole[0] > FAR), jnp.uint32(FAR), whole[0]).astype(jnp.int32)
    return _saturate(jnp.where(minus, -small, small), zero, acc.shape, fmt)  # RSC-8


def _first_beyond(whole: Array, beyond: Array, minus: Array) -> tuple[Array, Array]:
    """RSC-9: past int32 on either side is its smallest integer; 2**31 itself is inside only with a minus sign."""
    beyond = beyond | ((whole == TOP) & ~minus)
    return beyond, minus | beyond


def _high_product(a: Array, b: Array) -> Array:
    """RSC-4: a * b / 2**31, ties up, saturated."""
    nudged = _wide.add(_wide.multiply(a, b), (jnp.int32(0), jnp.uint32(1 << 30)))
    return _wide.shift_right(nudged, jnp.int32(31))


def _shift_left(value: Array, by: Array) -> Array:
    """value * 2**by, saturated to int32."""
    low, high = _wide.INT_MIN >> by, _wide.INT_MAX >> by
    moved = jnp.where(value > high, _wide.INT_MAX, value << by)
    return jnp.where(value < low, _wide.INT_MIN, moved)


def _shift_right(value: Array, by: Array, ties: str) -> Array:
    """value / 2**by rounded to nearest, on the remainder, so that no sum leaves int32."""
    mask = (1 << by) - 1
    half = (mask >> 1) + ((value < 0) & (ties == "away")).astype(jnp.int32)
    return (value >> by) + ((value & mask) > half).astype(jnp.int32)


def _shift_right_wide(value: _wide.Pair, by: Array, ties: str) -> Array:
    """The same on 64 bits, saturated to int32."""
    half = _wide.power(jnp.maximum(by - 1, 0))
    total = _wide.add(value, half)
    if ties == "away":
        minus = jnp.where(value[0] < 0, -1, 0)
        total = _wide.add(total, (minus, minus.astype(jnp.uint32)))
    return jnp.where(by > 0, _wide.shift_right(total, by), _wide.shift_right(value, by))


def _saturate(value: Array, zero: Array, shape: tuple[int, ...], fmt: IntFormat) -> Array:
    code = jnp.clip(jnp.clip(value, -FAR, FAR) + zero, fmt.qmin, fmt.qmax)
    return jnp.broadcast_to(code.astype(fmt.storage), shape)


def _ranked(acc: Array, values: Any) -> Array:
    return _inputs.of_rank(acc.ndim, jnp.asarray(values))


def _host(multiplier: Any, rescale: Rescale, parts: Any, dtypes: tuple[type, ...], ndim: int) -> tuple[np.ndarray, ...]:
    """Integers that hold the multipliers, as arrays of the multiplier's shape, of the accumulators' rank."""
    rows = [parts(m) for m in multipliers("requantize", multiplier, rescale)]
    table = np.array(rows, np.int64).reshape(len(rows), len(dtypes))
    shape = (*[1] * (ndim - np.ndim(multiplier)), *np.shape(multiplier))
    return tuple(table[:, i].astype(d).reshape(shape) for i, d in enumerate(dtypes))


def _binary64(multiplier: float) -> tuple[int, int, int, int]:
    """The high and low half of 53 bits, the fraction bits, and the sign, of a binary64 number."""
    mantissa, exponent = math.frexp(abs(multiplier))
    high, low = divmod(int(math.ldexp(mantissa, 53)), 1 << 32)
    return high, low, 53 - exponent, int(multiplier < 0)


def _operands(function: str, acc: Any, zero_point: Any, multiplier: Any, fmt: IntFormat) -> tuple[Array, Array]:
    acc = _inputs.array(acc)
    checks.plain(multiplier)
    check_accumulator(function, acc.dtype)
    checks.int32_value(function, "zero_point", zero_point)
    zero = _int32(0 if zero_point is None else zero_point)
    check_zero_point(function, zero.dtype)
    check_integer(function, fmt.name, isinstance(fmt, IntFormat))
    check_broadcast(function, "multiplier", _inputs.shape_of(multiplier), acc.shape)
    check_broadcast(function, "zero_point", zero.shape, acc.shape)
    return jnp.asarray(acc), _ranked(acc, zero)
