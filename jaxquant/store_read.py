"""Quantized safetensors files read: whole as QTensors, or run by run of rows as the values they stand for (FIL-9)."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from jaxquant import store_checks
from jaxquant.codec import decode
from jaxquant.packing import unpack
from jaxquant.qtensor import QTensor, dequantize_tensor
from jaxquant.store_stacked import as_layers, as_whole
from refquant import files, formats
from refquant.files.quantized import check_stored, entries, read_entry
from refquant.files.runs import scales_of, unit
from refquant.granularity import Shape
from refquant.spec import QuantSpec


@dataclass(frozen=True)
class Rows:
    """The values of a tensor, to be read a run of rows at a time.

    Attributes:
      shape: the tensor's.
      kind: the name of its format, or of its dtype.
      unit: rows that stay together (`files.runs.unit`).
      read: gives the values from the first row to the one after the last; a scalar is one row.
    """

    shape: Shape
    kind: str
    unit: int
    read: Callable[[int, int], np.ndarray]


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray | QTensor]:
    """Every tensor of a file, or of a checkpoint's shards, under its source's name; quantized ones as QTensors.

    Raises:
      ValueError: a bad file, or metadata that does not fit its tensors.
    """
    return {name: value for header in files.read_headers(path) for name, value in _tensors(header, _restore).items()}


def opened(path: str | os.PathLike[str]) -> dict[str, np.ndarray | Rows]:
    """What `load` gives, with quantized tensors as Rows: their codes are read, and checked, as runs are asked for.

    Raises:
      ValueError: as `load`.
    """
    return {name: value for header in files.read_headers(path) for name, value in _tensors(header, _packed).items()}


def rows_of(tensor: Any) -> Rows:
    """The rows of an array, of a QTensor, or of what `opened` gave."""
    if isinstance(tensor, Rows):
        return tensor
    if isinstance(tensor, QTensor):
        return _quantized_rows(as_whole(tensor))
    values = np.asarray(tensor)
    return Rows(values.shape, str(values.dtype), 1, lambda start, stop: np.atleast_1d(values)[start:stop])


def array(header: files.Header, name: str) -> np.ndarray:
    """One tensor with its own dtype, bfloat16 included."""
    value = files.read_tensor(header, name)
    return value.view(ml_dtypes.bfloat16) if header.tensor(name).dtype == "BF16" else value


def rows(header: files.Header, name: str, start: int, stop: int) -> np.ndarray:
    """Rows of a tensor with its own dtype, in memory of their own."""
    value = files.read_rows(header, name, start, stop)
    return value.view(ml_dtypes.bfloat16) if header.tensor(name).dtype == "BF16" else value


def _tensors(header: files.Header, quantized: Callable[[files.Header, str], Any]) -> dict[str, Any]:
    names = entries(header)
    parts = {f"{name}.{part}" for name in names for part in ("codes", "scale", "zero_point")}
    found: dict[str, Any] = {t.name: array(header, t.name) for t in header.tensors if t.name not in parts}
    return found | {name: quantized(header, name) for name in names}


def _restore(header: files.Header, name: str) -> QTensor:
    spec, shape, _, stacked = read_entry(header, name)
    check_stored(header, name, spec, shape)
    return as_layers(_restored(header, name, spec, shape, 0, (shape or (1,))[0]), stacked)


def _packed(header: files.Header, name: str) -> Rows:
    spec, shape, *_ = read_entry(header, name)
    check_stored(header, name, spec, shape)

    def read(start: int, stop: int) -> np.ndarray:
        return _values(_restored(header, name, spec, shape, start, stop))

    return Rows(shape, spec.fmt.name, unit(shape, spec.granularity), read)


def _quantized_rows(q: QTensor) -> Rows:
    grain = q.spec.granularity
    codes, scale = np.asarray(q.codes), np.asarray(q.scale)
    zero_point = None if q.zero_point is None else np.asarray(q.zero_point)

    def read(start: int, stop: int) -> np.ndarray:
        own = scales_of(q.shape, grain, start, stop)
        zero = None if zero_point is None else zero_point[own]
        return _values(QTensor(codes[start:stop] if q.shape else codes, scale[own], zero, q.spec))

    return Rows(q.shape, q.spec.fmt.name, unit(q.shape, grain), read)


def _values(q: QTensor) -> np.ndarray:
    return np.atleast_1d(np.asarray(dequantize_tensor(q)))


def _restored(header: files.Header, name: str, spec: QuantSpec, shape: Shape, start: int, stop: int) -> QTensor:
    """Rows start to stop, which end with a unit or with the tensor."""
    row, own = math.prod(shape[1:]) * spec.fmt.bits, scales_of(shape, spec.granularity, start, stop)
    packed = np.asarray(files.read_tensor(header, f"{name}.codes"))[start * row // 8 : -(-stop * row // 8)]
    codes = unpack(packed, (stop - start, *shape[1:]) if shape else (), fmt=spec.fmt)
    zero_point = None
    if spec.scale.zero != "none":
        zero_point = _zero(np.asarray(files.read_tensor(header, f"{name}.zero_point"))[own], spec)
    store_checks.check_read(header.path, name, codes, zero_point, spec)
    scale = _scale(np.asarray(files.read_tensor(header, f"{name}.scale"))[own], spec)
    return QTensor(codes, scale, zero_point, spec)


def _scale(value: np.ndarray, spec: QuantSpec) -> Any:
    if spec.scale.storage == "float32":
        return value
    storage = "e8m0fnu" if spec.scale.storage == "pow2" else spec.scale.storage
    codes = value.view(np.uint16) if value.dtype == np.float16 else value
    return decode(codes, fmt=formats.ALL[storage])


def _zero(value: np.ndarray, spec: QuantSpec) -> Any:
    return value if spec.scale.zero == "float" else value.view(spec.fmt.storage).astype(np.int32)
