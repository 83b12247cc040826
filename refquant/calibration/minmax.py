"""The smallest and largest value of all batches (specs/40-calibration.md, CAL-0, CAL-1, CAL-9)."""

import math
from dataclasses import dataclass, field

import numpy as np

from refquant import checks, scales
from refquant.arguments import as_real
from refquant.bits import from_key, ordered_key
from refquant.granularity import Granularity, PerTensor, Shape
from refquant.kinds import kinds

LARGEST_COUNT = np.int32(2**31 - 1)


@dataclass(frozen=True)
class MinMaxState:
    """What a min-max observer has seen (CAL-1).

    Attributes:
      low: float32, shape `granularity.scale_shape(shape)`; at most 0.
      high: float32, the same shape; at least 0.
      count: int32 (), elements that were not NaN.
      nan: int32 (), NaNs.
      inf: int32 (), how many of `count` were ±inf.
      granularity: the tile.
    """

    low: np.ndarray
    high: np.ndarray
    count: np.ndarray
    nan: np.ndarray
    inf: np.ndarray
    granularity: Granularity = field(default_factory=PerTensor)


@kinds
def init(shape: Shape = (), *, granularity: Granularity = PerTensor()) -> MinMaxState:
    """A state that has seen nothing.

    Args:
      shape: the shape of a batch (any shape for PerTensor); later batches must have as many tiles.
      granularity: what shares a range.

    Spec: CAL-0, CAL-1 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> int(init().count)
      0
    """
    nothing, none = np.zeros(granularity.scale_shape(shape), np.float32), np.array(0, np.int32)
    return MinMaxState(nothing, nothing, none, none, none, granularity)


@kinds
def update(state: MinMaxState, x: np.ndarray) -> MinMaxState:
    """The state after one more batch.

    Args:
      state: from `init`, `update` or `merge`.
      x: float32, float16 or bfloat16, a shape with the state's number of tiles.
    Raises:
      TypeError: another dtype.
      ValueError: another number of tiles, or 2**31 elements.

    Spec: CAL-1, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> state = update(init(), np.float32([1.0, np.nan, -np.inf]))
      >>> float(state.high), int(state.count), int(state.nan), int(state.inf)
      (1.0, 2, 1, 1)
    """
    return merge(state, seen(x, state))


def batch(x: np.ndarray) -> np.ndarray:
    """One batch, of a real dtype and no larger than counts go (CAL-9).

    Raises:
      TypeError: another dtype.
      ValueError: 2**31 elements or more.
    """
    x = as_real("update", "x", x)
    checks.within("update", "the number of elements of x", math.prod(x.shape), 0, 2**31 - 1, "counts are int32, CAL-9")
    return x


@np.errstate(all="ignore")
def seen(x: np.ndarray, like: MinMaxState) -> MinMaxState:
    """The state that has seen one batch, laid out as `like` (CAL-1, CAL-9)."""
    x = batch(x).astype(np.float32, copy=False)
    checks.same_shape("update", "scale of x", like.granularity.scale_shape(x.shape), like.low.shape, "state.low")
    low, high = scales.range_of(x, granularity=like.granularity)  # SCL-1
    nan, inf = np.count_nonzero(np.isnan(x)), np.count_nonzero(np.isinf(x))
    count, nan, inf = (np.array(n, np.int32) for n in (x.size - nan, nan, inf))
    return MinMaxState(low, high, count, nan, inf, like.granularity)


@kinds
def merge(a: MinMaxState, b: MinMaxState) -> MinMaxState:
    """The state that has seen what a and b have seen, in any order.

    Args:
      a: a state.
      b: a state of the same granularity and number of tiles.
    Raises:
      ValueError: they differ.

    Spec: CAL-0, CAL-1, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> a, b = update(init(), np.float32([1.0])), update(init(), np.float32([-2.0, 0.5]))
      >>> [float(v) for v in finalize(merge(a, b))]
      [-2.0, 1.0]
    """
    checks.option("merge", "granularity of b", b.granularity, (a.granularity,), "that of a")
    checks.same_shape("merge", "b.low", b.low.shape, a.low.shape, "a.low")
    low = from_key(np.minimum(ordered_key(a.low), ordered_key(b.low)))  # CAL-1
    high = from_key(np.maximum(ordered_key(a.high), ordered_key(b.high)))  # CAL-1
    count, nan, inf = add_counts(a.count, b.count), add_counts(a.nan, b.nan), add_counts(a.inf, b.inf)
    return MinMaxState(low, high, count, nan, inf, a.granularity)


@kinds
def finalize(state: MinMaxState) -> tuple[np.ndarray, np.ndarray]:
    """The range seen: low and high, float32, one element a tile; 0..0 where nothing was seen.

    Spec: CAL-1 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> [float(v) for v in finalize(init())]
      [0.0, 0.0]
    """
    return state.low, state.high


def add_counts(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b, int32, not above 2**31 - 1 (CAL-9)."""
    return np.asarray(a + np.minimum(b, LARGEST_COUNT - a))


def cut(state: MinMaxState, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A range no wider than the one seen (CAL-1)."""
    low = from_key(np.maximum(ordered_key(low), ordered_key(state.low)))
    return low, from_key(np.minimum(ordered_key(high), ordered_key(state.high)))
