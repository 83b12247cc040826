"""Cases of the conventions: every preset, and every pair of values of two fields of the space."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import exact_affine

from refquant.conventions import DEFAULT, PRESETS, Affine, Lanes
from refquant.formats import ALL, Format
from specs.vector_cases.affine import CHAPTER, SCALE, N, alone, quantize_case, zero_of
from specs.vector_cases.arrays import Array, array, scalar
from specs.vector_cases.case import Case, VectorFile, vector_file
from specs.vector_cases.inputs import around, f32, value
from specs.vector_cases.seeds import CONVENTIONS, seed_of


def files() -> list[VectorFile]:
    return [vector_file(CHAPTER, "quantize_conventions", "AFF-2..AFF-7, CNV-1", [*presets(), *_points(), *_alone()])]


def _alone() -> Iterator[Case]:
    """What tells the mistakes of kernels apart whose convention is not the library's own."""
    for other in ({"ties": "away"}, {"op": "inv"}):
        yield from alone(dataclasses.replace(DEFAULT, **other))


def points_of(name: str) -> list[tuple[str, Affine]]:
    affine = PRESETS[name].affine
    return (
        [(f"{name}-body", affine.body), (f"{name}-tail", affine.tail)]
        if isinstance(affine, Lanes)
        else [(name, affine)]
    )


def argument(convention: Affine, scale: int) -> int:
    """Under op "given" the caller passes the reciprocal."""
    return f32(1 / value(scale)) if convention.op == "given" else scale


def presets() -> Iterator[Case]:
    for preset in PRESETS:
        for name, convention in points_of(preset):
            yield convention_case(name, convention, seed_of(preset, CONVENTIONS), runtime=True)


def convention_case(name: str, convention: Affine, seed: int, zero_point: int = 37, *, runtime: bool = False) -> Case:
    """Of a runtime: without the inputs that it promises nothing for (CNV-8)."""
    fmt = ALL["uint8"] if convention.zero == "bias" else ALL["int8"]
    zero = zero_of(fmt, convention, zero_point)
    x = around(SCALE, fmt, zero_point if convention.zero != "bias" else 0, N, seed)
    held = argument(convention, SCALE)
    if runtime:
        x = [b for b in x if not exact_affine.undefined(b, held, zero["zero_point"].bits[0], fmt, convention)]
    scale = scalar("float32", held)
    return seen_bias(f"convention-{name}", array("float32", x), scale, zero, fmt, convention)


def seen_bias(name: str, x: Array, scale: Array, zero: dict[str, Array], fmt: Format, convention: Affine) -> Case:
    """Mistakes about an integer zero point have no meaning for a real one."""
    case = quantize_case(name, x, scale, zero, "AFF-3", fmt=fmt, convention=convention)
    return dataclasses.replace(case, flags=("zero-point", "reciprocal")) if convention.zero == "bias" else case


FIELDS = {
    "op": ("div", "inv", "given"),
    "prec": ("f32", "f64", "f16"),
    "zero": ("int", "add", "fma", "bias"),
    "ties": ("even", "away", "up", "down", "trunc"),
    "overflow": ("sat", "i32", "i64", "magic"),
    "nan": ("qmin", "qmax", "zero"),
}


def _points() -> Iterator[Case]:
    """Every pair of values of every two fields of the space at least once."""
    for seed, point in enumerate(pairwise(FIELDS)):
        convention = Affine(*point)
        yield convention_case("_".join(point), convention, seed + 100)
    for seed, point in enumerate(pairwise(FIELDS | {"overflow": ("wrap32",)})):
        yield convention_case("_".join(point), Affine(*point), seed + 200, -37)  # a negative one wraps


def pairwise(fields: dict[str, tuple]) -> list[tuple]:
    """Greedy and deterministic: of the points left, the first that holds most pairs not held yet."""
    points = list(itertools.product(*fields.values()))
    left = {pair for point in points for pair in _pairs(fields, point)}
    chosen = []
    while left:
        best = max(points, key=lambda point: len(_pairs(fields, point) & left))
        chosen.append(best)
        left -= _pairs(fields, best)
    return chosen


def _pairs(fields: dict[str, tuple], point: tuple) -> set:
    return set(itertools.combinations(zip(fields, point, strict=True), 2))
