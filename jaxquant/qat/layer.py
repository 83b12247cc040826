"""What all layers share: codes of the inputs, centred codes, and the steps from an int32 sum to the result."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxquant import _exact, _inputs
from jaxquant.qtensor import QTensor
from refquant.contractions import Contraction
from refquant.estimators import Estimator, LsqPlus
from refquant.formats import IntFormat
from refquant.layer_checks import check_learned, check_static, magnitude
from refquant.spec import QuantSpec


class Operand(NamedTuple):
    """One side of a sum of products.

    Attributes:
      values: code − zero point, an integer dtype.
      scale: float32.
      bound: the largest |value| that the format allows.
    """

    values: jax.Array
    scale: jax.Array
    bound: int


def real_input(function: str, x: Any) -> Any:
    """The input as an array of a real dtype."""
    return _inputs.real(function, "x", x)


def result_dtype(function: str, dtype: Any) -> str:
    """The name of the dtype of a layer's result."""
    return _inputs.result_dtype(function, dtype)


def given(
    function: str, x: Any, inputs: QuantSpec | None, scale: Any, zero_point: Any, estimator: Estimator
) -> tuple | None:
    """The static or learned scale and zero point as strong arrays, None for a dynamic layer (LAY-4, LAY-12).

    Raises:
      TypeError: a dtype does not fit.
      ValueError: a shape does not fit, or one without the other.
    """
    check_learned(function, estimator, inputs, scale is not None, zero_point is not None)
    shape, zero_shape = (None if v is None else _inputs.shape_of(v) for v in (scale, zero_point))
    check_static(function, inputs, x.shape, shape, zero_shape)
    if scale is None:
        return None
    kind = "bias" if isinstance(estimator, LsqPlus) else "int"
    return _inputs.scale(function, scale), _inputs.zero_point(function, zero_point, kind, inputs.fmt)


def centred(codes: jax.Array, zero_point: jax.Array | None, scale: jax.Array, fmt: IntFormat) -> Operand:
    """The difference code − zero point; a zero point outside the format counts as its nearest code (LAY-1)."""
    if zero_point is None:
        return Operand(codes, scale, magnitude(fmt, False))
    return Operand(codes.astype(jnp.int32) - jnp.clip(zero_point, fmt.qmin, fmt.qmax), scale, magnitude(fmt, True))


def weight_operand(weight: QTensor) -> Operand:
    """The weight's centred codes; zero points of groups repeat along their axis (GRA-3)."""
    zero = weight.zero_point
    if zero is not None and zero.ndim:
        tile = weight.spec.granularity.tile(weight.codes.shape)
        for axis, size in enumerate(tile):
            if 1 < size < weight.codes.shape[axis]:
                zero = jnp.repeat(zero, size, axis)
        zero = zero[tuple(slice(n) for n in weight.codes.shape)]
    return centred(weight.codes, zero, weight.scale, weight.spec.fmt)


def scaled_sums(acc: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
    """rounded(float32(acc) · s_w), s_w rounded, an int32 bias added to the sum first, modulo 2^32 (LAY-1, LAY-9)."""
    if bias is not None and bias.dtype == jnp.int32:
        acc = acc + _inputs.of_rank(acc.ndim, bias)
    return _exact.rounded(acc.astype(jnp.float32) * scale)


def finished(y: jax.Array, scale: jax.Array, bias: jax.Array | None, dtype: str) -> jax.Array:
    """rounded(y · s_x) + bias, s_x rounded, flushed, then the one cast (LAY-1)."""
    y = _exact.rounded(y * scale)
    if bias is not None and bias.dtype != jnp.int32:
        y = _exact.add(y, _exact.widen(_inputs.of_rank(y.ndim, bias)))
    return _exact.cast(y, dtype)


def biased(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """The sum of a float layer and its bias (LAY-7)."""
    return y if bias is None else y + _exact.rounded(_exact.widen(_inputs.of_rank(y.ndim, bias)))


def present(scale: jax.Array) -> jax.Array:
    """The scale, or 1 where an empty tensor has none (GRA-2, LAY-1)."""
    return scale if scale.size else jnp.ones((), jnp.float32)


def aligned(values: jax.Array, order: tuple[int, ...], plan: Contraction, *, of_x: bool) -> jax.Array:
    """Scales of an operand (one element where it is summed) laid along the axes of the result."""
    values = present(values)
    if values.ndim == 0:
        return values
    summed = plan.x_summed if of_x else plan.weight_summed
    batch = [values.shape[axis] for axis in order[: plan.batch]]
    outer = [values.shape[axis] for axis in order[plan.batch :] if axis not in summed]
    shape = (*batch, *outer, *[1] * plan.columns) if of_x else (*batch, *[1] * plan.rows, *outer)
    return values.transpose(order).reshape(shape).transpose(plan.out)
