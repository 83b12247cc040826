"""A batch norm folded into the layer before it: kernel and bias that give the normalized output.

Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference (CVPR 2018),
section 3.2, with the running statistics.
"""

import numpy as np

from refquant.arguments import as_real
from refquant.bits import flush
from refquant.layer_checks import check_fold


@np.errstate(all="ignore")
def fold(
    kernel: np.ndarray,
    bias: np.ndarray | None,
    mean: np.ndarray,
    var: np.ndarray,
    scale: np.ndarray | None = None,
    offset: np.ndarray | None = None,
    *,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel and the bias of a layer followed by a batch norm in evaluation mode.

    The factor of a channel is scale / sqrt(var + epsilon); kernel · factor and (bias − mean) · factor + offset, each
    step rounded to binary32 and flushed.

    Args:
      kernel: float32, float16 or bfloat16, output channels along the last axis.
      bias: float, shape (channels,), or None.
      mean: float, shape (channels,), running.
      var: float, shape (channels,), running.
      scale: float, shape (channels,), or None for 1.
      offset: float, shape (channels,), or None for 0.
      epsilon: what is added to the variance; rounded to binary32.
    Returns:
      (kernel, bias): float32.
    Raises:
      TypeError: another dtype.
      ValueError: shapes do not fit.

    Spec: LAY-14 (specs/60-layers.md).  Class: exact.
    Example:
      >>> kernel, bias = fold(np.float32([[2.0]]), None, np.float32([1]), np.float32([4]), epsilon=0.0)
      >>> kernel.tolist(), bias.tolist()
      ([[1.0]], [-0.5])
    """
    kernel, bias = _wide("kernel", kernel), _given("bias", bias)
    mean, var = _wide("mean", mean), _wide("var", var)
    scale, offset = _given("scale", scale), _given("offset", offset)
    check_fold(epsilon, kernel.shape, bias=bias, mean=mean, var=var, scale=scale, offset=offset)
    deviation = np.sqrt(flush(var + flush(np.asarray(float(np.float32(epsilon)), np.float32))))
    top = np.float32(1) if scale is None else scale
    factor = flush(top / deviation)  # LAY-14
    centre = flush(-mean) if bias is None else flush(bias - mean)
    shifted = flush(centre * factor)
    shifted = shifted if offset is None else flush(shifted + offset)
    return flush(kernel * factor), shifted


def _given(name: str, x: np.ndarray | None) -> np.ndarray | None:
    return None if x is None else _wide(name, x)


def _wide(name: str, x: np.ndarray) -> np.ndarray:
    return flush(as_real("fold", name, x).astype(np.float32))
