"""Checkpoints in both APIs: training goes on with the bits of one run, converted models come back without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from bits import assert_same

from jaxquant.flax import Lsq, LsqPlus, Recipe, Rule, Schedule
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import inputs
from tests.flax.training import trainer

orbax = pytest.importorskip("orbax.checkpoint")

X = inputs(8, 6, 8)
LEARNED = Recipe(
    Rule("**", weights="int4", inputs="int8:tensor", weight_estimator=Lsq(), input_estimator=Lsq()),
    schedule=Schedule(start=2, freeze_scales=5),
)
PLUS = Recipe(
    Rule("**", weights="int4:asym", inputs="uint8:tensor:asym", weight_estimator=LsqPlus(), input_estimator=LsqPlus())
)


def through_a_file(path: Path, saved: Any, target: Any) -> Any:
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "half", saved)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "half", target)


def test_training_property_resumes_with_the_bits_of_the_uninterrupted_run(api: Any, tmp_path: Path) -> None:  # noqa: F811
    """Scales, steps and the optimizer, in a model that was never trained; start and freeze compile nothing anew."""
    floats = api.own_model("Stack", X, "scan")
    whole = trainer(api.prepare(floats, LEARNED, X).calibrated(X))
    again = trainer(api.prepare(floats.zeros(), LEARNED, X))
    for number in range(8):
        if number == 4:
            again.restore(through_a_file(tmp_path, whole.tree(), again.tree()))
        whole.step(X)
    assert whole.traced == 1
    for _ in range(4):
        again.step(X)
    assert jax.tree.structure(again.tree()) == jax.tree.structure(whole.tree())
    jax.tree.map(assert_same, again.tree(), whole.tree())
    leaves = whole.trial.leaves()
    assert all((leaf == 8).all() for path, leaf in leaves.items() if path.endswith("/step"))
    assert not any(np.isnan(leaf).any() for leaf in leaves.values())


def test_a_converted_model_property_is_restored_without_weights(api: Any, tmp_path: Path) -> None:  # noqa: F811
    """Into what `prepare` and `convert` make of shapes."""
    floats = api.own_model("Stack", X, "scan")
    trial = api.prepare(floats, LEARNED, X).calibrated(X).advanced().advanced()
    converted = trial.converted()
    shapes = api.prepare(floats.abstract(), LEARNED, X).converted()
    restored = shapes.with_tree(through_a_file(tmp_path, converted.tree(), shapes.tree()))
    want = trial.run(X)
    for one in (converted, restored):
        assert_same(one.run(X), want)


@pytest.mark.parametrize(("kind", "recipe"), [("scan of remat", PLUS), ("shared", LEARNED)], ids=["scan", "shared"])
def test_prepare_property_of_shapes_has_the_shapes_of_values(api: Any, kind: str, recipe: Recipe) -> None:  # noqa: F811
    def described(trial: Any) -> Any:
        leaves = jax.tree_util.tree_leaves_with_path(trial.leaves())
        return {jax.tree_util.keystr(path): (v.shape, str(v.dtype)) for path, v in leaves}

    floats = api.own_model("Stack", X, kind)
    trial = api.prepare(floats, recipe, X).calibrated(X)
    shapes = api.prepare(floats.abstract(), recipe, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert described(shapes) == described(trial) and shapes.report == trial.report
    trial = trial.advanced().advanced()
    assert described(shapes.converted()) == described(trial.converted())
