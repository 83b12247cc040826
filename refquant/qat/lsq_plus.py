"""LSQ+: a learned scale and a learned real offset (specs/62-estimators.md, LSP-1..LSP-6).

Bhalgat, Lee, Nagel, Blankevoort, Kwak: LSQ+, CVPR workshops 2020, arXiv 2004.09576.
"""

import numpy as np

from refquant import checks
from refquant.arguments import as_real
from refquant.bits import flush
from refquant.estimators import LsqPlus, check_learned, gradient_scale
from refquant.formats import Format, IntFormat
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds
from refquant.qat import _tiles
from refquant.scales import choose_scale
from refquant.spec import ScaleRule

TENSOR = PerTensor()
PLUS = LsqPlus()


@kinds
@np.errstate(all="ignore")
def lsq_plus(
    x: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
    estimator: LsqPlus = PLUS,
) -> np.ndarray:
    """x on the grid of a learned scale that starts at a learned real offset, as the paper has it.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, any sign, shape `granularity.scale_shape(x.shape)`.
      offset: float32, shape of scale: the value of code 0.
      fmt: an integer format.
      granularity: which elements share a scale.
      estimator: the gradient's variant; the values do not depend on it.
    Returns:
      dtype and shape of x.
    Raises:
      TypeError: a dtype, the format or the estimator does not fit.
      ValueError: a shape does not fit.

    Spec: EST-1, LSP-1 (specs/62-estimators.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> lsq_plus(np.float32([-1, 0.1, 9]), 0.5, -0.25, fmt=ALL["uint4"]).tolist()
      [-0.25, 0.25, 7.25]
    """
    fmt = check_learned("lsq_plus", estimator, fmt, LsqPlus)
    x, scale, offset = _arguments("lsq_plus", x, scale, offset, granularity)
    steps, _, _ = _judged(x, scale, offset, fmt, granularity, estimator.mask)
    step, base = (_tiles.spread(v, x.shape, granularity) for v in (_tiles.used(scale), flush(offset)))
    return flush((steps + np.float32(0)) * step + base).astype(x.dtype)  # LSP-1: the integer 0 has no sign


@kinds
@np.errstate(all="ignore")
def lsq_plus_vjp(
    x: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
    cotangent: np.ndarray,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
    estimator: LsqPlus = PLUS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of `lsq_plus` for x, the scale and the offset.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, any sign, shape `granularity.scale_shape(x.shape)`.
      offset: float32, shape of scale.
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: an integer format.
      granularity: which elements share a scale.
      estimator: the gradient scale and the mask.
    Returns:
      (dtype and shape of cotangent; float32, shape of scale; the same).
    Raises:
      TypeError: a dtype, the format or the estimator does not fit.
      ValueError: a shape does not fit.

    Spec: EST-2..EST-6, LSP-2 (specs/62-estimators.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> x, ones, plain = np.float32([0.25, 99]), np.ones(2, np.float32), LsqPlus("none")
      >>> [v.tolist() for v in lsq_plus_vjp(x, 0.5, -1.0, ones, fmt=ALL["uint2"], estimator=plain)]
      [[1.0, 0.0], 2.5, 1.0]
    """
    name = "lsq_plus_vjp"
    fmt = check_learned(name, estimator, fmt, LsqPlus)
    x, scale, offset = _arguments(name, x, scale, offset, granularity)
    cotangent = as_real(name, "cotangent", cotangent)
    checks.same_shape(name, "cotangent", cotangent.shape, x.shape, "x")
    factor, wide = gradient_scale(estimator, fmt, x.shape, granularity), cotangent.astype(np.float32)
    steps, ratio, inside = _judged(x, scale, offset, fmt, granularity, estimator.mask)
    terms = np.where(inside, steps - ratio, steps) * wide  # LSP-2
    shifts = np.where(inside, np.float32(0), wide)  # LSP-2
    to_scale, to_offset = (_tiles.summed(_tiles.counted(v), granularity) for v in (terms, shifts))  # EST-4
    dscale, doffset = _tiles.finished(to_scale, factor, scale), _tiles.finished(to_offset, factor)
    return _tiles.passed(inside, cotangent), dscale, doffset


@kinds
@np.errstate(all="ignore")
def lsq_plus_init(x: np.ndarray, *, fmt: Format, granularity: Granularity = TENSOR) -> tuple[np.ndarray, np.ndarray]:
    """Where LSQ+ starts for weights: three standard deviations around the mean.

    Args:
      x: float32, float16 or bfloat16, any shape.
      fmt: an integer format.
      granularity: which elements share a scale.
    Returns:
      (scale, offset): float32, shape `granularity.scale_shape(x.shape)`; scale at least 2^-60, offset +0.
    Raises:
      TypeError: a dtype or the format does not fit.

    Spec: LSP-5 (specs/62-estimators.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> [float(v) for v in lsq_plus_init(np.float32([1, -3]), fmt=ALL["int4"])]
      [0.875, 0.0]
    """
    fmt = check_learned("lsq_plus_init", PLUS, fmt, LsqPlus)
    x = _tiles.counted(as_real("lsq_plus_init", "x", x).astype(np.float32))  # LSP-5
    mean = _tiles.means(x, granularity)  # LSP-5
    distance = _tiles.counted(x - _tiles.spread(mean, x.shape, granularity))  # LSP-5
    deviation = np.sqrt(_tiles.means(distance * distance, granularity))  # LSP-5
    reach = np.abs(mean) + np.float32(3) * deviation  # LSP-5
    scale = _tiles.used(reach * np.float32(2.0 ** (1 - fmt.bits)))  # LSP-5
    return scale, np.zeros(scale.shape, np.float32)


@kinds
@np.errstate(all="ignore")
def lsq_plus_from_range(low: np.ndarray, high: np.ndarray, *, fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """Where LSQ+ starts for inputs: the range as calibration saw it.

    Args:
      low: float32, any shape.
      high: float32, shape of low.
      fmt: an integer format.
    Returns:
      (scale, offset): float32, shape of low; code 0 has the value offset, code qmin the value low.
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: the shapes differ.

    Spec: LSP-6 (specs/62-estimators.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> [float(v) for v in lsq_plus_from_range(np.float32(-1), np.float32(14), fmt=ALL["int4"])]
      [1.0, 7.0]
    """
    fmt = check_learned("lsq_plus_from_range", PLUS, fmt, LsqPlus)
    scale, bottom = choose_scale(low, high, fmt=fmt, rule=ScaleRule(zero="float"))
    return scale, np.asarray(flush(np.asarray(bottom, np.float32) - np.float32(fmt.qmin) * scale))  # LSP-6


def _arguments(
    name: str, x: object, scale: object, offset: object, granularity: Granularity
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = as_real(name, "x", x)
    scale, offset = (_tiles.as_learned(name, *v) for v in (("scale", scale), ("offset", offset)))
    for argument, value in (("scale", scale), ("offset", offset)):
        checks.scale_shape(name, argument, value.shape, x.shape, granularity)
    return x, scale, offset


def _judged(
    x: np.ndarray, scale: np.ndarray, offset: np.ndarray, fmt: IntFormat, granularity: Granularity, mask: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """LSP-1: (k as binary32, ratio, inside)."""
    step, base = (_tiles.spread(v, x.shape, granularity) for v in (_tiles.used(scale), flush(offset)))
    ratio = _tiles.ratio(flush(x.astype(np.float32)) - base, step)  # LSP-1: flushed(x - offset) / u, flushed
    whole = np.rint(ratio)
    steps = np.where(np.isnan(whole), np.float32(fmt.qmin), np.clip(whole, fmt.qmin, fmt.qmax))  # LSP-1
    judge = whole if mask == "rounded" else ratio
    return steps.astype(np.float32), ratio, (judge >= fmt.qmin) & (judge <= fmt.qmax)  # EST-3
