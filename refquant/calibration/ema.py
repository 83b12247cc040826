"""An exponential moving average of each batch's range (specs/40-calibration.md, CAL-2, CAL-10).

Krishnamoorthi, Quantizing deep convolutional networks for efficient inference (arXiv 1806.08342), section 3.1.3;
PyTorch's MovingAverageMinMaxObserver keeps the average itself, so its states cannot be merged;
here the batches are kept.
"""

from dataclasses import dataclass, replace

import numpy as np

from refquant import checks
from refquant.bits import flush
from refquant.calibration import minmax
from refquant.calibration.minmax import MinMaxState
from refquant.checks import within
from refquant.granularity import Granularity, PerTensor, Shape
from refquant.kinds import kinds

SMALLEST_STEP = np.float32(2.0**-100)


@dataclass(frozen=True)
class EmaState:
    """The ranges of the batches, oldest first (CAL-2, CAL-10).

    Attributes:
      lows: float32 (capacity, *scale shape); rows from `length` on are 0.
      highs: float32, the same shape.
      length: int32 (), how many rows are in use.
      seen: the min-max state of all batches.
      averaging_constant: c, the weight of a new batch.
    """

    lows: np.ndarray
    highs: np.ndarray
    length: np.ndarray
    seen: MinMaxState
    averaging_constant: float

    @property
    def count(self) -> np.ndarray:
        """Elements that were not NaN (CAL-9)."""
        return self.seen.count


@kinds
def init(
    shape: Shape = (),
    *,
    granularity: Granularity = PerTensor(),
    averaging_constant: float = 0.01,
    capacity: int = 128,
) -> EmaState:
    """A state that has seen nothing.

    Args:
      shape: the shape of a batch (any shape for PerTensor).
      granularity: what shares a range.
      averaging_constant: c, rounded to binary32.
      capacity: the number of batches kept apart.
    Raises:
      ValueError: averaging_constant outside 2**-20..1, capacity below 2.

    Spec: CAL-2, CAL-10 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> init(capacity=4).lows.shape
      (4,)
    """
    within("init", "averaging_constant", averaging_constant, 2.0**-20, 1.0, "CAL-2")
    within("init", "capacity", capacity, 2, 2**31 - 1, "batches kept apart, CAL-10")
    rows = np.zeros((capacity, *granularity.scale_shape(shape)), np.float32)
    seen = minmax.init(shape, granularity=granularity)
    return EmaState(rows, rows, np.array(0, np.int32), seen, float(np.float32(averaging_constant)))


@kinds
def update(state: EmaState, x: np.ndarray) -> EmaState:
    """The state after one more batch; a batch without data changes nothing but the counts.

    Args:
      state: from `init`, `update` or `merge`.
      x: float32, float16 or bfloat16, a shape with the state's number of tiles.
    Raises:
      TypeError: another dtype.
      ValueError: another number of tiles.

    Spec: CAL-2, CAL-10 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> state = update(update(init(averaging_constant=0.5), np.float32([4.0])), np.float32([8.0]))
      >>> [float(v) for v in finalize(state)]
      [0.0, 6.0]
    """
    batch = minmax.seen(x, state.seen)
    after = _append(state, batch.low, batch.high) if batch.count > 0 else state
    return replace(after, seen=minmax.merge(state.seen, batch))


@kinds
def merge(a: EmaState, b: EmaState) -> EmaState:
    """The state that has seen the batches of a, then those of b.

    Args:
      a: the earlier part.
      b: the later part, with a's granularity, tiles, averaging constant and capacity.
    Raises:
      ValueError: they differ.

    Spec: CAL-0, CAL-10 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> a, b = (update(init(averaging_constant=0.5), np.float32([v])) for v in (4.0, 8.0))
      >>> float(finalize(merge(a, b))[1]), float(finalize(merge(b, a))[1])
      (6.0, 6.0)
    """
    checks.same_shape("merge", "b.lows", b.lows.shape, a.lows.shape, "a.lows")
    checks.option("merge", "averaging_constant of b", b.averaging_constant, (a.averaging_constant,), "that of a")
    result = a
    for i in range(int(b.length)):
        result = _append(result, b.lows[i], b.highs[i])  # CAL-10
    return replace(result, seen=minmax.merge(a.seen, b.seen))


@kinds
def finalize(state: EmaState) -> tuple[np.ndarray, np.ndarray]:
    """The averaged range: low and high, float32, one element a tile; 0..0 where nothing was seen.

    Spec: CAL-2 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> [float(v) for v in finalize(init())]
      [0.0, 0.0]
    """
    low, high = state.lows[0], state.highs[0]
    for i in range(1, int(state.length)):
        low = _step(low, state.lows[i], state.averaging_constant)
        high = _step(high, state.highs[i], state.averaging_constant)
    return low, high


def _step(average: np.ndarray, new: np.ndarray, constant: float) -> np.ndarray:
    average, new = flush(average), flush(new)
    change = np.asarray(new - average)
    change = np.where(np.abs(change) < SMALLEST_STEP, np.float32(0), change)
    product = np.float32(constant) * change  # CAL-2 rounded
    return flush(average + product)


def _append(state: EmaState, low: np.ndarray, high: np.ndarray) -> EmaState:
    """One entry more; where the list is full, its two oldest become one (CAL-10)."""
    capacity, length = len(state.lows), int(state.length)
    lows, highs = state.lows, state.highs
    if length == capacity:
        lows = _folded(lows, state.averaging_constant)
        highs = _folded(highs, state.averaging_constant)
        length -= 1
    at = (np.arange(capacity) == length).reshape(-1, *(1,) * low.ndim)
    rows = np.where(at, low, lows), np.where(at, high, highs)
    return replace(state, lows=rows[0], highs=rows[1], length=np.array(length + 1, np.int32))


def _folded(rows: np.ndarray, constant: float) -> np.ndarray:
    first = _step(rows[0], rows[1], constant)
    return np.concatenate([first[None], rows[2:], np.zeros_like(rows[:1])])
