"""The clipping range with the smallest quantization error (specs/40-calibration.md, CAL-5, CAL-11, CAL-12).

Frantar et al., GPTQ (arXiv 2210.17323), shrink both ends of the range in steps of a hundredth and keep the best, with
p = 2.4, which is no exact power; LAPQ (Nahshan et al., arXiv 1911.07190) discusses the choice of p.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxquant import _exact, _inputs, _sharding, blocks, scales
from jaxquant._exact import flush, scalb
from jaxquant.bits import key_of
from jaxquant.calibration import linear
from jaxquant.calibration.linear import LinearState, init, merge, update
from jaxquant.qtensor import coded, dequantize_tensor
from refquant import checks
from refquant.checks import within
from refquant.conventions import DEFAULT, Affine
from refquant.formats import Format
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds
from refquant.spec import QuantSpec, ScaleRule

LARGEST = 0x7F7FFFFF
SMALLEST_ERROR, LARGEST_ERROR = 2.0**-31, 4.0
RATIOS = np.arange(101, dtype=np.float32) / np.float32(100)  # CAL-5: constants, divided by NumPy


@kinds
def finalize(
    state: LinearState,
    *,
    fmt: Format,
    rule: ScaleRule = ScaleRule(),
    convention: Affine = DEFAULT,
    power: int = 2,
    smallest: int = 20,
) -> tuple[Array, Array]:
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
      >>> state = update(init(), jnp.float32([0.5] * 4000 + [10.0]))
      >>> [round(float(v), 4) for v in finalize(state, fmt=ALL["int4"])]
      [0.0, 3.6]
    """
    _check("finalize", power, smallest)
    return _search_bins(state, QuantSpec(fmt, scale=rule, convention=convention), power, smallest)


@partial(_sharding.jit, static_argnums=(1, 2, 3))
def _search_bins(state: LinearState, spec: QuantSpec, power: int, smallest: int) -> tuple[Array, Array]:
    x, counts, low, high = linear.midpoints(state), state.counts, state.seen.low, state.seen.high

    def loss(scale: Array, zero_point: Array | None) -> Array:
        error = _error(x, dequantize_tensor(coded(x, scale, zero_point, spec)), _unit(linear.exponent(state.seen)))
        return _total(_exact.rounded(counts.astype(jnp.float32) * _power(error, power)), (1, 0))  # CAL-12

    return _search(low, high, loss, spec, smallest)


@kinds
def search(
    x: Array,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
    rule: ScaleRule = ScaleRule(),
    convention: Affine = DEFAULT,
    power: int = 2,
    smallest: int = 20,
) -> tuple[Array, Array]:
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
      >>> low, high = search(jnp.float32([0.5] * 4000 + [10.0]), fmt=ALL["int4"])
      >>> round(float(high), 4)
      3.6
    """
    _check("search", power, smallest)
    x = _inputs.real("search", "x", x)
    return _search_data(x, QuantSpec(fmt, granularity, rule, convention), power, smallest)


@partial(_sharding.jit, static_argnums=(1, 2, 3))
def _search_data(x: Array, spec: QuantSpec, power: int, smallest: int) -> tuple[Array, Array]:
    x = _finite(_exact.widen(x))
    low, high = scales.range_of(x, granularity=spec.granularity)
    if x.size == 0:
        return low, high
    tile = spec.granularity.tile(x.shape)
    unit = blocks.spread(_unit(_exponent(_largest(low, high))), x.shape, tile)

    def loss(scale: Array, zero_point: Array | None) -> Array:
        losses = _power(_error(x, dequantize_tensor(coded(x, scale, zero_point, spec)), unit), power)
        losses, inside = blocks.tiled(losses.reshape(x.shape), tile, jnp.float32(0))
        return _total(losses, inside[::-1]).reshape(low.shape)  # CAL-12

    return _search(low, high, loss, spec, smallest)


def _search(
    low: Array, high: Array, loss: Callable[[Array, Array | None], Array], spec: QuantSpec, smallest: int
) -> tuple[Array, Array]:
    def step(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        k = 100 - i  # CAL-5
        ends = _shrink(low, k), _shrink(high, k)
        found = loss(*scales.choose_scale(*ends, fmt=spec.fmt, rule=spec.scale))
        better = found < best[0]  # CAL-12 the first of equal ones stays
        return jnp.where(better, found, best[0]), jnp.where(better, k, best[1])

    start = jnp.full(low.shape, jnp.inf, jnp.float32), jnp.full(low.shape, 100, jnp.int32)
    _, k = lax.fori_loop(0, 101 - smallest, step, tuple(_sharding.varying_as(v, low, high) for v in start))
    return _shrink(low, k), _shrink(high, k)


def _shrink(end: Array, k: Array) -> Array:
    exponent = _exponent(jnp.abs(key_of(end)))
    product = _exact.rounded(scalb(end, -exponent) * jnp.asarray(RATIOS)[k])
    return scalb(product, exponent)  # CAL-5


def _error(x: Array, fake: Array, unit: Array) -> Array:
    """CAL-11: e."""
    error = _exact.rounded(jnp.abs(flush(flush(x) - _exact.rounded(flush(fake)))) * unit)
    error = jnp.where(error < SMALLEST_ERROR, 0.0, jnp.minimum(error, LARGEST_ERROR))
    return jnp.where(_exact.is_nan(x), 0.0, error)


def _power(e: Array, p: int) -> Array:
    square = _exact.rounded(e * e)
    return {1: e, 2: square, 3: _exact.rounded(square * e), 4: _exact.rounded(square * square)}[p]  # CAL-11


def _total(losses: Array, axes: tuple[int, ...]) -> Array:
    """SUM-1 over axes in descending order."""
    for axis in axes:
        losses = _exact.tree_sum(losses, axis)
    return losses


def _finite(x: Array) -> Array:
    """±inf as ±FLT_MAX (CAL-11)."""
    pattern = _exact.bits(x)
    infinite = (pattern & 0x7FFFFFFF) == 0x7F800000
    return _exact.from_bits(jnp.where(infinite, pattern - 1, pattern))


def _unit(exponent: Array) -> Array:
    return scalb(jnp.float32(1), -jnp.clip(exponent, -126, 126))  # CAL-11


def _exponent(key: Array) -> Array:
    return jnp.maximum(key >> 23, 1) - 127


def _largest(low: Array, high: Array) -> Array:
    return jnp.maximum(key_of(high), -key_of(low))


def _check(function: str, power: int, smallest: int) -> None:
    checks.option(function, "power", power, (1, 2, 3, 4), "powers are products, CAL-11")
    within(function, "smallest", smallest, 1, 100, "hundredths of the range, CAL-5")


__all__ = ["finalize", "init", "merge", "search", "update"]
