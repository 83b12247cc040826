"""Binary64 steps and fused quotients on integers of 96 bits, exact without 64-bit arithmetic (AFF-2..AFF-4, AFF-6).

A number is a magnitude of 96 bits times a power of two, and a sign.  Bits that do not fit are kept as *rounded to
odd*: the lowest bit is set where something was lost.  Such a number lies on the same side of every coarser number and
midpoint as the exact one, so the rounding that follows is the only one.  A sum keeps 62 bits behind the point, which
is two more than binary64 has for any sum of 2**-8 and more; smaller ones round to 0 whatever their last bits are.
Barriers bound what is fused into one loop: the LLVM of JAX 0.12 takes half a minute and more for a longer one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxquant import _exact, _wide

DOUBLE, SINGLE = 53, 24
POINT = 62
LARGEST = 1 << 24
TOP = np.uint32(1 << 31)


class Number(NamedTuple):
    """limbs * 2**exponent with a sign.

    Attributes:
      limbs: the magnitude, 96 bits in uint32 words, lowest first; 0 is zero.
      exponent: int32.
      negative: bool.
      infinite: bool; the limbs do not count.
      nan: bool; nothing else counts.
    """

    limbs: _wide.Limbs
    exponent: jax.Array
    negative: jax.Array
    infinite: jax.Array
    nan: jax.Array


def ratio(x: jax.Array, scale: jax.Array, op: str) -> Number:
    """The step of AFF-2, before its rounding; under op "inv" the reciprocal has been rounded to binary64.

    Args:
      x: binary32.
      scale: binary32, broadcasts against x.
      op: "div", "inv" or "given".
    """
    x, scale = jnp.broadcast_arrays(x, scale)
    size_x, size_s = _exact.bits(x) & _exact.MAGNITUDE, _exact.bits(scale) & _exact.MAGNITUDE
    zero_s, infinite_s = size_s == 0, size_s == _exact.INF
    if op != "given":
        zero_s, infinite_s = infinite_s, zero_s  # of 1 / scale
    zero_x, infinite_x = size_x == 0, size_x == _exact.INF
    limbs, exponent = {"div": _quotient, "inv": _by_reciprocal, "given": _product}[op](size_x, size_s)
    empty = zero_x | zero_s
    nan = (size_x > _exact.INF) | (size_s > _exact.INF) | (zero_x & infinite_s) | (infinite_x & zero_s)
    limbs = tuple(jnp.where(empty, jnp.uint32(0), word) for word in limbs)
    negative = (_exact.bits(x) ^ _exact.bits(scale)) < 0
    return Number(limbs, exponent, negative, infinite_x | infinite_s, nan)


def _quotient(x: jax.Array, divisor: jax.Array) -> tuple[_wide.Limbs, jax.Array]:
    """Magnitudes' quotient to 96 bits, rounded to odd."""
    field_x, top = _exact.significand_of(x)
    field_d, bottom = _exact.significand_of(divisor)
    bottom = jnp.maximum(bottom, _exact.MIN_NORMAL)
    below = (top < bottom).astype(jnp.int32)
    (a, b, c, d, e), rest = _long_division(jnp.maximum((top << below) - bottom, 0), bottom)
    a, b, c, d, e = (digit.astype(jnp.uint32) for digit in (a, b, c, d, e))
    lowest, middle = (d << 19) | e | rest.astype(jnp.uint32), (b << 25) | (c << 6) | (d >> 13)
    highest = jnp.uint32(0x80000000) | (a << 12) | (b >> 7)
    return (lowest, middle, highest), field_x - field_d - below - 95


def _long_division(dividend: jax.Array, divisor: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """(five digits of 19 bits, whether a rest is left) of int32: dividend < divisor, which is in 2**23..2**24.

    A digit is an estimate that may be 16 units of binary32 off, made exact by its remainder, of which the last 32 bits
    tell enough.
    """
    digits, rest = [], dividend
    factor = _exact.reciprocal(divisor.astype(jnp.float32)) * np.float32(2**19)
    for _ in range(5):
        digit = (rest.astype(jnp.float32) * factor).astype(jnp.int32)
        rest = _exact.shift_left(rest, 19) - digit * divisor
        step = (rest >= divisor).astype(jnp.int32) - (rest < 0).astype(jnp.int32)
        digit, rest = lax.optimization_barrier((digit + step, rest - step * divisor))
        digits.append(digit)
    return digits, rest != 0


def _by_reciprocal(x: jax.Array, divisor: jax.Array) -> tuple[_wide.Limbs, jax.Array]:
    """x times the binary64 reciprocal, exact: 77 bits."""
    limbs, exponent = _to_bits(*_quotient(jnp.full_like(divisor, 127 << 23), divisor), DOUBLE)
    field, significand = _exact.significand_of(x)
    return _wide.multiply_limbs(significand.astype(jnp.uint32), limbs[1], limbs[0]), exponent + field - 150


def _product(x: jax.Array, factor: jax.Array) -> tuple[_wide.Limbs, jax.Array]:
    """x times the factor, exact: 48 bits."""
    field_x, a = _exact.significand_of(x)
    field_f, b = _exact.significand_of(factor)
    limbs = _wide.multiply_limbs(a.astype(jnp.uint32), jnp.zeros_like(b, jnp.uint32), b.astype(jnp.uint32))
    return limbs, field_x + field_f - 300


def _to_bits(limbs: _wide.Limbs, exponent: jax.Array, digits: jax.Array | int) -> tuple[_wide.Limbs, jax.Array]:
    """Rounded to so many bits, ties to even."""
    extra = jnp.maximum(_wide.bit_length(limbs) - digits, 0)
    whole = _wide.round_limbs(limbs, extra, "even", jnp.zeros_like(extra, bool))
    return lax.optimization_barrier((whole, exponent + extra))


def rounded(number: Number) -> Number:
    """The number rounded to binary64; those that are not zero are normal there."""
    limbs, exponent = _to_bits(number.limbs, number.exponent, DOUBLE)
    return number._replace(limbs=limbs, exponent=exponent)


def plus(number: Number, size: jax.Array, negative: jax.Array) -> Number:
    """The number and an integer, rounded to odd.

    Args:
      number: any.
      size: uint32, at most 2**31, the integer's magnitude.
      negative: bool, its sign.
    """
    size, negative, _ = jnp.broadcast_arrays(size, negative, number.negative)
    number, point = _to_grid(number)
    none = jnp.zeros_like(size)
    whole = _wide.shift_limbs_left((size, none, none), jnp.clip(point, 0, POINT))
    part = _wide.shift_limbs_to_odd((size, none, none), jnp.clip(-point, 0, 95))
    addend = _pick(point < 0, part, whole)
    difference, less = _wide.subtract_limbs(number.limbs, addend)
    same = number.negative == negative
    limbs = _pick(same, _wide.add_limbs(number.limbs, addend), difference)
    turns = less & ~same & ~number.infinite
    return number._replace(limbs=limbs, negative=jnp.where(turns, negative, number.negative))


def _to_grid(number: Number) -> tuple[Number, jax.Array]:
    """(the number as a multiple of 2**-point, rounded to odd, point): POINT, or less so that 95 bits hold it."""
    place = _wide.bit_length(number.limbs) + number.exponent
    point = POINT - jnp.maximum(place - 33, 0)
    by = number.exponent + point
    left = _wide.shift_limbs_left(number.limbs, jnp.clip(by, 0, 95))
    right = _wide.shift_limbs_to_odd(number.limbs, jnp.clip(-by, 0, 95))
    return number._replace(limbs=_pick(by < 0, right, left), exponent=-point), point


def _pick(where: jax.Array, yes: _wide.Limbs, no: _wide.Limbs) -> _wide.Limbs:
    return tuple(jnp.where(where, a, b) for a, b in zip(yes, no, strict=True))


def to_float32(number: Number, *, odd: bool = False) -> jax.Array:
    """The nearest binary32, ties to even; `odd`: rounded to odd instead, for one more rounding to binary16."""
    length = _wide.bit_length(number.limbs)
    if odd:
        extra = jnp.maximum(length - SINGLE, 0)
        limbs, exponent = _wide.shift_limbs_to_odd(number.limbs, extra), number.exponent + extra
    else:
        fewer = jnp.minimum(length + number.exponent + 125, 0)  # where binary32 is subnormal
        limbs, exponent = _to_bits(number.limbs, number.exponent, jnp.maximum(SINGLE + fewer, 0))
    value = _exact.bits(_exact.scalb(limbs[0].astype(jnp.float32), exponent))
    value = jnp.where(number.infinite, _exact.INF, value) | jnp.where(number.negative, _exact.NEGATIVE_ZERO, 0)
    return _exact.from_bits(jnp.where(number.nan, _exact.NAN, value))


def placed(number: Number, zero: jax.Array, ties: str, overflow: str) -> jax.Array:
    """AFF-3, AFF-4: the number rounded to an integer and cast, plus the zero point, as binary32; NaN as any number.

    Right wherever it is below 2**24, else on the same side.  Under "wrap32" NaN is -2**31 (AFF-5).
    """
    (low, high), far = _integer(number, ties)
    negative = number.negative
    if overflow in ("i32", "wrap32"):
        outside = far | number.nan | (high > 0) | (low > TOP) | ((low == TOP) & ~negative)
    else:
        outside = number.infinite | (_wide.bit_length(number.limbs) + number.exponent > 63)  # "i64"
    if overflow != "sat":
        low, high = jnp.where(outside, TOP, low), jnp.where(outside, jnp.uint32(0), high)
        negative, far = negative | outside, jnp.where(outside, overflow == "i64", far)
    if overflow == "wrap32":
        return _limited(jnp.where(negative, -low.astype(jnp.int32), low.astype(jnp.int32)) + zero)
    return _sum((low, high), far, negative, zero)


def within(number: Number, zero: jax.Array, low: int, high: int) -> jax.Array:
    """STE-2 "ratio": low <= number + zero <= high for integers, exact; a number below 2**-126 counts as 0 (GEN-9)."""
    tiny = _wide.bit_length(number.limbs) + number.exponent < -125
    number = number._replace(limbs=tuple(jnp.where(tiny, jnp.uint32(0), word) for word in number.limbs))
    down, far = _integer(number, "trunc")
    grid, _ = _to_grid(number)
    shifted = _wide.shift_limbs_left(down_limbs := (*down, jnp.zeros_like(down[0])), jnp.clip(-grid.exponent, 0, 95))
    inexact = ~far & jnp.any(jnp.stack([a != b for a, b in zip(shifted, grid.limbs, strict=True)]), axis=0)
    up = _wide.add_limbs(down_limbs, (inexact.astype(jnp.uint32), jnp.zeros_like(down[0]), jnp.zeros_like(down[0])))
    floor = _pick(number.negative, up, down_limbs)
    ceil = _pick(number.negative, down_limbs, up)
    lower = _sum(floor[:2], far, number.negative, zero) >= low
    upper = _sum(ceil[:2], far, number.negative, zero) <= high
    return lower & upper & ~number.nan


def _integer(number: Number, ties: str) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """((low, high) words of the rounded magnitude, whether it is beyond 2**33, which they do not hold)."""
    grid, point = _to_grid(number)
    limbs = _wide.round_limbs(grid.limbs, jnp.clip(point, 0, POINT), ties, number.negative)
    far = number.infinite | (point < POINT) | (limbs[2] > 0)
    return (limbs[0], limbs[1]), far


def _sum(words: tuple[jax.Array, jax.Array], far: jax.Array, negative: jax.Array, zero: jax.Array) -> jax.Array:
    """A signed integer below 2**34, or one far away, plus an int32, limited to ±2**24: in halves of 16 bits."""
    low = (words[0] & 0xFFFF).astype(jnp.int32)
    high = ((words[1] << 16) | (words[0] >> 16)).astype(jnp.int32)
    low, high = jnp.where(far, 0, low), jnp.where(far, 1 << 20, high)
    low, high = jnp.where(negative, -low, low) + (zero & 0xFFFF), jnp.where(negative, -high, high) + (zero >> 16)
    high = jnp.clip(high + (low >> 16), -(1 << 9), 1 << 9)
    return _limited((high << 16) + (low & 0xFFFF))


def _limited(total: jax.Array) -> jax.Array:
    return jnp.clip(total, -LARGEST, LARGEST).astype(jnp.float32)
