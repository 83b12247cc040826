"""Ranges, scales and zero points (specs/30-scales.md)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxquant import _exact, _inputs, _sharding, bits, blocks, codec
from refquant import checks
from refquant.conventions import CAST
from refquant.formats import ALL, Format, IntFormat
from refquant.granularity import Granularity, PerTensor, Shape
from refquant.kinds import kinds
from refquant.spec import ScaleRule, check_scale_rule, denominator, scale_limits

COLUMNS = 16  # contiguous elements, from which on
LARGE = 1 << 20  # a range of so many elements is worth a loop over rows
FLT_MAX_KEY = 0x7F7FFFFF
FLT_MAX = float.fromhex("0x1.fffffep+127")
Pair = tuple[jax.Array, jax.Array]
Ends = Callable[[jax.Array], Pair]  # of each element: what may be the smallest, what may be the largest


@kinds
def range_of(x: jax.Array, *, granularity: Granularity = PerTensor()) -> tuple[jax.Array, jax.Array]:
    """The range of each tile, zero included.

    Args:
      x: float32, float16 or bfloat16, any shape.
      granularity: which elements share a range.
    Returns:
      (low, high), float32, shape `granularity.scale_shape(x.shape)`; low <= 0 <= high.  NaN is ignored, ±inf counts
      as ±FLT_MAX, an empty tile has the range 0..0.
    Raises:
      TypeError: x has another dtype.  ValueError: the granularity does not fit x.

    Spec: SCL-1 (specs/30-scales.md).  Class: exact.
    """
    x = _inputs.real("range_of", "x", x)
    return _range_of(x, tile=granularity.tile(x.shape), shape=granularity.scale_shape(x.shape))


@kinds
def choose_scale(
    low: jax.Array, high: jax.Array, *, fmt: Format, rule: ScaleRule = ScaleRule()
) -> tuple[jax.Array, jax.Array | None]:
    """Scale and zero point of a range.

    Args:
      low: float32, at most 0, any shape.
      high: float32, at least 0, shape of low.
      fmt: the format the scale is for.
      rule: symmetric or not, which denominator, which storage.
    Returns:
      (scale, zero_point): float32 scale, a value of the storage; zero_point None (symmetric), int32, or float32.
    Raises:
      TypeError: low or high is not float32.  ValueError: shapes differ, or the rule does not fit the format.

    Spec: SCL-2..SCL-8 (specs/30-scales.md).  Class: exact.
    """
    check_scale_rule("choose_scale", fmt, rule)
    low, high = _inputs.real("choose_scale", "low", low), _inputs.real("choose_scale", "high", high)
    checks.same_shape("choose_scale", "high", high.shape, low.shape, "low")
    return _choose_scale(low, high, fmt=fmt, rule=rule)


def scale_of(
    x: jax.Array, *, fmt: Format, granularity: Granularity, rule: ScaleRule
) -> tuple[jax.Array, jax.Array | None]:
    """`choose_scale` of `range_of`, in one program.

    Args:
      x: float32, float16 or bfloat16, any shape.
      fmt: the format the scale is for.
      granularity: which elements share a scale.
      rule: symmetric or not, which denominator, which storage.
    Returns:
      (scale, zero_point) as `choose_scale` gives them.

    Spec: SCL-1..SCL-8 (specs/30-scales.md).  Class: exact.
    """
    check_scale_rule("choose_scale", fmt, rule)
    shape = granularity.scale_shape(x.shape)
    return _scale_of(x, tile=granularity.tile(x.shape), shape=shape, fmt=fmt, rule=rule)


@partial(_sharding.jit, static_argnames=("tile", "shape", "fmt", "rule"))
def _scale_of(
    x: jax.Array, *, tile: Shape, shape: Shape, fmt: Format, rule: ScaleRule
) -> tuple[jax.Array, jax.Array | None]:
    if rule.zero == "none" and rule.denominator != "signed_absmax":
        return _as_stored(_own_quotient(x, tile, shape, fmt, rule), rule), None
    return _chosen(*_range_keys(x, tile, shape), fmt, rule)


@partial(_sharding.jit, static_argnames=("tile", "shape"))
def _range_of(x: jax.Array, *, tile: Shape, shape: Shape) -> tuple[jax.Array, jax.Array]:
    low, high = _range_keys(x, tile, shape)
    return bits.value_of(low), bits.value_of(high)


def _range_keys(x: jax.Array, tile: Shape, shape: Shape) -> tuple[jax.Array, jax.Array]:
    """The range of each tile as ordered keys (SCL-1)."""
    if x.size == 0:
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32)  # SCL-1, GRA-2
    low, high = _extremes(*_tiles(x, tile), lambda v: (_keys(v),) * 2, np.int32(0))
    return low.reshape(shape), high.reshape(shape)


def _own_quotient(x: jax.Array, tile: Shape, shape: Shape, fmt: Format, rule: ScaleRule) -> jax.Array:
    """SCL-1..SCL-5 of a symmetric scale.

    A quotient lies between two powers of two where the magnitude lies between D times them, so the limits of the scale
    are limits of the magnitudes, and what is left to do for a tile is one division.
    """
    by = denominator(fmt, rule)
    smallest, largest = (np.float32(min(by * limit, FLT_MAX)) for limit in scale_limits(fmt))
    if x.size == 0:
        return jnp.full(shape, scale_limits(fmt)[0], jnp.float32)  # SCL-1, GRA-2

    def ends(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        size = jnp.abs(_exact.widen(v))
        size = _exact.select(size <= np.float32(np.inf), jnp.minimum(size, largest), np.float32(0))
        return -size, size

    tiles, axes = _tiles(x, tile)
    low, high = _extremes(tiles, axes, ends, smallest)
    amax = jnp.maximum(-low, high) if _in_one_pass(tiles, axes) else high
    return _exact.div(amax.reshape(shape), np.float32(by))


@partial(_sharding.jit, static_argnames=("fmt", "rule"))
def _choose_scale(
    low: jax.Array, high: jax.Array, *, fmt: Format, rule: ScaleRule
) -> tuple[jax.Array, jax.Array | None]:
    return _chosen(jnp.minimum(_keys(low), 0), jnp.maximum(_keys(high), 0), fmt, rule)


def _chosen(low: jax.Array, high: jax.Array, fmt: Format, rule: ScaleRule) -> tuple[jax.Array, jax.Array | None]:
    """Scale and zero point of a range given as ordered keys."""
    if rule.zero == "none":
        return _stored(_symmetric(low, high, fmt, rule), fmt, rule), None
    low, high = bits.value_of(low), bits.value_of(high)
    width = jnp.minimum(high - low, np.float32(FLT_MAX))
    scale = _stored(_exact.div(width, np.float32(fmt.qmax - fmt.qmin)), fmt, rule)
    return scale, _exact.flush(low) if rule.zero == "float" else _zero_point(low, scale, fmt)


def _tiles(x: jax.Array, tile: Shape) -> tuple[jax.Array, tuple[int, ...]]:
    """`blocks.tiled`, the axes of one element left out: there is nothing to reduce."""
    tiles, inside = blocks.tiled(x, tile, x.dtype.type(0))
    return tiles, tuple(axis for axis in inside if tiles.shape[axis] > 1)


def _extremes(x: jax.Array, axes: tuple[int, ...], ends: Ends, start: Any) -> tuple[jax.Array, jax.Array]:
    """The smallest low end, at most -start, and the largest high end, at least start, over axes.

    The start is no initial value of a reduction: over one element, as an axis sharded over devices may have on each of
    them, XLA forgets it.  Witness: test_ranges_of_one_row_a_device_differential.
    """
    if not axes:
        return _together((-start, start), ends(x))
    by_rows, reduced = (partial(way, axes=axes, ends=ends) for way in (_by_rows, _reduced))
    whole = axes[-1] - axes[0] + 1 == len(axes)
    if not whole or x.size < LARGE or math.prod(x.shape[axes[-1] + 1 :]) < COLUMNS:
        return _together((-start, start), reduced(x))
    return _together((-start, start), lax.platform_dependent(x, cpu=by_rows, default=reduced))


def _reduced(x: jax.Array, axes: tuple[int, ...], ends: Ends) -> tuple[jax.Array, jax.Array]:
    low, high = ends(x)
    most = np.array(np.inf if low.dtype == jnp.float32 else np.iinfo(np.int32).max, low.dtype)
    if _in_one_pass(x, axes):
        return lax.reduce((low, high), (most, -most), _together, axes)
    return lax.reduce(low, most, lax.min, axes), lax.reduce(high, -most, lax.max, axes)


def _in_one_pass(x: jax.Array, axes: tuple[int, ...]) -> bool:
    """Over the last axis XLA:CPU makes a loop of vectors of two reductions together (20 times as fast as one alone, if
    both are used), over earlier axes of each alone.
    """
    return x.ndim - 1 in axes


def _together(a: Pair, b: Pair) -> Pair:
    return jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])


def _by_rows(x: jax.Array, axes: tuple[int, ...], ends: Ends) -> tuple[jax.Array, jax.Array]:
    """Row after row: XLA:CPU reduces over earlier axes column after column, 7 times as slow.

    Rows that are sharded over devices are gathered first, which on CPUs costs memory alone.
    """
    before, after = x.shape[: axes[0]], x.shape[axes[-1] + 1 :]
    rows = x.reshape(math.prod(before), -1, math.prod(after))

    def row(i: jax.Array | int) -> Pair:
        return ends(lax.dynamic_index_in_dim(rows, i, 1, keepdims=False))

    low, high = lax.fori_loop(1, rows.shape[1], lambda i, found: _together(found, row(i)), row(0))
    return low.reshape(*before, *after), high.reshape(*before, *after)


def _keys(x: jax.Array) -> jax.Array:
    """SCL-1: ordered keys, NaN as 0, infinities as the largest finite value."""
    keys = bits.key_of(_exact.widen(x))
    limit = np.int32(FLT_MAX_KEY)
    return _exact.select(jnp.abs(keys) <= _exact.INF, lax.clamp(-limit, keys, limit), 0)


def _symmetric(low: jax.Array, high: jax.Array, fmt: Format, rule: ScaleRule) -> jax.Array:
    """SCL-2..SCL-4, of ordered keys."""
    below, above = -low, high
    amax = _exact.from_bits(jnp.maximum(below, above))  # the key of a positive number is its pattern
    if rule.denominator == "signed_absmax":
        amax = _exact.select(below > above, -amax, amax)
    return _exact.div(amax, np.float32(denominator(fmt, rule)))


def _stored(quotient: jax.Array, fmt: Format, rule: ScaleRule) -> jax.Array:
    """SCL-5, SCL-6."""
    with np.errstate(all="ignore"):  # the largest is infinite for formats with small values
        smallest, largest = (np.float32(limit) for limit in scale_limits(fmt))
    if rule.denominator == "signed_absmax":
        quotient = _exact.flush(quotient)
        magnitude = lax.clamp(smallest, jnp.abs(quotient), largest)
        scale = _exact.select(quotient < 0, -magnitude, magnitude)
    else:
        scale = lax.clamp(smallest, quotient, largest)  # not negative; subnormals come up to the smallest scale
    return _as_stored(scale, rule)


def _as_stored(scale: jax.Array, rule: ScaleRule) -> jax.Array:
    """SCL-6."""
    if rule.storage == "float32":
        return scale
    if rule.storage in ("pow2", "e8m0fnu"):
        return _exact.from_bits((_exact.bits(scale) + 0x7FFFFF) & 0x7F800000)
    storage = ALL[rule.storage]
    rounded = codec.values_of(codec.codes_of(scale, storage, CAST), storage)
    return jnp.where((_exact.bits(rounded) & _exact.MAGNITUDE) == 0, np.float32(storage.min_value), rounded)


def _zero_point(low: jax.Array, scale: jax.Array, fmt: IntFormat) -> jax.Array:
    """SCL-7: clamped before the cast; beyond 2**24 every result is qmax."""
    steps = lax.round(_exact.div(low, scale), lax.RoundingMethod.TO_NEAREST_EVEN)
    steps = jnp.clip(steps, np.float32(-(2.0**24)), np.float32(2.0**24)).astype(jnp.int32)
    return jnp.clip(fmt.qmin - steps, fmt.qmin, fmt.qmax)
