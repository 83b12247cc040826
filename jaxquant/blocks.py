"""Arrays laid out so that one scale broadcasts over its tile (specs/20-affine.md, GRA-1..GRA-3).

An axis whose tile divides it becomes two axes (tiles, tile); one whose tile is 1 or the whole axis stays.  Only a
ragged axis costs an expanded scale.
"""

import jax
import jax.numpy as jnp

from refquant.granularity import Shape


def split(x: jax.Array, tile: Shape) -> jax.Array:
    """The array with each evenly tiled axis as two axes, (tiles, tile)."""
    return x.reshape(_split_shape(x.shape, tile))


def spread(scale: jax.Array, shape: Shape, tile: Shape) -> jax.Array:
    """One value a tile, shaped to broadcast against `split(x, tile)` of an x with that shape."""
    if scale.ndim == 0:
        return scale
    axes: list[int] = []
    for axis, (n, t) in enumerate(zip(shape, tile, strict=True)):
        if _is_ragged(n, t):
            scale = _repeat(scale, axis, t, n)
        axes += (scale.shape[axis], 1) if _is_split(n, t) else (scale.shape[axis],)
    return scale.reshape(axes)


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


def _split_shape(shape: Shape, tile: Shape) -> Shape:
    return tuple(v for n, t in zip(shape, tile, strict=True) for v in ((n // t, t) if _is_split(n, t) else (n,)))


def _is_split(n: int, t: int) -> bool:
    return 1 < t < n and n % t == 0


def _is_ragged(n: int, t: int) -> bool:
    return 1 < t < n and n % t != 0


def _repeat(scale: jax.Array, axis: int, times: int, size: int) -> jax.Array:
    shape = scale.shape
    wide = jnp.broadcast_to(jnp.expand_dims(scale, axis + 1), (*shape[: axis + 1], times, *shape[axis + 1 :]))
    wide = wide.reshape(*shape[:axis], shape[axis] * times, *shape[axis + 1 :])
    return jax.lax.slice_in_dim(wide, 0, size, axis=axis)
