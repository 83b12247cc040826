"""Codes laid end to end as bytes (specs/15-packing.md)."""

import math

import numpy as np

from refquant import checks
from refquant.arguments import as_array
from refquant.formats import Format, IntFormat
from refquant.granularity import Shape
from refquant.kinds import kinds


@kinds
def pack(codes: np.ndarray, *, fmt: Format) -> np.ndarray:
    """Codes as a stream of bits, least significant bit first, in C order.

    Args:
      codes: `fmt.storage`, any shape; of each the lowest `fmt.bits` bits count.
      fmt: the format.
    Returns:
      uint8 vector of ceil(size * bits / 8) bytes.
    Raises:
      TypeError: another dtype.

    Spec: PCK-1, PCK-2, PCK-4 (specs/15-packing.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> [hex(byte) for byte in pack(np.int8([1, -1, 7]), fmt=ALL["int4"])]
      ['0xf1', '0x7']
    """
    codes = as_array(codes)
    checks.codes_dtype("pack", codes.dtype, fmt)
    flat = codes.reshape(-1).view(f"u{codes.itemsize}")
    if fmt.bits == 8 * codes.itemsize:
        return flat.astype(f"<u{codes.itemsize}").view(np.uint8)  # PCK-4
    if fmt.bits < 8:
        return _pack_eights(flat, fmt.bits)
    bits = np.unpackbits(flat.astype("<u2").view(np.uint8), bitorder="little").reshape(-1, 16)
    return np.packbits(bits[:, : fmt.bits], bitorder="little")  # PCK-1, PCK-2


@kinds
def unpack(packed: np.ndarray, shape: Shape, *, fmt: Format) -> np.ndarray:
    """The codes that `pack` laid out.

    Args:
      packed: uint8 vector of ceil(size * bits / 8) bytes; bits behind the last code do not count.
      shape: the shape of the codes.
      fmt: the format.
    Returns:
      `fmt.storage`, of that shape.
    Raises:
      TypeError: packed is not uint8.
      ValueError: another number of bytes.

    Spec: PCK-3 (specs/15-packing.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> unpack(np.uint8([0xF1, 0x07]), (3,), fmt=ALL["int4"]).tolist()
      [1, -1, 7]
    """
    packed, shape = as_array(packed), checks.shape("unpack", shape)
    size = math.prod(shape)
    checks.packed("unpack", packed.dtype, packed.shape, -(-size * fmt.bits // 8), shape, fmt)
    packed, storage = np.ascontiguousarray(packed), np.dtype(fmt.storage)
    if fmt.bits == 8 * storage.itemsize:
        flat = packed.view(f"<u{storage.itemsize}").astype(f"u{storage.itemsize}")  # PCK-4
    elif fmt.bits < 8:
        flat = _unpack_eights(packed, fmt.bits)[:size]
    else:
        bits = np.unpackbits(packed, bitorder="little", count=size * fmt.bits).reshape(-1, fmt.bits)
        flat = np.packbits(np.pad(bits, ((0, 0), (0, 16 - fmt.bits))), axis=1, bitorder="little").view("<u2").ravel()
    return _signed(flat, fmt).reshape(shape)


def _pack_eights(flat: np.ndarray, bits: int) -> np.ndarray:
    """PCK-1, PCK-2: eight codes of `bits` bits are `bits` whole bytes."""
    eights = np.zeros((-(-flat.size // 8), 8), np.uint8)
    eights.reshape(-1)[: flat.size] = flat & np.uint8((1 << bits) - 1)
    words = np.zeros(len(eights), np.uint64)
    for place in range(8):
        words |= eights[:, place].astype(np.uint64) << np.uint64(bits * place)  # PCK-1
    stream = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :bits].reshape(-1)
    return stream[: -(-flat.size * bits // 8)].copy()  # PCK-2


def _unpack_eights(packed: np.ndarray, bits: int) -> np.ndarray:
    groups = np.zeros((-(-packed.size // bits), bits), np.uint8)
    groups.reshape(-1)[: packed.size] = packed
    wide = np.zeros((len(groups), 8), np.uint8)
    wide[:, :bits] = groups
    words = wide.view("<u8").reshape(-1).astype(np.uint64)
    codes = np.empty((len(groups), 8), np.uint8)
    for place in range(8):
        codes[:, place] = (words >> np.uint64(bits * place)) & np.uint64((1 << bits) - 1)
    return codes.reshape(-1)


def _signed(flat: np.ndarray, fmt: Format) -> np.ndarray:
    """PCK-1: two's complement of the format's width, where the format has negative codes."""
    if not (isinstance(fmt, IntFormat) and fmt.signed):
        return flat.astype(fmt.storage)
    sign = flat.dtype.type(1 << (fmt.bits - 1))
    return ((flat ^ sign) - sign).view(fmt.storage)
