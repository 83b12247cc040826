"""Schedules in both APIs: the float model until the start, frozen scales from the freeze on, one program for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bits import assert_same

from jaxquant.flax import Lsq, Recipe, Rule, Schedule
from jaxquant.flax.mark import is_mark
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import inputs
from tests.flax.training import trainer

X = inputs(4, 6, 8)
LEARNED = Rule("**", weights="int4", inputs="int8:tensor", weight_estimator=Lsq(), input_estimator=Lsq())


def scales(leaves: dict[str, Any]) -> list[np.ndarray]:
    return [np.asarray(leaf) for path, leaf in leaves.items() if path.endswith("_scale")]


def test_schedule_property_freezes_nothing_before_it_starts() -> None:
    with pytest.raises(ValueError, match=r"^Schedule: freeze_scales is 5 and start 10, need start first"):
        Schedule(start=10, freeze_scales=5)
    assert Schedule(start=5, freeze_scales=5).freeze_scales == 5


@pytest.mark.parametrize("model", [("Two",), ("Stack", "scan of remat")], ids=" ".join)
def test_schedule_property_starts_and_freezes_at_its_steps(api: Any, model: tuple[str, ...]) -> None:  # noqa: F811
    """Neither compiles anew, nor does another batch; before the start the bits are the float model's."""
    floats = api.own_model(model[0], X, *model[1:])
    recipe = Recipe(LEARNED, schedule=Schedule(start=2, freeze_scales=4))
    training = trainer(api.prepare(floats, recipe, X).calibrated(X))
    plain = trainer(floats).step(X)
    moved, losses = [], []
    for number in range(6):
        trial = training.trial
        same = np.array_equal(floats.weights_of(trial).run(X), trial.run(X))
        assert same == (number < 2), number
        gradients = trial.gradients(X)
        assert all(np.isfinite(leaf).all() for leaf in gradients.values())
        assert any(leaf.any() for leaf in scales(gradients)) == (2 <= number < 4)
        if number == 2:  # what is counted and what is marked alone have no gradient
            for path, leaf in gradients.items():
                name = path.rpartition("/")[2]
                assert (name == "step" or is_mark(name)) != np.any(leaf), path
        losses.append(training.step(inputs(4, 6, 8, seed=number)))
        pairs = zip(scales(trial.leaves()), scales(training.trial.leaves()), strict=True)
        moved.append(any((a != b).any() for a, b in pairs))
    assert moved[2:4] == [True, True] and training.traced == 1
    assert_same(losses[0], plain)


def test_advance_property_counts_the_steps_of_layers_alone(api: Any) -> None:  # noqa: F811
    """A parameter of the user's own may have the name."""
    trial = api.prepare(api.float_model("Own", X), Recipe(LEARNED, schedule=Schedule(start=1)), X)
    before, after = trial.leaves(), trial.advanced().leaves()
    assert (before["dense/step"], after["dense/step"]) == (0, 1)
    for path in before.keys() - {"dense/step"}:
        assert_same(after[path], before[path])
