"""Of NNX alone: which Variables are Params, and what metadata and shardings they have."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest
from flax import nnx

from jaxquant.flax import Lsq, Recipe, Rule, Schedule, nnx_api
from tests.flax.nnx_models import Block, inputs, near_boundary

optax = pytest.importorskip("optax")
LEARNED = {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()}
RECIPE = Recipe(Rule("**", **LEARNED), schedule=Schedule(start=1))
X = inputs(5, 8)


def prepared(recipe=RECIPE):
    qmodel, _ = nnx_api.prepare(near_boundary(Block(8, nnx.Rngs(0))), recipe)
    nnx_api.observe(qmodel, X)
    nnx_api.calibrate(qmodel)
    return qmodel


def test_labels_are_of_pure_dicts_too():
    state = nnx.state(prepared(), nnx.Param)
    assert nnx_api.labels(nnx.to_pure_dict(state)) == nnx.to_pure_dict(nnx_api.labels(state))


def test_codes_are_no_params():
    model = prepared()
    nnx_api.advance(model)
    imodel = nnx_api.convert(model)
    assert {path[-1] for path, _ in nnx.to_flat_state(nnx.state(imodel, nnx.Param))} == {"bias"}
    grads = nnx.grad(lambda m: m(X).sum())(imodel)
    assert set(nnx.to_pure_dict(grads)["up"]) == {"bias"}


def test_scales_inherit_the_names_of_mesh_axes():
    init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("data", "model"))
    with jax.set_mesh(jax.make_mesh((1, 1), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)):
        model = nnx.Linear(8, 4, kernel_init=init, rngs=nnx.Rngs(0))
    recipe = Recipe(Rule("**", weights="int4", weight_estimator=Lsq()))
    qmodel, _ = nnx_api.prepare(model, recipe)
    spec = nnx.to_pure_dict(nnx.get_partition_spec(nnx.state(qmodel)))
    assert tuple(spec["kernel"]) == ("data", "model")
    assert tuple(spec["kernel_scale"]) == (None, "model")
    assert "kernel" in nnx.get_partition_spec(nnx.state(nnx_api.convert(qmodel)))


def test_models_differential_sharded_over_eight_devices():
    """Data, rows, columns, fully sharded; learned and grouped scales."""
    here = Path(__file__).parent
    tests = here.parent
    done = subprocess.run(
        [sys.executable, str(here / "sharded_nnx.py")],
        capture_output=True,
        text=True,
        cwd=tests.parent,
        env={"PYTHONPATH": f"{tests}:{tests.parent}", "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
        timeout=300,
        check=False,
    )
    assert done.stdout == "same bits\n", done.stderr[-3000:]
