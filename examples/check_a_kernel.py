"""Which convention does my kernel follow?  Put a call of yours into `kernel` and run this file.

    python examples/check_a_kernel.py

A convention is a table of at most 2^bits thresholds.  So a few thousand *computed* inputs, the thresholds of all
candidates and their neighbours, decide what random inputs hardly see, and distances are exact counts out of 2^32.
"""

from collections.abc import Callable

import numpy as np

from refquant.conventions import PRESETS, Affine
from refquant.conventions.steps import differences, key_bits
from refquant.formats import ALL, IntFormat
from refquant.thresholds import StepFunction, apply, distance, probes, tabulate, thresholds

Kernel = Callable[[np.ndarray, np.float32, int], np.ndarray]
CASES = [(0.0123, 7), (0.1, 130), (0.75, 1)]  # (scale, zero point)


def kernel(x: np.ndarray, scale: np.float32, zero_point: int) -> np.ndarray:
    """The code under test: it takes the reciprocal of the scale once, as many runtimes do."""
    scaled = np.rint(x * (np.float32(1) / scale)) + zero_point
    return np.clip(np.where(np.isnan(scaled), 0, scaled), 0, 255).astype(np.uint8)


def half_up(x: np.ndarray, scale: np.float32, zero_point: int) -> np.ndarray:
    """A kernel that follows nobody: it rounds by adding 0.5 and taking the floor."""
    scaled = np.floor(x / scale + np.float32(0.5)) + zero_point
    return np.clip(np.where(np.isnan(scaled), 0, scaled), 0, 255).astype(np.uint8)


def candidates(fmt: IntFormat, scale: float, zero_point: int) -> dict[str, StepFunction]:
    """The table of every preset that takes a scale and an integer zero point."""
    rows = ((name, row.affine) for name, row in PRESETS.items())
    points = {n: a for n, a in rows if isinstance(a, Affine) and a.op != "given" and a.zero != "bias"}
    return {name: thresholds(point, fmt, scale, zero_point) for name, point in points.items()}


def followed(kernel: Kernel, fmt: IntFormat) -> list[str]:
    """The presets whose codes the kernel gives on all probes of all cases."""
    names: list[str] | None = None
    for scale, zero_point in CASES:
        tables = candidates(fmt, scale, zero_point)
        x = probes(*tables.values())
        codes = kernel(x, np.float32(scale), zero_point)
        names = [n for n in (tables if names is None else names) if np.array_equal(apply(tables[n], x), codes)]
    return names or []


def nearest(kernel: Kernel, fmt: IntFormat) -> str:
    """The preset that differs at the fewest of 2^32 inputs, and the first such input from zero upward."""
    scale, zero_point = CASES[0]
    own = tabulate(lambda x: kernel(x, np.float32(scale), zero_point), storage=fmt.storage)
    tables = candidates(fmt, scale, zero_point)
    name = min(tables, key=lambda n: distance(own, tables[n]))
    key = min((start for start, _ in differences(own, tables[name])), key=lambda k: (k < 0, abs(k)))
    x = np.uint32(key_bits(key)).view(np.float32)
    return (
        f"nearest is {name}: {distance(own, tables[name]):,} of 2^32 inputs differ at scale {scale}, zero point "
        f"{zero_point}; first x = 0x{key_bits(key):08x} ({x}): kernel {own.code_at(key)}, {name} "
        f"{tables[name].code_at(key)}"
    )


def report(kernel: Kernel, fmt: IntFormat) -> str:
    """One line about a kernel."""
    names = followed(kernel, fmt)
    return f"follows {', '.join(names)} on every probe" if names else nearest(kernel, fmt)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        for function in (kernel, half_up):
            print(f"{function.__name__}: {report(function, ALL['uint8'])}")
