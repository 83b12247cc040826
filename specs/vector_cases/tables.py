"""Tables of thresholds: the complete function of a preset over all 2^32 inputs (specs/25-conventions.md, CNV-2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import exact_affine
import exact_requantize
import numpy as np

from refquant.conventions import PRESETS, RESCALES, Affine, Lanes, Rescale
from refquant.conventions.steps import HIGHEST, key_bits
from refquant.formats import ALL, IntFormat
from refquant.thresholds import StepFunction, tabulate, thresholds
from specs.vector_cases.affine import SCALE
from specs.vector_cases.case import LICENSE, SCHEMA
from specs.vector_cases.conventions import argument
from specs.vector_cases.inputs import f32, value

CHAPTER = "25-conventions"
OFFSET = -0.85


@dataclass(frozen=True)
class Table:
    """One step function with what it was computed from."""

    id: str
    point: Affine | Rescale
    fmt: IntFormat
    scale: float
    zero_point: float

    @property
    def steps(self) -> StepFunction:
        return thresholds(self.point, self.fmt, self.scale, self.zero_point)

    def unspecified(self) -> list[list[int]]:
        """CNV-8: [first, last] keys at which the runtime's language leaves the result open."""
        if isinstance(self.point, Rescale) or self.point.overflow not in ("i32", "i64", "wrap32"):
            return []
        zero, scale = int(self.zero_point), f32(self.scale)

        def undefined(x: np.ndarray) -> np.ndarray:
            found = [exact_affine.undefined(int(b), scale, zero, self.fmt, self.point) for b in x.view(np.uint32)]
            return np.array(found, np.uint8)

        steps = tabulate(undefined, storage="uint8")
        last = [*(start - 1 for start in steps.starts[1:]), HIGHEST]
        return [[a, b] for a, b, bad in zip(steps.starts, last, steps.codes, strict=True) if bad]

    def json(self) -> dict:
        scale = (
            {"float32": f"{f32(self.scale):08x}"}
            if isinstance(self.point, Affine) or self.point.multiplier == "f32"
            else {"float64": struct.pack(">d", self.scale).hex()}
        )
        real = isinstance(self.point, Affine) and self.point.zero == "bias"
        found = self.steps
        return {
            "id": self.id, "point": str(self.point), "fmt": self.fmt.name, "scale": scale,
            "zero_point": {"float32": f"{f32(self.zero_point):08x}"} if real else int(self.zero_point),
            "domain": found.domain, "starts": list(found.starts), "codes": list(found.codes),
        } | ({"unspecified": {"rule": "CNV-8", "keys": keys}} if (keys := self.unspecified()) else {})  # fmt: skip

    def expected(self, key: int) -> int:
        """The third opinion on one key."""
        if isinstance(self.point, Rescale):
            return exact_requantize.requantize(key, self._multiplier(), int(self.zero_point), self.fmt, self.point)
        zero = f32(self.zero_point) if self.point.zero == "bias" else int(self.zero_point)
        return exact_affine.quantize(key_bits(key), f32(self.scale), zero, fmt=self.fmt, convention=self.point)

    def _multiplier(self) -> float:
        return float(value(f32(self.scale))) if self.point.multiplier == "f32" else self.scale


def wrong_key(table: Table) -> int | None:
    """A key at or just before a start at which the third opinion has another code; None where it agrees."""
    steps = table.steps
    for at, start in enumerate(steps.starts):
        if table.expected(start) != steps.codes[at] or (at and table.expected(start - 1) != steps.codes[at - 1]):
            return start
    return None


def files() -> Iterator[tuple[str, str, tuple[Table, ...]]]:
    """(file name, preset, tables)."""
    for name, preset in PRESETS.items():
        lanes = preset.affine
        points = {"body": lanes.body, "tail": lanes.tail} if isinstance(lanes, Lanes) else {"": lanes}
        yield (
            f"{CHAPTER}/{name}.json",
            name,
            tuple(t for part, point in points.items() for t in _affine(name, part, point)),
        )
    for name, row in RESCALES.items():
        yield f"{CHAPTER}/rescale_{name}.json", name, tuple(_rescale(name, row.point))


def _affine(name: str, part: str, point: Affine) -> Iterator[Table]:
    unsigned = point.zero == "bias" or name in ("openvino", "hqq", "gptq")
    zeros = {"int4": 0, "int8": 37, "uint4": 5, "uint8": 117}
    for fmt in ("uint4", "uint8") if unsigned else ("int4", "int8"):
        zero = OFFSET if point.zero == "bias" else zeros[fmt]
        text = "-".join(t for t in (name, part, fmt) if t)
        yield Table(text, point, ALL[fmt], float(value(argument(point, SCALE))), zero)
    if point.overflow == "wrap32":  # a negative zero point wraps
        text = "-".join(t for t in (name, part, "int8-minus37") if t)
        yield Table(text, point, ALL["int8"], float(value(SCALE)), -37)


def _rescale(name: str, point: Rescale) -> Iterator[Table]:
    multiplier = 0.0012345678 if point.multiplier != "q8" else 0.0371
    yield Table(f"rescale_{name}-int8", point, ALL["int8"], multiplier, 5)


def render(preset: str, tables: tuple[Table, ...]) -> dict:
    return {
        "schema": SCHEMA,
        "chapter": CHAPTER,
        "license": LICENSE,
        "rules": "CNV-1..CNV-3",
        "preset": preset,
        "tables": [t.json() for t in tables],
    }
