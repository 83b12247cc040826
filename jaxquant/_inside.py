"""Which elements let the clip-STE gradient pass, without a quotient an element (specs/20-affine.md, STE-2)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxquant import _exact, bits
from jaxquant._constants import constant

FLT_MAX = float.fromhex("0x1.fffffep+127")
STEPS = 8, 4, 2, 1
REACH = sum(STEPS) // 2
INF = 0x7F800000  # the key of infinity
NOWHERE = 0x7FFFFFFF  # of a NaN
Judge = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def bounds(judge: Judge, low: jax.Array, high: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest x inside, one pair a tile; NaN where there is none.

    Rounding is monotone, so what rounds into low..high is an interval of x.  Its ends lie within 3 ulp of
    (low - 1/2) * |scale| and (high + 1/2) * |scale|: four questions, each of half the numbers that are left, find them.

    Args:
      judge: x, shape (2, *shape of scale), to (at least low, at most high) for a positive scale, exact.
      low: float32, smallest rounded value inside, shape of scale.
      high: float32, largest rounded value inside, shape of scale.
      scale: float32, any sign.
    Returns:
      (first, last), float32, shape of scale.
    """
    size, limit = jnp.abs(scale), np.float32(FLT_MAX)
    upper = constant(_halves, jnp.broadcast_to(_exact.bits(size), (2, *size.shape)), size.ndim + 1) == 1
    half = jnp.where(upper, beside(high) + np.float32(0.5), beside(low) - np.float32(0.5))
    ends = bits.key_of(lax.clamp(-limit, half * beside(size), limit))
    start = jnp.where(upper, -ends, ends) - REACH  # the largest that is not above, as the smallest of its negatives
    keys = start
    for step in STEPS:
        asked = jnp.clip(keys + np.int32(step - 1), -INF, INF)
        not_below, not_above = judge(bits.value_of(jnp.where(upper, -asked, asked)))
        keys = jnp.where(jnp.where(upper, not_above, not_below), keys, keys + np.int32(step))
    none = keys == start + np.int32(sum(STEPS))
    first, last = bits.value_of(jnp.where(none, NOWHERE, jnp.where(upper, -1, 1) * jnp.clip(keys, -INF, INF)))
    mirrored = _exact.bits(scale) < 0
    return _exact.select(mirrored, -last, first), _exact.select(mirrored, -first, last)


def beside(values: jax.Array) -> jax.Array:
    """With an axis in front, as what is asked has for its two ends: a user may forbid to broadcast ranks."""
    return lax.expand_dims(values, (0,)) if values.ndim else values


def _halves(shape: tuple[int, ...], axis: int) -> jax.Array:
    """0 and 1 along an axis counted from the last one, which a vmap leaves in its place."""
    return lax.broadcasted_iota(jnp.int32, shape, len(shape) - axis)
