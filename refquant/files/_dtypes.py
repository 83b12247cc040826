"""The element types of the safetensors format, as data.

Source: the `Dtype` enumeration of safetensors 0.8.0 (22 names).  Types without a NumPy dtype are read as the
bytes stored: one unsigned integer a code where a code fills whole bytes, packed bytes where it does not (F4, F6).
"""

import math
from collections.abc import Sequence

import numpy as np

_ROWS = (
    # name          bits numpy  format (a name in refquant.formats, "" where there is none)
    ("BOOL",          8, "?",   ""),
    ("F4",            4, "u1",  "e2m1fn"),
    ("F6_E2M3",       6, "u1",  "e2m3fn"),
    ("F6_E3M2",       6, "u1",  "e3m2fn"),
    ("U8",            8, "u1",  "uint8"),
    ("I8",            8, "i1",  "int8"),
    ("F8_E5M2",       8, "u1",  "e5m2"),
    ("F8_E4M3",       8, "u1",  "e4m3fn"),
    ("F8_E8M0",       8, "u1",  "e8m0fnu"),
    ("F8_E4M3FNUZ",   8, "u1",  "e4m3fnuz"),
    ("F8_E5M2FNUZ",   8, "u1",  "e5m2fnuz"),
    ("I16",          16, "<i2", "int16"),
    ("U16",          16, "<u2", ""),
    ("F16",          16, "<f2", "float16"),
    ("BF16",         16, "<u2", "bfloat16"),
    ("I32",          32, "<i4", ""),
    ("U32",          32, "<u4", ""),
    ("F32",          32, "<f4", ""),
    ("C64",          64, "<c8", ""),
    ("F64",          64, "<f8", ""),
    ("I64",          64, "<i8", ""),
    ("U64",          64, "<u8", ""),
)  # fmt: skip

ITEM_BITS: dict[str, int] = {name: bits for name, bits, _, _ in _ROWS}
NUMPY_DTYPE: dict[str, np.dtype] = {name: np.dtype(code) for name, _, code, _ in _ROWS}
FORMAT_NAME: dict[str, str] = {name: fmt for name, _, _, fmt in _ROWS if fmt}

MAX_RANK = 32  # what every NumPy holds
MAX_BYTES = 2**63 - 1


def short(value: object) -> str:
    """`repr`, cut to 80 characters: a hostile name must not fill the terminal."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def tensor_bytes(name: str, dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor in the file.

    Raises:
      ValueError: unknown dtype, a shape that is no list of ints >= 0, more than 2**63 - 1 bytes,
        or a tensor that does not end at a whole byte.
    """
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise ValueError(f"tensor {short(name)} has dtype {short(dtype)}, need one of {', '.join(ITEM_BITS)}")
    _check_shape(name, shape)  # a header is untrusted: neither annotation need be true
    bits = math.prod(shape) * ITEM_BITS[dtype]
    # zero axes are left out here: NumPy refuses (2**62, 2**62, 0) too
    if math.prod(n for n in shape if n) * ITEM_BITS[dtype] > 8 * MAX_BYTES:
        raise ValueError(f"tensor {short(name)} has shape {short(list(shape))}, need less than 2**63 bytes")
    if bits % 8:
        raise ValueError(f"tensor {short(name)} ({dtype}, shape {list(shape)}) has {bits} bits, need whole bytes")
    return bits // 8


def _check_shape(name: str, shape: object) -> None:
    if not isinstance(shape, list | tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"tensor {short(name)} has shape {short(shape)}, need a list of integers >= 0")
    if len(shape) > MAX_RANK:
        raise ValueError(f"tensor {short(name)} has {len(shape)} axes, need at most {MAX_RANK}")


def storage_shape(dtype: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the NumPy array that holds the tensor.

    The tensor's own shape; for packed types (F4, F6) the last axis counts bytes, or everything is one axis of
    bytes where a row does not end at a whole byte.
    """
    bits = ITEM_BITS[dtype]
    if bits % 8 == 0:
        return tuple(shape)
    if shape and shape[-1] * bits % 8 == 0:
        return (*shape[:-1], shape[-1] * bits // 8)
    return (math.prod(shape) * bits // 8,)
