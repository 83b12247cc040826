"""The dense layer on codes (specs/60-layers.md, LAY-1..LAY-4, LAY-7..LAY-9)."""

import numpy as np

from refquant import contractions
from refquant.estimators import Estimator, Ste
from refquant.kinds import kinds
from refquant.qat.einsum import contract
from refquant.qat.layer import given, real_input
from refquant.qat.trained import Trained, frozen
from refquant.qtensor import QTensor
from refquant.spec import QuantSpec


@kinds
def dense(
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
    Example:
      >>> from refquant.formats import ALL
      >>> from refquant.qtensor import quantize_tensor
      >>> int8 = QuantSpec(ALL["int8"])
      >>> weight = quantize_tensor(np.float32([[1, 2], [-127, 0]]), int8)
      >>> dense(np.float32([[127, 1]]), weight, np.float32([0.5, 0]), inputs=int8).tolist()
      [[0.5, 254.0]]
    """
    x, weight = real_input("dense", x), frozen(weight)
    plan = contractions.dense("dense", x.shape, weight.codes.shape)
    static = given("dense", x, inputs, input_scale, input_zero_point, input_estimator)
    return contract("dense", plan, x, weight, bias, inputs, static, dtype)
