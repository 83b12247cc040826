"""Weights in training: the float master values with all that decides their codes (specs/60-layers.md, LAY-12)."""

from dataclasses import dataclass, field

import numpy as np

from refquant.arguments import as_real, shape_of
from refquant.estimators import Estimator, Ste, learned_names
from refquant.layer_checks import check_trained
from refquant.qat.learned import effective
from refquant.qtensor import QTensor, coded, quantize_tensor
from refquant.spec import QuantSpec


@dataclass(frozen=True, eq=False)
class Trained:
    """What stands where a QTensor stands in a layer operation while the layer is trained.

    Attributes:
      values: the master parameter, float32, float16 or bfloat16.
      learned: what the estimator learns beside the values: () for Ste, (scale,) for Lsq, (scale, offset) for LsqPlus.
      spec: what the codes mean.
      estimator: how the gradient passes the rounding.
    """

    values: np.ndarray
    learned: tuple[np.ndarray, ...] = ()
    spec: QuantSpec = field(kw_only=True)
    estimator: Estimator = field(default=Ste(), kw_only=True)

    def quantized(self) -> QTensor:
        """The QTensor that a converted layer stores: the codes of this moment (LAY-12)."""
        values = as_real("quantize_tensor", "x", self.values)
        shapes = tuple(shape_of(v) for v in self.learned)
        check_trained("quantize_tensor", self.spec, values.shape, shapes, len(learned_names(self.estimator)))
        if not self.learned:
            return quantize_tensor(values, self.spec)
        scale, zero_point = effective(self.estimator, self.learned, self.spec.fmt)
        return coded(values, scale, zero_point, self.spec)


def frozen(weight: QTensor | Trained) -> QTensor:
    """The QTensor that a layer runs on."""
    return weight.quantized() if isinstance(weight, Trained) else weight
