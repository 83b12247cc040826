"""A quantized tensor: codes, scale and zero point with the spec that gives them meaning."""

from dataclasses import dataclass, replace
from functools import partial

import jax

from jaxquant import affine, scales
from refquant.conventions import Affine
from refquant.spec import QuantSpec


@partial(jax.tree_util.register_dataclass, data_fields=["codes", "scale", "zero_point"], meta_fields=["spec"])
@dataclass(frozen=True)
class QTensor:
    """A pytree whose leaves are arrays and whose spec is static.

    Attributes:
      codes: of dtype `spec.fmt.storage`.
      scale: float32, shape `spec.granularity.scale_shape(codes.shape)`.
      zero_point: None, int32, or float32 (a real offset), shape of scale.
      spec: what the codes mean.
    """

    codes: jax.Array
    scale: jax.Array
    zero_point: jax.Array | None
    spec: QuantSpec

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the codes."""
        return tuple(self.codes.shape)


def quantize_tensor(x: jax.Array, spec: QuantSpec) -> QTensor:
    """Range, scale and codes of x by a spec.

    Args:
      x: float32, float16 or bfloat16, any shape.
      spec: format, granularity, scale rule and convention.
    Returns:
      A QTensor with the shape of x.
    Raises:
      TypeError: x has another dtype.  ValueError: the granularity or the convention does not fit.

    Spec: SCL-1..SCL-8, AFF-1..AFF-7 (specs/20-affine.md, specs/30-scales.md).  Class: exact.
    """
    low, high = scales.range_of(x, granularity=spec.granularity)
    scale, zero_point = scales.choose_scale(low, high, fmt=spec.fmt, rule=spec.scale)
    codes = affine.quantize(
        x, scale, zero_point, fmt=spec.fmt, granularity=spec.granularity, convention=_convention(spec)
    )
    return QTensor(codes, scale, zero_point, spec)


def dequantize_tensor(q: QTensor, *, dtype: str = "float32") -> jax.Array:
    """The real values of a QTensor.

    Args:
      q: codes with scale, zero point and spec.
      dtype: "float32", "float16" or "bfloat16".
    Returns:
      dtype, shape of the codes.
    Raises:
      TypeError: another dtype.

    Spec: DEQ-1..DEQ-4 (specs/20-affine.md).  Class: exact.
    """
    return affine.dequantize(
        q.codes, q.scale, q.zero_point, fmt=q.spec.fmt, granularity=q.spec.granularity, dtype=dtype
    )


def _convention(spec: QuantSpec) -> Affine:
    """SCL-8: a real offset goes with zero "bias"."""
    return replace(spec.convention, zero="bias") if spec.scale.zero == "float" else spec.convention
