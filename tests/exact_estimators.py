"""The third opinion on specs/62-estimators.md: one element and one tile at a time, Fractions and Python ints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import exact_affine
from exact import (
    INF,
    NAN,
    NOT_A_NUMBER,
    Real,
    add,
    clamp,
    div,
    flushed,
    from_bits,
    mul,
    nearest,
    negated,
    of,
    pow2,
    round_stochastic,
    rounded,
    to_bits,
    tree_sum,
)

from refquant.conventions import DEFAULT, Affine
from refquant.formats import IntFormat
from refquant.granularity import Granularity
from refquant.spec import ScaleRule


class Element(NamedTuple):
    """What one element lets through: x's gradient, and the factors of the terms of what is learned (None: 0)."""

    inside: bool
    factors: tuple[Real | None, ...]


def used(v: int, steps: int = 1) -> Real:
    """EST-1, PCT-1."""
    real = from_bits(v)
    if real.size in (NAN, INF):
        return Real(False, real.size)
    return Real(False, max(real.size, steps * pow2(-60)))


def quotient(x: Real, u: Real) -> Real:
    """EST-2."""
    return flushed(rounded(div(flushed(x), u)))


def between(value: Real, low: int, high: int) -> bool:
    return not isinstance(value.size, str) and low <= value.value() <= high


def difference(a: Real, b: Real) -> Real:
    return rounded(add(a, negated(b)))


def lsq(x: int, scale: int, *, fmt: IntFormat, dtype: str = "float32") -> int:
    """LSQ-1."""
    u = to_bits(used(scale))
    return exact_affine.dequantize(exact_affine.quantize(x, u, fmt=fmt), u, fmt=fmt, dtype=dtype)


def lsq_element(x: int, scale: int, *, fmt: IntFormat, mask: str, convention: Affine = DEFAULT) -> Element:
    """EST-3, LSQ-2."""
    return _layer_element(x, used(scale), None, of(0), fmt, mask, convention)


def _layer_element(
    x: int, u: Real, z: int | None, outside: Real, fmt: IntFormat, mask: str, convention: Affine
) -> Element:
    step = to_bits(rounded(div(of(1), u)) if convention.op == "given" else u)
    inside = exact_affine.inside(x, step, z, fmt=fmt, convention=convention, mask=mask)
    steps = of(exact_affine.quantize(x, step, z, fmt=fmt, convention=convention) - (z or 0))
    if inside:
        return Element(True, (difference(steps, quotient(from_bits(x), u)),))
    return Element(False, (rounded(add(steps, outside)),))


def paper_steps(x: int, scale: int, offset: int, fmt: IntFormat, mask: str) -> tuple[int, Real, bool]:
    """LSP-1: (k, r, inside)."""
    distance = flushed(difference(flushed(from_bits(x)), flushed(from_bits(offset))))
    r = quotient(distance, used(scale))
    if r.size == NAN:
        return fmt.qmin, r, False
    far = (-1 if r.negative else 1) << 40
    k = far if r.size == INF else nearest(r.value(), "even")
    inside = fmt.qmin <= k <= fmt.qmax if mask == "rounded" else between(r, fmt.qmin, fmt.qmax)
    return clamp(k, fmt.qmin, fmt.qmax), r, inside


def lsq_plus(x: int, scale: int, offset: int, *, fmt: IntFormat, dtype: str = "float32") -> int:
    """LSP-1."""
    k, _, _ = paper_steps(x, scale, offset, fmt, "ratio")
    value = flushed(rounded(add(rounded(mul(of(k), used(scale))), flushed(from_bits(offset)))))
    return to_bits(rounded(value, {"float32": exact_affine.F32, "float16": exact_affine.F16,
                                   "bfloat16": exact_affine.BF16}[dtype]))  # fmt: skip


def lsq_plus_element(x: int, scale: int, offset: int, *, fmt: IntFormat, mask: str) -> Element:
    """LSP-2."""
    k, r, inside = paper_steps(x, scale, offset, fmt, mask)
    return Element(inside, (difference(of(k), r), None) if inside else (of(k), of(1)))


def placed(scale: int, offset: int, fmt: IntFormat) -> tuple[Real, int, Real]:
    """LSP-3: (used scale, z, zeta)."""
    zeta = quotient(negated(from_bits(offset)), used(scale))
    if zeta.size == NAN:
        return NOT_A_NUMBER, clamp(0, fmt.qmin, fmt.qmax), zeta
    if zeta.size == INF:
        return used(scale), fmt.qmin if zeta.negative else fmt.qmax, zeta
    return used(scale), nearest(min(max(zeta.value(), fmt.qmin), fmt.qmax), "even"), zeta


def layer_plus_element(
    x: int, scale: int, offset: int, *, fmt: IntFormat, mask: str, convention: Affine = DEFAULT
) -> Element:
    """LSP-4."""
    u, z, zeta = placed(scale, offset, fmt)
    follows = between(zeta, fmt.qmin, fmt.qmax)
    found = _layer_element(x, u, z, zeta if follows else of(0), fmt, mask, convention)
    return Element(found.inside, (*found.factors, of(1) if follows and not found.inside else None))


def pact_scale(alpha: int, fmt: IntFormat) -> int:
    """PCT-1."""
    return to_bits(rounded(div(used(alpha, fmt.qmax), of(fmt.qmax))))


def pact(x: int, alpha: int, *, fmt: IntFormat, dtype: str = "float32") -> int:
    """PCT-1."""
    s = pact_scale(alpha, fmt)
    return exact_affine.dequantize(exact_affine.quantize(x, s, fmt=fmt), s, fmt=fmt, dtype=dtype)


def pact_element(x: int, alpha: int, *, fmt: IntFormat) -> Element:
    """PCT-2, PCT-3."""
    wide, bound = flushed(from_bits(x)), used(alpha, fmt.qmax)
    if NAN in (wide.size, bound.size):
        return Element(False, (None,))
    if bound.size == INF:
        above = wide.size == INF and not wide.negative
    else:
        above = not wide.negative and (wide.size == INF or wide.size >= bound.size)
    low = not wide.negative or wide.size == 0
    return Element(low and not above, (of(1) if above else None,))


def term(factor: Real | None, cotangent: int) -> int:
    """EST-4."""
    return 0 if factor is None else counted(rounded(mul(factor, from_bits(cotangent))))


def counted(value: Real) -> int:
    """EST-4: below 2^-100 a number counts as 0."""
    return to_bits(value) if isinstance(value.size, str) or value.size >= pow2(-100) else 0


def tile_sum(terms: dict[tuple[int, ...], int], extent: tuple[int, ...], place: tuple[int, ...] = ()) -> int:
    """EST-4: SUM-1 along the last axis first; a place without an element is 0."""
    if len(place) == len(extent):
        return terms.get(place, 0)
    return tree_sum([tile_sum(terms, extent, (*place, i)) for i in range(extent[len(place)])])


def finished(total: int, factor: int, learned: int = 0) -> int:
    """EST-5, and the sign of EST-1."""
    return to_bits(flushed(rounded(mul(from_bits(total), from_bits(factor))))) ^ (learned & 0x80000000)


def gradient_scale(kind: str, fmt: IntFormat, shape: tuple[int, ...], granularity: Granularity) -> int:
    """EST-5."""
    if kind == "none":
        return to_bits(of(1))
    tile = [min(n, t) for n, t in zip(shape, granularity.tile(shape), strict=True)]
    count = {"per_scale": math.prod(tile), "features": math.prod(tile[1:]), "numel": math.prod(shape)}[kind]
    return inverse_root((count or 1) * fmt.qmax)


def inverse_root(n: int) -> int:
    """The pattern of the binary32 number nearest to 1 / sqrt(n), by bisection on squares of midpoints."""
    return _nearest(lambda middle: middle * middle * n < 1)


def root(square: Real) -> Real:
    """The binary32 number nearest to the root."""
    if isinstance(square.size, str) or square.size == 0:
        return square
    return from_bits(_nearest(lambda middle: middle * middle < square.size))


def _nearest(below: Callable[[Fraction], bool]) -> int:
    """The positive pattern at whose midpoints `below` turns from true to false."""
    low, high = 1, 0x7F7FFFFF
    while low < high:
        at = (low + high) // 2
        middle = (from_bits(at).size + from_bits(at + 1).size) / 2
        low, high = (at + 1, high) if below(middle) else (low, at)
    return low


def mean(values: dict[tuple[int, ...], Real], extent: tuple[int, ...]) -> Real:
    """LSQ-3: terms below 2^-100 count as 0, the quotient is flushed."""
    total = tile_sum({place: counted(value) for place, value in values.items()}, extent)
    return flushed(rounded(div(from_bits(total), rounded(of(max(len(values), 1))))))


def lsq_init(tile: dict[tuple[int, ...], int], extent: tuple[int, ...], fmt: IntFormat) -> int:
    """LSQ-3."""
    sizes = {place: Real(False, from_bits(bits).size) for place, bits in tile.items()}
    twice = mul(of(2), from_bits(inverse_root(fmt.qmax)))
    return to_bits(used(to_bits(flushed(rounded(mul(mean(sizes, extent), twice))))))


def lsq_plus_init(tile: dict[tuple[int, ...], int], extent: tuple[int, ...], fmt: IntFormat) -> int:
    """LSP-5."""
    values = {place: from_bits(counted(from_bits(bits))) for place, bits in tile.items()}
    middle = mean(values, extent)
    apart = {place: from_bits(counted(difference(value, middle))) for place, value in values.items()}
    deviation = root(mean({place: rounded(mul(d, d)) for place, d in apart.items()}, extent))
    reach = rounded(add(Real(False, middle.size), rounded(mul(of(3), deviation))))
    return to_bits(used(to_bits(rounded(mul(reach, of(pow2(1 - fmt.bits)))))))


def lsq_plus_from_range(low: int, high: int, fmt: IntFormat) -> tuple[int, int]:
    """LSP-6."""
    scale, bottom = exact_affine.choose_scale(
        *exact_affine.range_of([low, high]), fmt=fmt, rule=ScaleRule(zero="float")
    )
    step = rounded(mul(of(fmt.qmin), from_bits(scale)))
    return scale, to_bits(flushed(difference(from_bits(bottom), step)))


def stochastic_code(x: int, scale: int, zero_point: int | None, bits: int, *, fmt: IntFormat) -> int:
    """SRD-1."""
    r = quotient(from_bits(x), from_bits(scale))
    if r.size == NAN:
        return fmt.qmin
    steps = ((-1 if r.negative else 1) << 40) if r.size == INF else round_stochastic(to_bits(r), bits)
    return clamp(steps + clamp(zero_point or 0, fmt.qmin, fmt.qmax), fmt.qmin, fmt.qmax)


def stochastic_value(
    x: int, scale: int, zero_point: int | None, bits: int, *, fmt: IntFormat, dtype: str = "float32"
) -> int:
    """SRD-2."""
    zero = clamp(zero_point or 0, fmt.qmin, fmt.qmax)
    code = stochastic_code(x, scale, zero_point, bits, fmt=fmt)
    return exact_affine.dequantize(code, scale, zero, fmt=fmt, dtype=dtype)


def stochastic_inside(x: int, scale: int, zero_point: int | None, *, fmt: IntFormat) -> bool:
    """SRD-2: STE-1 with mask "ratio"."""
    return exact_affine.inside(x, scale, clamp(zero_point or 0, fmt.qmin, fmt.qmax), fmt=fmt, mask="ratio")


def places(shape: tuple[int, ...], granularity: Granularity) -> list[tuple[int, tuple[int, ...]]]:
    """GRA-1, GRA-3: of each element in C order, the flat index of its tile and its place inside."""
    tile = granularity.tile(shape)
    counts = [math.ceil(n / t) for n, t in zip(shape, tile, strict=True)]
    found = []
    for index in itertools.product(*map(range, shape)):
        flat = 0
        for i, t, n in zip(index, tile, counts, strict=True):
            flat = flat * n + i // t
        found.append((flat, tuple(i % t for i, t in zip(index, tile, strict=True))))
    return found
