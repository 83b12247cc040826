"""Where a scheme hurts: error of each tensor, outliers of each layer's inputs.

These are diagnostics in NumPy float64 (class bounded); no code is decided here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxquant.decide.bits import Checked
from jaxquant.decide.targets import Target
from jaxquant.qtensor import dequantize_tensor
from refquant.files.quantized import Plan


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


def outliers(target: Target, batches: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Largest |input| of each channel of each layer over some batches.

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
