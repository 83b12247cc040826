"""Convolution on codes (specs/60-layers.md, LAY-5)."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxquant import _exact, _inputs
from jaxquant._sharding import Spec
from jaxquant.qat.integer import correlate, windowed, windowed_spec
from jaxquant.qat.layer import (
    Operand,
    biased,
    finished,
    given,
    present,
    real_input,
    result_dtype,
    scaled_sums,
    weight_operand,
)
from jaxquant.qat.straight import run
from jaxquant.qat.trained import Trained, checked, is_centred
from jaxquant.qtensor import QTensor, dequantize_tensor
from refquant.estimators import Estimator, Ste
from refquant.kinds import kinds
from refquant.layer_checks import check_bias, check_layer, check_sums
from refquant.spec import QuantSpec
from refquant.windows import Numbers, Padding, Window, window


@kinds
def conv(
    x: jax.Array,
    weight: QTensor | Trained,
    bias: jax.Array | None = None,
    *,
    strides: Numbers = 1,
    padding: Padding = "SAME",
    input_dilation: Numbers = 1,
    kernel_dilation: Numbers = 1,
    feature_group_count: int = 1,
    inputs: QuantSpec | None = None,
    input_scale: jax.Array | None = None,
    input_zero_point: jax.Array | None = None,
    input_estimator: Estimator = Ste(),
    dtype: Any = "float32",
) -> jax.Array:
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
    """
    x, result = real_input("conv", x), result_dtype("conv", dtype)
    shape = weight.shape
    at = window(
        "conv", x.shape, shape, strides=strides, padding=padding, input_dilation=input_dilation,
        kernel_dilation=kernel_dilation, groups=feature_group_count,
    )  # fmt: skip
    weight = checked("conv", weight)
    summed = tuple(range(1, x.ndim))
    check_layer("conv", weight.spec, inputs, len(shape), tuple(range(len(shape) - 1)), x.ndim, summed)
    static = given("conv", x, inputs, input_scale, input_zero_point, input_estimator)
    if bias is not None:
        bias = _inputs.array(bias)
        check_bias("conv", bias.shape, bias.dtype, shape[-1:], weight.spec, static is not None)
    if inputs is not None:
        centre = (static[1] is not None if static else inputs.scale.zero == "int"), is_centred(weight)
        check_sums("conv", math.prod(shape[:-1]), weight.spec, inputs, centred=centre)
    return run(ConvLayer(at, inputs, result, input_estimator), x, weight, bias, static)


@dataclass(frozen=True)
class ConvLayer:
    """A convolution with all that is known at trace time (`straight.Layer`)."""

    at: Window
    inputs: QuantSpec | None
    dtype: str
    estimator: Estimator

    def integer(self, a: Operand, weight: QTensor, bias: jax.Array | None) -> jax.Array:
        """LAY-5, LAY-1."""
        w = weight_operand(weight)
        acc = windowed(a.values, w.values, window=self.at, max_a=a.bound, max_b=w.bound)
        y = scaled_sums(acc, self.weight_factor(weight), bias)
        return finished(y, present(a.scale), bias, self.dtype)

    def weight_factor(self, weight: QTensor) -> jax.Array:
        """The scale of the weight as it broadcasts to the result."""
        return present(weight.scale)

    def sharded(self, x: Spec, weight: Spec) -> Spec:
        """Examples as those of x, channels as those of the weight, space not."""
        return windowed_spec(x, weight)

    def weights_only(self, x: jax.Array, weight: QTensor, bias: jax.Array | None) -> jax.Array:
        """LAY-7: the float convolution with the dequantized weight."""
        y = correlate(_exact.widen(x), dequantize_tensor(weight), self.at, jnp.float32)
        return _exact.narrow(biased(y, bias), self.dtype)

    def product(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        """The float convolution, for gradients."""
        return correlate(x, weight, self.at, jnp.float32)
