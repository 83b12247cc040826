"""Conventions: how a runtime computes.  DATA: points of small enumerations, and presets by name (specs/25, specs/50)."""

from refquant.conventions.affine import DEFAULT, Affine, Convention, Lanes, Ties
from refquant.conventions.casts import CAST, Cast
from refquant.conventions.dequant import Dequant
from refquant.conventions.rescale import Rescale, fixed_point
from refquant.conventions.steps import StepFunction

__all__ = [
    "CAST", "DEFAULT", "Affine", "Cast", "Convention", "Dequant", "Lanes", "Rescale", "StepFunction", "Ties",
    "fixed_point",
]  # fmt: skip
