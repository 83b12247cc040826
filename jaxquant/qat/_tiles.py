"""What learned scales share: how one is used, and the sum of its gradient over a tile (specs/62-estimators.md)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxquant import _exact, _inputs, blocks
from refquant.estimators import FLOOR, check_float32
from refquant.granularity import Shape

SMALLEST = int(np.float32(2.0**-100).view(np.int32))


def as_learned(function: str, argument: str, value: Any) -> Any:
    """A learned number: float32, strong; a Python number becomes one (GEN-1).

    Raises:
      TypeError: another dtype.
    """
    value = _inputs.array(value, np.float32)
    check_float32(function, argument, value.dtype)
    return value


def used(learned: jax.Array, steps: int = 1) -> jax.Array:
    """EST-1: max(|s|, 2^-60) on the bits, so that NaN stays and a product that made s is rounded (GEN-3).

    A bound of `steps` steps (PCT-1) has that floor `steps` times.
    """
    floor = int(np.float32(FLOOR * steps).view(np.int32))
    return _exact.from_bits(jnp.maximum(_exact.bits(learned) & _exact.MAGNITUDE, floor))


def term(factor: jax.Array, cotangent: jax.Array) -> jax.Array:
    """EST-4: the product rounded; below 2^-100 it is 0, so that no partial sum is ever subnormal."""
    return counted(factor * cotangent)


def counted(value: jax.Array) -> jax.Array:
    """EST-4: the value, or 0 where it is below 2^-100 in magnitude."""
    pattern = _exact.bits(value)
    return _exact.from_bits(_exact.select((pattern & _exact.MAGNITUDE) < SMALLEST, 0, pattern))


def summed(terms: jax.Array, tile: Shape, shape: Shape) -> jax.Array:
    """EST-4: one sum a tile, SUM-1 along the last axis first."""
    if terms.size == 0:
        return jnp.zeros(shape, jnp.float32)
    tiles, inside = blocks.tiled(terms, tile, jnp.float32(0))
    for axis in reversed(inside):
        tiles = _exact.tree_sum(tiles, axis)
    return tiles.reshape(shape)


def finished(total: jax.Array, factor: float, learned: jax.Array | None = None) -> jax.Array:
    """EST-5, EST-1: times the gradient scale, flushed, negated where the learned number is."""
    found = _exact.flush(_exact.rounded(total) * jnp.float32(factor))
    if learned is None:
        return found
    return _exact.from_bits(_exact.bits(found) ^ (_exact.bits(learned) & _exact.NEGATIVE_ZERO))


def means(values: jax.Array, tile: Shape, shape: Shape) -> jax.Array:
    """LSQ-3: the mean of each tile, flushed."""
    total = summed(counted(values), tile, shape)
    return _exact.flush(_exact.div(total, counts(values.shape, tile)))


def counts(shape: Shape, tile: Shape) -> jax.Array:
    """The elements of each tile as a binary32 number, at least 1; one number where no tile is ragged."""
    if all(n % t == 0 for n, t in zip(shape, tile, strict=True)):
        return jnp.float32(math.prod(min(n, t) for n, t in zip(shape, tile, strict=True)) or 1)
    found = jnp.ones((), jnp.int32)
    for axis, (n, t) in enumerate(zip(shape, tile, strict=True)):
        along = [min(t, n - start) for start in range(0, n, t)]
        found = found * jnp.array(along, jnp.int32).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return jnp.maximum(found, 1).astype(jnp.float32)
