"""Sums with a stated order (specs/00-conventions.md, SUM-1)."""

import numpy as np

from refquant import checks
from refquant.arguments import as_real


@np.errstate(all="ignore")
def tree_sum(x: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """The sum of adjacent pairs, of adjacent pairs of these, and so on.

    Args:
      x: float32, float16 or bfloat16, any shape.
      axis: the axis or axes to sum; the last one is summed first.
    Returns:
      float32, shape of x without the axes.  An empty sum, and a sum of zeros, is +0.
    Raises:
      TypeError: another dtype.
      ValueError: an axis that x does not have, or the same one twice.

    Spec: SUM-1 (specs/00-conventions.md).  Class: exact.
    Differs from: np.sum (blocks of 128 in eight lanes, depends on layout).
    Example:
      >>> float(tree_sum(np.float32([2**24, 1, 1, -(2**24)]), 0)), float(tree_sum(np.float32([]), 0))
      (1.0, 0.0)
    """
    x = as_real("tree_sum", "x", x).astype(np.float32)  # GEN-1
    for at in sorted(checks.axes("tree_sum", axis, x.shape), reverse=True):  # SUM-1: last axis first
        x = _pairs(np.moveaxis(x, at, -1))
    return np.asarray(x + np.float32(0))  # SUM-1


def _pairs(x: np.ndarray) -> np.ndarray:
    """SUM-1 along the last axis; -0 changes nothing, so it is added where a pair is incomplete, not all at once."""
    if x.shape[-1] == 0:
        return np.full(x.shape[:-1], np.float32(-0.0))
    while x.shape[-1] > 1:
        sums = x[..., 0:-1:2] + x[..., 1::2]
        x = sums if x.shape[-1] % 2 == 0 else np.concatenate([sums, x[..., -1:]], axis=-1)
    return x[..., 0]
