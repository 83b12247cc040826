"""What every external test does: run a peer on computed probes and count the codes that are not the preset's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import numpy as np

from refquant.affine import quantize
from refquant.codec import encode
from refquant.conventions import PRESETS, Affine, Cast
from refquant.formats import ALL, Format, IntFormat
from refquant.thresholds import probes, thresholds

Kernel = Callable[[np.ndarray, float, int], np.ndarray]
Case = tuple[float, int]

RIVALS = [
    Affine(op, "f32", zero, ties, overflow)
    for op in ("div", "inv")
    for zero in ("int", "add", "fma")
    for ties in ("even", "away")
    for overflow in ("sat", "i32", "i64", "wrap32")
] + [Affine("div", "f64", "int", ties) for ties in ("even", "away")]
CASTS = [
    Cast(overflow, ties, nan)
    for overflow in ("saturate", "finite", "special")
    for ties in ("even", "away", "zero")
    for nan in ("canonical", "signed")
]
SCALES = (1.0, 0.1, 0.0123, 0.00214854861, 0.75, 2.0**-20, 1000.1)


def cases_of(fmt: IntFormat, scales: Iterable[float] = SCALES) -> list[Case]:
    """Two zero points a scale: 0, 1, both ends of the format and inside."""
    zeros = [
        z
        for z in dict.fromkeys((0, 1, fmt.qmin, fmt.qmax, (fmt.qmin + fmt.qmax) // 2 + 3))
        if fmt.qmin <= z <= fmt.qmax
    ]
    held = [float(np.float32(scale)) for scale in scales]
    return [(s, zeros[(i + by) % len(zeros)]) for i, s in enumerate(held) for by in (0, 2)]


@functools.lru_cache(maxsize=64)
def affine_probes(name: str, scale: float, zero_point: int) -> np.ndarray:
    """CNV-5: the starts of all rival conventions and their neighbours, NaNs of both signs included."""
    return probes(*(thresholds(point, ALL[name], scale, zero_point) for point in RIVALS))


@functools.lru_cache(maxsize=16)
def cast_probes(name: str) -> np.ndarray:
    """The same for casts, and quiet NaNs."""
    steps = probes(*(thresholds(cast, ALL[name]) for cast in CASTS))
    return np.concatenate([steps, np.uint32([0x7FC00000, 0xFFC00000]).view(np.float32)])


def wanted(point: Affine, fmt: IntFormat, x: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """The preset's codes."""
    zero = np.int32(zero_point)
    return quantize(x, np.float32(scale), zero, fmt=fmt, convention=point)


def mismatches(
    kernel: Kernel, point: Affine, fmt: IntFormat, cases: Iterable[Case], keep: Callable | None = None
) -> list[str]:
    """Every probe at which the kernel's code is not the convention's."""
    wrong = []
    for scale, zero_point in cases:
        x = affine_probes(fmt.name, scale, zero_point)
        x = x[keep(x, scale)] if keep else x
        got = np.asarray(kernel(x, scale, zero_point)).astype(np.int64)
        want = wanted(point, fmt, x, scale, zero_point)
        bad = np.nonzero(got != want)[0]
        wrong += [
            f"x=0x{x[i].view(np.uint32):08x} scale={scale!r} zero={zero_point} got={got[i]} want={want[i]}" for i in bad
        ]
    return wrong


def assert_follows(
    kernel: Kernel, preset: str, name: str, *, cases: list[Case] | None = None, keep: Callable | None = None
) -> None:
    """0 mismatches on the probes of all rivals, over every case."""
    fmt, point = ALL[name], PRESETS[preset].affine
    wrong = mismatches(kernel, point, fmt, cases or cases_of(fmt), keep)
    assert not wrong, f"{len(wrong)} codes of {preset} are not those of '{point}':\n" + "\n".join(wrong[:5])


def assert_follows_point(kernel: Kernel, point: Affine, name: str, *, keep: Callable | None = None) -> None:
    """The same for a point that has no row of its own, such as one half of `Lanes`."""
    wrong = mismatches(kernel, point, ALL[name], cases_of(ALL[name], (0.1, 0.0123, 0.75)), keep)
    assert not wrong, f"{len(wrong)} codes are not those of '{point}':\n" + "\n".join(wrong[:5])


def not_nan(x: np.ndarray, scale: float) -> np.ndarray:
    return ~np.isnan(x)


def all_halves() -> np.ndarray:
    """All 65,536 values of binary16 and all of bfloat16, in binary32; subnormals, infinities and NaNs too."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    return np.concatenate([bits.view(np.float16).astype(np.float32), (bits.astype(np.uint32) << 16).view(np.float32)])


def cast_mismatches(codes: np.ndarray, x: np.ndarray, fmt: Format, cast: Cast) -> np.ndarray:
    """The inputs at which a peer's cast has another code than `encode`."""
    return x[codes.view(fmt.storage) != encode(x, fmt=fmt, cast=cast)]
