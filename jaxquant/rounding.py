"""Rounding to an integer, deterministic and stochastic (specs/00-conventions.md, RND-1 and RND-2)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxquant import _exact, _inputs, _sharding
from refquant import checks

TIES = ("even", "away", "up", "down", "trunc", "zero")


def round_to_integer(x: jax.Array, *, ties: str = "even") -> jax.Array:
    """Round to an integer.

    Args:
      x: float32 (or float16, bfloat16, widened), any shape.
      ties: "even", "away", "zero", "up", "down": where a value midway goes; "trunc" drops any fraction.
    Returns:
      float32, shape of x.  NaN and ±inf stay; the sign of a zero result is that of x.
    Raises:
      TypeError: another dtype.  ValueError: another name of ties.

    Spec: RND-1 (specs/00-conventions.md).  Class: exact.
    """
    checks.option("round_to_integer", "ties", ties, TIES, "RND-1")
    return _round(_inputs.real("round_to_integer", "x", x), ties=ties)


def round_stochastic(x: jax.Array, bits: jax.Array) -> jax.Array:
    """Round down or up by chance, unbiased to 2**-24.

    Args:
      x: float32 (or float16, bfloat16, widened), any shape.
      bits: random uint32, shape of x.
    Returns:
      float32, shape of x: floor(x), plus 1 where the fraction exceeds (bits >> 8) * 2**-24.
    Raises:
      TypeError: another dtype.  ValueError: the shapes differ.

    Spec: RND-2 (specs/00-conventions.md).  Class: exact.
    """
    x = _inputs.real("round_stochastic", "x", x)
    bits = _inputs.array(bits)
    checks.random_bits("round_stochastic", bits.dtype)
    checks.same_shape("round_stochastic", "bits", bits.shape, x.shape, "x")
    return _stochastic(x, bits)


def to_integer(x: jax.Array, ties: str) -> jax.Array:
    """RND-1 inside a trace, x already widened."""
    if ties == "even":
        return lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)
    x = _exact.rounded(x)  # the fraction below is a difference, which must not be fused into x
    whole = jnp.trunc(x)
    if ties == "trunc":
        return whole
    fraction = jnp.abs(x - whole)
    half = jnp.float32(0.5)
    tie = {"away": True, "zero": False, "up": x > 0, "down": x < 0}[ties]
    step = (fraction > half) | ((fraction == half) & tie)
    return jnp.where(step, whole + jnp.where(x < 0, jnp.float32(-1), jnp.float32(1)), whole)


@partial(_sharding.jit, static_argnames="ties")
def _round(x: jax.Array, *, ties: str) -> jax.Array:
    return to_integer(_exact.widen(x), ties)


@_sharding.jit
def _stochastic(x: jax.Array, bits: jax.Array) -> jax.Array:
    x = _exact.widen(x)
    chance = (_exact.shift_right(bits, jnp.uint32(8))).astype(jnp.float32) * jnp.float32(2.0**-24)
    whole = jnp.trunc(x)
    pattern = _exact.bits(x) & _exact.MAGNITUDE
    # x itself where the integer part is zero: a subnormal fraction counts, so it is compared as bits
    fraction = jnp.where(pattern < 0x3F800000, pattern, _exact.bits(x - whole) & _exact.MAGNITUDE)
    negative = (_exact.bits(x) < 0) & (fraction > 0)
    up = fraction > _exact.bits(chance)
    stays = fraction < _exact.bits(jnp.float32(1) - chance)
    above = jnp.where(up, whole + jnp.float32(1), whole)
    below = jnp.where(stays, jnp.where(whole == 0, jnp.float32(0), whole), whole - jnp.float32(1))
    return jnp.where(pattern >= _exact.INF, x, jnp.where(negative, below, above))
