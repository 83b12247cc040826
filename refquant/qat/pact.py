"""PACT: a learned upper bound of activations (specs/62-estimators.md, PCT-1..PCT-3).

Choi, Wang, Venkataramani, Chuang, Srinivasan, Gopalakrishnan: PACT, 2018, arXiv 1805.06085.
"""

import numpy as np

from refquant import checks
from refquant.affine import fake_quantize
from refquant.arguments import as_real
from refquant.estimators import Pact, check_learned
from refquant.formats import Format
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds
from refquant.qat import _tiles
from refquant.qat.learned import effective, gradients

TENSOR = PerTensor()
PACT = Pact()


@kinds
def pact(x: np.ndarray, alpha: np.ndarray, *, fmt: Format, granularity: Granularity = TENSOR) -> np.ndarray:
    """x clipped to 0..alpha and rounded to qmax steps.

    Args:
      x: float32, float16 or bfloat16, any shape.
      alpha: float32, the bound, shape `granularity.scale_shape(x.shape)`.
      fmt: an integer format whose qmin is 0.
      granularity: which elements share a bound.
    Returns:
      dtype and shape of x.
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: a shape does not fit, or a signed format.

    Spec: PCT-1 (specs/62-estimators.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> pact(np.float32([-1, 1.4, 7]), 6.0, fmt=ALL["uint2"]).tolist()
      [0.0, 2.0, 6.0]
    """
    check_learned("pact", PACT, fmt)
    x = as_real("pact", "x", x)
    alpha = _tiles.as_learned("pact", "alpha", alpha)
    checks.scale_shape("pact", "alpha", alpha.shape, x.shape, granularity)
    scale, _ = effective(PACT, (alpha,), fmt)
    return fake_quantize(x, scale, fmt=fmt, granularity=granularity)  # PCT-1


@kinds
def pact_vjp(
    x: np.ndarray, alpha: np.ndarray, cotangent: np.ndarray, *, fmt: Format, granularity: Granularity = TENSOR
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `pact` for x and for the bound.

    Args:
      x: float32, float16 or bfloat16, any shape.
      alpha: float32, the bound, shape `granularity.scale_shape(x.shape)`.
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: an integer format whose qmin is 0.
      granularity: which elements share a bound.
    Returns:
      (dtype and shape of cotangent; float32, shape of alpha).
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: a shape does not fit, or a signed format.

    Spec: PCT-2, PCT-3, EST-4..EST-6 (specs/62-estimators.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> dx, dalpha = pact_vjp(np.float32([-1, 2, 6]), 6.0, np.float32([3, 4, 5]), fmt=ALL["uint4"])
      >>> dx.tolist(), float(dalpha)
      ([0.0, 4.0, 0.0], 5.0)
    """
    dx, (dalpha,) = gradients("pact_vjp", PACT, x, (alpha,), cotangent, fmt=fmt, granularity=granularity)
    return dx, dalpha
