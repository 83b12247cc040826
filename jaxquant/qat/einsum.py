"""A product of two operands over named axes, on codes (specs/60-layers.md, LAY-1..LAY-4, LAY-7..LAY-10)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxquant import _exact
from jaxquant.qat.grouped import grouped_sums
from jaxquant.qat.integer import product
from jaxquant.qat.layer import (
    aligned,
    finished,
    given,
    input_operand,
    real_input,
    result_dtype,
    scaled_sums,
    weight_operand,
)
from jaxquant.qtensor import QTensor, dequantize_tensor
from refquant.contractions import Contraction, contraction
from refquant.granularity import PerGroup
from refquant.layer_checks import check_bias, check_layer, check_sums, check_weight
from refquant.spec import QuantSpec


def einsum(
    subscripts: str,
    x: jax.Array,
    weight: QTensor,
    bias: jax.Array | None = None,
    *,
    inputs: QuantSpec | None = None,
    input_scale: jax.Array | None = None,
    input_zero_point: jax.Array | None = None,
    dtype: Any = "float32",
) -> jax.Array:
    """The einsum of x and a quantized weight, on integer codes where both sides have them.

    Args:
      subscripts: such as "...d,dhe->...he"; letters in both operands and in the result are batch axes.
      x: float32, float16 or bfloat16.
      weight: a QTensor: one scale a tensor or for indices of axes of the result, or groups along the one summed axis.
      bias: float, of a shape that broadcasts to the result; int32 with a static input_scale (LAY-9); or None.
      inputs: how x is quantized: one scale a tensor, or for indices of axes of the result; None leaves x in float.
      input_scale: float32, the scale of a static layer; None: from x itself.
      input_zero_point: int32, the zero point of a static layer.
      dtype: of the result: float32, float16 or bfloat16.
    Returns:
      dtype, the shape that the subscripts say.
    Raises:
      TypeError: a dtype does not fit.
      ValueError: subscripts, shapes or specs do not fit, or the sums might not fit int32.

    Spec: LAY-1..LAY-4, LAY-7..LAY-10 (specs/60-layers.md).  Class: exact; bounded where inputs is None.
    """
    x = real_input("einsum", x)
    plan = contraction("einsum", subscripts, x.shape, tuple(weight.codes.shape))
    static = given("einsum", x, inputs, input_scale, input_zero_point)
    return contract("einsum", plan, x, weight, bias, inputs, static, dtype, broadcast=True)


def contract(
    function: str,
    plan: Contraction,
    x: jax.Array,
    weight: QTensor,
    bias: jax.Array | None,
    inputs: QuantSpec | None,
    static: tuple | None,
    dtype: Any,
    *,
    broadcast: bool = False,
) -> jax.Array:
    """One contraction by LAY-1..LAY-4, or LAY-7 where inputs is None."""
    shape, result = plan.out_shape(x.shape, weight.codes.shape), result_dtype(function, dtype)
    check_weight(function, weight)
    check_layer(function, weight.spec, inputs, weight.codes.ndim, plan.weight_summed, x.ndim, plan.x_summed)
    if bias is not None:
        bias = jnp.asarray(bias)
        need = shape if broadcast else shape[-1:]
        check_bias(function, bias.shape, bias.dtype, need, weight.spec, static is not None, broadcast=broadcast)
    if inputs is None:
        return _weights_only(x, weight, bias, plan=plan, dtype=result)
    centre = (static[1] is not None if static else inputs.scale.zero == "int"), weight.zero_point is not None
    check_sums(function, plan.products(weight.codes.shape), weight.spec, inputs, centred=centre)
    return _integer(x, weight, bias, static, plan=plan, inputs=inputs, dtype=result)


@functools.partial(jax.jit, static_argnames=("plan", "dtype"))
def _weights_only(x: jax.Array, weight: QTensor, bias: jax.Array | None, *, plan: Contraction, dtype: str) -> jax.Array:
    """LAY-7: the float product with the dequantized weight."""
    batch = tuple(zip(plan.x[: plan.batch], plan.weight[: plan.batch], strict=True))
    axes = ((plan.x_summed, plan.weight_summed), (tuple(a for a, _ in batch), tuple(b for _, b in batch)))
    y = lax.dot_general(_exact.widen(x), dequantize_tensor(weight), axes, precision=lax.Precision.HIGHEST)
    y = y.transpose(plan.out)
    return _exact.narrow(y if bias is None else y + _exact.rounded(_exact.widen(bias)), dtype)


@functools.partial(jax.jit, static_argnames=("plan", "inputs", "dtype"))
def _integer(
    x: jax.Array,
    weight: QTensor,
    bias: jax.Array | None,
    static: tuple | None,
    *,
    plan: Contraction,
    inputs: QuantSpec,
    dtype: str,
) -> jax.Array:
    a = input_operand(x, inputs, static)
    y = sums(plan, a.values, a.bound, weight, bias)
    return finished(y, aligned(a.scale, plan.x, plan, of_x=True), bias, dtype)


def sums(plan: Contraction, a: jax.Array, bound: int, weight: QTensor, bias: jax.Array | None) -> jax.Array:
    """rounded(float32(Σ a·w) · s_w), summed over groups by the tree where weights have groups (LAY-1, LAY-3)."""
    w = weight_operand(weight)
    left = _merged(a.transpose(plan.x), plan.batch + plan.rows, plan.depth)
    right = _merged(w.values.transpose(plan.weight), plan.batch, plan.depth)
    if isinstance(weight.spec.granularity, PerGroup):
        scale, size = w.scale.transpose(plan.weight), weight.spec.granularity.size
        return grouped_sums(left, right, scale, plan.batch, size, max_a=bound, max_b=w.bound).transpose(plan.out)
    acc = product(left, right, batch=plan.batch, max_a=bound, max_b=w.bound).transpose(plan.out)
    return scaled_sums(acc, aligned(w.scale, plan.weight, plan, of_x=False), bias)


def _merged(x: jax.Array, axis: int, count: int) -> jax.Array:
    """`count` axes from `axis` on as one; the others stay, so that a sharding along them stays too."""
    depth = 1
    for size in x.shape[axis : axis + count]:
        depth *= size
    return x if count == 1 else x.reshape(*x.shape[:axis], depth, *x.shape[axis + count :])
