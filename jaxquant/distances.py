"""How far two arrays are apart; what is not finite never reads as near.  NumPy diagnostics (class bounded)."""

from typing import Any

import numpy as np

from refquant.cli.numbers import json_number


def distance(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The distance of y from x over all elements; equal infinities, and NaN beside NaN, are at 0.

    Args:
      x: real.
      y: the same shape.
    Returns:
      dict with error (‖x − y‖ / ‖x‖, the finite elements of x below; 1 if those are 0 and y is not), worst (largest
      |x − y|), not_finite (differing elements of which one is NaN or infinite: error and worst are then NaN or inf).

    Spec: CMD-9 (specs/80-commands.md).
    """
    x, y = np.asarray(x).astype(np.float64), np.asarray(y).astype(np.float64)
    finite = np.isfinite(x)
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, x - y)
        power, noise = float(np.linalg.norm(np.where(finite, x, 0.0))), float(np.linalg.norm(off))
    error = noise / power if power else noise if not np.isfinite(noise) else float(noise > 0)
    worst = float(np.max(np.abs(off), initial=0.0))
    return {"error": error, "worst": worst, "not_finite": int(np.count_nonzero(~np.isfinite(off)))}


def json_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row with "nan", "inf" and "-inf" for the floats that JSON does not have (CMD-3)."""
    return {key: json_number(value) if isinstance(value, float) else value for key, value in row.items()}


def by_distance(row: dict[str, Any]) -> tuple[float, float]:
    """The key that sorts rows worst first: the most elements that are not finite, then the largest error."""
    return -row["not_finite"], -float(np.nan_to_num(row["error"], nan=np.inf, posinf=np.inf))
