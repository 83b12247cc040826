"""Weights in training: the float master values with all that decides their codes (specs/60-layers.md, LAY-12)."""

from dataclasses import dataclass, field, replace
from functools import partial

import jax
import numpy as np

from jaxquant import _exact, _inputs, affine, scales
from jaxquant.qat.learned import effective, learned_arrays, learned_vjp
from jaxquant.qtensor import QTensor, coded, spec_convention, step
from refquant.estimators import Estimator, LsqPlus, Ste, learned_names
from refquant.layer_checks import check_trained, check_weight
from refquant.spec import QuantSpec

Pair = tuple[jax.Array, jax.Array | None]


@partial(jax.tree_util.register_dataclass, data_fields=["values", "learned"], meta_fields=["spec", "estimator"])
@dataclass(frozen=True)
class Trained:
    """A pytree that stands where a QTensor stands in a layer operation, and lets gradients through.

    Attributes:
      values: the master parameter, float32, float16 or bfloat16.
      learned: what the estimator learns beside the values: () for Ste, (scale,) for Lsq, (scale, offset) for LsqPlus.
      spec: what the codes mean.
      estimator: how the gradient passes the rounding.
    """

    values: jax.Array
    learned: tuple[jax.Array, ...] = ()
    spec: QuantSpec = field(kw_only=True)
    estimator: Estimator = field(default=Ste(), kw_only=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return np.shape(self.values)

    def quantized(self) -> QTensor:
        """The QTensor that a converted layer stores: the codes of this moment, the same bits."""
        scale, zero_point = self.scale()
        return self.coded(scale, zero_point)

    def scale(self) -> Pair:
        """Scale and zero point: the learned ones, else from the range of the values (SCL-1..SCL-8)."""
        if self.learned:
            return effective(self.estimator, self.learned, self.spec.fmt)
        return dynamic_scale(self.values, self.spec)

    def coded(self, scale: jax.Array, zero_point: jax.Array | None) -> QTensor:
        """The codes of the values by a given scale and zero point."""
        return coded(self.values, scale, zero_point, self.spec)

    def cotangent(self, scale: jax.Array, zero_point: jax.Array | None, flowing: jax.Array) -> "Trained":
        """What a gradient of the dequantized weight means for values and learned scales (EST rules).

        Args:
          scale: of the forward pass.
          zero_point: likewise.
          flowing: float32, shape of the values.
        """
        grain = {"fmt": self.spec.fmt, "granularity": self.spec.granularity, "convention": spec_convention(self.spec)}
        if self.learned:
            passed, learned = learned_vjp(self.estimator, self.values, self.learned, flowing, **grain)
        else:
            grain |= {"mask": self.estimator.mask, "own": self.spec.scale}
            inside = affine.judge(self.values, step(scale, self.spec), zero_point, **grain)
            passed, learned = affine.masked(flowing, inside), ()
        dtype = str(self.values.dtype)
        return Trained(_exact.cast(passed, dtype), learned, spec=self.spec, estimator=self.estimator)


def dynamic_scale(x: jax.Array, spec: QuantSpec) -> Pair:
    """Scale and zero point from the range of x (SCL-1..SCL-8); no gradient passes them."""
    x = jax.lax.stop_gradient(_inputs.real("quantize_tensor", "x", x))
    return scales.scale_of(x, fmt=spec.fmt, granularity=spec.granularity, rule=spec.scale)


def checked(function: str, weight: QTensor | Trained) -> QTensor | Trained:
    """The weight, if its dtypes and shapes are those of its spec; its arrays are what a compiled layer takes.

    Raises:
      TypeError: a dtype.
      ValueError: a shape.
    """
    if not isinstance(weight, Trained):
        check_weight(function, weight)
        return weight
    values = _inputs.real("quantize_tensor", "x", weight.values)
    shapes = tuple(_inputs.shape_of(v) for v in weight.learned)
    check_trained("quantize_tensor", weight.spec, values.shape, shapes, len(learned_names(weight.estimator)))
    learned = learned_arrays("effective", weight.estimator, weight.learned) if weight.learned else ()
    return replace(weight, values=values, learned=learned)


def is_centred(weight: QTensor | Trained) -> bool:
    """Whether the codes have a zero point."""
    if not isinstance(weight, Trained):
        return weight.zero_point is not None
    return isinstance(weight.estimator, LsqPlus) or (not weight.learned and weight.spec.scale.zero == "int")


def frozen(weight: QTensor | Trained) -> QTensor:
    """The QTensor that a layer runs on."""
    return weight.quantized() if isinstance(weight, Trained) else weight
