"""Sums of weights in groups (specs/60-layers.md, LAY-3): one int32 sum a group, scaled, summed by the tree."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxquant import _exact
from jaxquant._sharding import varying_as
from jaxquant.qat.integer import product
from jaxquant.qat.layer import scaled_sums

AT_ONCE = 7 << 20  # sums held at a time: beyond 32 MiB malloc takes fresh pages from the system in every call
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
    w = _filled_up(w, batch, count * size)
    a = _filled_up(a, a.ndim - 1, count * size).reshape(*a.shape[:batch], math.prod(rows), count * size)

    def some(part: jax.Array) -> jax.Array:
        return _summed(part, w, scale, batch, max_a=max_a, max_b=max_b)

    held = scale.size // count * (count if count < 2 * UNROLLED else UNROLLED + count // UNROLLED)
    tiles = math.ceil(a.shape[batch] / max(1, AT_ONCE // max(held, 1)))
    if count == 1:  # in a loop XLA:CPU forgets the transpose of a constant that is not sliced
        tiles = 1
    y = _by_tiles(some, a, batch, tiles, columns, nothing=varying_as(jnp.float32(0), a, w, scale))
    return y.reshape(*y.shape[:batch], *rows, *columns)


def _summed(a: jax.Array, w: jax.Array, scale: jax.Array, batch: int, **bounds: int) -> jax.Array:
    """float32 (*batch, M, *columns) from (*batch, M, K), (*batch, K, *columns) and scales (*batch, groups, *columns).

    A group is cut out of the whole in one step: a slice of a branch's slice leaves XLA:CPU's loops scalar.
    """
    count = scale.shape[batch]
    size = a.shape[-1] // count

    def scaled(group: jax.Array | int) -> jax.Array:
        left = lax.dynamic_slice_in_dim(a, group * size, size, a.ndim - 1)
        right = lax.dynamic_slice_in_dim(w, group * size, size, batch)
        own = lax.dynamic_slice_in_dim(scale, group, 1, batch)
        return scaled_sums(product(left, right, batch=batch, **bounds), own, None)

    def branch(first: jax.Array | int, groups: int = UNROLLED) -> jax.Array:
        return _exact.tree_sum_of([scaled(first + i) for i in range(groups)])

    whole = count // UNROLLED
    found = lax.map(branch, UNROLLED * jnp.arange(whole)) if whole else ()
    rest = [branch(whole * UNROLLED, count % UNROLLED)] if count % UNROLLED else []
    return _exact.tree_sum_of([*found, *rest])


def _filled_up(x: jax.Array, axis: int, size: int) -> jax.Array:
    """With zeros at the end of an axis."""
    return jnp.pad(x, [(0, size - n if i == axis else 0) for i, n in enumerate(x.shape)])


def _by_tiles(
    function: Callable[[jax.Array], jax.Array],
    a: jax.Array,
    axis: int,
    tiles: int,
    columns: tuple[int, ...],
    *,
    nothing: jax.Array,
) -> jax.Array:
    """The function of all rows, `tiles` times for interleaved rows, each written to its place.

    Interleaved, so that rows sharded over devices stay where they are in every step.
    """
    if tiles <= 1:
        return function(a)
    tiles = 1 << (tiles - 1).bit_length()  # a power of two often needs no filling up
    rows, before = a.shape[axis], a.shape[:axis]
    high = math.ceil(rows / tiles)
    split = _filled_up(a, axis, high * tiles).reshape(*before, high, tiles, a.shape[-1])

    def step(i: jax.Array, y: jax.Array) -> jax.Array:
        part = function(lax.dynamic_index_in_dim(split, i, axis + 1, keepdims=False))
        return lax.dynamic_update_index_in_dim(y, part, i, axis + 1)

    y = lax.fori_loop(0, tiles, step, jnp.broadcast_to(nothing, (*before, high, tiles, *columns)))
    return lax.slice_in_dim(y.reshape(*before, high * tiles, *columns), 0, rows, axis=axis)
