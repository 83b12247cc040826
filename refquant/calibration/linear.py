"""Counts on equal bins of a power of two's width, which doubles as the data grow (specs/40-calibration.md, CAL-8)."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from refquant.bits import ordered_key, scalb
from refquant.calibration import minmax
from refquant.calibration.histogram import tally
from refquant.calibration.minmax import MinMaxState, add_counts
from refquant.kinds import kinds

BINS = 4096


@dataclass(frozen=True)
class LinearState:
    """Counts by sign and by |x| / width, rounded down (CAL-8).

    Attributes:
      counts: int32 (2, 4096): values without the sign bit, values with it.
      seen: the min-max state of all batches, per tensor; the width follows from it.
    """

    counts: np.ndarray
    seen: MinMaxState

    @property
    def count(self) -> np.ndarray:
        """Elements that were not NaN (CAL-9)."""
        return self.seen.count


def init() -> LinearState:
    """A state that has seen nothing.

    Spec: CAL-0, CAL-8 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> init().counts.shape
      (2, 4096)
    """
    return LinearState(np.zeros((2, BINS), np.int32), minmax.init())


@kinds
def update(state: LinearState, x: np.ndarray) -> LinearState:
    """The state after one more batch.

    Args:
      state: from `init`, `update` or `merge`.
      x: float32, float16 or bfloat16, any shape.
    Raises:
      TypeError: another dtype.

    Spec: CAL-8, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> int(update(init(), np.float32([1.0, -1.0])).counts[1, 2048])
      1
    """
    x = minmax.batch(x)
    seen = minmax.seen(x, state.seen)
    counts = tally(x, partial(_index, exponent=exponent(seen)), 2 * BINS).reshape(2, BINS)
    return merge(state, LinearState(counts, seen))


@kinds
def merge(a: LinearState, b: LinearState) -> LinearState:
    """The state that has seen what a and b have seen, in any order.

    Spec: CAL-0, CAL-8, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> merge(*[update(init(), np.float32([v])) for v in (1.0, 2.0)]).counts[0, [1024, 2048]].tolist()
      [1, 1]
    """
    seen = minmax.merge(a.seen, b.seen)
    return LinearState(add_counts(_joined(a, exponent(seen)), _joined(b, exponent(seen))), seen)


@kinds
def finalize(state: LinearState) -> tuple[np.ndarray, np.ndarray]:
    """The range seen: low and high, float32 ().  For others see `mse` and `entropy`.

    Spec: CAL-1 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> [float(v) for v in finalize(update(init(), np.float32([1.0, -3.0])))]
      [-3.0, 1.0]
    """
    return minmax.finalize(state.seen)


def exponent(seen: MinMaxState) -> np.ndarray:
    """E: floor(log2 A), at least -126, int32 (CAL-8)."""
    largest = np.maximum(ordered_key(seen.high), -ordered_key(seen.low))
    return np.maximum(largest >> 23, 1) - 127


def midpoints(state: LinearState) -> np.ndarray:
    """The middle of each bin, float32 (2, 4096); the bins at zero stand for zero (CAL-12)."""
    odd = np.arange(1, 2 * BINS, 2).astype(np.float32)
    middle = np.where(odd == 1, np.float32(0), scalb(odd, exponent(state.seen) - 12))
    return np.stack([middle, -middle])


def _index(x: np.ndarray, *, exponent: np.ndarray) -> np.ndarray:
    """CAL-8: |x| / w, exact in binary64, rounded down; the negative side follows the positive one."""
    steps = np.abs(x.astype(np.float64)) * 2.0 ** (11 - int(exponent))
    return steps.astype(np.int64) + BINS * np.signbit(x)


def _joined(state: LinearState, exponent_: np.ndarray) -> np.ndarray:
    """The counts on bins of a larger exponent: twelve times in twos, all are in bin 0."""
    counts = state.counts
    for _ in range(min(int(exponent_ - exponent(state.seen)), 12)):
        halved = add_counts(counts[:, ::2], counts[:, 1::2])  # CAL-8
        counts = np.concatenate([halved, np.zeros_like(halved)], axis=1)
    return counts
