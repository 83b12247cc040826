"""Tiles as axes of their own, so that one scale a tile broadcasts (specs/20-affine.md, GRA-1..GRA-3)."""

from collections.abc import Callable

import numpy as np

from refquant.granularity import Granularity, PerTensor, Shape, blocked_shape

CHUNK = 1 << 16  # elements; a few temporaries of this size stay in the cache
SHORT = 128  # elements; NumPy reduces a longer row faster than it reduces columns


def to_blocks(x: np.ndarray, *, granularity: Granularity) -> np.ndarray:
    """x with each axis split in (tiles, tile); ragged tiles are filled up with zeros.

    Args:
      x: any dtype, any shape.
      granularity: the tile.
    Returns:
      shape (tiles, tile, tiles, tile, ...), dtype of x; a view where no tile is ragged and x is contiguous.

    Spec: GRA-1, GRA-2 (specs/20-affine.md).  Class: exact.
    Example:
      >>> from refquant.granularity import PerGroup
      >>> to_blocks(np.float32([[1, 2, 3]]), granularity=PerGroup(1, 2)).tolist()
      [[[[1.0, 2.0], [3.0, 0.0]]]]
    """
    padding, blocked, _ = blocked_shape(x.shape, granularity.tile(x.shape))
    if any(padding):
        padded = np.zeros([n + p for n, p in zip(x.shape, padding, strict=True)], x.dtype)
        padded[tuple(slice(n) for n in x.shape)] = x
        x = padded
    return x.reshape(blocked)


def from_blocks(blocks: np.ndarray, shape: Shape) -> np.ndarray:
    """The array of that shape that `to_blocks` gave these blocks.

    Args:
      blocks: shape (tiles, tile, tiles, tile, ...), any dtype.
      shape: the array's shape.
    Returns:
      that shape, dtype of blocks; what filled ragged tiles is dropped.

    Spec: GRA-1 (specs/20-affine.md).  Class: exact.
    Example:
      >>> from_blocks(np.float32([[[[1, 2], [3, 0]]]]), (1, 3)).tolist()
      [[1.0, 2.0, 3.0]]
    """
    sizes = np.array(blocks.shape, dtype=np.int64).reshape(-1, 2)
    whole = blocks.reshape(tuple(int(count * tile) for count, tile in sizes))
    return np.ascontiguousarray(whole[tuple(slice(n) for n in shape)]).reshape(shape)


def expand(scale: np.ndarray, shape: Shape, *, granularity: Granularity) -> np.ndarray:
    """One scale a tile, in the shape that broadcasts against `to_blocks(x)`.

    Args:
      scale: any dtype, shape `granularity.scale_shape(shape)`.
      shape: the shape of x.
      granularity: the tile.
    Returns:
      shape (tiles, 1, tiles, 1, ...), for PerTensor (), dtype of scale.

    Spec: GRA-3 (specs/20-affine.md).  Class: exact.
    Example:
      >>> from refquant.granularity import PerAxis
      >>> expand(np.float32([[1], [2]]), (2, 5), granularity=PerAxis(0)).shape
      (2, 1, 1, 1)
    """
    if isinstance(granularity, PerTensor):
        return scale
    return scale.reshape(blocked_shape(shape, granularity.tile(shape))[2])


def in_chunks(
    function: Callable[..., np.ndarray], x: np.ndarray, *others: np.ndarray, dtype: np.dtype | type | str
) -> np.ndarray:
    """An elementwise function of x and of arrays that broadcast against it, a slice of x at a time.

    Large temporaries would cost more than the arithmetic; the bits do not depend on the slices.
    """
    if x.size <= CHUNK:
        return np.asarray(function(x, *others), dtype)
    axis = next(i for i, n in enumerate(x.shape) if n > 1)
    step = max(1, CHUNK * x.shape[axis] // x.size)
    result = np.empty(x.shape, dtype)
    for start in range(0, x.shape[axis], step):
        part = (slice(None),) * axis + (slice(start, start + step),)
        result[part] = function(x[part], *(o if o.ndim == 0 or o.shape[axis] == 1 else o[part] for o in others))
    return result


def over_tiles(function: np.ufunc, blocks: np.ndarray, within: tuple[int, ...]) -> np.ndarray:
    """`function` of 0 and the elements of each tile.

    NumPy calls a loop for every row, so short rows are laid side by side as columns first.

    Args:
      function: np.minimum or np.maximum.
      blocks: float32, as `to_blocks` gives them.
      within: the axes inside tiles, ascending.
    Returns:
      float32, the shape of blocks without the axes within (SCL-1).
    """
    width, zero = blocks.shape[-1] if blocks.ndim else 0, np.zeros((), blocks.dtype)
    if not 1 < width <= SHORT or blocks.ndim - 1 not in within:
        return np.asarray(function.reduce(blocks, axis=within, initial=zero))
    rows = blocks.reshape(-1, width)
    result, step = np.empty(len(rows), blocks.dtype), CHUNK // width
    for start in range(0, len(rows), step):
        columns = np.ascontiguousarray(rows[start : start + step].T)
        function.reduce(columns, axis=0, initial=zero, out=result[start : start + step])
    return np.asarray(function.reduce(result.reshape(blocks.shape[:-1]), axis=within[:-1], initial=zero))
