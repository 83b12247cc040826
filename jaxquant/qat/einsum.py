"""A product of two operands over named axes, on codes (specs/60-layers.md, LAY-1..LAY-4, LAY-7..LAY-10)."""

from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from jaxquant import _exact, _inputs
from jaxquant._sharding import Spec, joined
from jaxquant.qat.grouped import grouped_sums
from jaxquant.qat.integer import product
from jaxquant.qat.layer import (
    Operand,
    aligned,
    biased,
    finished,
    given,
    real_input,
    result_dtype,
    scaled_sums,
    weight_operand,
)
from jaxquant.qat.straight import run
from jaxquant.qat.trained import Trained, checked, is_centred
from jaxquant.qtensor import QTensor, dequantize_tensor
from refquant.contractions import Contraction, contraction
from refquant.estimators import Estimator, Ste
from refquant.granularity import PerGroup
from refquant.kinds import kinds
from refquant.layer_checks import check_bias, check_layer, check_sums
from refquant.spec import QuantSpec


@kinds
def einsum(
    subscripts: str,
    x: jax.Array,
    weight: QTensor | Trained,
    bias: jax.Array | None = None,
    *,
    inputs: QuantSpec | None = None,
    input_scale: jax.Array | None = None,
    input_zero_point: jax.Array | None = None,
    input_estimator: Estimator = Ste(),
    dtype: Any = "float32",
) -> jax.Array:
    """The einsum of x and a quantized weight, on integer codes where both sides have them.

    Args:
      subscripts: such as "...d,dhe->...he"; letters in both operands and in the result are batch axes.
      x: float32, float16 or bfloat16.
      weight: a QTensor or Trained: one scale a tensor or for indices of axes of the result, or groups along the summed
        axis (if it is one).
      bias: float, of a shape that broadcasts to the result; int32 with a static input_scale (LAY-9); or None.
      inputs: how x is quantized: one scale a tensor, or for indices of axes of the result; None leaves x in float.
      input_scale: float32, the scale of a static layer, or what is learned; None: from x itself.
      input_zero_point: int32, the zero point of a static layer.
      input_estimator: where input_scale is learned: Lsq, LsqPlus (with a float32 offset as input_zero_point) or Pact.
      dtype: of the result: float32, float16 or bfloat16.
    Returns:
      dtype, the shape that the subscripts say.
    Raises:
      TypeError: a dtype does not fit.
      ValueError: subscripts, shapes or specs do not fit, or the sums might not fit int32.

    Spec: LAY-1..LAY-4, LAY-7..LAY-10, LAY-12 (specs/60-layers.md).  Class: exact; bounded where inputs is None.
    """
    x = real_input("einsum", x)
    plan = contraction("einsum", subscripts, x.shape, weight.shape)
    static = given("einsum", x, inputs, input_scale, input_zero_point, input_estimator)
    layer = DotLayer(plan, inputs, result_dtype("einsum", dtype), input_estimator)
    return contract("einsum", layer, x, weight, bias, static, broadcast=True)


@dataclass(frozen=True)
class DotLayer:
    """A contraction with all that is known at trace time (`straight.Layer`)."""

    plan: Contraction
    inputs: QuantSpec | None
    dtype: str
    estimator: Estimator

    def integer(self, a: Operand, weight: QTensor, bias: jax.Array | None) -> jax.Array:
        """LAY-1, LAY-3."""
        y = sums(self.plan, a.values, a.bound, weight, bias)
        return finished(y, aligned(a.scale, self.plan.x, self.plan, of_x=True), bias, self.dtype)

    def weight_factor(self, weight: QTensor) -> jax.Array | None:
        """The scale of the weight as it broadcasts to the result; None: it does not leave the sum (groups)."""
        if isinstance(weight.spec.granularity, PerGroup):
            return None
        return aligned(weight.scale, self.plan.weight, self.plan, of_x=False)

    def sharded(self, x: Spec, weight: Spec) -> Spec:
        """As the operands are; a batch axis as that of x, or of the weight where x has none there."""
        plan, count = self.plan, self.plan.batch
        pairs = zip(plan.x[:count], plan.weight[:count], strict=True)
        rows = [x[axis] for axis in plan.x[count : count + plan.rows]]
        columns = [weight[axis] for axis in plan.weight[count + plan.depth :]]
        spec = joined(tuple(x[a] or weight[b] for a, b in pairs), tuple(rows), tuple(columns))
        return tuple(spec[axis] for axis in plan.out)

    def weights_only(self, x: jax.Array, weight: QTensor, bias: jax.Array | None) -> jax.Array:
        """LAY-7: the float product with the dequantized weight."""
        y = self._dot(_exact.widen(x), dequantize_tensor(weight), lax.Precision.HIGHEST)
        return _exact.narrow(biased(y, bias), self.dtype)

    def product(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        """The float contraction, for gradients."""
        return self._dot(x, weight, lax.Precision.DEFAULT)

    def _dot(self, x: jax.Array, weight: jax.Array, precision: lax.Precision) -> jax.Array:
        plan = self.plan
        batch = tuple(zip(plan.x[: plan.batch], plan.weight[: plan.batch], strict=True))
        axes = ((plan.x_summed, plan.weight_summed), (tuple(a for a, _ in batch), tuple(b for _, b in batch)))
        return lax.dot_general(x, weight, axes, precision=precision).transpose(plan.out)


def contract(
    function: str,
    layer: DotLayer,
    x: jax.Array,
    weight: QTensor | Trained,
    bias: jax.Array | None,
    static: tuple | None,
    *,
    broadcast: bool = False,
) -> jax.Array:
    """One contraction by LAY-1..LAY-4, or LAY-7 where the inputs stay in float."""
    plan, inputs = layer.plan, layer.inputs
    shape = plan.out_shape(x.shape, weight.shape)
    weight = checked(function, weight)
    check_layer(function, weight.spec, inputs, len(weight.shape), plan.weight_summed, x.ndim, plan.x_summed)
    if bias is not None:
        bias = _inputs.array(bias)
        need = shape if broadcast else shape[-1:]
        check_bias(function, bias.shape, bias.dtype, need, weight.spec, static is not None, broadcast=broadcast)
    if inputs is not None:
        centre = (static[1] is not None if static else inputs.scale.zero == "int"), is_centred(weight)
        check_sums(function, plan.products(weight.shape), weight.spec, inputs, centred=centre)
    return run(layer, x, weight, bias, static)


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
