"""Counts on equal bins of a power of two's width, which doubles as the data grow (specs/40-calibration.md, CAL-8)."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxquant import _sharding
from jaxquant._exact import scalb
from jaxquant.bits import key_of
from jaxquant.calibration import minmax
from jaxquant.calibration.histogram import tally
from jaxquant.calibration.minmax import MinMaxState, add_counts
from refquant.kinds import kinds

BINS = 4096


@partial(jax.tree_util.register_dataclass, data_fields=["counts", "seen"], meta_fields=[])
@dataclass(frozen=True)
class LinearState:
    """Counts by sign and by |x| / width, rounded down (CAL-8).

    Attributes:
      counts: int32 (2, 4096): values without the sign bit, values with it.
      seen: the min-max state of all batches, per tensor; the width follows from it.
    """

    counts: Array
    seen: MinMaxState

    @property
    def count(self) -> Array:
        """Elements that were not NaN (CAL-9)."""
        return self.seen.count


def init() -> LinearState:
    """A state that has seen nothing.

    Spec: CAL-0, CAL-8 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> init().counts.shape
      (2, 4096)
    """
    return LinearState(jnp.zeros((2, BINS), jnp.int32), minmax.init())


@kinds
def update(state: LinearState, x: Array) -> LinearState:
    """The state after one more batch.

    Args:
      state: from `init`, `update` or `merge`.
      x: float32, float16 or bfloat16, any shape.
    Raises:
      TypeError: another dtype.

    Spec: CAL-8, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> int(update(init(), jnp.float32([1.0, -1.0])).counts[1, 2048])
      1
    """
    return _update(state, minmax.batch(x))


@_sharding.jit
def _update(state: LinearState, x: Array) -> LinearState:
    seen = minmax.seen(x, state.seen)
    counts = tally(x, partial(_index, exponent=exponent(seen)), 2 * BINS).reshape(2, BINS)
    return merge(state, LinearState(counts, seen))


@kinds
@_sharding.jit
def merge(a: LinearState, b: LinearState) -> LinearState:
    """The state that has seen what a and b have seen, in any order.

    Spec: CAL-0, CAL-8, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> state = merge(*[update(init(), jnp.float32([v])) for v in (1.0, 2.0)])
      >>> int(state.counts[0, 1024]), int(state.counts[0, 2048])
      (1, 1)
    """
    seen = minmax.merge(a.seen, b.seen)
    return LinearState(add_counts(_joined(a, exponent(seen)), _joined(b, exponent(seen))), seen)


@kinds
def finalize(state: LinearState) -> tuple[Array, Array]:
    """The range seen: low and high, float32 ().  For others see `mse` and `entropy`.

    Spec: CAL-1 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> [float(v) for v in finalize(update(init(), jnp.float32([1.0, -3.0])))]
      [-3.0, 1.0]
    """
    return minmax.finalize(state.seen)


def exponent(seen: MinMaxState) -> Array:
    """E: floor(log2 A), at least -126, int32 (CAL-8)."""
    largest = jnp.maximum(key_of(seen.high), -key_of(seen.low))
    return jnp.maximum(largest >> 23, 1) - 127


def midpoints(state: LinearState) -> Array:
    """The middle of each bin, float32 (2, 4096); the bins at zero stand for zero (CAL-12)."""
    odd = jnp.arange(1, 2 * BINS, 2).astype(jnp.float32)
    middle = scalb(jnp.where(odd == 1, 0.0, odd), exponent(state.seen) - 12)
    return jnp.stack([middle, -middle])


def _index(sizes: Array, negative: Array, *, exponent: Array) -> Array:
    """CAL-8 on the bits: a 24-bit significand, shifted to 12 bits at the exponent E and further below it."""
    field = sizes >> 23
    significand = (sizes & 0x7FFFFF) | jnp.where(field > 0, 1 << 23, 0)
    below = exponent + 127 - jnp.maximum(field, 1)
    return (significand >> jnp.minimum(12 + below, 31)) + jnp.where(negative, BINS, 0)


def _joined(state: LinearState, exponent_: Array) -> Array:
    """The counts on bins of a larger exponent: twelve times in twos, all are in bin 0."""

    def join(_: Array, counts: Array) -> Array:
        halved = add_counts(counts[:, ::2], counts[:, 1::2])  # CAL-8
        return jnp.concatenate([halved, jnp.zeros_like(halved)], axis=1)

    times = jnp.minimum(exponent_ - exponent(state.seen), 12)
    return lax.fori_loop(0, times, join, state.counts)
