"""PACT: a learned upper bound of activations (specs/62-estimators.md, PCT-1..PCT-3).

Choi, Wang, Venkataramani, Chuang, Srinivasan, Gopalakrishnan: PACT, 2018, arXiv 1805.06085.
The backward pass keeps x and the bound alone.
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
from refquant.estimators import Pact, check_learned
from refquant.formats import Format
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds


@kinds
def pact(x: jax.Array, alpha: jax.Array, *, fmt: Format, granularity: Granularity = PerTensor()) -> jax.Array:
    """x clipped to 0..alpha and rounded to qmax steps.

    Args:
      x: float32, float16 or bfloat16, any shape.
      alpha: float32, the bound, shape `granularity.scale_shape(x.shape)`.
      fmt: an integer format whose qmin is 0.
      granularity: which elements share a bound.
    Returns:
      dtype and shape of x.
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: a shape does not fit, or a signed format.

    Spec: PCT-1 (specs/62-estimators.md).  Class: exact.
    """
    check_learned("pact", Pact(), fmt)
    x, alpha = _inputs.real("pact", "x", x), _tiles.as_learned("pact", "alpha", alpha)
    checks.scale_shape("pact", "alpha", alpha.shape, x.shape, granularity)
    return _pact(*planned(Pact(), x.shape, fmt, granularity), x, alpha)


@kinds
def pact_vjp(
    x: jax.Array, alpha: jax.Array, cotangent: jax.Array, *, fmt: Format, granularity: Granularity = PerTensor()
) -> tuple[jax.Array, jax.Array]:
    """The gradients of `pact` for x and for the bound.

    Args:
      x: float32, float16 or bfloat16, any shape.
      alpha: float32, the bound, shape `granularity.scale_shape(x.shape)`.
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: an integer format whose qmin is 0.
      granularity: which elements share a bound.
    Returns:
      (dtype and shape of cotangent; float32, shape of alpha).
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: a shape does not fit, or a signed format.

    Spec: PCT-2, PCT-3, EST-4..EST-6 (specs/62-estimators.md).  Class: exact.
    """
    dx, (dalpha,) = gradients("pact_vjp", Pact(), x, (alpha,), cotangent, fmt=fmt, granularity=granularity)
    return dx, dalpha


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _straight_through(plan: Plan, factor: float, x: jax.Array, alpha: jax.Array) -> jax.Array:
    """PCT-1 in one pass."""
    scale = _exact.div(_tiles.used(alpha, plan.fmt.qmax), jnp.float32(plan.fmt.qmax))
    each = blocks.spread(scale, x.shape, plan.tile)
    codes, _ = _steps.quantized(plan, _exact.widen(x), each, None)
    return _exact.narrow(_steps.dequantized(plan, codes, each, None), str(x.dtype))


def _forward(plan: Plan, factor: float, x: jax.Array, alpha: jax.Array) -> tuple[jax.Array, tuple]:
    return _straight_through(plan, factor, x, alpha), (x, alpha)


def _backward(plan: Plan, factor: float, kept: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    dx, (dalpha,) = VJPS[Pact](plan, factor, *kept, cotangent)
    return dx, dalpha


_straight_through.defvjp(*first_order(_forward, _backward))
_pact = _sharding.jit(_straight_through, static_argnums=(0, 1))
