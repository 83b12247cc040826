"""Where a scheme hurts: error of each tensor, outliers of each layer's inputs, the worst tensor against its grid.

These are diagnostics in NumPy float64 (class bounded); no code is decided here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxquant.decide.bits import Checked
from jaxquant.decide.targets import Target
from jaxquant.qtensor import dequantize_tensor
from refquant.files.quantized import Plan
from refquant.formats import CodebookFormat, FloatFormat, Format, IntFormat

BINS = 96


def tensor_errors(target: Target, checked: Mapping[str, Checked], plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """Error of every quantized tensor, worst first.

    Returns:
      dicts with name, kind, shape, error (relative, ‖x − x̂‖ / ‖x‖), sqnr_db, worst (largest |x − x̂|), bits.
    """
    kinds = {p.info.name: p for p in plans}
    found = [_error(name, target.tensor(name), entry, kinds[name]) for name, entry in checked.items()]
    return sorted(found, key=lambda row: -row["error"])


def _error(name: str, x: np.ndarray, entry: Checked, plan: Plan) -> dict[str, Any]:
    x = np.asarray(x, np.float64)
    off = x - np.asarray(dequantize_tensor(entry.q), np.float64)
    power, noise = float(np.sum(x * x)), float(np.sum(off * off))
    error = (noise / power) ** 0.5 if power else 0.0
    return {
        "name": name,
        "kind": plan.kind,
        "shape": list(x.shape),
        "error": error,
        "sqnr_db": None if error == 0 else float(-20 * np.log10(error)),
        "worst": float(np.max(np.abs(off), initial=0.0)),
        "bits": plan.bits / max(x.size, 1),
    }


def grid(fmt: Format) -> list[float]:
    """Every finite value of a format of at most 8 bits in units of its scale, ascending."""
    from refquant.codec import decode

    if isinstance(fmt, IntFormat):
        return [float(v) for v in range(fmt.qmin, fmt.qmax + 1)]
    values = fmt.values if isinstance(fmt, CodebookFormat) else _finite(decode, fmt)
    return sorted(set(map(float, values)))


def _finite(decode: Any, fmt: FloatFormat) -> list[float]:
    values = decode(np.arange(1 << fmt.bits, dtype=fmt.storage), fmt=fmt)
    return [float(v) for v in values[np.isfinite(values)]]


def against_grid(x: np.ndarray, entry: Checked) -> dict[str, Any]:
    """Histogram of a tensor in units of its own scales, with the grid it was rounded to.

    Returns:
      dict with edges (BINS + 1), counts (BINS), grid (ascending), clipped (share beyond the grid's ends by more than
      half a step).
    """
    import refquant

    spec = entry.q.spec
    ones = refquant.dequantize(
        np.ones(x.shape, spec.fmt.storage) if isinstance(spec.fmt, IntFormat) else _code_of_one(spec.fmt, x.shape),
        np.asarray(entry.q.scale),
        fmt=spec.fmt,
        granularity=spec.granularity,
    )
    ratio = np.asarray(x, np.float64) / ones
    points = grid(spec.fmt)
    low, high = points[0], points[-1]
    reach = max(abs(low), abs(high)) * 1.15
    counts, edges = np.histogram(np.clip(ratio, -reach, reach), bins=BINS, range=(-reach, reach))
    half = (points[1] - points[0]) / 2
    clipped = float(np.mean((ratio < low - half) | (ratio > high + half)))
    shown = points if len(points) <= 64 else points[:: len(points) // 32]
    return {"edges": edges.tolist(), "counts": counts.tolist(), "grid": shown, "clipped": clipped}


def _code_of_one(fmt: Format, shape: tuple[int, ...]) -> np.ndarray:
    from refquant.codec import encode

    return np.full(shape, encode(np.float32(1), fmt=fmt), fmt.storage)


def outliers(target: Target, batches: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Largest |input| of each channel of each dense layer over some batches.

    Returns:
      dicts with name, channels (sorted largest first, at most 64), largest, median, ratio (largest / median), worst
      (index of the largest channel).
    """
    run = target.input_magnitudes()
    total: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, value in run(*batch).items():
            total[name] = np.maximum(total.get(name, 0), np.asarray(value))
    return [_outlier_row(name, value) for name, value in total.items()]


def _outlier_row(name: str, value: np.ndarray) -> dict[str, Any]:
    ordered = np.sort(value)[::-1]
    median = float(np.median(value))
    return {
        "name": name,
        "largest": float(ordered[0]),
        "median": median,
        "ratio": float(ordered[0]) / median if median else 0.0,
        "worst": int(np.argmax(value)),
        "channels": [float(v) for v in ordered[:64]],
        "map": [float(v) for v in _condense(value)],
    }


def _condense(value: np.ndarray, width: int = 96) -> np.ndarray:
    """The largest of each run of channels, so that a map of any model fits a page and hides no outlier."""
    pieces = np.array_split(value, min(width, len(value)))
    return np.array([piece.max() for piece in pieces])
