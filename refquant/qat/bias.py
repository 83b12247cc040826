"""A bias as integers at the scale of the sums (specs/60-layers.md, LAY-11)."""

import numpy as np

from refquant import checks
from refquant.arguments import as_real

LOWEST, HIGHEST = np.float32(-(2**31)), np.float32(2**31 - 128)


@np.errstate(all="ignore")
def integer_bias(bias: np.ndarray, input_scale: np.ndarray, weight_scale: np.ndarray) -> np.ndarray:
    """round(bias / (s_x · s_w)) as int32, for the layers' LAY-9.

    Args:
      bias: float32, float16 or bfloat16, any shape.
      input_scale: float32, of a shape that broadcasts with bias.
      weight_scale: likewise: per tensor (), per channel reshaped to the bias's shape.
    Returns:
      int32, the common shape; saturated at -2^31 and 2^31 - 128 (the largest binary32 below 2^31); NaN gives 0.
    Raises:
      TypeError: another dtype.
      ValueError: shapes without a common one.

    Spec: LAY-11 (specs/60-layers.md).  Class: exact.
    Example:
      >>> integer_bias(np.float32([1.0, -0.3]), np.float32(0.5), np.float32(0.25)).tolist()
      [8, -2]
    """
    bias, s_x, s_w = (
        as_real("integer_bias", name, v).astype(np.float32)
        for name, v in (("bias", bias), ("input_scale", input_scale), ("weight_scale", weight_scale))
    )
    checks.broadcast("integer_bias", bias=bias.shape, input_scale=s_x.shape, weight_scale=s_w.shape)
    steps = np.rint(bias / (s_x * s_w))  # LAY-11: two roundings to binary32, then ties to even
    steps = np.where(np.isnan(steps), np.float32(0), steps)
    return np.clip(steps, LOWEST, HIGHEST).astype(np.int32)  # GEN-4
