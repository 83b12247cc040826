"""An exponential moving average of each batch's range (specs/40-calibration.md, CAL-2, CAL-10).

Krishnamoorthi, Quantizing deep convolutional networks for efficient inference (arXiv 1806.08342), section 3.1.3;
PyTorch's MovingAverageMinMaxObserver keeps the average itself, so its states cannot be merged;
here the batches are kept.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxquant import _exact, _sharding
from jaxquant._exact import flush
from jaxquant.calibration import minmax
from jaxquant.calibration.minmax import MinMaxState
from refquant import checks
from refquant.checks import within
from refquant.granularity import Granularity, PerTensor, Shape
from refquant.kinds import kinds

SMALLEST_STEP = 2.0**-100


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["lows", "highs", "length", "seen"],
    meta_fields=["averaging_constant"],
)
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

    lows: Array
    highs: Array
    length: Array
    seen: MinMaxState
    averaging_constant: float

    @property
    def count(self) -> Array:
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
    rows = jnp.zeros((capacity, *granularity.scale_shape(shape)), jnp.float32)
    seen = minmax.init(shape, granularity=granularity)
    return EmaState(rows, rows, jnp.zeros((), jnp.int32), seen, float(np.float32(averaging_constant)))


@kinds
def update(state: EmaState, x: Array) -> EmaState:
    """The state after one more batch; a batch without data changes nothing but the counts.

    Args:
      state: from `init`, `update` or `merge`.
      x: float32, float16 or bfloat16, a shape with the state's number of tiles.
    Raises:
      TypeError: another dtype.
      ValueError: another number of tiles.

    Spec: CAL-2, CAL-10 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> state = update(update(init(averaging_constant=0.5), jnp.float32([4.0])), jnp.float32([8.0]))
      >>> [float(v) for v in finalize(state)]
      [0.0, 6.0]
    """
    return _update(state, minmax.batch(x))


@_sharding.jit
def _update(state: EmaState, x: Array) -> EmaState:
    batch = minmax.seen(x, state.seen)
    after = _append(state, batch.low, batch.high, batch.count > 0)
    return replace(after, seen=minmax.merge(state.seen, batch))


@kinds
@_sharding.jit
def merge(a: EmaState, b: EmaState) -> EmaState:
    """The state that has seen the batches of a, then those of b.

    Args:
      a: the earlier part.
      b: the later part, with a's granularity, tiles, averaging constant and capacity.
    Raises:
      ValueError: they differ.

    Spec: CAL-0, CAL-10 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> a, b = (update(init(averaging_constant=0.5), jnp.float32([v])) for v in (4.0, 8.0))
      >>> float(finalize(merge(a, b))[1]), float(finalize(merge(b, a))[1])
      (6.0, 6.0)
    """
    checks.same_shape("merge", "b.lows", b.lows.shape, a.lows.shape, "a.lows")
    checks.option("merge", "averaging_constant of b", b.averaging_constant, (a.averaging_constant,), "that of a")
    seen = minmax.merge(a.seen, b.seen)
    first = jax.tree.map(lambda v: _sharding.varying_as(v, b.lows, b.highs, b.length), a)
    rows = jax.lax.fori_loop(0, b.length, lambda i, s: _append(s, b.lows[i], b.highs[i], True), first)  # CAL-10
    return replace(rows, seen=seen)


@kinds
@_sharding.jit
def finalize(state: EmaState) -> tuple[Array, Array]:
    """The averaged range: low and high, float32, one element a tile; 0..0 where nothing was seen.

    Spec: CAL-2 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> [float(v) for v in finalize(init())]
      [0.0, 0.0]
    """

    def fold(i: Array, average: tuple[Array, Array]) -> tuple[Array, Array]:
        low = _step(average[0], state.lows[i], state.averaging_constant)
        return low, _step(average[1], state.highs[i], state.averaging_constant)

    return jax.lax.fori_loop(1, state.length, fold, (state.lows[0], state.highs[0]))


def _step(average: Array, new: Array, constant: float) -> Array:
    average, new = flush(average), flush(new)
    change = new - average
    change = jnp.where(jnp.abs(change) < SMALLEST_STEP, 0.0, change)
    product = _exact.rounded(jnp.float32(constant) * change)  # CAL-2 rounded
    return flush(average + product)


def _append(state: EmaState, low: Array, high: Array, wanted: Array | bool) -> EmaState:
    """One entry more; where the list is full, its two oldest become one (CAL-10)."""
    full = wanted & (state.length == len(state.lows))
    length = state.length - full.astype(jnp.int32)
    at = wanted & (jnp.arange(len(state.lows), dtype=jnp.int32) == length).reshape(-1, *(1,) * low.ndim)
    lows = jnp.where(full, _folded(state.lows, state.averaging_constant), state.lows)
    highs = jnp.where(full, _folded(state.highs, state.averaging_constant), state.highs)
    length = length + jnp.int32(wanted)
    return replace(state, lows=jnp.where(at, low, lows), highs=jnp.where(at, high, highs), length=length)


def _folded(rows: Array, constant: float) -> Array:
    first = _step(rows[0], rows[1], constant)
    return jnp.concatenate([first[None], rows[2:], jnp.zeros_like(rows[:1])])
