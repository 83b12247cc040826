"""Convolution on codes (specs/60-layers.md, LAY-5)."""

import numpy as np

from refquant.arguments import as_array
from refquant.estimators import Estimator, Ste
from refquant.kinds import kinds
from refquant.layer_checks import check_bias, check_layer, check_sums, check_weight
from refquant.qat.integer import correlate, windowed
from refquant.qat.layer import (
    finished,
    given,
    input_operand,
    present,
    real_input,
    result_dtype,
    scaled_sums,
    weight_operand,
)
from refquant.qat.trained import Trained, frozen
from refquant.qtensor import QTensor, dequantize_tensor
from refquant.spec import QuantSpec
from refquant.windows import Numbers, Padding, window


@kinds
def conv(
    x: np.ndarray,
    weight: QTensor | Trained,
    bias: np.ndarray | None = None,
    *,
    strides: Numbers = 1,
    padding: Padding = "SAME",
    input_dilation: Numbers = 1,
    kernel_dilation: Numbers = 1,
    feature_group_count: int = 1,
    inputs: QuantSpec | None = None,
    input_scale: np.ndarray | None = None,
    input_zero_point: np.ndarray | None = None,
    input_estimator: Estimator = Ste(),
    dtype: np.dtype | type | str = "float32",
) -> np.ndarray:
    """The convolution (the kernel is not flipped) of x with a quantized kernel, plus bias.

    Args:
      x: float32, float16 or bfloat16, shape (batch, *space, in).
      weight: a QTensor or Trained, shape (*taps, in / feature_group_count, out): per tensor or channel (last axis).
      bias: float, shape (out,); int32 with a static input_scale (LAY-9); or None.
      strides: distance of two outputs, one number or one an axis of space.
      padding: "SAME", "SAME_LOWER", "VALID", a number, or numbers or pairs (before, after), one an axis of space.
      input_dilation: distance of two inputs, zeros between (a transposed convolution); as strides.
      kernel_dilation: distance of two taps; as strides.
      feature_group_count: groups of channels that do not see each other; in: depthwise.
      inputs: how x is quantized, per tensor or per example (axis 0); None leaves it in float (weights only, LAY-7).
      input_scale: float32, the scale of a static layer, or what is learned; None: from x itself (LAY-4).
      input_zero_point: int32, the zero point of a static layer; what is padded is the real 0.
      input_estimator: where input_scale is learned: Lsq, LsqPlus (with a float32 offset as input_zero_point) or Pact.
      dtype: of the result: float32, float16 or bfloat16.
    Returns:
      dtype, shape (batch, *space of the result, out).
    Raises:
      TypeError: a dtype does not fit.
      ValueError: shapes, options or specs do not fit, or the sums might not fit int32.

    Spec: LAY-5, LAY-1..LAY-4, LAY-7..LAY-9, LAY-12 (specs/60-layers.md).  Class: exact; bounded where inputs is None.
    Example:
      >>> from refquant.formats import ALL
      >>> from refquant.qtensor import quantize_tensor
      >>> int8 = QuantSpec(ALL["int8"])
      >>> weight = quantize_tensor(np.float32([1, 0, -127]).reshape(3, 1, 1), int8)
      >>> conv(np.float32([127, 1, 5]).reshape(1, 3, 1), weight, inputs=int8).ravel().tolist()
      [-127.0, -508.0, 1.0]
    """
    x, weight, result = real_input("conv", x), frozen(weight), result_dtype("conv", dtype)
    shape = weight.codes.shape
    at = window(
        "conv", x.shape, shape, strides=strides, padding=padding, input_dilation=input_dilation,
        kernel_dilation=kernel_dilation, groups=feature_group_count,
    )  # fmt: skip
    check_weight("conv", weight)
    summed = tuple(range(1, x.ndim))
    check_layer("conv", weight.spec, inputs, len(shape), tuple(range(len(shape) - 1)), x.ndim, summed)
    static = given("conv", x, inputs, input_scale, input_zero_point, input_estimator)
    if bias is not None:
        bias = as_array(bias)
        check_bias("conv", bias.shape, bias.dtype, shape[-1:], weight.spec, static is not None)
    if inputs is None:
        y = correlate(x.astype(np.float32), dequantize_tensor(weight), at)  # LAY-7
        return (y if bias is None else y + bias.astype(np.float32)).astype(result)
    centre = (static[1] is not None if static else inputs.scale.zero == "int"), weight.zero_point is not None
    check_sums("conv", int(np.prod(shape[:-1])), weight.spec, inputs, centred=centre)
    a, w = input_operand(x, inputs, static), weight_operand(weight)
    acc = windowed(a.values, w.values, window=at, max_a=a.bound, max_b=w.bound)  # LAY-5
    s_w = present(w.scale)
    y = scaled_sums(acc, s_w.reshape(-1) if s_w.ndim else s_w, bias)
    return finished(y, present(a.scale), bias, result)
