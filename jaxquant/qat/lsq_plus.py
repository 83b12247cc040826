"""LSQ+: a learned scale and a learned real offset (specs/62-estimators.md, LSP-1..LSP-6).

Bhalgat, Lee, Nagel, Blankevoort, Kwak: LSQ+, CVPR workshops 2020, arXiv 2004.09576.
The backward pass keeps x, the scale and the offset alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxquant import _exact, _inputs, _sharding, blocks
from jaxquant._first_order import first_order
from jaxquant._plan import Plan
from jaxquant.qat import _tiles
from jaxquant.qat.learned import passed, planned
from jaxquant.scales import choose_scale
from refquant import checks
from refquant.estimators import LsqPlus, check_learned
from refquant.formats import Format, IntFormat
from refquant.granularity import Granularity, PerTensor, Shape
from refquant.kinds import kinds
from refquant.spec import ScaleRule

PLUS = LsqPlus()


@kinds
def lsq_plus(
    x: jax.Array,
    scale: jax.Array,
    offset: jax.Array,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
    estimator: LsqPlus = PLUS,
) -> jax.Array:
    """x on the grid of a learned scale that starts at a learned real offset, as the paper has it.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, any sign, shape `granularity.scale_shape(x.shape)`.
      offset: float32, shape of scale: the value of code 0.
      fmt: an integer format.
      granularity: which elements share a scale.
      estimator: the gradient's variant; the values do not depend on it.
    Returns:
      dtype and shape of x.
    Raises:
      TypeError: a dtype, the format or the estimator does not fit.
      ValueError: a shape does not fit.

    Spec: EST-1, LSP-1 (specs/62-estimators.md).  Class: exact.
    """
    check_learned("lsq_plus", estimator, fmt, LsqPlus)
    operands = _arguments("lsq_plus", x, scale, offset, granularity)
    return _lsq_plus(*planned(estimator, operands[0].shape, fmt, granularity), *operands)


@kinds
def lsq_plus_vjp(
    x: jax.Array,
    scale: jax.Array,
    offset: jax.Array,
    cotangent: jax.Array,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
    estimator: LsqPlus = PLUS,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of `lsq_plus` for x, the scale and the offset.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, any sign, shape `granularity.scale_shape(x.shape)`.
      offset: float32, shape of scale.
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: an integer format.
      granularity: which elements share a scale.
      estimator: the gradient scale and the mask.
    Returns:
      (dtype and shape of cotangent; float32, shape of scale; the same).
    Raises:
      TypeError: a dtype, the format or the estimator does not fit.
      ValueError: a shape does not fit.

    Spec: EST-2..EST-6, LSP-2 (specs/62-estimators.md).  Class: exact.
    """
    name = "lsq_plus_vjp"
    check_learned(name, estimator, fmt, LsqPlus)
    operands = _arguments(name, x, scale, offset, granularity)
    cotangent, shape = _inputs.real(name, "cotangent", cotangent), operands[0].shape
    checks.same_shape(name, "cotangent", cotangent.shape, shape, "x")
    return _vjp(*planned(estimator, shape, fmt, granularity), operands, cotangent)


@kinds
def lsq_plus_init(x: jax.Array, *, fmt: Format, granularity: Granularity = PerTensor()) -> tuple[jax.Array, jax.Array]:
    """Where LSQ+ starts for weights: three standard deviations around the mean.

    Args:
      x: float32, float16 or bfloat16, any shape.
      fmt: an integer format.
      granularity: which elements share a scale.
    Returns:
      (scale, offset): float32, shape `granularity.scale_shape(x.shape)`; scale at least 2^-60, offset +0.
    Raises:
      TypeError: a dtype or the format does not fit.

    Spec: LSP-5 (specs/62-estimators.md).  Class: exact.
    """
    check_learned("lsq_plus_init", PLUS, fmt, LsqPlus)
    x = _inputs.real("lsq_plus_init", "x", x)
    return _init(granularity.tile(x.shape), granularity.scale_shape(x.shape), fmt.bits, x)


@kinds
def lsq_plus_from_range(low: jax.Array, high: jax.Array, *, fmt: Format) -> tuple[jax.Array, jax.Array]:
    """Where LSQ+ starts for inputs: the range as calibration saw it.

    Args:
      low: float32, any shape.
      high: float32, shape of low.
      fmt: an integer format.
    Returns:
      (scale, offset): float32, shape of low; code 0 has the value offset, code qmin the value low.
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: the shapes differ.

    Spec: LSP-6 (specs/62-estimators.md).  Class: exact.
    """
    check_learned("lsq_plus_from_range", PLUS, fmt, LsqPlus)
    return _from_range(fmt, *choose_scale(low, high, fmt=fmt, rule=ScaleRule(zero="float")))


def _arguments(
    name: str, x: jax.Array, scale: jax.Array, offset: jax.Array, granularity: Granularity
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x = _inputs.real(name, "x", x)
    scale, offset = (_tiles.as_learned(name, *v) for v in (("scale", scale), ("offset", offset)))
    for argument, value in (("scale", scale), ("offset", offset)):
        checks.scale_shape(name, argument, value.shape, x.shape, granularity)
    return x, scale, offset


def _spread(plan: Plan, x: jax.Array, scale: jax.Array, offset: jax.Array) -> tuple[jax.Array, jax.Array]:
    pattern = _exact.bits(offset)
    small = (pattern & _exact.MAGNITUDE) < _exact.MIN_NORMAL
    step, base = _tiles.used(scale), _exact.from_bits(jnp.where(small, 0, pattern))  # GEN-9, and -0 is +0
    return blocks.spread(step, x.shape, plan.tile), blocks.spread(base, x.shape, plan.tile)


def _judged(plan: Plan, x: jax.Array, step: jax.Array, base: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """LSP-1: (k as binary32, ratio, inside)."""
    distance = _exact.flush(_exact.flush(_exact.widen(x)) - base)
    ratio = _exact.flush(_exact.div(distance, step))
    whole = lax.round(ratio, lax.RoundingMethod.TO_NEAREST_EVEN)
    low, high = jnp.float32(plan.fmt.qmin), jnp.float32(plan.fmt.qmax)
    steps = jnp.where(whole > low, whole, low)  # NaN is not above: qmin
    judge = whole if plan.mask == "rounded" else ratio
    return jnp.where(steps < high, steps, high), ratio, (judge >= low) & (judge <= high)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _straight_through(plan: Plan, factor: float, x: jax.Array, scale: jax.Array, offset: jax.Array) -> jax.Array:
    """LSP-1 in one pass; the sum with a base of +0 is +0 as with an integer 0, which has no sign."""
    step, base = _spread(plan, x, scale, offset)
    steps, _, _ = _judged(plan, x, step, base)
    return _exact.narrow(_exact.add(_exact.rounded(steps * step), base), str(x.dtype))


def _forward(plan: Plan, factor: float, *operands: jax.Array) -> tuple[jax.Array, tuple]:
    return _straight_through(plan, factor, *operands), operands


@partial(_sharding.jit, static_argnums=(0, 1))
def _vjp(plan: Plan, factor: float, kept: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, offset = kept
    steps, ratio, inside = _judged(plan, x, *_spread(plan, x, scale, offset))
    wide = _exact.widen(cotangent)
    terms = _tiles.term(jnp.where(inside, steps - ratio, steps), wide)  # LSP-2
    shifts = jnp.where(inside, jnp.float32(0), _tiles.counted(wide))
    to_scale, to_offset = (_tiles.summed(v, plan.tile, scale.shape) for v in (terms, shifts))
    return passed(inside, cotangent), _tiles.finished(to_scale, factor, scale), _tiles.finished(to_offset, factor)


_straight_through.defvjp(*first_order(_forward, _vjp))
_lsq_plus = _sharding.jit(_straight_through, static_argnums=(0, 1))


@partial(_sharding.jit, static_argnums=(0, 1, 2))
def _init(tile: Shape, shape: Shape, bits: int, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    wide = _tiles.counted(_exact.widen(x))
    mean = _tiles.means(wide, tile, shape)
    distance = _tiles.counted(wide - blocks.spread(mean, x.shape, tile))
    deviation = _exact.square_root(_tiles.means(_tiles.counted(distance * distance), tile, shape))
    reach = _exact.rounded(jnp.abs(mean) + _exact.rounded(jnp.float32(3) * deviation))
    return _tiles.used(reach * jnp.float32(2.0 ** (1 - bits))), jnp.zeros(shape, jnp.float32)


@partial(_sharding.jit, static_argnums=0)
def _from_range(fmt: IntFormat, scale: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    return scale, _exact.flush(low - _exact.rounded(jnp.float32(fmt.qmin) * scale))
