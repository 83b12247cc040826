"""Exact sums and products in binary32, of which a fused product and sum is made: no backend promises an FMA.

A sum is kept as two parts, the lower one *rounded to odd*, so that one more rounding is the only one; refquant/fused.py
says more and has the source.
"""

import jax
import jax.numpy as jnp

from jaxquant._exact import INF, MAGNITUDE, NEGATIVE_ZERO, bits, from_bits, rounded, shift_left, significand_of


def two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum, error): a + b exactly, where nothing overflows.  Witness: test_fma_differential."""
    total = rounded(a + b)
    shadow = rounded(total - a)
    return total, rounded(rounded(a - rounded(total - shadow)) + rounded(b - shadow))


def to_odd(total: jax.Array, error: jax.Array) -> jax.Array:
    """A sum with its error, rounded to odd: a later rounding is then the only one.  Witness: test_fma_differential."""
    pattern = bits(total)
    away = (bits(error) < 0) == (pattern < 0)
    inexact = (bits(error) & MAGNITUDE) != 0
    moves = inexact & ((pattern & 1) == 0) & ((pattern & MAGNITUDE) != 0)
    return from_bits(jnp.where(moves, pattern + jnp.where(away, 1, -1), pattern))


def fma(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """The fused product and sum a * b + c, rounded once, for a c that is zero or at least 2**-40 in magnitude.

    A product beyond 2**101 counts as 2**101, one below 2**-80 as 2**-80: enough to round to an integer.  By exact
    products of halves and a sum rounded to odd, as no backend promises an FMA.  Witness: test_fma_differential.
    """
    plain = rounded(a * b) + c
    high, low, negative = _exact_product(a, b)
    sign = jnp.where(negative, NEGATIVE_ZERO, 0)
    high, low = from_bits(bits(high) ^ sign), from_bits(bits(low) ^ sign)
    upper, lower = two_sum(c, low)
    total, rest = two_sum(high, upper)
    fused = total + to_odd(*two_sum(lower, rest))
    magnitudes = [bits(v) & MAGNITUDE for v in (a, b, c)]
    special = (magnitudes[0] == 0) | (magnitudes[1] == 0)
    for magnitude in magnitudes:
        special = special | (magnitude >= INF)
    return rounded(jnp.where(special, plain, fused))


def _exact_product(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """|a * b| as a sum of two binary32 numbers, its exponent limited to -80..100, and whether a * b is negative."""
    field_a, a_bits = significand_of(bits(a) & MAGNITUDE)
    field_b, b_bits = significand_of(bits(b) & MAGNITUDE)
    a_unit, b_unit = (from_bits((v & 0x7FFFFF) | 127 << 23) for v in (a_bits, b_bits))
    a_top, b_top = from_bits(bits(a_unit) & ~0xFFF), from_bits(bits(b_unit) & ~0xFFF)
    a_end, b_end = a_unit - a_top, b_unit - b_top
    high = rounded(a_unit * b_unit)
    cross = rounded(rounded(a_top * b_top) - high) + rounded(a_top * b_end)
    low = rounded(rounded(cross) + rounded(a_end * b_top)) + rounded(a_end * b_end)
    power = from_bits(shift_left(jnp.clip(field_a + field_b - 254, -80, 100) + 127, 23))
    return rounded(high * power), rounded(rounded(low) * power), (bits(a) ^ bits(b)) < 0
