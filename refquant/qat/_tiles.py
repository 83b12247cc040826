"""What learned scales share: how one is used, and the sum of its gradient over a tile (specs/62-estimators.md)."""

import math

import numpy as np

from refquant.arguments import as_array
from refquant.bits import flush
from refquant.blocks import expand, from_blocks, to_blocks
from refquant.estimators import FLOOR, check_float32
from refquant.granularity import Granularity, PerTensor, Shape
from refquant.sums import tree_sum

SMALLEST = np.float32(2.0**-100)


def as_learned(function: str, argument: str, value: object) -> np.ndarray:
    """A learned number as a float32 array; a Python number becomes one (GEN-1).

    Raises:
      TypeError: another dtype.
    """
    array = as_array(value, np.float32)
    check_float32(function, argument, array.dtype)
    return array


def used(learned: np.ndarray, steps: int = 1) -> np.ndarray:
    """EST-1: max(|v|, 2^-60), NaN stays; a bound of `steps` steps (PCT-1) has that floor `steps` times."""
    size, floor = np.abs(learned), np.float32(FLOOR * steps)
    return np.asarray(np.where(size < floor, floor, size))  # EST-1: a comparison with NaN is false


def spread(values: np.ndarray, shape: Shape, granularity: Granularity) -> np.ndarray:
    """GRA-3: for each element of an array of that shape the value of its tile."""
    if isinstance(granularity, PerTensor):
        return np.broadcast_to(values, shape)
    blocks = to_blocks(np.empty(shape, values.dtype), granularity=granularity).shape
    return from_blocks(np.broadcast_to(expand(values, shape, granularity=granularity), blocks), shape)


def ratio(x: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """EST-2."""
    return flush(flush(x.astype(np.float32)) / divisor)


def counted(values: np.ndarray) -> np.ndarray:
    """EST-4: a term below 2^-100 in magnitude counts as 0."""
    return np.where(np.abs(values) < SMALLEST, np.float32(0), values)


def summed(terms: np.ndarray, granularity: Granularity) -> np.ndarray:
    """EST-4: one sum a tile, the places inside the tile axis by axis, the last one first (SUM-1)."""
    shape = granularity.scale_shape(terms.shape)
    if terms.size == 0:
        return np.zeros(shape, np.float32)  # EST-4
    blocks = to_blocks(terms, granularity=granularity)
    return tree_sum(blocks, tuple(range(1, blocks.ndim, 2))).reshape(shape)


def finished(total: np.ndarray, factor: float, learned: np.ndarray | None = None) -> np.ndarray:
    """EST-5, and the sign of EST-1."""
    found = flush(total * np.float32(factor))  # EST-5
    return np.asarray(found if learned is None else np.where(np.signbit(learned), -found, found))  # EST-1


def passed(inside: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    """EST-6."""
    return np.where(inside, cotangent, np.zeros((), cotangent.dtype))


def means(values: np.ndarray, granularity: Granularity) -> np.ndarray:
    """LSQ-3: the mean of each tile, flushed."""
    return flush(summed(counted(values), granularity) / counts(values.shape, granularity))


def counts(shape: Shape, granularity: Granularity) -> np.ndarray:
    """The elements of each tile as a binary32 number, at least 1."""
    sizes = granularity.scale_shape(shape)
    if isinstance(granularity, PerTensor):
        return np.asarray(max(math.prod(shape), 1), np.float32)
    found = np.ones(sizes, np.int64)
    for axis, (n, tile) in enumerate(zip(shape, granularity.tile(shape), strict=True)):
        along = np.minimum(tile, n - tile * np.arange(sizes[axis]))
        found = found * along.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.maximum(found, 1).astype(np.float32)
