"""One scale a tile, against the array it belongs to (specs/20-affine.md, GRA-1..GRA-3)."""

import jax
import jax.numpy as jnp

from refquant.granularity import Shape


def spread(scale: jax.Array, shape: Shape, tile: Shape) -> jax.Array:
    """One value a tile, shaped to broadcast against an x of that shape.

    The array keeps its own shape: reshaping x into groups would hide from XLA that a result may take x's buffer.  A
    repeated scale is an index computation inside the loop that reads it and is never written to memory.
    """
    if scale.ndim == 0:
        return scale
    for axis, (n, t) in enumerate(zip(shape, tile, strict=True)):
        if 1 < t < n:
            scale = _repeat(scale, axis, t, n)
    return scale


def tiled(x: jax.Array, tile: Shape, fill: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
    """The array with every tile on axes of its own, ragged tiles filled up, and which axes lie inside a tile."""
    padding = [(0, -n % t if t < n else 0, 0) for n, t in zip(x.shape, tile, strict=True)]
    x = jax.lax.pad(x, fill, padding) if any(high for _, high, _ in padding) else x
    shape: list[int] = []
    inside: list[int] = []
    for n, t in zip(x.shape, tile, strict=True):
        if t == 1 or n == 0:
            shape.append(n)
            continue
        shape += (n // t, t) if t < n else (n,)
        inside.append(len(shape) - 1)
    return x.reshape(shape), tuple(inside)


def _repeat(scale: jax.Array, axis: int, times: int, size: int) -> jax.Array:
    shape = scale.shape
    wide = jnp.broadcast_to(jnp.expand_dims(scale, axis + 1), (*shape[: axis + 1], times, *shape[axis + 1 :]))
    wide = wide.reshape(*shape[:axis], shape[axis] * times, *shape[axis + 1 :])
    return jax.lax.slice_in_dim(wide, 0, size, axis=axis)
