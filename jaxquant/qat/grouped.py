"""Sums of weights in groups (specs/60-layers.md, LAY-3): one int32 sum a group, scaled, summed by the tree."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxquant import _exact
from jaxquant.qat.integer import product
from jaxquant.qat.layer import scaled_sums

AT_ONCE = 1 << 22  # sums of all groups that are held at a time
UNROLLED = 8  # groups, a power of two: a whole branch of the tree; more are a loop, so that the program stays small


def grouped_sums(
    a: jax.Array, w: jax.Array, scale: jax.Array, batch: int, size: int, *, max_a: int, max_b: int
) -> jax.Array:
    """float32 (*batch, *rows, *columns): the tree sum over groups of rounded(float32(Σ a·w) · s_w).

    Args:
      a: integers, shape (*batch, *rows, K).
      w: integers, shape (*batch, K, *columns).
      scale: float32, shape (*batch, groups, *columns).
      batch: how many leading axes a and w share.
      size: of a group; a ragged last one is filled up with zero codes, which add nothing.
      max_a: bound of |a|.
      max_b: bound of |w|.

    Spec: LAY-3 (specs/60-layers.md), SUM-1.  Class: exact.
    """
    rows, columns = a.shape[batch:-1], w.shape[batch + 1 :]
    count, depth = scale.shape[batch], a.shape[-1]
    if count == 0:
        return jnp.zeros((*a.shape[:-1], *columns), jnp.float32)
    size = min(size, depth)
    a = _in_groups(a, a.ndim - 1, count, size).reshape(*a.shape[:batch], math.prod(rows), count, size)
    a = jnp.moveaxis(a, -2, batch)  # (*batch, groups, M, size)
    w = _in_groups(w, batch, count, size)

    def some(part: jax.Array) -> jax.Array:
        return _summed(part, w, scale, batch, max_a=max_a, max_b=max_b)

    tiles = math.ceil(a.shape[batch + 1] / _tile(scale.size))
    y = _by_tiles(some, a, batch + 1, 1 << (tiles - 1).bit_length())  # a power of two often needs no filling up
    return y.reshape(*y.shape[:batch], *rows, *columns)


def _summed(a: jax.Array, w: jax.Array, scale: jax.Array, batch: int, **bounds: int) -> jax.Array:
    """float32 (*batch, M, *columns) from (*batch, groups, M, size), (*batch, groups, size, *columns) and scales."""
    count = scale.shape[batch]
    if count > UNROLLED:
        branches = tuple(_in_branches(v, batch) for v in (a, w, scale))
        return _exact.tree_sum(lax.map(lambda some: _summed(*some, batch, **bounds), branches), 0)
    parts = []
    for group in range(count):
        one = [lax.index_in_dim(v, group, batch, keepdims=False) for v in (a, w, scale)]
        sums = product(one[0], one[1], batch=batch, **bounds)
        parts.append(scaled_sums(sums, jnp.expand_dims(one[2], batch), None))
    return _exact.tree_sum_of(parts)


def _in_branches(x: jax.Array, axis: int) -> jax.Array:
    """Groups along a new first axis, UNROLLED at a time, filled up with zeros."""
    split = _in_groups(x, axis, math.ceil(x.shape[axis] / UNROLLED), UNROLLED)
    return jnp.moveaxis(split, axis, 0)


def _in_groups(x: jax.Array, axis: int, count: int, size: int) -> jax.Array:
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, count * size - x.shape[axis])
    return jnp.pad(x, padding).reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :])


def _tile(scales: int) -> int:
    return max(1, AT_ONCE // max(scales, 1))


def _by_tiles(function, a: jax.Array, axis: int, tiles: int) -> jax.Array:
    """The function of all rows, `tiles` times for interleaved rows; its result has the rows one axis earlier.

    Interleaved, so that rows sharded over devices stay where they are in every step.
    """
    if tiles <= 1:
        return function(a)
    rows = a.shape[axis]
    high = math.ceil(rows / tiles)
    padding = [(0, 0)] * a.ndim
    padding[axis] = (0, high * tiles - rows)
    split = jnp.pad(a, padding).reshape(*a.shape[:axis], high, tiles, *a.shape[axis + 1 :])
    y = lax.map(function, jnp.moveaxis(split, axis + 1, 0))
    y = jnp.moveaxis(y, 0, axis)  # (..., high, tiles, columns)
    y = y.reshape(*y.shape[: axis - 1], high * tiles, *y.shape[axis + 1 :])
    return lax.slice_in_dim(y, 0, rows, axis=axis - 1)
