"""Rounding by given random bits (specs/62-estimators.md, SRD-1, SRD-2).

Gupta, Agrawal, Gopalakrishnan, Narayanan: Deep Learning with Limited Numerical Precision, ICML 2015.
"""

import numpy as np

from refquant import checks
from refquant.affine import dequantize, fake_quantize_vjp
from refquant.arguments import as_array, as_real, as_scale, as_zero_point
from refquant.estimators import check_integer
from refquant.formats import Format, IntFormat
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds
from refquant.qat import _tiles
from refquant.rounding import round_stochastic

TENSOR = PerTensor()
FAR = np.float32(1 << 24)


@kinds
@np.errstate(all="ignore")
def stochastic_quantize(
    x: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None,
    bits: np.ndarray,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
) -> np.ndarray:
    """Codes of x, rounded up with the probability of the fraction of x / scale, by given random bits.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, shape `granularity.scale_shape(x.shape)`.
      zero_point: int32, shape of scale; None is zero.
      bits: uint32, shape of x, uniform; the upper 24 bits count.
      fmt: an integer format.
      granularity: which elements share a scale.
    Returns:
      `fmt.storage`, shape of x.  NaN gives qmin.
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: a shape does not fit.

    Spec: SRD-1 (specs/62-estimators.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> x, bits = np.float32([0.5, 0.5, 9]), np.uint32([0, 2**32 - 1, 5])
      >>> stochastic_quantize(x, 1.0, None, bits, fmt=ALL["int4"]).tolist()
      [1, 0, 7]
    """
    name = "stochastic_quantize"
    fmt = check_integer(name, fmt)
    x, scale, zero_point = _arguments(name, x, scale, zero_point, bits, fmt, granularity)
    ratio = _tiles.ratio(x, _tiles.spread(scale, x.shape, granularity))  # SRD-1
    whole = np.clip(round_stochastic(ratio, bits), -FAR, FAR)  # SRD-1, GEN-4
    zero = np.int32(0) if zero_point is None else _tiles.spread(zero_point, x.shape, granularity)
    placed = np.where(np.isnan(whole), 0, whole).astype(np.int32) + np.clip(zero, fmt.qmin, fmt.qmax)  # SRD-1
    codes = np.where(np.isnan(whole), np.int32(fmt.qmin), np.clip(placed, fmt.qmin, fmt.qmax))  # SRD-1
    return codes.astype(fmt.storage)


@kinds
def stochastic_fake_quantize(
    x: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None,
    bits: np.ndarray,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
) -> np.ndarray:
    """The values that x has after `stochastic_quantize` and `dequantize`.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, shape `granularity.scale_shape(x.shape)`.
      zero_point: int32, shape of scale; None is zero.
      bits: uint32, shape of x.
      fmt: an integer format.
      granularity: which elements share a scale.
    Returns:
      dtype and shape of x.
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: a shape does not fit.

    Spec: SRD-2 (specs/62-estimators.md).  Class: exact.
    """
    name = "stochastic_fake_quantize"
    fmt = check_integer(name, fmt)
    x, scale, zero_point = _arguments(name, x, scale, zero_point, bits, fmt, granularity)
    zero = None if zero_point is None else np.clip(zero_point, fmt.qmin, fmt.qmax)  # SRD-1
    codes = stochastic_quantize(x, scale, zero, bits, fmt=fmt, granularity=granularity)
    return dequantize(codes, scale, zero, fmt=fmt, granularity=granularity, dtype=x.dtype)  # SRD-2


@kinds
def stochastic_fake_quantize_vjp(
    x: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None,
    bits: np.ndarray,
    cotangent: np.ndarray,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
) -> np.ndarray:
    """The straight-through gradient of `stochastic_fake_quantize` for x; the bits play no part.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, shape `granularity.scale_shape(x.shape)`.
      zero_point: int32, shape of scale; None is zero.
      bits: uint32, shape of x.
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: an integer format.
      granularity: which elements share a scale.
    Returns:
      dtype and shape of cotangent.
    Raises:
      TypeError: a dtype or the format does not fit.
      ValueError: a shape does not fit.

    Spec: SRD-2 (specs/62-estimators.md).  Class: exact.
    """
    name = "stochastic_fake_quantize_vjp"
    fmt = check_integer(name, fmt)
    x, scale, zero_point = _arguments(name, x, scale, zero_point, bits, fmt, granularity)
    cotangent = as_real(name, "cotangent", cotangent)
    checks.same_shape(name, "cotangent", cotangent.shape, x.shape, "x")
    zero = None if zero_point is None else np.clip(zero_point, fmt.qmin, fmt.qmax)  # SRD-1
    return fake_quantize_vjp(x, scale, zero, cotangent, fmt=fmt, granularity=granularity, mask="ratio")  # SRD-2


def _arguments(
    name: str, x: object, scale: object, zero_point: object, bits: np.ndarray, fmt: IntFormat, granularity: Granularity
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    x = as_real(name, "x", x)
    scale = as_scale(name, scale, x.shape, granularity)
    zero_point = as_zero_point(name, zero_point, "int", fmt, x.shape, granularity)
    bits = as_array(bits)
    checks.random_bits(name, bits.dtype)
    checks.same_shape(name, "bits", bits.shape, x.shape, "x")
    return x, scale, zero_point
