"""The third opinion on specs/40-calibration.md: Fractions and Python ints, written from the chapter.

Data are lists of binary32 patterns; where a rule speaks of bins, the answer is found from the sorted data instead.
"""

from __future__ import annotations

import decimal
import functools
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import exact_affine
from exact import (
    FLT_MAX,
    INF,
    Real,
    add,
    div,
    flushed,
    from_bits,
    is_nan,
    log2_floor,
    mul,
    negated,
    of,
    ordered_key,
    rounded,
    scalb,
    to_bits,
    tree_sum,
)

from refquant.conventions import DEFAULT, Affine
from refquant.formats import Format
from refquant.spec import ScaleRule

MAGNITUDE = 0x7FFFFFFF
LARGEST_COUNT = 2**31 - 1


def counted(data: list[int]) -> list[int]:
    """Not NaN, ±inf as ±FLT_MAX."""
    return [min(b & MAGNITUDE, FLT_MAX) | (b & 0x80000000) for b in data if not is_nan(b)]


def ema(ranges: list[tuple[int, int]], constant: int) -> tuple[int, int]:
    """CAL-2 on the (low, high) of each batch."""
    if not ranges:
        return 0, 0
    low, high = ranges[0]
    for new_low, new_high in ranges[1:]:
        low, high = _step(low, new_low, constant), _step(high, new_high, constant)
    return low, high


def _step(average: int, new: int, constant: int) -> int:
    m, x = flushed(from_bits(average)), flushed(from_bits(new))
    change = rounded(add(x, negated(m)))
    change = of(0) if change.size < Fraction(2) ** -100 else change
    return to_bits(flushed(rounded(add(m, rounded(mul(from_bits(constant), change))))))


def histogram(data: list[int]) -> Counter:
    """CAL-3."""
    return Counter(b >> 16 for b in counted(data))


def width(data: list[int]) -> Fraction:
    """CAL-8's w."""
    return Fraction(2) ** (exponent(data) - 11)


def exponent(data: list[int]) -> int:
    largest = max((from_bits(b).size for b in counted(data)), default=0)
    return max(log2_floor(largest), -126) if largest else -126


def linear(data: list[int]) -> Counter:
    """CAL-8: counts by (sign, bin)."""
    w = width(data)
    return Counter((b >> 31, int(from_bits(b).size / w)) for b in counted(data))


def cut(data: list[int], low: int, high: int) -> tuple[int, int]:
    """CAL-1: no wider than what was seen; bits of a zero are +0."""
    seen = exact_affine.range_of(data)
    low, high = max(low, seen[0], key=ordered_key), min(high, seen[1], key=ordered_key)
    return (low if ordered_key(low) else 0), (high if ordered_key(high) else 0)


def percentile(data: list[int], millionths: int, *, two_sided: bool) -> tuple[int, int]:
    """CAL-4: the bin that holds the need-th smallest element."""
    data = counted(data)
    if not data:
        return 0, 0
    need = -(-millionths * len(data) // 10**6)
    if not two_sided:
        high = sorted(b & MAGNITUDE for b in data)[need - 1] | 0xFFFF
        return cut(data, high | 0x80000000, high)
    low = _end([b ^ 0x80000000 for b in data], need)
    return cut(data, low | 0x80000000, _end(data, need))


def _end(data: list[int], need: int) -> int:
    found = sorted(data, key=lambda b: (not b >> 31, ordered_key(b)))[need - 1]
    return 0 if found >> 31 else found | 0xFFFF


def shrink(end: int, k: int) -> int:
    """CAL-5."""
    if end & MAGNITUDE == 0:
        return 0
    e = max(log2_floor(from_bits(end).size), -126)
    product = rounded(mul(from_bits(scalb(end, -e)), rounded(div(of(k), of(100)))))
    return scalb(to_bits(product), e)


def loss(x: int, fake: int, e: int, power: int) -> Real:
    """CAL-11, E = e."""
    if is_nan(x):
        return of(0)
    d = flushed(rounded(add(flushed(from_bits(x)), negated(flushed(from_bits(fake))))))
    size = rounded(mul(Real(False, d.size), of(Fraction(2) ** -max(-126, min(126, e))))).size
    size = 4 if size == INF else min(size, 4)
    error = of(0 if size < Fraction(2) ** -31 else size)
    square = rounded(mul(error, error))
    return {1: error, 2: square, 3: rounded(mul(square, error)), 4: rounded(mul(square, square))}[power]


def fake(x: int, scale: int, zero: int | None, *, fmt: Format, rule: ScaleRule, convention: Affine = DEFAULT) -> int:
    """QTN-2: a real offset goes with zero "bias" and no other rule does; op "given" takes 1 / scale."""
    real = rule.zero == "float"
    kind = "bias" if real else {"bias": "int"}.get(convention.zero, convention.zero)
    given = to_bits(rounded(div(of(1), from_bits(scale)))) if convention.op == "given" else scale
    code = exact_affine.quantize(x, given, zero, fmt=fmt, convention=replace(convention, zero=kind))
    return exact_affine.dequantize(code, scale, zero, fmt=fmt, real=real)


def mse(rows, low, high, e, *, fmt, rule=ScaleRule(), convention=DEFAULT, power=2, smallest=20):  # noqa: ANN001, ANN201, B008
    """CAL-5, CAL-12: `rows` of (count or None, x) in the order of the tree sum, lists of lists for two axes."""
    best = None
    for k in range(100, smallest - 1, -1):
        ends = shrink(low, k), shrink(high, k)
        scale, zero = exact_affine.choose_scale(*ends, fmt=fmt, rule=rule)

        @functools.cache
        def term(count, x, scale=scale, zero=zero):  # noqa: ANN001, ANN202
            term = loss(x, fake(x, scale, zero, fmt=fmt, rule=rule, convention=convention), e, power)
            return to_bits(term if count is None else rounded(mul(rounded(of(count)), term)))

        total = tree_sum([tree_sum([term(*cell) if cell else 0 for cell in row]) for row in rows])
        if best is None or from_bits(total).size < best[0]:
            best = from_bits(total).size, ends
    return best[1]


def mse_of_tile(tile: list[list[int]], **options) -> tuple[int, int]:  # noqa: ANN003
    """`mse.search` of one tile of two axes; cells that fill up a ragged tile are None."""
    low, high = exact_affine.range_of([b for row in tile for b in row if b is not None])
    largest = max(from_bits(low).size, from_bits(high).size)
    e = max(log2_floor(largest), -126) if largest else -126
    rows = [[_finite(b) if b is not None else None for b in row] for row in tile]
    return mse([[(None, b) if b is not None else None for b in row] for row in rows], low, high, e, **options)


def _finite(b: int) -> int:
    return b if is_nan(b) else min(b & MAGNITUDE, FLT_MAX) | (b & 0x80000000)


def mse_of_bins(data: list[int], **options) -> tuple[int, int]:  # noqa: ANN003
    """`mse.finalize`."""
    counts, w = linear(data), width(data)
    rows = [[None] * 4096 for _ in range(2)]
    for (sign, i), count in counts.items():
        middle = Real(bool(sign), w * (2 * i + 1) / 2 if i else Fraction(0))
        rows[sign][i] = (count, to_bits(middle))
    return mse(rows, *exact_affine.range_of(data), exponent(data), **options)


@functools.cache
def table(a: int) -> int:
    """CAL-15's T."""
    with decimal.localcontext(prec=60):
        scaled = 2**24 * (1 + decimal.Decimal(a) / 1024).ln() / decimal.Decimal(2).ln()
        return int(scaled + decimal.Decimal(10) ** -40)  # T[1024] is whole, the others are far from it


@functools.cache
def lg(v: int) -> int:
    """CAL-15."""
    e = v.bit_length() - 1
    t = v * 2 ** (31 - e) - 2**31
    a, b = t >> 21, (t & (2**21 - 1)) >> 5
    return e * 2**24 + table(a) + (((table(a + 1) - table(a)) * b) >> 16 if b else 0)


def folded(cells: Counter) -> list[int]:
    """CAL-6's h from CAL-8's counts."""
    h = [min(sum(cells[s, i] for s in (0, 1) for i in (2 * j, 2 * j + 1)), LARGEST_COUNT) for j in range(2048)]
    h[0] = h[1]
    unit = 2 ** max(0, sum(h).bit_length() - 30)
    return [-(-n // unit) for n in h]


def divergence(h: list[int], i: int, levels: int) -> int | None:
    """CAL-13, CAL-14."""
    outliers = sum(h[i:])
    if h[i - 1] == 0 and outliers:
        return None
    p = [*h[: i - 1], h[i - 1] + outliers]
    total = sum(v * lg(v) for v in p if v)
    for m in range(levels):
        level = range(-(-m * i // levels), -(-(m + 1) * i // levels))
        mass, quantized, used = (sum(p[j] for j in level), sum(h[j] for j in level), sum(h[j] > 0 for j in level))
        total -= mass * (lg(quantized) - lg(used)) if mass else 0
    kept = sum(h[:i])
    return total + (kept + outliers) * lg(kept)


def entropy_bins(h: list[int], levels: int) -> int | None:
    """CAL-14: the last smallest candidate."""
    top = max((j + 1 for j in range(2048) if h[j]), default=0)
    found = [(divergence(h, i, levels), -i) for i in range(max(128, levels), top + 1)]
    found = [row for row in found if row[0] is not None]
    return -min(found)[1] if found else None


def entropy(data: list[int], levels: int) -> tuple[int, int]:
    bins = entropy_bins(folded(linear(data)), levels)
    if bins is None:
        return exact_affine.range_of(data)
    size = Fraction(bins) * Fraction(2) ** (exponent(data) - 10)
    high = FLT_MAX if size >= Fraction(2) ** 128 else to_bits(of(size))
    return cut(data, high | 0x80000000, high)
