"""The header of a safetensors file, read and checked without touching the data behind it."""

import difflib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from refquant.files._dtypes import ITEM_BITS, short, tensor_bytes
from refquant.files._json import json_object
from refquant.files.errors import UnreadableFile

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library

_OTHER_KINDS = (
    # first bytes    what the file is instead
    (b"version ",    "a Git LFS pointer: the file itself was not downloaded"),
    (b"PK",          "a zip archive, perhaps a PyTorch checkpoint"),
    (b"\x80\x02",    "a Python pickle, perhaps an old PyTorch checkpoint"),
    (b"GGUF",        "a GGUF file"),
    (b"\x89HDF",     "an HDF5 file"),
    (b"<",           "a web page"),
    (b"{",           "JSON text"),
)  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
      name: its key in the header.
      dtype: a name in ITEM_BITS.
      shape: elements along each axis; () for a scalar.
      start: first byte, counted from the end of the header.
      end: byte after the last one, counted likewise.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.start

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.nbytes * 8 // ITEM_BITS[self.dtype]

    def __str__(self) -> str:
        return f"tensor {short(self.name)} ({self.dtype}, shape {list(self.shape)})"


@dataclass(frozen=True)
class Header:
    """What the header of one file says, checked against the file's size.

    Attributes:
      path: the file.
      tensors: in the order of their bytes.
      metadata: free text pairs, the file's `__metadata__`.
      data_offset: byte of the file at which the data starts.
      file_size: bytes.
    """

    path: Path
    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str] = field(hash=False)
    data_offset: int
    file_size: int

    @cached_property
    def by_name(self) -> dict[str, TensorInfo]:
        """The tensors by name."""
        return {info.name: info for info in self.tensors}

    def tensor(self, name: str) -> TensorInfo:
        """The tensor of that name.

        Raises:
          ValueError: there is none; the message has the nearest names.
        """
        if name in self.by_name:
            return self.by_name[name]
        near = difflib.get_close_matches(name, self.by_name, 3, 0.4)
        hint = f"; nearest: {', '.join(map(short, near))}" if near else ""
        raise ValueError(f"{self.path}: no tensor {short(name)} among {len(self.tensors)}{hint}")


def read_header(path: str | os.PathLike[str]) -> Header:
    """The checked header of one safetensors file; reads nothing else of it.

    Args:
      path: a file.

    Returns:
      Header; every tensor in it lies inside the file, and together they cover it without gap or overlap.

    Raises:
      ValueError: no such file, or the file is not a whole, well-formed safetensors file.
      OSError: the file cannot be read.

    Example:
      >>> import tempfile, pathlib
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "empty.safetensors"
      >>> _ = path.write_bytes((8).to_bytes(8, "little") + b"{}      ")
      >>> read_header(path).tensors
      ()
    """
    path = Path(path)
    size = regular_size(path)
    try:
        with open(path, "rb") as file:
            raw = _header_bytes(file, size)
        entries = json_object(raw, "header")
        metadata = _metadata(entries.pop("__metadata__", None))
        tensors = sorted((_tensor(*item) for item in entries.items()), key=lambda info: (info.start, info.end))
        _check_layout(tensors, data_offset=8 + len(raw), file_size=size)
    except ValueError as error:
        raise UnreadableFile(f"{path}: {error}") from None
    return Header(path, tuple(tensors), metadata, 8 + len(raw), size)


def regular_size(path: Path) -> int:
    """Bytes of a regular file.

    Raises:
      ValueError: missing, a folder, or something that is no file (opening a pipe would wait for ever).
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UnreadableFile(f"{path}: no such file") from None
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableFile(f"{path}: is a folder, need a file")
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFile(f"{path}: is not a regular file")
    return status.st_size


def _header_bytes(file: BinaryIO, size: int) -> bytes:
    first = file.read(8)
    if not first:
        raise ValueError("file is empty, need a safetensors file")
    if len(first) < 8:
        raise ValueError(f"file has {len(first)} bytes, need at least 8 (not a safetensors file, or cut off)")
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER_BYTES:
        kind = next((kind for magic, kind in _OTHER_KINDS if first.startswith(magic)), "not a safetensors file?")
        raise ValueError(f"header says it is {length} bytes long, need at most {MAX_HEADER_BYTES} ({kind})")
    raw = file.read(length)
    if len(raw) < length:
        raise ValueError(f"header says it ends at byte {8 + length}; file ends at byte {size} (truncated download?)")
    return raw


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"__metadata__ is {short(value)}, need an object of texts")
    return value


def _tensor(name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"tensor {short(name)} is {short(entry)}, need an object with dtype, shape, data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    nbytes = tensor_bytes(name, dtype, shape)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise ValueError(f"tensor {short(name)} has data_offsets {short(offsets)}, need two integers >= 0")
    info = TensorInfo(name, dtype, tuple(shape), *offsets)
    if info.nbytes != nbytes:
        raise ValueError(f"{info} has data_offsets {offsets}, {info.nbytes} bytes, need {nbytes} bytes")
    return info


def _check_layout(tensors: Iterable[TensorInfo], *, data_offset: int, file_size: int) -> None:
    covered = 0
    for info in tensors:
        if info.start < covered:
            raise ValueError(f"{info} starts at data byte {info.start}, inside the tensor before it")
        if info.start > covered:
            raise ValueError(f"data bytes {covered} to {info.start} belong to no tensor, before {info}")
        if data_offset + info.end > file_size:
            raise ValueError(
                f"header says {info} ends at byte {data_offset + info.end}; "
                f"file ends at byte {file_size} (truncated download?)"
            )
        covered = info.end
    if data_offset + covered != file_size:
        raise ValueError(f"header says the data ends at byte {data_offset + covered}; file ends at byte {file_size}")
