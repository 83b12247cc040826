"""Rounding by given random bits (specs/62-estimators.md, SRD-1, SRD-2).

Gupta, Agrawal, Gopalakrishnan, Narayanan: Deep Learning with Limited Numerical Precision, ICML 2015.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxquant import _exact, _inputs, _sharding, _steps, blocks
from jaxquant._first_order import first_order
from jaxquant._plan import Plan
from jaxquant.qat.learned import judged, passed
from jaxquant.rounding import round_stochastic
from refquant import checks
from refquant.conventions import CAST, DEFAULT
from refquant.estimators import check_integer
from refquant.formats import Format
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds

FAR = 1 << 24


@kinds
def stochastic_quantize(
    x: jax.Array,
    scale: jax.Array,
    zero_point: jax.Array | None,
    bits: jax.Array,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
) -> jax.Array:
    """Codes of x, rounded up with the probability of the fraction of x / scale, by given random bits.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, shape `granularity.scale_shape(x.shape)`.
      zero_point: int32, shape of scale; None is zero.
      bits: uint32, shape of x, uniform; the upper 24 bits count.
      fmt: an integer format.
      granularity: which elements share a scale.
    Returns:
      `fmt.storage`, shape of x.  NaN gives qmin.
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: a shape does not fit.

    Spec: SRD-1 (specs/62-estimators.md).  Class: exact.
    """
    plan, operands = _prepare("stochastic_quantize", x, scale, zero_point, bits, fmt, granularity)
    return _quantize(plan, *operands)


@kinds
def stochastic_fake_quantize(
    x: jax.Array,
    scale: jax.Array,
    zero_point: jax.Array | None,
    bits: jax.Array,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
) -> jax.Array:
    """The values that x has after `stochastic_quantize` and `dequantize`.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, shape `granularity.scale_shape(x.shape)`.
      zero_point: int32, shape of scale; None is zero.
      bits: uint32, shape of x.
      fmt: an integer format.
      granularity: which elements share a scale.
    Returns:
      dtype and shape of x.
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: a shape does not fit.

    Spec: SRD-2 (specs/62-estimators.md).  Class: exact.
    """
    plan, operands = _prepare("stochastic_fake_quantize", x, scale, zero_point, bits, fmt, granularity)
    return _fake_quantize(plan, *operands)


@kinds
def stochastic_fake_quantize_vjp(
    x: jax.Array,
    scale: jax.Array,
    zero_point: jax.Array | None,
    bits: jax.Array,
    cotangent: jax.Array,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
) -> jax.Array:
    """The straight-through gradient of `stochastic_fake_quantize` for x; the bits play no part.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, shape `granularity.scale_shape(x.shape)`.
      zero_point: int32, shape of scale; None is zero.
      bits: uint32, shape of x.
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: an integer format.
      granularity: which elements share a scale.
    Returns:
      dtype and shape of cotangent.
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: a shape does not fit.

    Spec: SRD-2 (specs/62-estimators.md).  Class: exact.
    """
    name = "stochastic_fake_quantize_vjp"
    plan, (x, scale, zero_point, _) = _prepare(name, x, scale, zero_point, bits, fmt, granularity)
    cotangent = _inputs.real(name, "cotangent", cotangent)
    checks.same_shape(name, "cotangent", cotangent.shape, x.shape, "x")
    return _vjp(plan, x, scale, zero_point, cotangent)


def _prepare(
    name: str, x: Any, scale: Any, zero_point: Any, bits: Any, fmt: Format, granularity: Granularity
) -> tuple[Plan, tuple]:
    check_integer(name, fmt)
    x, scale = _inputs.real(name, "x", x), _inputs.scale(name, scale)
    checks.scale_shape(name, "scale", scale.shape, x.shape, granularity)
    zero_point = _inputs.zero_point(name, zero_point, "int", fmt)
    if zero_point is not None:
        checks.scale_shape(name, "zero_point", zero_point.shape, x.shape, granularity)
    bits = _inputs.array(bits)
    checks.random_bits(name, bits.dtype)
    checks.same_shape(name, "bits", bits.shape, x.shape, "x")
    return Plan(fmt, granularity.tile(x.shape), DEFAULT, CAST, "ratio"), (x, scale, zero_point, bits)


def _spread(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: Any) -> tuple[jax.Array, Any]:
    """Scale and zero point for each element, the latter as the format's nearest code (SRD-1)."""
    each = blocks.spread(_exact.rounded(jnp.asarray(scale)), x.shape, plan.tile)
    if zero_point is None:
        return each, None
    return each, blocks.spread(jnp.clip(zero_point, plan.fmt.qmin, plan.fmt.qmax), x.shape, plan.tile)


def _codes(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: Any, bits: jax.Array) -> jax.Array:
    """SRD-1 as int32, scale and zero point spread."""
    ratio = _exact.flush(_exact.div(_exact.flush(_exact.widen(x)), scale))
    whole = round_stochastic(ratio, bits)
    steps = jnp.where(whole > -FAR, whole, jnp.float32(-FAR))  # NaN is not above: qmin
    steps = jnp.where(steps < FAR, steps, jnp.float32(FAR)).astype(jnp.int32)
    return jnp.clip(steps if zero_point is None else steps + zero_point, plan.fmt.qmin, plan.fmt.qmax)


@partial(_sharding.jit, static_argnums=0)
def _quantize(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: Any, bits: jax.Array) -> jax.Array:
    return _codes(plan, x, *_spread(plan, x, scale, zero_point), bits).astype(plan.fmt.storage)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _straight_through(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: Any, bits: jax.Array) -> jax.Array:
    each, zero = _spread(plan, x, scale, zero_point)
    return _exact.narrow(_steps.dequantized(plan, _codes(plan, x, each, zero, bits), each, zero), str(x.dtype))


def _forward(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: Any, bits: jax.Array) -> tuple[jax.Array, tuple]:
    return _straight_through(plan, x, scale, zero_point, bits), (x, scale, zero_point)


@partial(_sharding.jit, static_argnums=0)
def _vjp(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: Any, cotangent: jax.Array) -> jax.Array:
    """SRD-2: STE-1 with mask "ratio"."""
    _, _, inside = judged(plan, _exact.widen(x), *_spread(plan, x, scale, zero_point))
    return passed(inside, cotangent)


def _backward(plan: Plan, kept: tuple, cotangent: jax.Array) -> tuple:
    return _vjp(plan, *kept, cotangent), None, None, None


_straight_through.defvjp(*first_order(_forward, _backward))
_fake_quantize = _sharding.jit(_straight_through, static_argnums=0)
