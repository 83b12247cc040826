"""Array: dtype, shape and bits; floats as patterns, integers as values.  The one form that files and packages share."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

WIDTH = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
NAN_ABOVE = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}


@dataclass(frozen=True)
class Array:
    """An array without floating point: what a file holds."""

    dtype: str
    shape: tuple[int, ...]
    bits: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        if self.dtype not in WIDTH:
            return np.array(self.bits, self.dtype).reshape(self.shape)
        unsigned = np.array(self.bits, f"uint{WIDTH[self.dtype]}")
        return unsigned.view(dtype_of(self.dtype)).reshape(self.shape)

    def is_nan(self, bits: int) -> bool:
        return self.dtype in WIDTH and bits & ((1 << (WIDTH[self.dtype] - 1)) - 1) > NAN_ABOVE[self.dtype]

    def json(self, *, any_nan: bool = False) -> dict:
        """`any_nan`: a NaN of an expected result is the word "nan", for no rule fixes its payload."""
        return {"dtype": self.dtype, "shape": list(self.shape), "bits": [self._word(b, any_nan) for b in self.bits]}

    def _word(self, bits: int, any_nan: bool) -> int | str:
        if self.dtype not in WIDTH:
            return bits
        return "nan" if any_nan and self.is_nan(bits) else f"{bits:0{WIDTH[self.dtype] // 4}x}"

    def widened(self) -> list[int]:
        """GEN-1: the elements as binary32 patterns."""
        widen = {"float32": lambda b: b, "bfloat16": lambda b: b << 16, "float16": _half}[self.dtype]
        return [widen(b) for b in self.bits]


def _half(bits: int) -> int:
    return struct.unpack("<I", struct.pack("<f", struct.unpack("<e", struct.pack("<H", bits))[0]))[0]


def dtype_of(name: str) -> np.dtype:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def array(dtype: str, bits: Iterable[int], shape: tuple[int, ...] | None = None) -> Array:
    """One axis unless a shape is given."""
    bits = tuple(bits)
    shape = (len(bits),) if shape is None else shape
    if math.prod(shape) != len(bits):
        raise ValueError(f"{len(bits)} elements for shape {shape}")
    return Array(dtype, shape, bits)


def scalar(dtype: str, bits: int) -> Array:
    return Array(dtype, (), (bits,))


def of_numpy(value: object) -> Array:
    found = np.asarray(value)
    name = found.dtype.name
    if name not in WIDTH:
        return Array(name, found.shape, tuple(map(int, found.reshape(-1).tolist())))
    patterns = np.ascontiguousarray(found).reshape(-1).view(f"uint{WIDTH[name]}")
    return Array(name, found.shape, tuple(map(int, patterns.tolist())))


def of_json(row: dict) -> Array:
    """The inverse of `json`; "nan" becomes a quiet NaN."""
    if row["dtype"] not in WIDTH:
        return Array(row["dtype"], tuple(row["shape"]), tuple(row["bits"]))
    quiet = NAN_ABOVE[row["dtype"]] | NAN_ABOVE[row["dtype"]] >> 1
    return Array(row["dtype"], tuple(row["shape"]), tuple(quiet if w == "nan" else int(w, 16) for w in row["bits"]))


def same(got: Array, want: dict) -> bool:
    """Whether a result is what a file expects: dtype, shape, bits; the word "nan" is any NaN."""
    if (got.dtype, list(got.shape), len(got.bits)) != (want["dtype"], want["shape"], len(want["bits"])):
        return False
    return all(
        got.is_nan(b) if word == "nan" else got._word(b, False) == word
        for b, word in zip(got.bits, want["bits"], strict=True)
    )
