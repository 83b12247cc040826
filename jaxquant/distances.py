"""How far two arrays are apart; what is not finite never reads as near.  NumPy diagnostics (class bounded)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.cli.numbers import json_number


@dataclass
class Distance:
    """How far y is from x, both given run by run; equal infinities, and NaN beside NaN, are at 0.

    Attributes:
      power: sum of the squares of x, its finite elements: that of each run in float64, added in order.
      noise: likewise of x − y.
      worst: largest |x − y|.
      not_finite: differing elements of which one is NaN or infinite.

    Spec: CMD-9 (specs/80-commands.md).
    """

    power: float = 0.0
    noise: float = 0.0
    worst: float = 0.0
    not_finite: int = 0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """One more run.

        Args:
          x: real.
          y: the same shape.
        """
        x, y = (np.asarray(v).astype(np.float64, copy=False) for v in (x, y))
        with np.errstate(invalid="ignore", over="ignore"):
            off = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, x - y)
            self.power += float(np.sum(np.square(np.where(np.isfinite(x), x, 0.0))))
            self.noise += float(np.sum(np.square(off)))
        self.worst = float(np.maximum(self.worst, np.max(np.abs(off), initial=0.0)))
        self.not_finite += int(np.count_nonzero(~np.isfinite(off)))

    def found(self) -> dict[str, float]:
        """The distance over all runs.

        Returns:
          dict with error (‖x − y‖ / ‖x‖; where x is 0 and y is not: 1), worst, not_finite (where there are such
          elements, error and worst are NaN or inf).
        """
        power, noise = np.sqrt(self.power), np.sqrt(self.noise)
        error = noise / power if power else noise if not np.isfinite(noise) else noise > 0
        return {"error": float(error), "worst": self.worst, "not_finite": self.not_finite}


def distance(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """What `Distance` finds of two arrays that are one run.

    Args:
      x: real.
      y: the same shape.
    """
    far = Distance()
    far.add(x, y)
    return far.found()


def json_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row with "nan", "inf" and "-inf" for the floats that JSON does not have (CMD-3)."""
    return {key: json_number(value) if isinstance(value, float) else value for key, value in row.items()}


def by_distance(row: dict[str, Any]) -> tuple[float, float]:
    """The key that sorts rows worst first: the most elements that are not finite, then the largest error."""
    return -row["not_finite"], -float(np.nan_to_num(row["error"], nan=np.inf, posinf=np.inf))
