"""Flax on top of jaxquant: modules whose layers run on codes, by a recipe.  No arithmetic of their own."""

from jaxquant.flax.recipe import Recipe, Schedule
from jaxquant.flax.report import Report, Row
from jaxquant.flax.rule import Rule
from refquant.estimators import Lsq, LsqPlus, Pact, Ste

__all__ = ["Lsq", "LsqPlus", "Pact", "Recipe", "Report", "Row", "Rule", "Schedule", "Ste"]
