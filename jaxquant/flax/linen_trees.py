"""Trees of parameters by path: what a run came across, what it adds, and putting the two together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util
from flax.core import FrozenDict, freeze, unfreeze

from jaxquant.flax.linen_sites import Path, left_alone
from jaxquant.flax.recipe import Place, Recipe
from jaxquant.flax.report import Report, Row
from jaxquant.flax.rule import Rule


@dataclass
class Coverage:
    """What a run came across.

    Attributes:
      rows: of layers and attentions, by path.
      places: what rules can speak of, by path.
      modules: the module at every path, the innermost of those that share one.
      grown: every parameter that was put.
      reasons: why modules that are no layers stay in float.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    grown: set[Path] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)

    def check(self, recipe: Recipe, params: Any) -> Report:
        """The report, with a row for every module that has parameters.

        Raises:
          ValueError: a rule decides about nothing.
        """
        owners = dict.fromkeys("/".join(path[:-1]) for path in flat(params))
        left = [path for path in owners if path not in self.rows]
        others = [Place(path, self.modules.get(path), covered=False) for path in left if path not in self.places]
        recipe.check([*self.places.values(), *others])
        kept = {place.path: recipe.rule_for(place) for place in others}
        rows = {path: self._left(recipe, path, kept.get(path)) for path in left}
        return Report(tuple(row for _, row in sorted({**self.rows, **rows}.items())))

    def layers(self) -> list[Path]:
        """The paths of the layers whose weights are quantized."""
        return [tuple(filter(None, path.split("/"))) for path, row in self.rows.items() if row.weights]

    def _left(self, recipe: Recipe, path: str, rule: Rule | None) -> Row:
        module = self.modules.get(path)
        if module is None:
            return Row(path, "?", "", "", "not run: name the method that uses it in methods")
        why = recipe.why(rule) if rule else self.reasons.get(path, left_alone(module))
        return Row(path, type(module).__name__, "", "", why or "not a layer that can run on codes")


def merged(params: Any, leaves: Mapping[Path, Any], without: Callable[[Path], bool] = lambda path: False) -> Any:
    """The tree with leaves set, the others the same objects; of the class of the tree (dict or FrozenDict)."""
    kept = {path: leaf for path, leaf in flat(params).items() if not without(path)}
    tree = traverse_util.unflatten_dict({**kept, **leaves})
    return freeze(tree) if isinstance(params, FrozenDict) else tree


def is_abstract(tree: Any) -> bool:
    """Whether any leaf is a shape without values."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def flat(params: Any) -> dict[Path, Any]:
    """The leaves of a tree of dicts by path; boxes, QTensors and statistics are leaves."""
    return traverse_util.flatten_dict(unfreeze(params), keep_empty_nodes=True)


def kernel_beside(path: Path, leaves: Mapping[Path, Any]) -> Any:
    """The kernel or table that a leaf belongs to; None: it is a leaf of the user's own."""
    return next((leaves[(*path[:-1], k)] for k in ("kernel", "embedding") if (*path[:-1], k) in leaves), None)


def steps_of(params: Any) -> dict[Path, Any]:
    """The steps that layers of a schedule have counted, by path."""
    leaves = flat(params)
    return {path: v for path, v in leaves.items() if path[-1] == "step" and kernel_beside(path, leaves) is not None}
