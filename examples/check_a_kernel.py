"""Which convention does my kernel follow?  Put a call of yours (through ctypes, say) into `kernel` and run this file.

    python examples/check_a_kernel.py

A convention is a table of at most 2^bits thresholds.  So a few thousand *computed* inputs, the thresholds of all
candidates and their neighbours, decide what random inputs hardly see, and distances are exact counts out of 2^32.
"""

import functools
import itertools
from collections.abc import Callable
from typing import get_args

import numpy as np

from refquant.conventions import PRESETS, Affine, Ties
from refquant.conventions.steps import INF_KEY, differences, key_bits
from refquant.formats import ALL, IntFormat
from refquant.thresholds import StepFunction, apply, distance, probes, tabulate, thresholds

Kernel = Callable[[np.ndarray, np.float32, int], np.ndarray]
CASES = [(0.0123, 7), (0.1, 130), (0.75, 1)]  # (scale, zero point)
FAR = np.float32([0, 1e3, 1e6, 1e30, np.inf, np.nan])  # in steps of the scale


def kernel(x: np.ndarray, scale: np.float32, zero_point: int) -> np.ndarray:
    """The code under test: it takes the reciprocal of the scale once, as many runtimes do."""
    scaled = np.rint(x * (np.float32(1) / scale)) + zero_point
    return np.clip(np.where(np.isnan(scaled), 0, scaled), 0, 255).astype(np.uint8)


def half_up(x: np.ndarray, scale: np.float32, zero_point: int) -> np.ndarray:
    """A kernel that follows nobody: it rounds by adding 0.5 and taking the floor."""
    scaled = np.floor(x / scale + np.float32(0.5)) + zero_point
    return np.clip(np.where(np.isnan(scaled), 0, scaled), 0, 255).astype(np.uint8)


def half_away(x: np.ndarray, scale: np.float32, zero_point: int) -> np.ndarray:
    """The commonest slip: C's roundf after a true division."""
    ratio = x / scale
    scaled = np.trunc(ratio + np.copysign(np.float32(0.49999997), ratio)) + zero_point
    return np.clip(np.where(np.isnan(scaled), 0, scaled), 0, 255).astype(np.uint8)


def points() -> dict[str, Affine]:
    """Every preset that takes a scale and an integer zero point, then every other point of the binary32 space."""
    rows = ((name, row.affine) for name, row in PRESETS.items())
    named = {n: a for n, a in rows if isinstance(a, Affine) and a.op != "given" and a.zero != "bias"}
    grid = itertools.product(("div", "inv"), ("int", "add", "fma"), get_args(Ties), ("qmin", "qmax", "zero"))
    made = [Affine(op, "f32", zero, ties, "sat", nan) for op, zero, ties, nan in grid]
    return named | {f"no preset, the point '{a}'": a for a in made if a not in named.values()}


@functools.cache
def candidates(fmt: IntFormat, scale: float, zero_point: int) -> dict[str, StepFunction]:
    """The table of each of them."""
    return {name: thresholds(point, fmt, scale, zero_point) for name, point in points().items()}


def followed(kernel: Kernel, fmt: IntFormat) -> list[str]:
    """The presets whose codes the kernel gives on all probes of all cases, and far outside the range."""
    names: list[str] | None = None
    for scale, zero_point in CASES:
        tables = candidates(fmt, scale, zero_point)
        x = np.concatenate([probes(*tables.values()), FAR * np.float32(scale), -FAR * np.float32(scale)])
        codes = kernel(x, np.float32(scale), zero_point)
        names = [n for n in (tables if names is None else names) if np.array_equal(apply(tables[n], x), codes)]
    return names or []


def nearest(kernel: Kernel, fmt: IntFormat) -> str:
    """The convention that differs at the fewest of 2^32 inputs, and the first such number from zero upward."""
    scale, zero_point = CASES[0]
    try:
        own = tabulate(lambda x: kernel(x, np.float32(scale), zero_point), storage=fmt.storage)
    except ValueError as error:  # no table: too many steps
        jump = str(error).partition("steps: ")[2].partition(";")[0]
        return f"does not saturate, or jumps about: {jump} (scale {scale}, zero point {zero_point})"
    tables = candidates(fmt, scale, zero_point)
    name = min(tables, key=lambda n: distance(own, tables[n]))
    keys = [max(start, min(stop - 1, 0)) for start, stop in differences(own, tables[name])]
    numbers = [key for key in keys if -INF_KEY - 1 <= key <= INF_KEY]
    key = min(numbers or keys, key=lambda k: (k < 0, abs(k)))
    x = np.uint32(key_bits(key)).view(np.float32)
    return (
        f"nearest is {name}: {distance(own, tables[name]):,} of 2^32 inputs differ at scale {scale}, zero point "
        f"{zero_point}; {'first' if numbers else 'only NaNs differ, as'} x = 0x{key_bits(key):08x} ({x}): kernel "
        f"{own.code_at(key)}, {name} {tables[name].code_at(key)}"
    )


def report(kernel: Kernel, fmt: IntFormat) -> str:
    """One line about a kernel."""
    codes = np.asarray(kernel(np.float32([1, 2, 3]), np.float32(1), 0))
    if (codes.shape, codes.dtype) != ((3,), fmt.storage):
        return (
            f"gives {codes.dtype} of shape {codes.shape} for 3 numbers, need {fmt.storage} of shape (3,) ({fmt.name})"
        )
    names = followed(kernel, fmt)
    return f"follows {', '.join(names)} on every probe" if names else nearest(kernel, fmt)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        for function in (kernel, half_up, half_away):
            print(f"{function.__name__}: {report(function, ALL['uint8'])}")
