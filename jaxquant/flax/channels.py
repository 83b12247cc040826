"""Where outliers lie: the largest |input| of each channel of a layer.  A diagnostic; no code is decided by it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxquant.flax.layers import summed_of_x


def channel_axes(rank: int, axis: int | Sequence[int] | None = None, subscripts: str | None = None) -> tuple[int, ...]:
    """The axes of an input along which its channels lie.

    Args:
      rank: of the input.
      axis: those that a general dense layer sums.
      subscripts: of an einsum.
    Returns:
      What is summed; of a convolution, whose window is summed too, the channels alone.
    """
    if subscripts is not None:
        return summed_of_x(subscripts, rank)
    axes = (-1,) if axis is None else (axis,) if isinstance(axis, int) else axis
    return tuple(sorted(a % rank for a in axes))


def largest(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """The largest |x| of each index of those axes, float32, one vector; 0 where x is empty."""
    rest = tuple(a for a in range(x.ndim) if a not in axes)
    return jnp.max(jnp.abs(x.astype(jnp.float32)), axis=rest, initial=0).reshape(-1)
