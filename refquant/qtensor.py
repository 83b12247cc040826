"""A quantized tensor: codes, scales, zero points and what decides their bits (specs/30-scales.md, QTN rules)."""

from dataclasses import dataclass, replace

import numpy as np

from refquant.affine import dequantize, quantize
from refquant.arguments import as_real
from refquant.conventions import Affine
from refquant.granularity import Shape
from refquant.kinds import kinds
from refquant.scales import choose_scale, range_of
from refquant.spec import SCALE_BITS, QuantSpec


@dataclass(frozen=True, eq=False)
class QTensor:
    """Codes with their scales; the result of `quantize_tensor`.

    Attributes:
      codes: `spec.fmt.storage`, the tensor's shape.
      scale: float32, shape `spec.granularity.scale_shape(shape)`; already rounded to its storage.
      zero_point: None, int32, or float32 for a real offset; shape of scale.
      spec: format, granularity, scale rule and convention.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None
    spec: QuantSpec

    @property
    def shape(self) -> Shape:
        """The tensor's shape."""
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        """Bytes when stored: packed codes, scales at the width of their storage, zero points (QTN-3)."""
        zero_bits = {"none": 0, "int": self.spec.fmt.bits, "float": 32}[self.spec.scale.zero]
        widths = (self.spec.fmt.bits, self.codes.size), (SCALE_BITS[self.spec.scale.storage], self.scale.size)
        return sum(-(-bits * size // 8) for bits, size in (*widths, (zero_bits, self.scale.size)))


@kinds
@np.errstate(all="ignore")
def quantize_tensor(x: np.ndarray, spec: QuantSpec) -> QTensor:
    """x with scales from its own range.

    Args:
      x: float32, float16 or bfloat16, any shape.
      spec: format, granularity, scale rule and convention.
    Returns:
      codes of the shape of x, with scales and zero points.
    Raises:
      TypeError: another dtype.
      ValueError: the granularity does not fit the shape.

    Spec: QTN-1, QTN-2 (specs/30-scales.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> q = quantize_tensor(np.float32([-0.7, 0.1, 0.7]), QuantSpec(ALL["int4"]))
      >>> q.codes.tolist(), q.nbytes
      ([-7, 1, 7], 6)
    """
    x = as_real("quantize_tensor", "x", x)
    low, high = range_of(x, granularity=spec.granularity)
    scale, zero_point = choose_scale(low, high, fmt=spec.fmt, rule=spec.scale)
    return coded(x, scale, zero_point, spec)  # QTN-1


@np.errstate(all="ignore")
def coded(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None, spec: QuantSpec) -> QTensor:
    """x by a spec, with a given scale and zero point instead of those of its range (QTN-2)."""
    convention = spec_convention(spec)
    given = np.float32(1) / scale if convention.op == "given" else scale  # QTN-2
    codes = quantize(x, given, zero_point, fmt=spec.fmt, granularity=spec.granularity, convention=convention)
    return QTensor(codes, scale, zero_point, spec)


@kinds
def dequantize_tensor(q: QTensor, *, dtype: np.dtype | type | str = "float32") -> np.ndarray:
    """The values of a quantized tensor.

    Args:
      q: the quantized tensor.
      dtype: of the result: float32, or float16 or bfloat16 with one more rounding.
    Returns:
      dtype, the tensor's shape.
    Raises:
      TypeError: another dtype.

    Spec: QTN-1, DEQ-1..DEQ-4 (specs/20-affine.md, specs/30-scales.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> q = quantize_tensor(np.float32([-2, 0.9, 8]), QuantSpec(ALL["e2m1fn"]))
      >>> dequantize_tensor(q).round(3).tolist()
      [-2.0, 0.6669999957084656, 8.0]
    """
    fmt, granularity = q.spec.fmt, q.spec.granularity
    return dequantize(q.codes, q.scale, q.zero_point, fmt=fmt, granularity=granularity, dtype=dtype)


def spec_convention(spec: QuantSpec) -> Affine:
    """QTN-2: the kind of zero point follows the scale rule; "bias" and a real offset belong together."""
    if spec.scale.zero == "float":
        return replace(spec.convention, zero="bias")
    if spec.convention.zero == "bias":
        return replace(spec.convention, zero="int")
    return spec.convention
