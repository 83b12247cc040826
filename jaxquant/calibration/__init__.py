"""Calibration: ranges from data that streams by, mergeable without loss (specs/40-calibration.md)."""

from jaxquant.calibration import ema, entropy, histogram, linear, minmax, mse, percentile

__all__ = ["ema", "entropy", "histogram", "linear", "minmax", "mse", "percentile"]
