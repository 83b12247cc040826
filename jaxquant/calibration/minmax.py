"""The smallest and largest value of all batches (specs/40-calibration.md, CAL-0, CAL-1, CAL-9)."""

import math
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxquant import _exact, _inputs, _sharding, scales
from jaxquant.bits import key_of, value_of
from refquant import checks
from refquant.granularity import Granularity, PerTensor, Shape
from refquant.kinds import kinds

LARGEST_COUNT = 2**31 - 1


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["low", "high", "count", "nan", "inf"],
    meta_fields=["granularity"],
)
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

    low: Array
    high: Array
    count: Array
    nan: Array
    inf: Array
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
    nothing, none = jnp.zeros(granularity.scale_shape(shape), jnp.float32), jnp.zeros((), jnp.int32)
    return MinMaxState(nothing, nothing, none, none, none, granularity)


@kinds
def update(state: MinMaxState, x: Array) -> MinMaxState:
    """The state after one more batch.

    Args:
      state: from `init`, `update` or `merge`.
      x: float32, float16 or bfloat16, a shape with the state's number of tiles.
    Raises:
      TypeError: another dtype.
      ValueError: another number of tiles, or 2**31 elements.

    Spec: CAL-1, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> state = update(init(), jnp.float32([1.0, jnp.nan, -jnp.inf]))
      >>> float(state.high), int(state.count), int(state.nan), int(state.inf)
      (1.0, 2, 1, 1)
    """
    return _update(state, batch(x))


def batch(x: Array) -> Array:
    """One batch, of a real dtype and no larger than counts go (CAL-9).

    Raises:
      TypeError: another dtype.
      ValueError: 2**31 elements or more.
    """
    x = _inputs.real("update", "x", x)
    checks.within("update", "the number of elements of x", math.prod(x.shape), 0, 2**31 - 1, "counts are int32, CAL-9")
    return x


@_sharding.jit
def _update(state: MinMaxState, x: Array) -> MinMaxState:
    return merge(state, seen(x, state))


def seen(x: Array, like: MinMaxState) -> MinMaxState:
    """The state that has seen one batch, laid out as `like` (CAL-1, CAL-9)."""
    checks.same_shape("update", "scale of x", like.granularity.scale_shape(x.shape), like.low.shape, "state.low")
    x = lax.optimization_barrier(x)  # of data that are constants of the caller's program XLA would fold the range
    low, high = scales.range_of(x, granularity=like.granularity)  # SCL-1
    nan, inf = _specials(x)
    return MinMaxState(low, high, x.size - nan, nan, inf, like.granularity)


def _specials(x: Array) -> tuple[Array, Array]:
    """How many NaNs and infinities; asking first whether there are any costs a tenth of counting."""
    sizes = _exact.bits(_exact.widen(x)) & _exact.MAGNITUDE
    none = _sharding.varying_as(jnp.int32(0), sizes)
    return lax.cond(
        jnp.any(sizes >= _exact.INF),
        lambda: (_count(sizes > _exact.INF), _count(sizes == _exact.INF)),
        lambda: (none, none),
    )


def _count(mask: Array) -> Array:
    """int32 also where JAX counts in 64 bits."""
    return jnp.count_nonzero(mask).astype(jnp.int32)


@kinds
@_sharding.jit
def merge(a: MinMaxState, b: MinMaxState) -> MinMaxState:
    """The state that has seen what a and b have seen, in any order.

    Args:
      a: a state.
      b: a state of the same granularity and number of tiles.
    Raises:
      ValueError: they differ.

    Spec: CAL-0, CAL-1, CAL-9 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> a, b = update(init(), jnp.float32([1.0])), update(init(), jnp.float32([-2.0, 0.5]))
      >>> [float(v) for v in finalize(merge(a, b))]
      [-2.0, 1.0]
    """
    checks.option("merge", "granularity of b", b.granularity, (a.granularity,), "that of a")
    checks.same_shape("merge", "b.low", b.low.shape, a.low.shape, "a.low")
    low = value_of(jnp.minimum(key_of(a.low), key_of(b.low)))  # CAL-1
    high = value_of(jnp.maximum(key_of(a.high), key_of(b.high)))  # CAL-1
    counts = (add_counts(getattr(a, name), getattr(b, name)) for name in ("count", "nan", "inf"))
    return MinMaxState(low, high, *counts, a.granularity)


@kinds
def finalize(state: MinMaxState) -> tuple[Array, Array]:
    """The range seen: low and high, float32, one element a tile; 0..0 where nothing was seen.

    Spec: CAL-1 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> [float(v) for v in finalize(init())]
      [0.0, 0.0]
    """
    return state.low, state.high


def add_counts(a: Array, b: Array) -> Array:
    """a + b, int32, not above 2**31 - 1 (CAL-9)."""
    return a + jnp.minimum(b, LARGEST_COUNT - a)


def cut(state: MinMaxState, low: Array, high: Array) -> tuple[Array, Array]:
    """A range no wider than the one seen (CAL-1)."""
    low = value_of(jnp.maximum(key_of(low), key_of(state.low)))
    return low, value_of(jnp.minimum(key_of(high), key_of(state.high)))
