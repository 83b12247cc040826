"""A quantized tensor: codes, scale and zero point with the spec that gives them meaning."""

import math
from dataclasses import dataclass, replace
from functools import partial

import jax

from jaxquant import _exact, _inputs, _sharding, affine, scales
from refquant.conventions import Affine
from refquant.kinds import kinds
from refquant.spec import SCALE_BITS, QuantSpec


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

    @property
    def nbytes(self) -> int:
        """QTN-3: bytes of packed codes, scales at the width of their storage, and zero points."""
        fmt, count = self.spec.fmt, math.prod(self.scale.shape)
        total = _bytes(math.prod(self.codes.shape) * fmt.bits) + _bytes(count * SCALE_BITS[self.spec.scale.storage])
        if self.zero_point is None:
            return total
        return total + _bytes(count * (32 if self.spec.scale.zero == "float" else fmt.bits))


@kinds
def quantize_tensor(x: jax.Array, spec: QuantSpec) -> QTensor:
    """Range, scale and codes of x by a spec.

    Args:
      x: float32, float16 or bfloat16, any shape.
      spec: format, granularity, scale rule and convention.
    Returns:
      A QTensor with the shape of x.
    Raises:
      TypeError: x has another dtype.  ValueError: the granularity or the convention does not fit.

    Spec: QTN-1, QTN-2 (specs/30-scales.md).  Class: exact.
    """
    x = _inputs.real("quantize_tensor", "x", x)
    scale, zero_point = scales.scale_of(x, fmt=spec.fmt, granularity=spec.granularity, rule=spec.scale)
    return coded(x, scale, zero_point, spec)


def coded(x: jax.Array, scale: jax.Array, zero_point: jax.Array | None, spec: QuantSpec) -> QTensor:
    """x by a spec, with a given scale and zero point instead of those of its range (QTN-2)."""
    options = {"fmt": spec.fmt, "granularity": spec.granularity, "convention": spec_convention(spec)}
    return QTensor(affine.quantize(x, step(scale, spec), zero_point, **options), scale, zero_point, spec)


def step(scale: jax.Array, spec: QuantSpec) -> jax.Array:
    """What quantize is given for a scale: its reciprocal under op "given" (QTN-2)."""
    return _reciprocal(scale) if spec_convention(spec).op == "given" else scale


@kinds
def dequantize_tensor(q: QTensor, *, dtype: object = "float32") -> jax.Array:
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


def spec_convention(spec: QuantSpec) -> Affine:
    """The convention of a spec, with zero "bias" exactly where the scale rule has a real offset (QTN-2)."""
    if spec.scale.zero == "float":
        return replace(spec.convention, zero="bias")
    return replace(spec.convention, zero="int") if spec.convention.zero == "bias" else spec.convention


def _bytes(bits: int) -> int:
    return -(-bits // 8)


_reciprocal = _sharding.jit(_exact.reciprocal)
