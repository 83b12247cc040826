"""Integers of 64 and 96 bits in pieces of 32, for devices and settings without int64.

A signed 64-bit number is (high int32, low uint32), two's complement.  An unsigned 96-bit number is three uint32, lowest
first.  All steps are integer arithmetic mod 2**32, so no compiler may change them.
"""

import jax.numpy as jnp
from jax import Array

Pair = tuple[Array, Array]
Limbs = tuple[Array, Array, Array]

INT_MIN, INT_MAX = -(2**31), 2**31 - 1


def multiply_unsigned(a: Array, b: Array) -> Pair:
    """(high, low), both uint32, of the 64-bit product of two uint32, by 16-bit pieces."""
    a_low, a_high, b_low, b_high = a & 0xFFFF, a >> 16, b & 0xFFFF, b >> 16
    low, cross = a_low * b_low, a_high * b_low
    middle = a_low * b_high + (low >> 16) + (cross & 0xFFFF)  # at most 2**32 - 1: no carry is lost
    return a_high * b_high + (cross >> 16) + (middle >> 16), (middle << 16) | (low & 0xFFFF)


def multiply(a: Array, b: Array) -> Pair:
    """The signed 64-bit product of two int32."""
    high, low = multiply_unsigned(a.astype(jnp.uint32), b.astype(jnp.uint32))
    high = high.astype(jnp.int32) - jnp.where(a < 0, b, 0) - jnp.where(b < 0, a, 0)
    return high, low


def add(a: Pair, b: Pair) -> Pair:
    """The signed 64-bit sum mod 2**64."""
    low = a[1] + b[1]
    return a[0] + b[0] + (low < b[1]).astype(jnp.int32), low


def power(exponent: Array) -> Pair:
    """2**exponent, exponent int32 in 0..62."""
    one, n = jnp.uint32(1), exponent.astype(jnp.uint32)
    low = jnp.where(n < 32, one << (n & 31), jnp.uint32(0))
    high = jnp.where(n >= 32, one << (n & 31), jnp.uint32(0))
    return high.astype(jnp.int32), low


def shift_right(a: Pair, by: Array) -> Array:
    """a >> by (arithmetic), by int32 in 0..62, saturated to int32."""
    high, low = a
    n = (by & 31).astype(jnp.uint32)
    joined = (low >> n) | jnp.where(n > 0, high.astype(jnp.uint32) << ((32 - n) & 31), jnp.uint32(0))
    small, rest = joined.astype(jnp.int32), high >> n.astype(jnp.int32)
    saturated = jnp.where(rest == small >> 31, small, jnp.where(high < 0, INT_MIN, INT_MAX))
    return jnp.where(by < 32, saturated, high >> n.astype(jnp.int32))


def multiply_limbs(a: Array, high: Array, low: Array) -> Limbs:
    """a * (high * 2**32 + low), all uint32, below 2**96."""
    upper, middle = multiply_unsigned(a, high)
    carry, lowest = multiply_unsigned(a, low)
    middle = middle + carry
    return lowest, middle, upper + (middle < carry).astype(jnp.uint32)


def add_limbs(a: Limbs, b: Limbs) -> Limbs:
    """The sum mod 2**96."""
    low = a[0] + b[0]
    carry = (low < b[0]).astype(jnp.uint32)
    middle = a[1] + b[1]
    over = (middle < b[1]).astype(jnp.uint32)
    middle = middle + carry
    over = over | (middle < carry).astype(jnp.uint32)
    return low, middle, a[2] + b[2] + over


def shift_limbs_right(a: Limbs, by: Array) -> Limbs:
    """a >> by, by int32 in 0..95."""
    zero = jnp.zeros_like(a[0])
    words = (*a, zero, zero, zero)
    n, skip = (by & 31).astype(jnp.uint32), by >> 5
    picked = [jnp.where(skip == 0, words[i], jnp.where(skip == 1, words[i + 1], words[i + 2])) for i in range(4)]
    return tuple((picked[i] >> n) | jnp.where(n > 0, picked[i + 1] << ((32 - n) & 31), jnp.uint32(0)) for i in range(3))


def shift_limbs_left(a: Limbs, by: Array) -> Limbs:
    """a << by mod 2**96, by int32 in 0..95."""
    zero = jnp.zeros_like(a[0])
    words = (zero, zero, zero, *a)
    n, skip = (by & 31).astype(jnp.uint32), by >> 5
    picked = [jnp.where(skip == 0, words[i + 2], jnp.where(skip == 1, words[i + 1], words[i])) for i in range(4)]
    return tuple((picked[i + 1] << n) | jnp.where(n > 0, picked[i] >> ((32 - n) & 31), jnp.uint32(0)) for i in range(3))


def shift_limbs_to_odd(a: Limbs, by: Array) -> Limbs:
    """a >> by, by int32 in 0..95, rounded to odd: the lowest bit is set where a bit was lost."""
    shifted = shift_limbs_right(a, by)
    back = shift_limbs_left(shifted, by)
    lost = (back[0] != a[0]) | (back[1] != a[1]) | (back[2] != a[2])
    return shifted[0] | lost.astype(jnp.uint32), shifted[1], shifted[2]


def subtract_limbs(a: Limbs, b: Limbs) -> tuple[Limbs, Array]:
    """(|a - b|, whether a < b)."""
    one, none = jnp.ones_like(a[0]), jnp.zeros_like(a[0])
    minus_b = add_limbs((~b[0], ~b[1], ~b[2]), (one, none, none))
    minus_a = add_limbs((~a[0], ~a[1], ~a[2]), (one, none, none))
    less = (a[2] < b[2]) | ((a[2] == b[2]) & ((a[1] < b[1]) | ((a[1] == b[1]) & (a[0] < b[0]))))
    down, up = add_limbs(a, minus_b), add_limbs(b, minus_a)
    return tuple(jnp.where(less, v, w) for v, w in zip(up, down, strict=True)), less


def round_limbs(a: Limbs, by: Array, ties: str, minus: Array) -> Limbs:
    """a / 2**by rounded to an integer (RND-1); a is a magnitude, `minus` its sign; by = 0 keeps a."""
    half = power_limbs(jnp.maximum(by - 1, 0))
    odd = shift_limbs_right(a, by)[0] & 1
    none, one = jnp.zeros_like(odd), jnp.ones_like(odd)
    less = {"even": 1 - odd, "away": none, "up": minus.astype(jnp.uint32), "down": one - minus.astype(jnp.uint32)}
    if ties == "trunc":
        total = a
    else:
        ones = jnp.where(less[ties] > 0, jnp.uint32(0xFFFFFFFF), jnp.uint32(0))
        total = add_limbs(add_limbs(a, half), (ones, ones, ones))  # half, or just under half
    rounded = shift_limbs_right(total, by)
    return tuple(jnp.where(by > 0, r, word) for r, word in zip(rounded, a, strict=True))


def power_limbs(exponent: Array) -> Limbs:
    """2**exponent, exponent int32 in 0..95."""
    bit = jnp.uint32(1) << (exponent & 31).astype(jnp.uint32)
    return tuple(jnp.where(exponent >> 5 == i, bit, jnp.uint32(0)) for i in range(3))


def bit_length(a: Limbs) -> Array:
    """Bits up to the highest set one, int32; 0 for zero."""
    from jax.lax import clz

    lengths = [32 * i + 32 - clz(word).astype(jnp.int32) for i, word in enumerate(a)]
    return jnp.where(a[2] > 0, lengths[2], jnp.where(a[1] > 0, lengths[1], lengths[0]))
