"""A product of two operands over named axes, on codes (specs/60-layers.md, LAY-1..LAY-4, LAY-7..LAY-10)."""

import math

import numpy as np

from refquant.arguments import as_array
from refquant.contractions import Contraction, contraction
from refquant.estimators import Estimator, Ste
from refquant.granularity import PerGroup, Shape
from refquant.kinds import kinds
from refquant.layer_checks import check_bias, check_layer, check_sums, check_weight
from refquant.qat.integer import matmul
from refquant.qat.layer import (
    aligned,
    finished,
    given,
    input_operand,
    real_input,
    result_dtype,
    scaled_sums,
    weight_operand,
)
from refquant.qat.trained import Trained, frozen
from refquant.qtensor import QTensor, dequantize_tensor
from refquant.spec import QuantSpec
from refquant.sums import tree_sum

AT_ONCE = 1 << 20  # sums of all groups that are held at a time


@kinds
def einsum(
    subscripts: str,
    x: np.ndarray,
    weight: QTensor | Trained,
    bias: np.ndarray | None = None,
    *,
    inputs: QuantSpec | None = None,
    input_scale: np.ndarray | None = None,
    input_zero_point: np.ndarray | None = None,
    input_estimator: Estimator = Ste(),
    dtype: np.dtype | type | str = "float32",
) -> np.ndarray:
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
    Example:
      >>> from refquant.formats import ALL
      >>> from refquant.qtensor import quantize_tensor
      >>> int8 = QuantSpec(ALL["int8"])
      >>> weight = quantize_tensor(np.float32([[1, 2], [-127, 0]]), int8)
      >>> einsum("bd,fd->bf", np.float32([[127, 1]]), weight, inputs=int8).tolist()
      [[129.0, -16129.0]]
    """
    x, weight = real_input("einsum", x), frozen(weight)
    plan = contraction("einsum", subscripts, x.shape, weight.codes.shape)
    static = given("einsum", x, inputs, input_scale, input_zero_point, input_estimator)
    return contract("einsum", plan, x, weight, bias, inputs, static, dtype, broadcast=True)


def contract(
    function: str,
    plan: Contraction,
    x: np.ndarray,
    weight: QTensor,
    bias: np.ndarray | None,
    inputs: QuantSpec | None,
    static: tuple | None,
    dtype: np.dtype | type | str,
    *,
    broadcast: bool = False,
) -> np.ndarray:
    """One contraction by LAY-1..LAY-4, or LAY-7 where inputs is None."""
    shape, result = plan.out_shape(x.shape, weight.codes.shape), result_dtype(function, dtype)
    check_weight(function, weight)
    check_layer(function, weight.spec, inputs, weight.codes.ndim, plan.weight_summed, x.ndim, plan.x_summed)
    if bias is not None:
        bias = as_array(bias)
        need = shape if broadcast else shape[-1:]
        check_bias(function, bias.shape, bias.dtype, need, weight.spec, static is not None, broadcast=broadcast)
    if inputs is None:
        return _weights_only(plan, x, weight, bias, result)
    centre = (static[1] is not None if static else inputs.scale.zero == "int"), weight.zero_point is not None
    check_sums(function, plan.products(weight.codes.shape), weight.spec, inputs, centred=centre)
    a = input_operand(x, inputs, static)
    y = sums(plan, a.values, a.bound, weight, bias)
    return finished(y, aligned(a.scale, plan.x, plan, of_x=True), bias, result)


def _weights_only(
    plan: Contraction, x: np.ndarray, weight: QTensor, bias: np.ndarray | None, dtype: np.dtype
) -> np.ndarray:
    """LAY-7: the float product with the dequantized weight."""
    left, right, shape = matrices(plan, x.astype(np.float32), dequantize_tensor(weight))
    y = np.matmul(left, right).reshape(shape).transpose(plan.out)
    return (y if bias is None else y + bias.astype(np.float32)).astype(dtype)


def sums(plan: Contraction, a: np.ndarray, bound: int, weight: QTensor, bias: np.ndarray | None) -> np.ndarray:
    """rounded(float32(Σ a·w) · s_w), summed over groups by the tree where weights have groups (LAY-1, LAY-3)."""
    w = weight_operand(weight)
    left, right, shape = matrices(plan, a, w.values)
    if isinstance(weight.spec.granularity, PerGroup):
        count = w.scale.shape[plan.weight_summed[0]]
        scale = w.scale.transpose(plan.weight).reshape(*right.shape[:-2], count, right.shape[-1])
        y = _grouped(left, right, scale, weight.spec.granularity.size, max_a=bound, max_b=w.bound)
        return y.reshape(shape).transpose(plan.out)
    acc = matmul(left, right, max_a=bound, max_b=w.bound).reshape(shape).transpose(plan.out)
    return scaled_sums(acc, aligned(w.scale, plan.weight, plan, of_x=False), bias)


def matrices(plan: Contraction, a: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, Shape]:
    """(batch, M, K) and (batch, K, N), and the shape (batch, rows, columns) of their product (LAY-10)."""
    a, w = a.transpose(plan.x), w.transpose(plan.weight)
    batch, rows = a.shape[: plan.batch], a.shape[plan.batch : plan.batch + plan.rows]
    columns = w.shape[plan.batch + plan.depth :]
    depth = math.prod(w.shape[plan.batch : plan.batch + plan.depth])
    left = a.reshape(*batch, math.prod(rows), depth)
    return left, w.reshape(*batch, depth, math.prod(columns)), (*batch, *rows, *columns)


def _grouped(a: np.ndarray, w: np.ndarray, scale: np.ndarray, size: int, *, max_a: int, max_b: int) -> np.ndarray:
    """LAY-3, some rows at a time: all groups' sums of all rows would be large."""
    count = scale.shape[-2]
    a, w = _in_groups(a, -1, size, count), _in_groups(w, -2, size, count)
    a = np.moveaxis(a, -2, -3)  # (batch, groups, M, size) times (batch, groups, size, N)
    scale = scale[..., None, :]
    y = np.empty((*a.shape[:-3], a.shape[-2], w.shape[-1]), np.float32)
    step = max(1, AT_ONCE // max(1, count * w.shape[-1]))
    for start in range(0, a.shape[-2], step):
        part = slice(start, start + step)
        products = matmul(a[..., part, :], w, max_a=max_a, max_b=max_b)
        y[..., part, :] = tree_sum(scaled_sums(products, scale, None), -3)  # LAY-3
    return y


def _in_groups(values: np.ndarray, axis: int, size: int, count: int) -> np.ndarray:
    """The axis as (groups, size); zeros fill up a ragged last group and add nothing."""
    size = min(size, max(values.shape[axis], 1))
    padding = [(0, 0)] * values.ndim
    padding[axis] = (0, count * size - values.shape[axis])
    values = np.pad(values, padding)
    at = values.ndim + axis
    return values.reshape(*values.shape[:at], count, size, *values.shape[at + 1 :])
