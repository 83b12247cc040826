"""Inputs made by rule from Python ints: boundaries with their neighbours, specials, and a small generator."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable
from fractions import Fraction

from refquant.formats import CodebookFormat, FloatFormat, Format, IntFormat

#: ±0, ±inf, NaNs of both kinds and signs, subnormals, smallest normals, ±FLT_MAX, ties of small integers, 2^23 .. 2^63.
SPECIALS = (
    0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF,
    0x00000001, 0x80000001, 0x00400000, 0x807FFFFF, 0x00800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF,
    0x3EFFFFFF, 0x3F000000, 0xBF000000, 0x3F000001, 0x3FC00000, 0xBFC00000, 0x40200000, 0xC0200000,
    0x3F800000, 0xBF800000, 0x4A800000, 0x4B400000, 0x4EFFFFFF, 0x4F000000, 0xCF000000, 0xCF000001,
    0x4F7FFFFF, 0x5EFFFFFF, 0x5F000000, 0xDF000000,
)  # fmt: skip
FINITE = tuple(b for b in SPECIALS if (b & 0x7FFFFFFF) < 0x4B000000)
FLT_MAX = 0x7F7FFFFF


class Ints:
    """A linear congruential generator of 64 bits; the upper 32 are given."""

    def __init__(self, seed: int):
        self.state = seed

    def word(self) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return self.state >> 32

    def below(self, limit: int) -> int:
        return self.word() * limit >> 32

    def between(self, low: int, high: int) -> int:
        """low..high, both included."""
        return low + self.below(high - low + 1)

    def pick(self, items: tuple | list) -> object:
        return items[self.below(len(items))]

    def words(self, count: int) -> list[int]:
        return [self.word() for _ in range(count)]

    def normalish(self, count: int, power: int = 0) -> list[int]:
        """Binary32 patterns of sums of four uniform 16-bit integers, about ±4·2^power."""
        return [f32(Fraction(sum(self.below(65536) for _ in range(4)) - 131072, 1 << 15) * Fraction(2) ** power)
                for _ in range(count)]  # fmt: skip


def f32(value: Fraction | float | int) -> int:
    """The binary32 pattern near a value; beyond FLT_MAX an infinity."""
    try:
        return struct.unpack("<I", struct.pack("<f", float(value)))[0]
    except OverflowError:
        return 0x7F800000 | (0x80000000 if value < 0 else 0)


def value(bits: int) -> Fraction:
    return Fraction(struct.unpack("<f", struct.pack("<I", bits))[0])


def near(bits: int, distance: int = 1) -> list[int]:
    """A pattern and its neighbours up to `distance` ulp, inside the finite numbers."""
    key = -(bits & 0x7FFFFFFF) if bits >> 31 else bits
    keys = [min(max(key + d, -FLT_MAX), FLT_MAX) for d in range(-distance, distance + 1)]
    return [-k | 0x80000000 if k < 0 else k for k in keys]


def unique(patterns: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(patterns))


def filled(patterns: Iterable[int], count: int, seed: int) -> list[int]:
    """Exactly `count` patterns: those given, then random ones; where there are too many, the last are left out."""
    found = unique(patterns)[:count]
    return found + Ints(seed).words(count - len(found))


def around(scale: int, fmt: Format, zero: int = 0, count: int = 128, seed: int = 1) -> list[int]:
    """Specials, then the boundaries of the format's ends, of zero and of random codes times the scale, ±1 ulp."""
    step = value(scale)
    points = boundaries(fmt, zero, seed)
    edges = [b for point in points for b in near(f32(point * step))]
    return filled([*SPECIALS, *edges], count, seed)


def boundaries(fmt: Format, zero: int, seed: int) -> list[Fraction]:
    """Real numbers at which the code changes, without a scale: the ends first, then zero, then random ones."""
    draw = Ints(seed)
    if isinstance(fmt, IntFormat):
        ends = [fmt.qmin - zero, fmt.qmax - zero, 0, -1, fmt.qmin - zero - 1, fmt.qmax - zero - 1, 1, 2]
        rest = [draw.between(fmt.qmin - zero, fmt.qmax - zero) for _ in range(24)]
        return [Fraction(2 * k + 1, 2) for k in [*ends, *rest]]
    middles = midpoints(fmt)
    top = [values_of(fmt)[-1]] if isinstance(fmt, CodebookFormat) else [beyond(fmt), Fraction(fmt.max_value)]
    signed = [
        m * (-1 if isinstance(fmt, FloatFormat) and draw.below(2) else 1)
        for m in (draw.pick(middles) for _ in range(28))
    ]
    return [*top, -top[0], middles[0], -middles[0], *signed]  # type: ignore[list-item]


def beyond(fmt: FloatFormat) -> Fraction:
    """Half a step above the largest value: where a float format overflows."""
    values = values_of(fmt)
    return values[-1] + (values[-1] - values[-2]) / 2


@functools.cache
def values_of(fmt: FloatFormat | CodebookFormat) -> list[Fraction]:
    """A codebook's values, or a float format's that are not negative, ascending."""
    if isinstance(fmt, CodebookFormat):
        return sorted({Fraction(v) for v in fmt.values})
    found = []
    for code in range(fmt.max_code + 1):
        exponent, mantissa = divmod(code, 1 << fmt.mantissa_bits)
        hidden = 1 if exponent or not fmt.zero else 0
        power = (max(exponent, 1) if fmt.zero else exponent) - fmt.bias
        found.append((hidden + Fraction(mantissa, 1 << fmt.mantissa_bits)) * Fraction(2) ** power)
    return found


@functools.cache
def midpoints(fmt: FloatFormat | CodebookFormat) -> list[Fraction]:
    values = values_of(fmt)
    return [(a + b) / 2 for a, b in zip(values, values[1:], strict=False)]
