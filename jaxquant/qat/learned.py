"""Learned scales as an integer layer uses them: scale and zero point forward, exact vjps backward."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxquant import _exact, _inputs, _sharding, _steps, affine, blocks
from jaxquant._constants import at_least, at_most
from jaxquant._plan import Plan
from jaxquant.qat import _tiles
from refquant import checks
from refquant.conventions import CAST, DEFAULT, Affine
from refquant.estimators import (
    Estimator,
    Lsq,
    LsqPlus,
    Pact,
    check_count,
    check_learned,
    check_zero,
    gradient_scale,
    learned_names,
)
from refquant.formats import Format, IntFormat
from refquant.granularity import Granularity, PerTensor, Shape
from refquant.kinds import kinds

Learned = tuple[jax.Array, ...]


@kinds
def effective(estimator: Estimator, learned: Learned, fmt: Format) -> tuple[jax.Array, jax.Array | None]:
    """The scale and the zero point that an integer layer uses for what an estimator has learned.

    Args:
      estimator: Lsq, LsqPlus or Pact.
      learned: float32 arrays of one shape: (scale,), (scale, offset) or (alpha,).
      fmt: an integer format; with Pact one whose qmin is 0.
    Returns:
      (scale, zero_point): float32 and at least 2^-60; int32 in qmin..qmax for LsqPlus, else None.
    Raises:
      TypeError: the estimator learns nothing, another kind of format, a dtype that is not float32.
      ValueError: another number of learned arrays, arrays of two shapes, or a signed format with Pact.

    Spec: EST-1, LSP-3, PCT-1 (specs/62-estimators.md).  Class: exact.
    """
    check_learned("effective", estimator, fmt)
    return _effective(type(estimator), fmt, *learned_arrays("effective", estimator, learned))


@kinds
def learned_vjp(
    estimator: Estimator,
    x: jax.Array,
    learned: Learned,
    cotangent: jax.Array,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
    convention: Affine = DEFAULT,
) -> tuple[jax.Array, Learned]:
    """What a gradient of the quantized values means for x and for what an estimator has learned.

    Args:
      estimator: Lsq, LsqPlus or Pact.
      x: float32, float16 or bfloat16, any shape.
      learned: float32 arrays of shape `granularity.scale_shape(x.shape)`: (scale,), (scale, offset) or (alpha,).
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: an integer format; with Pact one whose qmin is 0.
      granularity: which elements share a scale.
      convention: how the layer's codes are computed; not with zero "bias".
    Returns:
      (gradient of x: dtype and shape of cotangent; gradients of `learned`: float32, its shapes).
    Raises:
      TypeError: the estimator learns nothing, another kind of format, a dtype does not fit.
      ValueError: a shape or a convention does not fit.

    Spec: EST-2..EST-6, LSQ-2, LSP-4, PCT-3 (specs/62-estimators.md).  Class: exact.
    """
    return gradients(
        "learned_vjp", estimator, x, learned, cotangent, fmt=fmt, granularity=granularity, convention=convention
    )


def gradients(
    name: str,
    estimator: Estimator,
    x: jax.Array,
    learned: Learned,
    cotangent: jax.Array,
    *,
    fmt: Format,
    granularity: Granularity,
    convention: Affine = DEFAULT,
) -> tuple[jax.Array, Learned]:
    """`learned_vjp` for a function of another name (EST-2..EST-6)."""
    check_learned(name, estimator, fmt)
    check_zero(name, convention.zero)
    x, arrays = _inputs.real(name, "x", x), learned_arrays(name, estimator, learned)
    for argument, value in zip(learned_names(estimator), arrays, strict=True):
        checks.scale_shape(name, argument, value.shape, x.shape, granularity)
    cotangent = _inputs.real(name, "cotangent", cotangent)
    checks.same_shape(name, "cotangent", cotangent.shape, x.shape, "x")
    plan, factor = planned(estimator, x.shape, fmt, granularity, convention)
    return VJPS[type(estimator)](plan, factor, x, *arrays, cotangent)


def planned(
    estimator: Estimator, shape: Shape, fmt: Format, granularity: Granularity, convention: Affine = DEFAULT
) -> tuple[Plan, float]:
    """What decides a gradient besides the arrays, and the gradient scale (EST-5)."""
    mask = "ratio" if isinstance(estimator, Pact) else estimator.mask
    plan = Plan(fmt, granularity.tile(shape), convention, CAST, mask)
    return plan, gradient_scale(estimator, fmt, shape, granularity)


def learned_arrays(function: str, estimator: Estimator, learned: Any) -> Learned:
    """The learned arrays, strong, float32 and of one shape."""
    check_count(function, estimator, learned)
    names = learned_names(estimator)
    arrays = tuple(_tiles.as_learned(function, *pair) for pair in zip(names, learned, strict=True))
    checks.same_shape(function, names[-1], arrays[-1].shape, arrays[0].shape, "scale")
    return arrays


@partial(_sharding.jit, static_argnums=(0, 1))
def _effective(kind: type, fmt: IntFormat, first: jax.Array, *rest: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    if kind is Pact:
        return _exact.div(_tiles.used(first, fmt.qmax), jnp.float32(fmt.qmax)), None
    if kind is Lsq:
        return _tiles.used(first), None
    found = placed(fmt, first, *rest)
    return found.scale, found.zero_point


class Placed(NamedTuple):
    """A learned scale and offset as an integer layer uses them (LSP-3).

    Attributes:
      scale: used, float32.
      zero_point: int32 in qmin..qmax.
      real: the zero point before its rounding; 0 where it was clamped.
      follows: where the zero point was not clamped, so that it follows the offset.
    """

    scale: jax.Array
    zero_point: jax.Array
    real: jax.Array
    follows: jax.Array


def placed(fmt: IntFormat, scale: jax.Array, offset: jax.Array) -> Placed:
    """LSP-3 inside a trace."""
    scale = _tiles.used(scale)
    real = _exact.flush(_exact.div(_exact.flush(-_exact.rounded(offset)), scale))
    scale = jnp.where(_exact.is_nan(real), real, scale)
    low, high = jnp.float32(fmt.qmin), jnp.float32(fmt.qmax)
    follows = (real >= low) & (real <= high)
    known = jnp.where(_exact.is_nan(real), jnp.float32(0), real)
    zero_point = lax.round(jnp.clip(known, low, high), lax.RoundingMethod.TO_NEAREST_EVEN).astype(jnp.int32)
    return Placed(scale, zero_point, jnp.where(follows, real, jnp.float32(0)), follows)


def judged(
    plan: Plan, x: jax.Array, scale: jax.Array, zero_point: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(code - zero point as binary32, ratio, inside) of widened x; scale and zero point used and spread (EST-2, EST-3).

    The default convention takes one quotient; another one its own for the codes, and that of EST-2 beside it.
    """
    fmt = plan.fmt
    ratio = _exact.flush(_exact.div(_exact.flush(x), scale))
    if plan.convention != DEFAULT:
        step = _exact.reciprocal(scale) if plan.convention.op == "given" else scale  # QTN-2
        codes, inside = _steps.quantized(plan, x, step, zero_point)
        return (codes if zero_point is None else codes - zero_point).astype(jnp.float32), ratio, inside()
    low, high = (np.float32(end) if zero_point is None else (end - zero_point).astype(jnp.float32)
                 for end in (fmt.qmin, fmt.qmax))  # fmt: skip
    whole = lax.round(ratio, lax.RoundingMethod.TO_NEAREST_EVEN)
    judge = whole if plan.mask == "rounded" else ratio
    steps = at_most(at_least(whole, low), high)  # NaN is not above: qmin (AFF-5)
    return steps, ratio, (judge >= low) & (judge <= high)


def passed(inside: jax.Array, cotangent: jax.Array) -> jax.Array:
    """EST-6."""
    return affine.masked(cotangent, -inside.astype(jnp.int8))


@partial(_sharding.jit, static_argnums=(0, 1))
def _lsq(plan: Plan, factor: float, x: jax.Array, scale: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, Learned]:
    each = blocks.spread(_tiles.used(scale), x.shape, plan.tile)
    steps, ratio, inside = judged(plan, _exact.widen(x), each, None)
    weight = _exact.select(inside, steps - ratio, steps)  # LSQ-2
    total = _tiles.summed(_tiles.term(weight, _exact.widen(cotangent)), plan.tile, scale.shape)
    return passed(inside, cotangent), (_tiles.finished(total, factor, scale),)


@partial(_sharding.jit, static_argnums=(0, 1))
def _lsq_plus(
    plan: Plan, factor: float, x: jax.Array, scale: jax.Array, offset: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, Learned]:
    each, zero, real, follows = (blocks.spread(v, x.shape, plan.tile) for v in placed(plan.fmt, scale, offset))
    steps, ratio, inside = judged(plan, _exact.widen(x), each, zero)
    wide = _exact.widen(cotangent)
    terms = _tiles.term(jnp.where(inside, steps - ratio, steps + real), wide)  # LSP-4
    shifts = jnp.where(inside | ~follows, jnp.float32(0), _tiles.counted(wide))
    to_scale, to_offset = (_tiles.summed(v, plan.tile, scale.shape) for v in (terms, shifts))
    return passed(inside, cotangent), (
        _tiles.finished(to_scale, factor, scale),
        _tiles.finished(to_offset, factor),
    )


@partial(_sharding.jit, static_argnums=(0, 1))
def _pact(plan: Plan, factor: float, x: jax.Array, alpha: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, Learned]:
    bound = blocks.spread(_tiles.used(alpha, plan.fmt.qmax), x.shape, plan.tile)
    wide = _exact.flush(_exact.widen(x))
    above = wide >= bound
    terms = jnp.where(above, _tiles.counted(_exact.widen(cotangent)), jnp.float32(0))  # PCT-3
    total = _tiles.summed(terms, plan.tile, alpha.shape)
    return passed((wide >= 0) & (wide < bound), cotangent), (_tiles.finished(total, factor, alpha),)


VJPS = {Lsq: _lsq, LsqPlus: _lsq_plus, Pact: _pact}
