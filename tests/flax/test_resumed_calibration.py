"""Half of the data observed, saved by orbax, restored into a model that has seen nothing: the bits of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant.flax import Recipe, Rule, linen_api, nnx_api
from tests.flax import linen_models, nnx_models
from tests.flax.linen_models import inputs

orbax = pytest.importorskip("orbax.checkpoint")
X = inputs(4, 3, 8)
BATCHES = [X, X * 5, X / 2, X[::-1] * 4 + 1]
CALIBRATIONS = ("minmax", "ema", "percentile", "mse")  # one for each kind of state


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


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_linen_property_half_observed_resumes(calibration: str, tmp_path: Path) -> None:
    model = linen_models.Stack("scan")
    floats = linen_models.full_init(model, X)

    def fresh(floats: Any) -> tuple:
        qmodel = linen_api.Quantized(model, recipe(calibration))
        return qmodel, linen_api.prepare(qmodel, floats, X)[0]

    def observed(qmodel: Any, params: Any, batches: list, stats: Any = None) -> Any:
        for batch in batches:
            stats = linen_api.observe(qmodel, params, batch, stats=stats)
        return stats

    qmodel, params = fresh(floats)
    half = observed(qmodel, params, BATCHES[:2])
    want = linen_api.calibrate(qmodel, params, observed(qmodel, params, BATCHES[2:], half))
    other, none = fresh(jax.tree.map(np.zeros_like, floats))
    target = {"params": none, "stats": jax.eval_shape(lambda: linen_api.observe(other, none, X))}
    again = through_a_file(tmp_path, {"params": params, "stats": half}, target)
    got = linen_api.calibrate(other, again["params"], observed(other, again["params"], BATCHES[2:], again["stats"]))
    jax.tree.map(assert_same, got, want)
    assert np.isfinite(got["layers"]["up"]["inputs_scale"]).all()
    short = linen_api.calibrate(qmodel, params, observed(qmodel, params, BATCHES[2:]))
    assert (short["layers"]["up"]["inputs_scale"] != got["layers"]["up"]["inputs_scale"]).any()  # the first half counts


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_nnx_property_half_observed_resumes(calibration: str, tmp_path: Path) -> None:
    def fresh(batches: list) -> Any:
        model, _ = nnx_api.prepare(nnx_models.near_boundary(nnx_models.Stack("scan")), recipe(calibration), X[:, 0])
        return observed(model, batches)

    def observed(model: Any, batches: list) -> Any:
        for batch in batches:
            nnx_api.observe(model, batch[:, 0])
        return model

    whole, short, other = fresh(BATCHES), fresh(BATCHES[2:]), fresh([])
    assert nnx_api.observe(other) is None
    with pytest.raises(ValueError, match="saw no data, need observe with inputs that reach it"):
        nnx_api.calibrate(other)
    nnx.update(other, jax.tree.map(np.zeros_like, nnx.state(other, nnx.Param)))
    nnx.update(other, through_a_file(tmp_path, nnx.state(fresh(BATCHES[:2])), nnx.state(other)))
    for model in (whole, short, observed(other, BATCHES[2:])):
        nnx_api.calibrate(model)
    jax.tree.map(assert_same, nnx.to_pure_dict(nnx.state(other)), nnx.to_pure_dict(nnx.state(whole)))
    scales = [np.asarray(model.layers.up.inputs_scale[...]) for model in (other, short)]
    assert np.isfinite(scales[0]).all() and (scales[0] != scales[1]).any()
