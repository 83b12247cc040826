"""Cases of specs/50-requantize.md: every preset, accumulators at ties and at the ends of int32."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from refquant.conventions import RESCALES, Rescale, fixed_point
from refquant.formats import ALL, IntFormat
from specs.vector_cases.arrays import Array, array, scalar
from specs.vector_cases.case import Case, VectorFile, vector_file
from specs.vector_cases.inputs import Ints, unique
from specs.vector_cases.seeds import RESCALES as FIRST
from specs.vector_cases.seeds import seed_of

CHAPTER = "50-requantize"
INT_MIN, INT_MAX = -(2**31), 2**31 - 1
FIXED = ("q31", "q15", "q8")
MULTIPLIERS = {
    "half": 0.5,
    "small": 0.0012345678,
    "third": 1 / 3,
    "above": 1.7,
    "tiny": 2.0**-30 * 1.1,
    "negative": -0.01,
    "near1": 1 - 2.0**-33,
}
N = 96


def files() -> list[VectorFile]:
    return [
        vector_file(CHAPTER, "requantize", "RSC-1..RSC-9", _requantize()),
        vector_file(CHAPTER, "requantize_fixed", "RSC-4..RSC-8", _fixed()),
        vector_file(CHAPTER, "fixed_point", "RSC-3", _points()),
    ]


def points() -> dict[str, Rescale]:
    """The presets' points and what they leave out, once each."""
    more = [
        Rescale("f32", ties="away"),
        Rescale("f32", ties="up", overflow="i32"),
        Rescale("f64"),
        Rescale("q31", "single", "away"),
    ]
    found = {**{name: row.point for name, row in RESCALES.items()}, **{str(r).replace(" ", "_"): r for r in more}}
    once: dict[Rescale, str] = {}
    for name in sorted(found, key=lambda name: name not in FIRST.split()):  # of equal points the one that has vectors
        once.setdefault(found[name], name)
    return {name: rescale for rescale, name in once.items()}


def accumulators(multiplier: float, fmt: IntFormat, zero: int, seed: int) -> Array:
    """The ends of int32, and the integers around (k + 1/2) / multiplier: k at the format's ends, at zero, random."""
    draw = Ints(seed)
    steps = [fmt.qmin - zero - 1, fmt.qmin - zero, fmt.qmax - zero - 1, fmt.qmax - zero, -2, -1, 0, 1]
    steps += [draw.between(fmt.qmin - zero, fmt.qmax - zero) for _ in range(12)]
    edges = [int((k + 0.5) / multiplier) + d for k in steps for d in (-1, 0, 1)]
    fixed = [0, 1, -1, 2, -2, 3, -3, 5, -5, INT_MIN, INT_MAX, INT_MIN + 1, 2**24 + 1, 2**30, -(2**30), 2**25 + 3]
    found = unique([*fixed, *(max(INT_MIN, min(INT_MAX, e)) for e in edges)])[:N]
    return array("int32", found + [draw.word() - 2**31 for _ in range(N - len(found))])


def _multiplier(value: float, rescale: Rescale) -> Array:
    if rescale.multiplier == "f32":
        return scalar("float32", struct.unpack("<I", struct.pack("<f", value))[0])
    return scalar("float64", struct.unpack("<Q", struct.pack("<d", value))[0])


def _flags(rescale: Rescale) -> tuple[str, ...]:
    ties = {"even": "half-away", "away": "half-even", "up": "half-away"}[rescale.ties]
    more = {"f32": "precision", "f64": "precision"}.get(rescale.multiplier, "shift")
    return (ties, more, "cast-before-clip" if rescale.overflow == "sat" else "wrap")


def _requantize() -> Iterator[Case]:
    for name, rescale in points().items():
        i = seed_of(name, FIRST)
        for j, (text, multiplier) in enumerate(MULTIPLIERS.items()):
            fmt, zero = (ALL["int8"], 0) if (i + j) % 2 else (ALL["uint8"], 117)
            args = {
                "acc": accumulators(multiplier, fmt, zero, i * 10 + j),
                "multiplier": _multiplier(multiplier, rescale),
            }
            args |= {"zero_point": scalar("int32", zero)} if zero else {}
            rule = "RSC-2" if rescale.multiplier not in FIXED else "RSC-4" if rescale.steps == "double" else "RSC-5"
            yield Case(
                f"requantize-{name}-{text}",
                "requantize.requantize",
                args,
                rule,
                _flags(rescale),
                {"fmt": fmt, "rescale": rescale},
            )


def _fixed() -> Iterator[Case]:
    for name, rescale in points().items():
        if rescale.multiplier not in FIXED:
            continue
        for text, multiplier in MULTIPLIERS.items():
            q, shift = fixed_point(multiplier, rescale)
            args = {
                "acc": accumulators(multiplier, ALL["int16"], 5, seed_of(name, FIRST)),
                "q": scalar("int32", q),
                "shift": scalar("int32", shift),
                "zero_point": scalar("int32", 5),
            }
            yield Case(
                f"requantize_fixed-{name}-{text}",
                "requantize.requantize_fixed",
                args,
                "RSC-4" if rescale.steps == "double" else "RSC-5",
                _flags(rescale),
                {"fmt": ALL["int16"], "rescale": rescale},
            )


def _points() -> Iterator[Case]:
    draw = Ints(70)
    numbers = [
        0.0,
        -0.0,
        *MULTIPLIERS.values(),
        1.0,
        2.0,
        0.5 - 2.0**-34,
        2.0**-31,
        2.0**-32,
        2.0**-33,
        2.0**30,
        2.0**31 * 0.999,
        1e9,
        5e-324,
    ]
    numbers += [draw.word() / 2**32 * 2.0 ** draw.between(-20, 4) for _ in range(20)]
    bits = [struct.unpack("<Q", struct.pack("<d", number))[0] for number in numbers]
    for name, rescale in points().items():
        if rescale.multiplier in FIXED:
            yield Case(
                f"fixed_point-{name}",
                "conventions.fixed_point",
                {"multiplier": array("float64", bits)},
                "RSC-3",
                ("shift", "half-even"),
                {"rescale": rescale},
            )
