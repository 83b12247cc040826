"""LSQ: a learned scale (specs/62-estimators.md, LSQ-1..LSQ-3).

Esser, McKinstry, Bablani, Appuswamy, Modha: Learned Step Size Quantization, ICLR 2020, arXiv 1902.08153.
"""

import numpy as np

from refquant import checks
from refquant.affine import fake_quantize
from refquant.arguments import as_real
from refquant.bits import flush
from refquant.estimators import Lsq, check_learned, reciprocal_root
from refquant.formats import Format
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds
from refquant.qat import _tiles
from refquant.qat.learned import gradients

TENSOR = PerTensor()
LSQ = Lsq()


@kinds
def lsq(
    x: np.ndarray,
    scale: np.ndarray,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
    estimator: Lsq = LSQ,
) -> np.ndarray:
    """x on the grid of a learned scale.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, any sign, shape `granularity.scale_shape(x.shape)`.
      fmt: an integer format.
      granularity: which elements share a scale.
      estimator: the gradient's variant; the values do not depend on it.
    Returns:
      dtype and shape of x: codes times max(|scale|, 2^-60).
    Raises:
      TypeError: a dtype, the format or the estimator does not fit.
      ValueError: a shape does not fit.

    Spec: EST-1, LSQ-1 (specs/62-estimators.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> lsq(np.float32([0.3, 1.3, 9.0]), -0.5, fmt=ALL["int4"]).tolist()
      [0.5, 1.5, 3.5]
    """
    check_learned("lsq", estimator, fmt, Lsq)
    x = as_real("lsq", "x", x)
    scale = _tiles.as_learned("lsq", "scale", scale)
    checks.scale_shape("lsq", "scale", scale.shape, x.shape, granularity)
    return fake_quantize(x, _tiles.used(scale), fmt=fmt, granularity=granularity)  # LSQ-1


@kinds
def lsq_vjp(
    x: np.ndarray,
    scale: np.ndarray,
    cotangent: np.ndarray,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
    estimator: Lsq = LSQ,
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `lsq` for x and for the scale.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, any sign, shape `granularity.scale_shape(x.shape)`.
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: an integer format.
      granularity: which elements share a scale.
      estimator: the gradient scale and the mask.
    Returns:
      (dtype and shape of cotangent; float32, shape of scale).
    Raises:
      TypeError: a dtype, the format or the estimator does not fit.
      ValueError: a shape does not fit.

    Spec: EST-1..EST-6, LSQ-2 (specs/62-estimators.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> dx, dscale = lsq_vjp(np.float32([0.25, 9]), 1.0, np.float32([1, 1]), fmt=ALL["int4"], estimator=Lsq("none"))
      >>> dx.tolist(), float(dscale)
      ([1.0, 0.0], 6.75)
    """
    check_learned("lsq_vjp", estimator, fmt, Lsq)
    check_learned("lsq_vjp", estimator, fmt, Lsq)
    dx, (dscale,) = gradients("lsq_vjp", estimator, x, (scale,), cotangent, fmt=fmt, granularity=granularity)
    return dx, dscale


@kinds
@np.errstate(all="ignore")
def lsq_init(x: np.ndarray, *, fmt: Format, granularity: Granularity = TENSOR) -> np.ndarray:
    """Where LSQ starts: twice the mean magnitude over the root of qmax.

    Args:
      x: float32, float16 or bfloat16, any shape.
      fmt: an integer format.
      granularity: which elements share a scale.
    Returns:
      float32, shape `granularity.scale_shape(x.shape)`, at least 2^-60; NaN where the tile has one.
    Raises:
      TypeError: a dtype or the format does not fit.

    Spec: LSQ-3 (specs/62-estimators.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> float(lsq_init(np.float32([1, -3]), fmt=ALL["uint2"]))
      2.309401035308838
    """
    fmt = check_learned("lsq_init", LSQ, fmt, Lsq)
    x = as_real("lsq_init", "x", x).astype(np.float32)
    mean = _tiles.means(np.abs(x), granularity)  # LSQ-3
    return _tiles.used(flush(mean * np.float32(2 * reciprocal_root(fmt.qmax))))  # LSQ-3
