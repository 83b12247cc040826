"""The range that covers a share of the data (specs/40-calibration.md, CAL-4)."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxquant import _sharding, _wide
from jaxquant.calibration import _totals
from jaxquant.calibration.histogram import HistogramState, init, merge, update
from jaxquant.calibration.minmax import cut
from refquant import checks
from refquant.kinds import kinds

MILLION = 1_000_000


@kinds
def finalize(state: HistogramState, *, millionths: int = 999_900, two_sided: bool = False) -> tuple[Array, Array]:
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
      >>> state = update(init(), jnp.float32([1.0] * 99 + [50.0]))
      >>> [round(float(v), 3) for v in finalize(state, millionths=990_000)]
      [0.0, 1.008]
    """
    checks.within("finalize", "millionths", millionths, 1, MILLION, "a share of the data, CAL-4")
    checks.option("finalize", "two_sided", two_sided, (False, True), "CAL-4")
    return _finalize(state, np.uint32(millionths), two_sided)


@partial(_sharding.jit, static_argnums=2)
def _finalize(state: HistogramState, millionths: Array, two_sided: bool) -> tuple[Array, Array]:
    sides = _totals.running_counts(state.counts.reshape(2, -1))
    positive, negative = [(sides[0][i], sides[1][i]) for i in range(2)]
    above, below = _totals.last(positive), _totals.last(negative)
    need = _times(_wide.add(above, below), millionths)
    if two_sided:
        high = _end(_wide.add(positive, below), need, below)
        low = _end(_wide.add(negative, above), need, above)
    else:
        low = high = _end(_wide.add(positive, negative), need, None)
    return cut(state.seen, -low, high)


def _end(cumulative: _wide.Pair, need: _wide.Limbs, other_side: _wide.Pair | None) -> Array:
    """The largest number of the first bin at which enough elements lie at or below it; 0 on the other side.

    k >= ceil(p * N / 10**6) is decided as k * 10**6 >= p * N, which takes up to 68 bits.
    """
    first = jnp.count_nonzero(_less(_times(cumulative, MILLION), need))
    end = lax.bitcast_convert_type((first.astype(jnp.int32) << 16) | 0xFFFF, jnp.float32)  # CAL-4
    if other_side is None:
        return end
    return jnp.where(_less(_times(other_side, MILLION), need), end, 0.0)


def _times(pair: _wide.Pair, factor: Array | int) -> _wide.Limbs:
    return _wide.multiply_limbs(jnp.uint32(factor), pair[0].astype(jnp.uint32), pair[1])


def _less(a: _wide.Limbs, b: _wide.Limbs) -> Array:
    low = a[0] < b[0]
    middle = (a[1] < b[1]) | ((a[1] == b[1]) & low)
    return (a[2] < b[2]) | ((a[2] == b[2]) & middle)


__all__ = ["finalize", "init", "merge", "update"]
