"""The range that covers a share of the data (specs/40-calibration.md, CAL-4)."""

import numpy as np

from refquant import checks
from refquant.calibration.histogram import HistogramState, init, merge, update
from refquant.calibration.minmax import cut
from refquant.kinds import kinds

MILLION = 1_000_000


@kinds
def finalize(
    state: HistogramState, *, millionths: int = 999_900, two_sided: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The range that covers `millionths` of the data, no wider than what was seen.

    Args:
      state: from `update` or `merge`.
      millionths: the share of the elements, 1..1,000,000.
      two_sided: that share at or below high, and that share at or above low, instead of that share of |x|.
    Returns:
      low, high: float32 (); 0..0 where nothing was seen.
    Raises:
      ValueError: millionths out of bounds.

    Spec: CAL-4 (specs/40-calibration.md).  Class: exact.
    Differs from: ModelOpt (2,048 equal bins, whose width the first batch sets).
    Example:
      >>> state = update(init(), np.float32([1.0] * 99 + [50.0]))
      >>> [round(float(v), 3) for v in finalize(state, millionths=990_000)]
      [0.0, 1.008]
    """
    checks.within("finalize", "millionths", millionths, 1, MILLION, "a share of the data, CAL-4")
    checks.option("finalize", "two_sided", two_sided, (False, True), "CAL-4")
    positive, negative = np.cumsum(state.counts.reshape(2, -1), axis=1, dtype=np.int64)
    total = int(positive[-1] + negative[-1])
    need = -(-millionths * total // MILLION)  # CAL-4
    if two_sided:
        low, high = (
            -_end(negative + positive[-1], need, int(positive[-1])),
            _end(positive + negative[-1], need, int(negative[-1])),
        )
    else:
        high = _end(positive + negative, need, -1)
        low = -high
    return cut(state.seen, low, high)


def _end(cumulative: np.ndarray, need: int, other_side: int) -> np.ndarray:
    """The largest number of the first bin at which `need` elements lie at or below it; 0 on the other side."""
    if other_side >= need:
        return np.zeros((), np.float32)
    first = int(np.searchsorted(cumulative, need))
    return np.array(first << 16 | 0xFFFF, np.uint32).view(np.float32)  # CAL-4


__all__ = ["finalize", "init", "merge", "update"]
