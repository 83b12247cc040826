"""The bytes behind a header, as NumPy arrays."""

import math
import os
from collections.abc import Iterator

import numpy as np

from refquant.files._dtypes import NUMPY_DTYPE, storage_shape
from refquant.files._header import Header, TensorInfo

PIECE_BYTES = 64 * 2**20


def read_tensor(header: Header, name: str) -> np.ndarray:
    """One tensor, mapped from the file and read-only.

    Args:
      header: of `read_header`.
      name: a tensor in it.

    Returns:
      Array of dtype NUMPY_DTYPE[dtype] and shape storage_shape(dtype, shape).  Types that NumPy lacks come as
      their codes: BF16 as uint16, F8_* as uint8, F4 and F6_* as packed uint8 bytes.  BOOL is copied, any
      nonzero byte as True, because a NumPy bool that is neither 0 nor 1 has no stated behaviour.

    Raises:
      ValueError: no such tensor, or the file has changed since its header was read.
      OSError: the file cannot be read.
    """
    info = header.tensor(name)
    _check_unchanged(header)
    dtype, shape = NUMPY_DTYPE[info.dtype], storage_shape(info.dtype, info.shape)
    if info.nbytes == 0:  # an empty range cannot be mapped
        array = np.empty(shape, dtype)
    elif info.dtype == "BOOL":
        array = _map(header, info, np.dtype("u1"), shape) != 0
    else:
        array = _map(header, info, dtype, shape)
    array = np.asanyarray(array)  # 0-d comparisons give scalars
    array.flags.writeable = False
    return array


def read_rows(header: Header, name: str, start: int, stop: int) -> np.ndarray:
    """Rows start to stop (exclusive) along the first axis, read into memory of their own.

    Args:
      header: of `read_header`.
      name: a tensor in it, with at least one axis.
      start: first row, 0 <= start.
      stop: row after the last one, start <= stop <= rows.

    Returns:
      Array with stop - start rows, otherwise as `read_tensor`.

    Raises:
      ValueError: no such tensor or rows, rows that do not end at whole bytes, or a file that has changed.
      OSError: the file cannot be read.
    """
    info = header.tensor(name)
    _check_unchanged(header)
    rows, row_bytes = _row_layout(header, info)
    if not 0 <= start <= stop <= rows:
        raise ValueError(f"read_rows: start, stop are {start}, {stop}, need 0 <= start <= stop <= {rows} ({info})")
    dtype = np.dtype("u1") if info.dtype == "BOOL" else NUMPY_DTYPE[info.dtype]
    shape = (stop - start, *storage_shape(info.dtype, info.shape)[1:])
    offset = header.data_offset + info.start + start * row_bytes
    flat = np.fromfile(header.path, dtype, math.prod(shape), offset=offset)
    if flat.size != math.prod(shape):
        raise ValueError(f"{header.path}: file ended inside {info}; it changed while it was read")
    return (flat != 0 if info.dtype == "BOOL" else flat).reshape(shape)


def iter_rows(header: Header, name: str, *, piece_bytes: int = PIECE_BYTES) -> Iterator[np.ndarray]:
    """The tensor as consecutive runs of rows, each of at most `piece_bytes` bytes but at least one row.

    Args:
      header: of `read_header`.
      name: a tensor in it; a 0-d tensor comes as one 0-d piece.
      piece_bytes: memory of a piece.

    Returns:
      Iterator of arrays as of `read_rows`; concatenated they are `read_tensor`.

    Raises:
      ValueError: as `read_rows`.
      OSError: the file cannot be read.
    """
    info = header.tensor(name)
    if not storage_shape(info.dtype, info.shape):
        yield np.array(read_tensor(header, name))
        return
    rows, row_bytes = _row_layout(header, info)
    step = max(1, piece_bytes // max(1, row_bytes))
    for start in range(0, rows, step):
        yield read_rows(header, name, start, min(start + step, rows))


def _row_layout(header: Header, info: TensorInfo) -> tuple[int, int]:
    shape = storage_shape(info.dtype, info.shape)
    if not shape:
        raise ValueError(f"{header.path}: {info} has no rows, need read_tensor")
    if len(shape) != len(info.shape):
        raise ValueError(f"{header.path}: rows of {info} do not end at whole bytes, need read_tensor")
    return shape[0], info.nbytes // max(1, shape[0])


def _map(header: Header, info: TensorInfo, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.memmap(header.path, dtype, mode="r", offset=header.data_offset + info.start, shape=shape)


def _check_unchanged(header: Header) -> None:
    size = os.stat(header.path).st_size
    if size != header.file_size:
        raise ValueError(f"{header.path}: file has {size} bytes, had {header.file_size} when its header was read")
