"""The clipping threshold that loses least information (specs/40-calibration.md, CAL-6, CAL-13..CAL-15).

Migacz, 8-bit inference with TensorRT (GTC 2017), in the form of NVIDIA Model-Optimizer's `calib/histogram.py`.
Departs from it: the divergence is computed in integers, so that its smallest value is the same everywhere.
"""

from functools import lru_cache

import numpy as np

from refquant import checks
from refquant.bits import scalb
from refquant.calibration import linear
from refquant.calibration.linear import LinearState, init, merge, update
from refquant.calibration.minmax import add_counts, cut
from refquant.formats import Format, IntFormat
from refquant.kinds import kinds

START, MOST_LEVELS = 128, 1024


@kinds
def finalize(state: LinearState, *, fmt: Format) -> tuple[np.ndarray, np.ndarray]:
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
      >>> state = update(init(), np.float32(np.tan(np.linspace(-1.55, 1.55, 9999))))
      >>> [float(v) for v in finalize(state, fmt=ALL["int4"])]
      [-16.4375, 16.4375]
    """
    levels = level_count(fmt)
    h = _folded(state.counts)
    top = int(np.max(np.nonzero(h)[0], initial=-1)) + 1
    entropy = np.append(0, np.cumsum(h * lg(h)))
    found = [(_divergence(h, i, levels, entropy), -i) for i in range(max(START, levels), top + 1) if _allowed(h, i)]
    if not found:
        return linear.finalize(state)
    bins = np.float32(-min(found)[1])  # CAL-14 the last smallest
    threshold = scalb(bins, linear.exponent(state.seen) - 10)
    return cut(state.seen, -threshold, threshold)


def level_count(fmt: Format) -> int:
    """The magnitudes of a format (CAL-6).

    Raises:
      ValueError: no integer format, or too many.
    """
    levels = fmt.qmax + 1 if isinstance(fmt, IntFormat) else MOST_LEVELS + 1
    names = (fmt.name,) if levels <= MOST_LEVELS else ()
    checks.option(
        "finalize", "fmt", fmt.name, names, "an integer format of at most 1,024 magnitudes such as int8 (CAL-6)"
    )
    return levels


def lg(v: np.ndarray) -> np.ndarray:
    """2**24 * log2(v) in integers, 0 where v is 0.

    Args:
      v: int64, 0..2**31 - 1.
    Returns:
      int64, shape of v.

    Spec: CAL-15 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> lg(np.int64([1, 2, 1024])).tolist()
      [0, 16777216, 167772160]
    """
    v = np.maximum(v, 1)
    e = np.frexp(v.astype(np.float64))[1].astype(np.int64) - 1
    t = (v << (31 - e)) - (1 << 31)
    a, b = t >> 21, (t & 0x1FFFFF) >> 5
    table = log_table()
    return (e << 24) + table[a] + (((table[a + 1] - table[a]) * b) >> 16)


@lru_cache(maxsize=1)
def log_table() -> np.ndarray:
    """T: floor(2**24 * log2(1 + a / 1024)), a = 0..1024, by squaring in Python integers (CAL-15)."""
    return np.array([_log_entry(a) for a in range(1024)] + [1 << 24], np.int64)


def _log_entry(a: int) -> int:
    y, digits = (1024 + a) << 118, 0  # 1 + a/1024 with 128 binary places
    for _ in range(24):
        y = y * y >> 128
        digit = y >> 129
        digits, y = 2 * digits + digit, y >> digit
    return digits


def _folded(counts: np.ndarray) -> np.ndarray:
    """CAL-6: h, int64 (2048,)."""
    pairs = add_counts(counts[:, ::2], counts[:, 1::2])
    h = add_counts(pairs[0], pairs[1]).astype(np.int64)
    h[0] = h[1]
    shift = max(0, int(h.sum()).bit_length() - 30)
    return -(-h >> shift)


def _allowed(h: np.ndarray, i: int) -> bool:
    return bool(h[i - 1] > 0 or not h[i:].any())  # CAL-13


def _divergence(h: np.ndarray, i: int, levels: int, entropy: np.ndarray) -> int:
    """CAL-14: D(i), where entropy[j] is the sum of h lg h over the bins before j."""
    kept, outliers = h[:i].sum(), h[i:].sum()
    starts = -(-np.arange(levels) * i // levels)  # CAL-13
    quantized, used = np.add.reduceat(h[:i], starts), np.add.reduceat(h[:i] > 0, starts, dtype=np.int64)
    mass, last = quantized.copy(), h[i - 1] + outliers
    mass[-1] += outliers
    own = entropy[i - 1] + last * lg(last)
    return int(own - (mass * (lg(quantized) - lg(used))).sum() + (kept + outliers) * lg(kept))


__all__ = ["finalize", "init", "lg", "merge", "update"]
