"""The clipping threshold that loses least information (specs/40-calibration.md, CAL-6, CAL-13..CAL-15).

Migacz, 8-bit inference with TensorRT (GTC 2017), in the form of NVIDIA Model-Optimizer's `calib/histogram.py`.
Departs from it: the divergence is computed in integers, so that its smallest value is the same everywhere.
"""

from functools import lru_cache, partial

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxquant import _sharding, _wide
from jaxquant._exact import scalb
from jaxquant.calibration import _totals, linear
from jaxquant.calibration.linear import LinearState, init, merge, update
from jaxquant.calibration.minmax import add_counts, cut
from refquant import checks
from refquant.formats import Format, IntFormat
from refquant.kinds import kinds

BINS, START, MOST_LEVELS = linear.BINS // 2, 128, 1024


@kinds
@partial(_sharding.jit, static_argnames=("fmt",))
def finalize(state: LinearState, *, fmt: Format) -> tuple[Array, Array]:
    """The range whose clipped and quantized histogram is nearest to the histogram.

    Args:
      state: from `update` or `merge`.
      fmt: an integer format of at most 1,024 magnitudes (qmax + 1).
    Returns:
      low, high: float32 (); 0..0 where nothing was seen.
    Raises:
      ValueError: another format.

    Spec: CAL-6, CAL-13..CAL-15 (specs/40-calibration.md).  Class: exact.
    Differs from: ModelOpt (binary64; bins of the first batch's width).
    Example:
      >>> from refquant.formats import ALL
      >>> state = update(init(), jnp.float32(np.tan(np.linspace(-1.55, 1.55, 9999))))
      >>> [float(v) for v in finalize(state, fmt=ALL["int4"])]
      [-16.4375, 16.4375]
    """
    levels = level_count(fmt)
    h = _folded(state.counts)
    candidates = np.arange(max(START, levels), BINS + 1)  # a constant: XLA would fold the edges for seconds
    before = _before(h)
    outliers = before[-1] - before[candidates]
    top = jnp.max(jnp.where(h > 0, jnp.arange(1, BINS + 1), 0))
    allowed = ((h[candidates - 1] > 0) | (outliers == 0)) & (candidates <= top)  # CAL-13
    best = _last_smallest(_divergences(h, candidates, levels), allowed, candidates)
    threshold = scalb(best.astype(jnp.float32), linear.exponent(state.seen) - 10)
    low, high = cut(state.seen, -threshold, threshold)
    found = jnp.any(allowed)
    return jnp.where(found, low, state.seen.low), jnp.where(found, high, state.seen.high)


def level_count(fmt: Format) -> int:
    """The magnitudes of a format (CAL-6).

    Raises:
      ValueError: no integer format, or too many.
    """
    names = (fmt.name,) if isinstance(fmt, IntFormat) and fmt.qmax < MOST_LEVELS else ()
    checks.option(
        "finalize", "fmt", fmt.name, names, "an integer format of at most 1,024 magnitudes such as int8 (CAL-6)"
    )
    return fmt.qmax + 1


def lg(v: Array) -> Array:
    """2**24 * log2(v) in integers, 0 where v is 0.

    Args:
      v: int32, not negative.
    Returns:
      int32, shape of v.

    Spec: CAL-15 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> lg(jnp.int32([1, 2, 1024])).tolist()
      [0, 16777216, 167772160]
    """
    v = jnp.maximum(v, 1)
    zeros = lax.clz(v)
    t = (v << zeros) & 0x7FFFFFFF
    a, b = t >> 21, (t & 0x1FFFFF) >> 5
    table = jnp.asarray(log_table())
    return ((31 - zeros) << 24) + table[a] + (((table[a + 1] - table[a]) * b) >> 16)


@lru_cache(maxsize=1)
def log_table() -> np.ndarray:
    """T: floor(2**24 * log2(1 + a / 1024)), a = 0..1024, by squaring in Python integers (CAL-15)."""
    return np.array([_log_entry(a) for a in range(1024)] + [1 << 24], np.int32)


def _log_entry(a: int) -> int:
    y, digits = (1024 + a) << 118, 0  # 1 + a/1024 with 128 binary places
    for _ in range(24):
        y = y * y >> 128
        digit = y >> 129
        digits, y = 2 * digits + digit, y >> digit
    return digits


def _folded(counts: Array) -> Array:
    """CAL-6: h, int32 (2048,)."""
    pairs = add_counts(counts[:, ::2], counts[:, 1::2])
    h = add_counts(pairs[0], pairs[1])
    h = h.at[0].set(h[1])
    high, low = _totals.total(_totals.counted(h))
    shift = jnp.maximum(_wide.bit_length((low, high.astype(jnp.uint32), jnp.uint32(0))) - 30, 0).astype(jnp.uint32)
    return ((h.astype(jnp.uint32) + (jnp.uint32(1) << shift) - 1) >> shift).astype(jnp.int32)


def _before(h: Array) -> Array:
    """Sums of the bins before each, int32 (2049,): below 2**31 by CAL-6."""
    return jnp.concatenate([jnp.zeros(1, jnp.int32), lax.cumsum(h)])


def _divergences(h: Array, i: np.ndarray, levels: int) -> _wide.Pair:
    """CAL-14: D(i) of every candidate; rows are candidates, columns levels."""
    sums, used = _before(h), _before((h > 0).astype(jnp.int32))
    edges = -(-np.arange(levels + 1) * i[:, None] // levels)  # CAL-13
    quantized = sums[edges[:, 1:]] - sums[edges[:, :-1]]
    used = used[edges[:, 1:]] - used[edges[:, :-1]]
    kept, outliers = sums[i], sums[-1] - sums[i]
    mass = quantized + jnp.where(np.arange(levels) == levels - 1, outliers[:, None], 0)
    cross = _totals.total(_times(mass, lg(quantized) - lg(used)))
    own = _totals.running(_times(h, lg(h)))
    last = h[i - 1] + outliers
    entropy = _wide.add((own[0][i - 2], own[1][i - 2]), _times(last, lg(last)))
    return _wide.add(_wide.add(entropy, _negative(cross)), _times(kept + outliers, lg(kept)))


def _times(a: Array, b: Array) -> _wide.Pair:
    return _wide.multiply(a, b)


def _negative(a: _wide.Pair) -> _wide.Pair:
    return _wide.add((~a[0], ~a[1]), (jnp.zeros_like(a[0]), jnp.ones_like(a[1])))


def _last_smallest(values: _wide.Pair, allowed: Array, candidates: np.ndarray) -> Array:
    """CAL-14: of the allowed candidates with the smallest value the last."""
    high, low = values
    least = jnp.min(jnp.where(allowed, high, 2**31 - 1))
    allowed &= high == least
    smallest = jnp.min(jnp.where(allowed, low, jnp.uint32(2**32 - 1)))
    return jnp.max(jnp.where(allowed & (low == smallest), candidates, 0))


__all__ = ["finalize", "init", "lg", "merge", "update"]
