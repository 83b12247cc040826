"""Which elements let the clip-STE gradient pass, without a quotient an element (specs/20-affine.md, STE-2)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxquant import _exact, bits
from jaxquant._constants import constant

REACH = 2  # ordered keys asked on either side of an end
FLT_MAX = float.fromhex("0x1.fffffep+127")
NOWHERE = 0x7FFFFFFF  # the key of a NaN
Judge = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def bounds(judge: Judge, low: jax.Array, high: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest x inside, one pair a tile; NaN where there is none.

    Rounding is monotone, so what rounds into low..high is an interval of x.  It ends around (low - 1/2) * |scale| and
    (high + 1/2) * |scale|, where the elements are asked.  Half an ulp of the quotient, or of an end too large to have
    its 1/2, is 1 ulp of x at most; the product's rounding half a one; the last element inside is less than 1 ulp from
    there: 2 steps in all.  Witness: tests/test_mask_bounds.py.

    Args:
      judge: x, shape (2, n, *shape of scale), to (at least low, at most high) for a positive scale, exact.
      low: float32, smallest rounded value inside, shape of scale.
      high: float32, largest rounded value inside, shape of scale.
      scale: float32, any sign.
    Returns:
      (first, last), float32, shape of scale.
    """
    size, limit = jnp.abs(scale), np.float32(FLT_MAX)
    asked = (2, 2 * REACH + 1, *size.shape)
    upper = constant(_steps, jnp.broadcast_to(_exact.bits(size), asked), size.ndim + 2) == 1
    half = jnp.where(upper, beside(high) + np.float32(0.5), beside(low) - np.float32(0.5))
    ends = bits.key_of(lax.clamp(-limit, half * beside(size), limit)) - REACH
    keys = ends + constant(_steps, ends, size.ndim + 1)  # bare steps: XLA takes others out of loops, for each layer
    not_below, not_above = judge(bits.value_of(keys))
    keys = jnp.where(upper, -keys, keys)  # the largest that is not above, as the smallest of its negatives
    nearest = _exact.select(jnp.where(upper, not_above, not_below), keys, NOWHERE).min(1)
    first, last = bits.value_of(nearest[0]), bits.value_of(-nearest[1])
    mirrored = _exact.bits(scale) < 0
    return _exact.select(mirrored, -last, first), _exact.select(mirrored, -first, last)


def beside(values: jax.Array) -> jax.Array:
    """With two axes in front, as those of what is asked: ranks are not broadcast where a user forbids it."""
    return lax.expand_dims(values, (0, 1)) if values.ndim else values


def _steps(shape: tuple[int, ...], axis: int) -> jax.Array:
    """0, 1, … along an axis counted from the last one, which a vmap leaves in its place."""
    return lax.broadcasted_iota(jnp.int32, shape, len(shape) - axis)
