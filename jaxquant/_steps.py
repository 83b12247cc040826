"""The steps of affine quantization inside a trace, on arrays laid out so that scales broadcast (specs/20-affine.md)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxquant import _exact, bits, codec, rounding
from jaxquant._plan import Plan
from refquant.conventions import Affine
from refquant.formats import CodebookFormat, FloatFormat, Format, IntFormat

MAGIC = 12582912
MAGIC_BITS = 0x4B400000
Mask = Callable[[], jax.Array]


def check(function: str, fmt: Format, convention: Affine) -> None:
    """Refuse what 32-bit arithmetic cannot do exactly.

    Raises:
      ValueError: prec "f64", or zero "fma" beside op "div" or prec "f16".
    """
    fused = isinstance(fmt, IntFormat) and convention.zero == "fma"
    if convention.prec == "f64" or fused:
        raise ValueError(
            f"{function}: convention '{convention}' needs 64-bit arithmetic, need one with prec f32 or f16 and zero "
            "int, add or bias (use thresholds: jaxquant.thresholds.apply)"
        )


def quantized(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: jax.Array | None) -> tuple[jax.Array, Mask]:
    """(int32 codes, STE mask) of widened x."""
    if isinstance(plan.fmt, IntFormat):
        return _integers(plan, x, scale, zero_point)
    ratio = _exact.flush(_ratio(_exact.flush(x), scale, plan.convention))
    return codec.codes_of(ratio, plan.fmt, plan.cast), lambda: _real_inside(plan, ratio)


def dequantized(plan: Plan, codes: jax.Array, scale: jax.Array, zero_point: jax.Array | None) -> jax.Array:
    """DEQ-1..DEQ-3 of int32 codes, binary32."""
    fmt = plan.fmt
    if not isinstance(fmt, IntFormat):
        return _exact.flush(_exact.flush(codec.values_of(codes, fmt)) * scale)
    if zero_point is None:
        return codes.astype(jnp.float32) * scale
    if zero_point.dtype == jnp.float32:
        return _exact.rounded((codes - fmt.qmin).astype(jnp.float32) * scale) + zero_point
    return (codes - zero_point).astype(jnp.float32) * scale


def _ratio(x: jax.Array, scale: jax.Array, convention: Affine) -> jax.Array:
    """AFF-2.  A binary16 step is the binary32 step rounded again: innocuous, as 24 >= 2 * 11 + 2."""
    half = (lambda v: _exact.widen(_exact.narrow(v, "float16"))) if convention.prec == "f16" else _exact.rounded
    x, scale = half(x), half(scale)
    if convention.op == "div":
        return half(_exact.div(x, scale))
    return half(x * (half(_exact.reciprocal(scale)) if convention.op == "inv" else scale))


def _integers(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: jax.Array | None) -> tuple[jax.Array, Mask]:
    fmt, convention = plan.fmt, plan.convention
    zero = 0 if zero_point is None else zero_point
    if convention.zero == "bias":
        x = x if zero_point is None else x - zero_point
    ratio = _ratio(x, scale, convention)
    if convention.zero == "add" and zero_point is not None:
        ratio = ratio + zero.astype(jnp.float32)
    offset = {"int": zero, "add": 0, "bias": fmt.qmin}[convention.zero]
    low, high = jnp.asarray(fmt.qmin - offset, jnp.float32), jnp.asarray(fmt.qmax - offset, jnp.float32)
    whole = _whole(ratio, convention, high)
    clipped = _clip(whole, low, high, convention, zero if convention.zero == "add" else 0)
    judged = ratio if plan.mask == "ratio" else whole
    return clipped.astype(jnp.int32) + offset, lambda: (judged >= low) & (judged <= high)


def _whole(ratio: jax.Array, convention: Affine, high: jax.Array) -> jax.Array:
    """RND-1 and the overflow rule of AFF-4 in binary32; whatever wraps is put far outside, on its side."""
    if convention.overflow == "magic":
        wrapped = _exact.bits(_exact.rounded(ratio) + jnp.float32(MAGIC)) - MAGIC_BITS
        limited = jnp.clip(wrapped, -(1 << 24), 1 << 24).astype(jnp.float32)
        return jnp.where(_exact.is_nan(ratio), ratio, limited)
    whole = rounding.to_integer(ratio, convention.ties)
    if convention.overflow == "sat":
        return whole
    limit = jnp.float32(2.0**31 if convention.overflow == "i32" else 2.0**63)
    return jnp.where(whole >= limit, -limit, whole)


def _clip(whole: jax.Array, low: jax.Array, high: jax.Array, convention: Affine, zero: jax.Array | int) -> jax.Array:
    """AFF-4 and AFF-5: into low..high, NaN by the convention.  A comparison with NaN is false, which is `low` here."""
    if convention.nan == "zero" and convention.zero != "bias":
        whole = jnp.where(_exact.is_nan(whole), jnp.asarray(zero, jnp.float32), whole)
    if convention.nan == "qmax":
        whole = jnp.where(whole < high, whole, high)
        return jnp.where(whole > low, whole, low)
    whole = jnp.where(whole > low, whole, low)
    return jnp.where(whole < high, whole, high)


def _real_inside(plan: Plan, ratio: jax.Array) -> jax.Array:
    """STE-3, on ordered keys and magnitudes; NaN is outside."""
    fmt = plan.fmt
    nan = _exact.is_nan(ratio)
    if isinstance(fmt, CodebookFormat):
        key = bits.key_of(ratio)
        low, high = (bits.key_of(jnp.float32(v)) for v in (min(fmt.values), max(fmt.values)))
        return (key >= low) & (key <= high) & ~nan
    magnitude = _exact.bits(ratio) & _exact.MAGNITUDE
    if plan.mask == "ratio":
        return magnitude <= _exact.bits(jnp.float32(fmt.max_value))
    return _encodes_inside(plan, fmt, magnitude, _exact.bits(ratio) < 0) & ~nan


def _encodes_inside(plan: Plan, fmt: FloatFormat, magnitude: jax.Array, negative: jax.Array) -> jax.Array:
    from jaxquant import _minifloats

    return _minifloats.unbounded_code(magnitude, negative, fmt, plan.cast) <= fmt.max_code
