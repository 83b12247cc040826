"""Numbers of the command line to binary32 with one rounding (specs/80-commands.md, CMD-5)."""

from fractions import Fraction

import numpy as np
import pytest

from refquant.cli.numbers import nearest_float32, parse_real


def test_parse_real_property_rounds_once():
    """CMD-5.  Midway between two binary32 numbers and a hair beside it: through binary64 the hair is lost."""
    hair = Fraction(1, 1 << 200)
    for bits in (0x3F800000, 0x3F800001, 0x00000000, 0x007FFFFF, 0x7F7FFFFE):
        low, high = (Fraction(float(np.uint32(b).view(np.float32))) for b in (bits, bits + 1))
        middle = (low + high) / 2
        assert nearest_float32(middle - hair).view(np.uint32) == bits
        assert nearest_float32(middle + hair).view(np.uint32) == bits + 1
        assert nearest_float32(middle).view(np.uint32) == bits + bits % 2
    edge = Fraction(2) ** 128 - Fraction(2) ** 103
    assert np.isinf(nearest_float32(edge)) and nearest_float32(edge - hair).view(np.uint32) == 0x7F7FFFFF


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("0.1", 0x3DCCCCCD),
        ("-0", 0x80000000),
        ("0x80000001", 0x80000001),
        ("0x1.8p-3", 0x3E400000),
        ("-inf", 0xFF800000),
        ("1e-9999", 0),
        ("-1e-9999", 0x80000000),
        ("1e9999", 0x7F800000),
        ("-1E39", 0xFF800000),
        ("Nan", 0x7FC00000),
    ],
)
def test_parse_real_golden(text, bits):
    assert int(parse_real(text).view(np.uint32)) == bits


def test_parse_real_property_of_decimals_beside_a_midpoint():
    """The decimal of 1 + 2^-24 and a digit more: binary64 would round both to the tie."""
    middle = "1.000000059604644775390625"
    assert int(parse_real(middle).view(np.uint32)) == 0x3F800000
    assert int(parse_real(middle + "0000000001").view(np.uint32)) == 0x3F800001
    assert int(parse_real("-" + middle + "0000000001").view(np.uint32)) == 0xBF800001
    assert int(parse_real(middle[:-1] + "4999999999").view(np.uint32)) == 0x3F800000
