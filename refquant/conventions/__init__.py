"""Conventions: how a runtime computes.  DATA: points of small enumerations, presets by name (specs/25, specs/50)."""

from refquant.conventions.affine import DEFAULT, Affine, Convention, Lanes, Ties
from refquant.conventions.casts import CAST, CASTS, Cast
from refquant.conventions.dequant import DEQUANTS, Dequant
from refquant.conventions.preset import Preset
from refquant.conventions.presets import PRESETS
from refquant.conventions.rescale import RESCALE, RESCALES, Rescale, fixed_point
from refquant.conventions.steps import StepFunction

__all__ = [
    "CAST",
    "CASTS",
    "DEFAULT",
    "DEQUANTS",
    "PRESETS",
    "RESCALE",
    "RESCALES",
    "Affine",
    "Cast",
    "Convention",
    "Dequant",
    "Lanes",
    "Preset",
    "Rescale",
    "StepFunction",
    "Ties",
    "fixed_point",
]
