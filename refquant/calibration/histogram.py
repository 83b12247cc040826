"""Counts on bins whose edges are the bfloat16 numbers (specs/40-calibration.md, CAL-3, CAL-9)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from refquant.calibration import minmax
from refquant.calibration.minmax import MinMaxState, add_counts
from refquant.kinds import kinds

BINS = 1 << 16
LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True)
class HistogramState:
    """Counts by the top 16 bits of the binary32 pattern (CAL-3).

    Attributes:
      counts: int32 (65536,).
      seen: the min-max state of all batches, per tensor.
    """

    counts: np.ndarray
    seen: MinMaxState

    @property
    def count(self) -> np.ndarray:
        """Elements that were not NaN (CAL-9)."""
        return self.seen.count


def init() -> HistogramState:
    """A state that has seen nothing.

    Spec: CAL-0, CAL-3 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> init().counts.shape
      (65536,)
    """
    return HistogramState(np.zeros(BINS, np.int32), minmax.init())


@kinds
def update(state: HistogramState, x: np.ndarray) -> HistogramState:
    """The state after one more batch.

    Args:
      state: from `init`, `update` or `merge`.
      x: float32, float16 or bfloat16, any shape.
    Raises:
      TypeError: another dtype.

    Spec: CAL-3, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> int(update(init(), np.float32([1.0, 1.001])).counts[0x3F80])
      2
    """
    x = minmax.batch(x)
    batch = HistogramState(tally(x, _index, BINS), minmax.seen(x, state.seen))
    return merge(state, batch)


@kinds
def merge(a: HistogramState, b: HistogramState) -> HistogramState:
    """The state that has seen what a and b have seen, in any order.

    Spec: CAL-0, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> int(merge(*[update(init(), np.float32([v])) for v in (1.0, 1.001)]).counts[0x3F80])
      2
    """
    return HistogramState(add_counts(a.counts, b.counts), minmax.merge(a.seen, b.seen))


@kinds
def finalize(state: HistogramState) -> tuple[np.ndarray, np.ndarray]:
    """The range seen: low and high, float32 ().  For others see `percentile`.

    Spec: CAL-1 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> [float(v) for v in finalize(update(init(), np.float32([1.0, -3.0])))]
      [-3.0, 1.0]
    """
    return minmax.finalize(state.seen)


@np.errstate(all="ignore")
def tally(x: np.ndarray, index: Callable[[np.ndarray], np.ndarray], bins: int) -> np.ndarray:
    """How many elements of x fall in each bin, int32; `index` gives the bins of finite values."""
    flat, counts = np.ascontiguousarray(x).reshape(-1), np.zeros(bins, np.int64)
    step = 8 * bins  # clearing a histogram must cost less than filling it
    for start in range(0, flat.size, step):
        part = flat[start : start + step].astype(np.float32)
        if not np.max(np.abs(part)) <= LARGEST:
            part = np.clip(part[~np.isnan(part)], -LARGEST, LARGEST)  # CAL-3 NaN is left out, ±inf is ±FLT_MAX
        counts += np.bincount(index(part), minlength=bins)
    return np.minimum(counts, minmax.LARGEST_COUNT).astype(np.int32)  # CAL-9


def _index(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint32) >> 16  # CAL-3
