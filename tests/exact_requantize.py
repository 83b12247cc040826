"""The third opinion on specs/50-requantize.md: one accumulator at a time, Fractions and Python ints."""

from __future__ import annotations

import functools
from fractions import Fraction

from exact import F32, F64, clamp, mul, nearest, of, rounded

from refquant.conventions import Rescale
from refquant.formats import IntFormat

BITS = {"q31": 31, "q15": 15, "q8": 8}
INT_MIN, INT_MAX = -(2**31), 2**31 - 1


@functools.cache
def fixed_point(multiplier: float, rescale: Rescale) -> tuple[int, int]:
    """RSC-3."""
    real, bits = Fraction(multiplier), BITS[rescale.multiplier]
    if rescale.multiplier == "q8":
        return clamp(nearest(real * 256, "even"), -INT_MAX, INT_MAX), 0
    if real == 0:
        return 0, 0
    shift = 0
    while abs(real) >= Fraction(2) ** shift:
        shift += 1
    while abs(real) < Fraction(2) ** (shift - 1):
        shift -= 1
    q = nearest(real * Fraction(2) ** (31 - shift), "away")
    if abs(q) == 2**31:
        q, shift = q // 2, shift + 1
    if shift < -31:
        return 0, 0
    if rescale.multiplier == "q15":
        q = min(nearest(Fraction(q, 2**16), "up"), 2**15 - 1)
    if rescale.steps == "single" and shift > bits - 1:
        return (2**bits - 1) * (1 if q > 0 else -1), bits - 1
    return q, shift


def scaled(acc: int, q: int, shift: int, rescale: Rescale) -> int:
    """RSC-4, RSC-5, RSC-6."""
    if rescale.steps == "single":
        return nearest(Fraction(acc * q) * Fraction(2) ** (shift - BITS[rescale.multiplier]), rescale.ties)
    left, right = max(shift, 0), max(-shift, 0)
    moved = clamp(acc * 2**left, INT_MIN, INT_MAX)
    high = min(nearest(Fraction(moved * q, 2**31), "up"), INT_MAX)
    return nearest(Fraction(high, 2**right), rescale.ties)


def gemmlowp_high_product(a: int, b: int) -> int:
    """The rule of gemmlowp in its own words: nudge by sign, divide by 2**31, drop the fraction."""
    if a == b == INT_MIN:
        return INT_MAX
    nudge = 2**30 if a * b >= 0 else 1 - 2**30
    return int(Fraction(a * b + nudge, 2**31))


def requantize(acc: int, multiplier: float, zero_point: int, fmt: IntFormat, rescale: Rescale) -> int:
    """RSC-1..RSC-9 for a finite multiplier."""
    if rescale.multiplier in BITS:
        value = scaled(acc, *fixed_point(multiplier, rescale), rescale)
    else:
        binary = {"f32": F32, "f64": F64}[rescale.multiplier]
        product = rounded(mul(rounded(of(acc), binary), of(multiplier)), binary)
        value = nearest(product.value(), rescale.ties) if not isinstance(product.size, str) else None
        value = value if value is not None else (2**200 if not product.negative else -(2**200))
        if rescale.overflow == "i32" and not INT_MIN <= value <= INT_MAX:
            value = INT_MIN
    return clamp(value + zero_point, fmt.qmin, fmt.qmax)
