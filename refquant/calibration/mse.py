"""The clipping range with the smallest quantization error (specs/40-calibration.md, CAL-5, CAL-11, CAL-12).

Frantar et al., GPTQ (arXiv 2210.17323), shrink both ends of the range in steps of a hundredth and keep the best, with
p = 2.4, which is no exact power; LAPQ (Nahshan et al., arXiv 1911.07190) discusses the choice of p.
"""

import numpy as np

from refquant import blocks, checks, scales, sums
from refquant.arguments import as_real
from refquant.bits import flush, ordered_key, scalb
from refquant.calibration import linear
from refquant.calibration.linear import LinearState, init, merge, update
from refquant.checks import within
from refquant.conventions import DEFAULT, Affine
from refquant.formats import Format
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds
from refquant.qtensor import coded, dequantize_tensor
from refquant.spec import QuantSpec, ScaleRule

LARGEST = np.finfo(np.float32).max
SMALLEST_ERROR, LARGEST_ERROR = np.float32(2.0**-31), np.float32(4)


@kinds
@np.errstate(all="ignore")
def finalize(
    state: LinearState,
    *,
    fmt: Format,
    rule: ScaleRule = ScaleRule(),
    convention: Affine = DEFAULT,
    power: int = 2,
    smallest: int = 20,
) -> tuple[np.ndarray, np.ndarray]:
    """The candidate range with the smallest error over the midpoints of the bins.

    Args:
      state: from `update` or `merge`.
      fmt: the format to quantize to.
      rule: how scale and zero point follow from a range.
      convention: how codes are computed.
      power: 1..4, the p of the error |x - x'|**p.
      smallest: the last candidate, in hundredths of the range, 1..100.
    Returns:
      low, high: float32 (); 0..0 where nothing was seen.
    Raises:
      ValueError: an option out of bounds.

    Spec: CAL-5, CAL-11, CAL-12 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> state = update(init(), np.float32([0.5] * 4000 + [10.0]))
      >>> [round(float(v), 4) for v in finalize(state, fmt=ALL["int4"])]
      [0.0, 3.6]
    """
    _check("finalize", power, smallest)
    spec = QuantSpec(fmt, scale=rule, convention=convention)
    x, counts, low, high = linear.midpoints(state), state.counts, state.seen.low, state.seen.high

    def loss(scale: np.ndarray, zero_point: np.ndarray | None) -> np.ndarray:
        error = _error(x, dequantize_tensor(coded(x, scale, zero_point, spec)), _unit(linear.exponent(state.seen)))
        return sums.tree_sum(counts.astype(np.float32) * _power(error, power), axis=(0, 1))  # CAL-12

    return _search(low, high, loss, spec, smallest)


@kinds
@np.errstate(all="ignore")
def search(
    x: np.ndarray,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
    rule: ScaleRule = ScaleRule(),
    convention: Affine = DEFAULT,
    power: int = 2,
    smallest: int = 20,
) -> tuple[np.ndarray, np.ndarray]:
    """The candidate range of each tile with the smallest error over its elements, for weights.

    Args:
      x: float32, float16 or bfloat16, any shape.
      fmt: the format to quantize to.
      granularity: what shares a range.
      rule: how scale and zero point follow from a range.
      convention: how codes are computed.
      power: 1..4, the p of the error |x - x'|**p.
      smallest: the last candidate, in hundredths of the range, 1..100.
    Returns:
      low, high: float32, shape `granularity.scale_shape(x.shape)`.
    Raises:
      TypeError: another dtype.
      ValueError: an option out of bounds.

    Spec: CAL-5, CAL-11, CAL-12 (specs/40-calibration.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> low, high = search(np.float32([0.5] * 4000 + [10.0]), fmt=ALL["int4"])
      >>> round(float(high), 4)
      3.6
    """
    _check("search", power, smallest)
    x = as_real("search", "x", x).astype(np.float32)
    spec = QuantSpec(fmt, granularity, rule, convention)
    low, high = scales.range_of(x, granularity=granularity)
    if x.size == 0:
        return low, high
    x = np.clip(x, -LARGEST, LARGEST)  # CAL-11
    unit = blocks.expand(_unit(_exponent(_largest(low, high))), x.shape, granularity=granularity)
    blocked = blocks.to_blocks(x, granularity=granularity)

    def loss(scale: np.ndarray, zero_point: np.ndarray | None) -> np.ndarray:
        fake = blocks.to_blocks(dequantize_tensor(coded(x, scale, zero_point, spec)), granularity=granularity)
        losses = blocks.in_chunks(lambda a, b, u: _power(_error(a, b, u), power), blocked, fake, unit, dtype=np.float32)
        inner = tuple(range(1, losses.ndim, 2))
        return sums.tree_sum(losses, axis=inner).reshape(low.shape)  # CAL-12

    return _search(low, high, loss, spec, smallest)


def _search(low, high, loss, spec, smallest):  # noqa: ANN001, ANN202
    best_low, best_high, best = low, high, np.full(low.shape, np.inf, np.float32)
    for k in range(100, smallest - 1, -1):  # CAL-5
        candidate = _shrink(low, k), _shrink(high, k)
        found = loss(*scales.choose_scale(*candidate, fmt=spec.fmt, rule=spec.scale))
        better = found < best  # CAL-12 the first of equal ones stays
        best = np.where(better, found, best)
        best_low, best_high = np.where(better, candidate[0], best_low), np.where(better, candidate[1], best_high)
    return best_low, best_high


def _shrink(end: np.ndarray, k: int) -> np.ndarray:
    exponent = _exponent(np.abs(ordered_key(end)))
    ratio = np.float32(k) / np.float32(100)  # GEN-2
    return scalb(scalb(end, -exponent) * ratio, exponent)  # CAL-5


def _error(x: np.ndarray, fake: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """CAL-11: e."""
    error = np.abs(flush(flush(x) - flush(fake))) * unit
    error = np.where(error < SMALLEST_ERROR, np.float32(0), np.minimum(error, LARGEST_ERROR))
    return np.where(np.isnan(x), np.float32(0), error)


def _power(e: np.ndarray, p: int) -> np.ndarray:
    square = e * e
    return {1: e, 2: square, 3: square * e, 4: square * square}[p]  # CAL-11


def _unit(exponent: np.ndarray) -> np.ndarray:
    return scalb(np.float32(1), -np.clip(exponent, -126, 126))  # CAL-11


def _exponent(key: np.ndarray) -> np.ndarray:
    return np.maximum(key >> 23, 1) - 127


def _largest(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.maximum(ordered_key(high), -ordered_key(low))


def _check(function: str, power: int, smallest: int) -> None:
    checks.option(function, "power", power, (1, 2, 3, 4), "powers are products, CAL-11")
    within(function, "smallest", smallest, 1, 100, "hundredths of the range, CAL-5")


__all__ = ["finalize", "init", "merge", "search", "update"]
