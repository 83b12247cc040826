"""What every external test does: run a peer on computed probes and count the codes that are not the preset's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from refquant.affine import quantize
from refquant.conventions import PRESETS, Affine
from refquant.conventions.steps import StepFunction
from refquant.formats import IntFormat
from refquant.thresholds import apply, probes, thresholds

Kernel = Callable[[np.ndarray, float, int], np.ndarray]

RIVALS = [
    Affine(op, "f32", zero, ties, overflow)
    for op in ("div", "inv")
    for zero in ("int", "add", "fma")
    for ties in ("even", "away")
    for overflow in ("sat", "i32", "i64")
] + [Affine("div", "f64", "int", ties) for ties in ("even", "away")]
SCALES = (1.0, 0.1, 0.0123, 0.00214854861, 0.75, 3.0, 2.0**-20, 1e-6, 1000.1)


def setups(fmt: IntFormat, scales: Iterable[float] = SCALES) -> list[tuple[float, int]]:
    """(scale, zero point): symmetric, inside, and at both ends of the format."""
    zeros = (0, 1, fmt.qmin, fmt.qmax, (fmt.qmin + fmt.qmax) // 2 + 3)
    zeros = [z for z in dict.fromkeys(zeros) if fmt.qmin <= z <= fmt.qmax]
    return [(float(np.float32(s)), z) for i, s in enumerate(scales) for z in (zeros[i % len(zeros)], zeros[(i + 2) % len(zeros)])]


def probe_inputs(fmt: IntFormat, scale: float, zero_point: int, points: Iterable[Affine] = RIVALS) -> np.ndarray:
    """CNV-5: the starts of all rival conventions and their neighbours."""
    return probes(*(thresholds(point, fmt, scale, zero_point) for point in points))


def mismatches(kernel: Kernel, point: Affine, fmt: IntFormat, cases: Iterable[tuple[float, int]] | None = None) -> int:
    """Codes of the kernel that are not the convention's, over the probes of every case."""
    wrong = 0
    for scale, zero_point in cases if cases is not None else setups(fmt):
        x = probe_inputs(fmt, scale, zero_point)
        want = quantize(x, np.float32(scale), np.int32(zero_point), fmt=fmt, convention=point)
        wrong += int((np.asarray(kernel(x, scale, zero_point)).astype(np.int64) != want).sum())
    return wrong


def followers(kernel: Kernel, fmt: IntFormat, cases: Iterable[tuple[float, int]], points: Iterable[Affine]) -> list[Affine]:
    """The points of the space that the kernel follows without one mismatch."""
    points, cases = list(points), list(cases)
    return [point for point in points if mismatches(kernel, point, fmt, cases) == 0]


def assert_follows(kernel: Kernel, preset: str, fmt: IntFormat, cases: Iterable[tuple[float, int]] | None = None) -> None:
    """0 mismatches against the preset, and at least one probe at which a rival would differ."""
    point = PRESETS[preset].affine
    cases = list(cases) if cases is not None else setups(fmt)
    wrong = mismatches(kernel, point, fmt, cases)
    assert wrong == 0, f"{wrong} codes of {preset} differ from '{point}' over {len(cases)} scales of {fmt.name}"


def table_of(point: Affine, fmt: IntFormat, scale: float, zero_point: int, x: np.ndarray) -> np.ndarray:
    """Codes read from the threshold table: a second way to the same preset."""
    steps: StepFunction = thresholds(point, fmt, scale, zero_point)
    return apply(steps, x)
