"""LSQ: a learned scale (specs/62-estimators.md, LSQ-1..LSQ-3).

Esser, McKinstry, Bablani, Appuswamy, Modha: Learned Step Size Quantization, ICLR 2020, arXiv 1902.08153.
The backward pass keeps x and the scale alone and computes the codes again.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxquant import _exact, _inputs, _sharding, _steps, blocks
from jaxquant._first_order import first_order
from jaxquant._plan import Plan
from jaxquant.qat import _tiles
from jaxquant.qat.learned import VJPS, gradients, planned
from refquant import checks
from refquant.estimators import Lsq, check_learned, reciprocal_root
from refquant.formats import Format
from refquant.granularity import Granularity, PerTensor, Shape
from refquant.kinds import kinds

LSQ = Lsq()


@kinds
def lsq(
    x: jax.Array,
    scale: jax.Array,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
    estimator: Lsq = LSQ,
) -> jax.Array:
    """x on the grid of a learned scale.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, any sign, shape `granularity.scale_shape(x.shape)`.
      fmt: an integer format.
      granularity: which elements share a scale.
      estimator: the gradient's variant; the values do not depend on it.
    Returns:
      dtype and shape of x: codes times max(|scale|, 2^-60).
    Raises:
      TypeError: a dtype, the format or the estimator does not fit.
      ValueError: a shape does not fit.

    Spec: EST-1, LSQ-1 (specs/62-estimators.md).  Class: exact.
    """
    check_learned("lsq", estimator, fmt, Lsq)
    x, scale = _inputs.real("lsq", "x", x), _tiles.as_learned("lsq", "scale", scale)
    checks.scale_shape("lsq", "scale", scale.shape, x.shape, granularity)
    return _lsq(*planned(estimator, x.shape, fmt, granularity), x, scale)


@kinds
def lsq_vjp(
    x: jax.Array,
    scale: jax.Array,
    cotangent: jax.Array,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
    estimator: Lsq = LSQ,
) -> tuple[jax.Array, jax.Array]:
    """The gradients of `lsq` for x and for the scale.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, any sign, shape `granularity.scale_shape(x.shape)`.
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: an integer format.
      granularity: which elements share a scale.
      estimator: the gradient scale and the mask.
    Returns:
      (dtype and shape of cotangent; float32, shape of scale).
    Raises:
      TypeError: a dtype, the format or the estimator does not fit.
      ValueError: a shape does not fit.

    Spec: EST-1..EST-6, LSQ-2 (specs/62-estimators.md).  Class: exact.
    """
    check_learned("lsq_vjp", estimator, fmt, Lsq)
    dx, (dscale,) = gradients("lsq_vjp", estimator, x, (scale,), cotangent, fmt=fmt, granularity=granularity)
    return dx, dscale


@kinds
def lsq_init(x: jax.Array, *, fmt: Format, granularity: Granularity = PerTensor()) -> jax.Array:
    """Where LSQ starts: twice the mean magnitude over the root of qmax.

    Args:
      x: float32, float16 or bfloat16, any shape.
      fmt: an integer format.
      granularity: which elements share a scale.
    Returns:
      float32, shape `granularity.scale_shape(x.shape)`, at least 2^-60; NaN where the tile has one.
    Raises:
      TypeError: a dtype or the format does not fit.

    Spec: LSQ-3 (specs/62-estimators.md).  Class: exact.
    """
    check_learned("lsq_init", LSQ, fmt, Lsq)
    x = _inputs.real("lsq_init", "x", x)
    return _init(granularity.tile(x.shape), granularity.scale_shape(x.shape), 2 * reciprocal_root(fmt.qmax), x)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _straight_through(plan: Plan, factor: float, x: jax.Array, scale: jax.Array) -> jax.Array:
    """LSQ-1 in one pass."""
    each = blocks.spread(_tiles.used(scale), x.shape, plan.tile)
    codes, _ = _steps.quantized(plan, _exact.widen(x), each, None)
    return _exact.narrow(_steps.dequantized(plan, codes, each, None), str(x.dtype))


def _forward(plan: Plan, factor: float, x: jax.Array, scale: jax.Array) -> tuple[jax.Array, tuple]:
    return _straight_through(plan, factor, x, scale), (x, scale)


def _backward(plan: Plan, factor: float, kept: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    dx, (dscale,) = VJPS[Lsq](plan, factor, *kept, cotangent)
    return dx, dscale


_straight_through.defvjp(*first_order(_forward, _backward))
_lsq = _sharding.jit(_straight_through, static_argnums=(0, 1))


@partial(_sharding.jit, static_argnums=(0, 1, 2))
def _init(tile: Shape, shape: Shape, factor: float, x: jax.Array) -> jax.Array:
    mean = _tiles.means(jnp.abs(_exact.widen(x)), tile, shape)
    return _tiles.used(_exact.flush(mean * jnp.float32(factor)))
