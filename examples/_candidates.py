"""What a kernel may follow: the candidates of check_a_kernel.py."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from refquant.conventions import PRESETS, RESCALES, Affine, Lanes, Rescale, Ties, fixed_point
from refquant.conventions.rescale import FRACTION_BITS
from refquant.conventions.steps import StepFunction
from refquant.formats import IntFormat
from refquant.thresholds import tabulate, thresholds

Points = dict[str, Any]
Array = np.ndarray
FLOATS = {"f32": np.float32, "f64": np.float64}
SHIFTS = {  # value / 2^bits
    "floor": lambda value, bits: value >> bits,
    "trunc": lambda value, bits: np.sign(value) * (abs(value) >> bits),
    "up": lambda value, bits: value + (1 << bits - 1) >> bits,
    "away": lambda value, bits: np.sign(value) * (abs(value) + (1 << bits - 1) >> bits),
}


@functools.cache
def affine_points() -> Points:
    """Every preset that takes a scale and an integer zero point, then every other point of the binary32 space."""
    named: Points = {}
    for name, row in PRESETS.items():
        lanes = isinstance(row.affine, Lanes)
        parts = {f"{name} (body)": row.affine.body, f"{name} (tail)": row.affine.tail} if lanes else {name: row.affine}
        named |= {n: a for n, a in parts.items() if a.op != "given" and a.zero != "bias"}
    grid = itertools.product(("div", "inv"), ("int", "add", "fma"), get_args(Ties), ("qmin", "qmax", "zero"))
    made = [Affine(op, "f32", zero, ties, "sat", nan) for op, zero, ties, nan in grid]
    return named | {f"'{a}'": a for a in made if a not in named.values()}


@functools.cache
def rescale_points() -> Points:
    """Every preset of accumulators, every other point that a multiplier below 1 tells from these, then `slips`.

    Overflow is at its default: no product with such a multiplier leaves int32.
    """
    named: Points = {name: row.point for name, row in RESCALES.items()}
    floats = itertools.product(("f32", "f64"), ("even", "away", "up"))
    made = [Rescale(held, ties=ties) for held, ties in (*floats, *itertools.product(FRACTION_BITS, ("away", "up")))]
    known = {replace(point, overflow="sat") for point in named.values()}
    return named | {f"'{r}'": r for r in made if r not in known} | slips()


def slips() -> Points:
    """What kernels do that is no point of the space, as functions of accumulators and a multiplier to integers.

    They drop the fraction, or hold the multiplier as round(multiplier * 2^31), which has few bits where it is small.
    """
    floats = {
        f"'{held} {whole.__name__}'": functools.partial(of_floats, held=held, whole=whole)
        for held in FLOATS
        for whole in (np.floor, np.trunc)
    }
    normal = {f"'q31 {way}'": functools.partial(of_integers, normal=True, way=way) for way in ("floor", "trunc")}
    return floats | normal | {f"'q31 unnormalized {way}'": functools.partial(of_integers, way=way) for way in SHIFTS}


def of_floats(acc: Array, multiplier: float, *, held: str, whole: np.ufunc) -> Array:
    """A product of floats to integers."""
    return whole(acc.astype(FLOATS[held]) * FLOATS[held](multiplier))


def of_integers(acc: Array, multiplier: float, *, normal: bool = False, way: str) -> Array:
    """A product with a multiplier of 31 fraction bits, shifted right."""
    q, shift = fixed_point(multiplier, Rescale("q31", ties="up")) if normal else (round(multiplier * 2**31), 0)
    return SHIFTS[way](acc.astype(np.int64) * q, 31 - shift)


@functools.cache
def tables(points: Callable[[], Points], fmt: IntFormat, scale: float, zero_point: int) -> dict[str, StepFunction]:
    """The whole function of each candidate, for one scale or multiplier."""
    return {name: _table(point, fmt, scale, zero_point) for name, point in points().items()}


def _table(point: Any, fmt: IntFormat, scale: float, zero_point: int) -> StepFunction:
    if not callable(point):
        return thresholds(point, fmt, scale, zero_point)

    def codes(acc: Array) -> Array:
        return np.clip(point(acc, scale) + zero_point, fmt.qmin, fmt.qmax).astype(fmt.storage)

    return tabulate(codes, domain="int32", storage=fmt.storage)
