"""Counts on bins whose edges are the bfloat16 numbers (specs/40-calibration.md, CAL-3, CAL-9)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxquant import _exact, _sharding
from jaxquant.calibration import minmax
from jaxquant.calibration.minmax import MinMaxState, add_counts
from refquant.kinds import kinds

BINS = 1 << 16
LARGEST = 0x7F7FFFFF


@partial(jax.tree_util.register_dataclass, data_fields=["counts", "seen"], meta_fields=[])
@dataclass(frozen=True)
class HistogramState:
    """Counts by the top 16 bits of the binary32 pattern (CAL-3).

    Attributes:
      counts: int32 (65536,).
      seen: the min-max state of all batches, per tensor.
    """

    counts: Array
    seen: MinMaxState

    @property
    def count(self) -> Array:
        """Elements that were not NaN (CAL-9)."""
        return self.seen.count


def init() -> HistogramState:
    """A state that has seen nothing.

    Spec: CAL-0, CAL-3 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> init().counts.shape
      (65536,)
    """
    return HistogramState(jnp.zeros(BINS, jnp.int32), minmax.init())


@kinds
def update(state: HistogramState, x: Array) -> HistogramState:
    """The state after one more batch.

    Args:
      state: from `init`, `update` or `merge`.
      x: float32, float16 or bfloat16, any shape.
    Raises:
      TypeError: another dtype.

    Spec: CAL-3, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> int(update(init(), jnp.float32([1.0, 1.001])).counts[0x3F80])
      2
    """
    return _update(state, minmax.batch(x))


@_sharding.jit
def _update(state: HistogramState, x: Array) -> HistogramState:
    return merge(state, HistogramState(tally(x, _index, BINS), minmax.seen(x, state.seen)))


@kinds
@_sharding.jit
def merge(a: HistogramState, b: HistogramState) -> HistogramState:
    """The state that has seen what a and b have seen, in any order.

    Spec: CAL-0, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> int(merge(*[update(init(), jnp.float32([v])) for v in (1.0, 1.001)]).counts[0x3F80])
      2
    """
    return HistogramState(add_counts(a.counts, b.counts), minmax.merge(a.seen, b.seen))


@kinds
def finalize(state: HistogramState) -> tuple[Array, Array]:
    """The range seen: low and high, float32 ().  For others see `percentile`.

    Spec: CAL-1 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> [float(v) for v in finalize(update(init(), jnp.float32([1.0, -3.0])))]
      [-3.0, 1.0]
    """
    return minmax.finalize(state.seen)


def tally(x: Array, index: Callable[[Array, Array], Array], bins: int) -> Array:
    """How many elements of x fall in each bin, int32; `index` gives a bin from the bits of non-NaN values."""
    x = lax.optimization_barrier(x)  # of constants XLA would fold the counts, a microsecond an element and more
    bits = lax.bitcast_convert_type(_exact.widen(x), jnp.int32).reshape(-1)
    sizes = bits & 0x7FFFFFFF
    at = index(jnp.minimum(sizes, LARGEST), bits < 0)  # CAL-3 ±inf counts as ±FLT_MAX
    at = jnp.where(sizes > 0x7F800000, bins, at)  # CAL-3 NaN is left out: beyond the bins it is dropped
    return jnp.zeros(bins, jnp.int32).at[at].add(1, mode="drop")


def _index(sizes: Array, negative: Array) -> Array:
    return (sizes >> 16) + jnp.where(negative, 1 << 15, 0)  # CAL-3
