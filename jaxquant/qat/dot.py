"""The dense layer on codes (specs/60-layers.md, LAY-1..LAY-4, LAY-7..LAY-9)."""

from typing import Any

import jax

from jaxquant.qat.einsum import DotLayer, contract
from jaxquant.qat.layer import given, real_input, result_dtype
from jaxquant.qat.trained import Trained
from jaxquant.qtensor import QTensor
from refquant import contractions
from refquant.estimators import Estimator, Ste
from refquant.kinds import kinds
from refquant.spec import QuantSpec


@kinds
def dense(
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
    """The product x · weight + bias, on integer codes where both sides have them.

    Args:
      x: float32, float16 or bfloat16, shape (..., K).
      weight: a QTensor or Trained of shape (K, N): per tensor, per output channel (axis 1) or in groups along axis 0.
      bias: float, shape (N,); int32 with a static input_scale (LAY-9); or None.
      inputs: how x is quantized, per tensor or per token; None leaves it in float (weights only, LAY-7).
      input_scale: float32, the scale of a static layer, or what is learned; None: from x itself (LAY-4).
      input_zero_point: int32, the zero point of a static layer.
      input_estimator: where input_scale is learned: Lsq, LsqPlus (with a float32 offset as input_zero_point) or Pact.
      dtype: of the result: float32, float16 or bfloat16.
    Returns:
      dtype, shape (..., N).
    Raises:
      TypeError: a dtype does not fit.
      ValueError: shapes or specs do not fit, or the sums might not fit int32.

    Spec: LAY-1..LAY-4, LAY-7..LAY-9, LAY-12 (specs/60-layers.md).  Class: exact; bounded where inputs is None.
    """
    x = real_input("dense", x)
    plan = contractions.dense("dense", x.shape, weight.shape)
    static = given("dense", x, inputs, input_scale, input_zero_point, input_estimator)
    layer = DotLayer(plan, inputs, result_dtype("dense", dtype), input_estimator)
    return contract("dense", layer, x, weight, bias, static)
