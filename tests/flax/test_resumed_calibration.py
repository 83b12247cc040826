"""Half of the data observed, saved by orbax, restored into a model that has seen nothing: the bits of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from bits import assert_same

from jaxquant.flax import Recipe, Rule, linen_api
from tests.flax import linen_models
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import inputs

orbax = pytest.importorskip("orbax.checkpoint")
X = inputs(4, 3, 8)
BATCHES = [X, X * 5, X / 2, X[::-1] * 4 + 1]
CALIBRATIONS = ("minmax", "ema:0.5", "percentile:990000", "mse")  # one for each kind of state


def recipe(calibration: str) -> Recipe:
    return Recipe(Rule("**", weights="int8", inputs="int8:tensor", input_scale="static", calibration=calibration))


def through_a_file(path: Path, saved: Any, target: Any) -> Any:
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "half", saved)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "half", target)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_linen_property_members_of_a_vmap_are_observed_each_by_itself(calibration: str) -> None:
    """With kernels of their own they are layers of their own, from the first batch on; explain tells them apart too."""
    stack, alone = (linen_api.Quantized(linen_models.Stack(kind), recipe(calibration)) for kind in ("vmap", "plain"))
    params, _ = linen_api.prepare(stack, linen_models.full_init(stack.model, X), X)
    scales = np.float32([1, 3, 0.1, 7])[:, None, None]
    batches = [X * scales, X / 2, X * 0.01]
    for order in (batches, batches[::-1]):
        stats = None
        for batch in order:
            stats = linen_api.observe(stack, params, batch, stats=stats)
        got = linen_api.calibrate(stack, params, stats)
        rows = linen_api.explain(stack, got, batches[0])
        for i in range(len(X)):
            own, _ = linen_api.prepare(alone, jax.tree.map(lambda v, i=i: v[i], got), X[i])
            stats = None
            for batch in order:
                stats = linen_api.observe(alone, own, batch[i], stats=stats)
            own = linen_api.calibrate(alone, own, stats)
            jax.tree.map(lambda v, w, i=i: assert_same(v[i], w), got, own)
            (row,) = linen_api.explain(alone, own, batches[0][i])
            assert (row.codes, row.inputs_clipped) == (rows.rows[i].codes, rows.rows[i].inputs_clipped)
            np.testing.assert_allclose(row.error, rows.rows[i].error, rtol=1e-5)


@pytest.mark.parametrize("calibration", [*CALIBRATIONS, "entropy"])
def test_calibration_property_half_observed_resumes(api: Any, calibration: str, tmp_path: Path) -> None:  # noqa: F811
    """Of layers stacked for a scan, each with statistics of its own."""
    floats = api.own_model("Stack", X, "scan")
    whole = api.prepare(floats, recipe(calibration), X)
    half, other = whole.observed(*BATCHES[:2]), api.prepare(floats.zeros(), recipe(calibration), X)
    with pytest.raises(ValueError, match="saw no data, need observe with inputs that reach it"):
        other.observed().settled()
    other = other.awaiting(X)
    other = other.with_tree(through_a_file(tmp_path, half.tree(), other.tree()))
    want, got = half.observed(*BATCHES[2:]).settled(), other.observed(*BATCHES[2:]).settled()
    leaves = got.leaves()
    assert leaves.keys() == want.leaves().keys()
    jax.tree.map(assert_same, leaves, want.leaves())
    assert jax.tree.structure(got.tree()) == jax.tree.structure(whole.tree())
    short = whole.calibrated(*BATCHES[2:]).leaves()  # the first half counts
    scales = {path: leaf for path, leaf in leaves.items() if path.endswith("inputs_scale")}
    assert all(np.isfinite(leaf).all() for leaf in scales.values())
    assert any((leaf != short[path]).any() for path, leaf in scales.items())
    assert len(np.unique(scales["layers/up/inputs_scale"])) == 3
    assert_same(got.converted().run(X), got.run(X))
