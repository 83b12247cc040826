"""pack and unpack (specs/15-packing.md)."""

from dataclasses import replace

import exact
import numpy as np
import pytest
from bits import assert_same

from refquant.formats import ALL, Format, IntFormat

WIDE = [replace(ALL["float16"], name=f"e5m{m}", mantissa_bits=m) for m in (3, 4, 6, 9)]  # 9, 10, 12, 15 bits
FORMATS = [pytest.param(f, id=f.name) for f in [*ALL.values(), *WIDE]]


def codes_for(fmt: Format, count: int) -> np.ndarray:
    """Codes of the format's width, in an order that shows swaps."""
    if isinstance(fmt, IntFormat):
        low = -(1 << (fmt.bits - 1)) if fmt.signed else 0
        return ((np.arange(count) * 37) % (1 << fmt.bits) + low).astype(fmt.storage)
    return ((np.arange(count) * 37) % (1 << fmt.bits)).astype(fmt.storage)


def check_pack(packing: object, fmt: Format) -> None:
    for count in (0, 1, 3, 8, 101):
        codes = codes_for(fmt, count)
        want = np.frombuffer(exact.pack([int(c) for c in codes], fmt.bits), np.uint8)
        got = np.asarray(packing.pack(codes, fmt=fmt))
        assert_same(got, want, call=f"pack(codes, fmt=ALL[{fmt.name!r}])")
        assert_same(np.asarray(packing.unpack(want, codes.shape, fmt=fmt)), codes, call=f"unpack {fmt.name}")


@pytest.mark.parametrize("fmt", FORMATS)
def test_pack_differential(backend, fmt):
    """PCK-1..PCK-4."""
    check_pack(backend.packing, fmt)


@pytest.mark.parametrize("fmt", FORMATS)
def test_pack_exhaustive_every_code(backend, fmt):
    """PCK-3: the round trip of every code, in two dimensions."""
    codes = codes_for(fmt, 1 << fmt.bits)
    codes = np.sort(codes).reshape(2, -1)
    packed = backend.packing.pack(codes, fmt=fmt)
    assert packed.shape == (-(-codes.size * fmt.bits // 8),)
    assert_same(backend.packing.unpack(packed, codes.shape, fmt=fmt), codes)


def test_pack_golden_nibbles(backend):
    """PCK-1: the even element is the low nibble; PCK-2: zeros fill the last byte."""
    packed = backend.packing.pack(np.int8([1, -1, 7]), fmt=ALL["int4"])
    assert packed.tolist() == [0xF1, 0x07]
    assert backend.packing.pack(np.uint8([5, 6, 7]), fmt=ALL["uint3"]).tolist() == [0b11110101, 0b1]
    assert backend.packing.pack(np.int16([-2]), fmt=ALL["int16"]).tolist() == [0xFE, 0xFF]


def test_unpack_golden_fill_bits(backend):
    """PCK-3: what stands in the fill bits does not count."""
    assert backend.packing.unpack(np.uint8([0xFF]), (1,), fmt=ALL["int4"]).tolist() == [-1]


def test_pack_property_strides(backend):
    """PCK-1: C order of what the array shows."""
    codes = codes_for(ALL["int4"], 60).reshape(6, 10)
    want = backend.packing.pack(np.ascontiguousarray(codes.T), fmt=ALL["int4"])
    assert_same(backend.packing.pack(codes.T, fmt=ALL["int4"]), want)
