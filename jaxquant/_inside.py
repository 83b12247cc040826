"""Which elements let the clip-STE gradient pass, without a quotient an element (specs/20-affine.md, STE-2)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxquant import _exact, bits

FLT_MAX = float.fromhex("0x1.fffffep+127")
REACH = 4
Judge = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def bounds(judge: Judge, low: jax.Array, high: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest x inside, one pair a tile; NaN where there is none.

    Rounding is monotone, so what rounds into low..high is an interval of x.  Its ends lie within 3 ulp of
    (low - 1/2) * |scale| and (high + 1/2) * |scale|; the elements around are asked, from the inside outward.  A loop
    keeps the quotients of the tiles out of the loop over the elements.

    Args:
      judge: x to (at least low, at most high) for a positive scale, exact.
      low: float32, smallest rounded value inside, shape of scale.
      high: float32, largest rounded value inside, shape of scale.
      scale: float32, any sign.
    Returns:
      (first, last), float32, shape of scale.
    """
    size, limit = jnp.abs(scale), jnp.float32(FLT_MAX)
    near_first = jnp.clip((low - jnp.float32(0.5)) * size, -limit, limit)
    near_last = jnp.clip((high + jnp.float32(0.5)) * size, -limit, limit)

    def ask(step: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        step = jnp.asarray(step, jnp.int32)  # a Python int without jit
        first = bits.value_of(bits.key_of(near_first) + (REACH - step))
        last = bits.value_of(bits.key_of(near_last) + (step - REACH))
        return jnp.where(judge(first)[0], first, found[0]), jnp.where(judge(last)[1], last, found[1])

    nothing = jnp.full_like(near_first, jnp.nan)
    first, last = lax.fori_loop(0, 2 * REACH + 1, ask, (nothing, nothing))
    mirrored = _exact.bits(scale) < 0
    return jnp.where(mirrored, -last, first), jnp.where(mirrored, -first, last)
