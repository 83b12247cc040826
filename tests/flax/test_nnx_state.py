"""Optimizers, checkpoints, shardings and attention of NNX models on codes."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant.flax import Lsq, Recipe, Rule, Schedule, nnx_api
from jaxquant.flax.mark import is_mark
from tests.flax.nnx_models import Block, Tied, inputs, near_boundary

optax = pytest.importorskip("optax")
LEARNED = {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()}
RECIPE = Recipe(Rule("**", **LEARNED), schedule=Schedule(start=1))
X = inputs(5, 8)


def prepared(recipe=RECIPE):
    qmodel, _ = nnx_api.prepare(near_boundary(Block(8, nnx.Rngs(0))), recipe)
    nnx_api.observe(qmodel, X)
    nnx_api.calibrate(qmodel)
    return qmodel


def optimizer_of(model):
    groups = {"weights": optax.adamw(1e-2), "scales": optax.sgd(1e-4), "frozen": optax.set_to_zero()}
    return nnx.Optimizer(model, optax.multi_transform(groups, nnx_api.labels), wrt=nnx.Param)


@functools.cache
def step():
    @nnx.jit
    def one(model, optimizer, x):
        value, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x) - 1) ** 2))(model)
        optimizer.update(model, grads)
        nnx_api.advance(model)
        return value

    return one


def leaves(*nodes):
    return [np.asarray(v) for v in jax.tree.leaves([nnx.state(node) for node in nodes])]


def test_labels_part_scales_from_weights():
    labels = nnx_api.labels(nnx.state(prepared(), nnx.Param))
    pure = {name: label for name, label in nnx.to_pure_dict(labels)["up"].items() if not is_mark(name)}
    assert pure == {"bias": "weights", "inputs_scale": "scales", "kernel": "weights", "kernel_scale": "scales"}


def test_training_resumes_from_a_checkpoint_to_the_same_bits(tmp_path):
    """Scales, steps of the schedule, optimizer: saved after two steps, restored into a model that was never trained."""
    orbax = pytest.importorskip("orbax.checkpoint")
    model = prepared()
    optimizer = optimizer_of(model)
    for _ in range(2):
        step()(model, optimizer, X)
    saved = nnx.to_pure_dict(nnx.state((model, optimizer)))
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "mid", saved)
        checkpointer.wait_until_finished()
        again = nnx_api.prepare(Block(8, nnx.Rngs(1)), RECIPE)[0]
        other = optimizer_of(again)
        state = nnx.state((again, other))
        nnx.replace_by_pure_dict(state, checkpointer.restore(tmp_path / "mid", nnx.to_pure_dict(state)))
    nnx.update((again, other), state)
    for _ in range(2):
        assert float(step()(model, optimizer, X)) == float(step()(again, other, X))
    for got, want in zip(leaves(again, other), leaves(model, optimizer), strict=True):
        assert_same(got, want)
    assert float(model.up.step[...]) == 4 and not np.isnan(leaves(model)[0]).any()


def test_a_converted_model_is_restored_without_weights(tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint")
    model = prepared()
    nnx_api.advance(model)  # its schedule starts
    imodel = nnx_api.convert(model)
    shapes = nnx.eval_shape(lambda: nnx_api.convert(nnx_api.prepare(Block(8, nnx.Rngs(0)), RECIPE)[0]))
    graph, state = nnx.split(shapes)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "codes", nnx.to_pure_dict(nnx.state(imodel)))
        checkpointer.wait_until_finished()
        nnx.replace_by_pure_dict(state, checkpointer.restore(tmp_path / "codes", nnx.to_pure_dict(state)))
    restored = nnx.merge(graph, state)
    assert_same(restored(X), imodel(X))
    assert_same(restored(X), model(X))


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


@pytest.mark.parametrize("x", [jnp.arange(12).reshape(2, 6) % 13])
def test_attention_products_on_codes(x):
    model = near_boundary(Tied())
    recipe = Recipe(Rule("**", weights="int8", inputs="int8", attention="int8"))
    qmodel, report = nnx_api.prepare(model, recipe, x)
    plain, _ = nnx_api.prepare(model, Recipe(Rule("**", weights="int8", inputs="int8")), x)
    assert [r.inputs for r in report if r.kind in ("QKᵀ", "PV")] == ["int8:token dynamic"] * 2
    imodel = nnx_api.convert(qmodel)
    assert_same(nnx.jit(lambda m, x: m(x))(imodel, x), nnx.jit(lambda m, x: m(x))(qmodel, x))
    h = jnp.asarray(inputs(2, 6, 8))
    near, exact = qmodel.attention(h), plain.attention(h)
    assert 0 < np.linalg.norm(near - exact) < 0.1 * np.linalg.norm(exact)
    mask = nnx.make_causal_mask(x)
    assert np.isfinite(np.asarray(qmodel.attention(h, mask=mask))).all()
    assert np.linalg.norm(qmodel.attention(h, mask=mask) - plain.attention(h, mask=mask)) < 0.1 * np.linalg.norm(exact)
    grads = nnx.grad(lambda m: (m.attention(h) ** 2).sum())(qmodel)
    assert np.asarray(grads["attention"]["query"]["kernel"][...]).any()


def test_an_attention_function_of_the_user_is_refused():
    model = Tied()
    model.attention.attention_fn = lambda q, k, v, **_: v
    with pytest.raises(ValueError, match="layer 'attention': MultiHeadAttention has attention_fn set"):
        nnx_api.prepare(model, Recipe(Rule("**", weights="int8", attention="int8")))
    nnx_api.prepare(model, Recipe(Rule("**", weights="int8")))


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
