"""Of Linen alone: collections, lifted transforms, boxes, bind, tabulate, and a wrapper that has seen a call.

What holds for NNX too is in the tests with the `api` fixture.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import linen as nn

from jaxquant.flax import Lsq, LsqPlus, Recipe, Rule, Schedule, linen_api
from jaxquant.flax.linen_api import Quantized
from jaxquant.qtensor import QTensor
from tests.flax.linen_models import Stack, Tied, full_init, inputs

X = inputs(4, 6, 8)
STATIC = {"input_scale": "static"}
SCHEMES = {
    "int8": {"weights": "int8", "inputs": "int8:token"},
    "int3": {"weights": "int3", "inputs": "int8:tensor", **STATIC},
    "int2": {"weights": "int2", "inputs": "int8:token"},
    "lsq": {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()},
    "lsq plus": {
        "weights": "int4:asym", "inputs": "uint8:tensor:asym", "weight_estimator": LsqPlus(),
        "input_estimator": LsqPlus(),
    },
}  # fmt: skip


def trained(model: nn.Module, recipe: Recipe, floats: Any, *args: Any, **options: Any) -> tuple[Quantized, Any]:
    """A prepared model, calibrated where its recipe has static scales."""
    qmodel = Quantized(model, recipe)
    params, _ = linen_api.prepare(qmodel, floats, *args, **options)
    if any(rule.input_scale == "static" for rule in recipe.rules):
        params = linen_api.calibrate(qmodel, params, linen_api.observe(qmodel, params, *args))
    return qmodel, params


def jitted(qmodel: Any, params: Any, *args: Any) -> Any:
    return jax.jit(qmodel.apply)({"params": params}, *args)


def assert_same_tree(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(assert_same, got, want)


def test_shared_scan_property_cannot_be_observed() -> None:
    model = Stack("shared scan")
    qmodel = Quantized(model, Recipe(Rule("**", **SCHEMES["int3"])))
    params, _ = linen_api.prepare(qmodel, full_init(model, X), X)
    with pytest.raises(ValueError, match="variable_broadcast='params' can be neither observed nor explained"):
        linen_api.observe(qmodel, params, X)


def test_prepare_property_keeps_float_leaves_and_their_objects() -> None:
    floats = full_init(Stack("scan"), X)
    _, params = trained(Stack("scan"), Recipe(Rule("**", **SCHEMES["lsq"])), floats, X)
    for path, leaf in jax.tree_util.tree_leaves_with_path(floats):
        found = params
        for key in path:
            found = found[key.key]
        assert found is leaf
    assert params["layers"]["up"]["kernel_scale"].shape == (3, 1, 8)
    assert params["layers"]["up"]["inputs_scale"].shape == (3,) and "kernel_scale" not in floats["layers"]["up"]


def test_a_float_model_inside_property_stays_float() -> None:
    """A teacher called inside the student's own forward pass is not the student."""
    teacher, x = nn.Dense(3), X[0]
    fixed = teacher.init(jax.random.key(1), x)

    class Student(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return nn.Dense(3)(x), teacher.apply(fixed, x)

    qmodel, params = trained(Student(), Recipe(Rule("**", weights="int2")), full_init(Student(), x), x)
    mine, theirs = qmodel.apply({"params": params}, x)
    assert_same(theirs, teacher.apply(fixed, x))
    assert not np.array_equal(mine, Student().apply({"params": params}, x)[0])


def tied() -> tuple[Tied, Any, jax.Array]:
    ids = jnp.arange(10).reshape(2, 5)
    return Tied(), full_init(Tied(), ids, method=lambda m, ids: (m(ids), m.pooled(ids))), ids


def test_bind_property_runs_on_codes_too() -> None:
    model, floats, ids = tied()
    qmodel, params = trained(model, Recipe(Rule("**", weights="int4", inputs="int8")), floats, ids)
    bound = qmodel.bind({"params": params})
    assert_same(bound(ids), qmodel.apply({"params": params}, ids))
    assert_same(bound.pooled(ids), qmodel.apply({"params": params}, ids, method="pooled"))
    x = jnp.ones((2, 8))
    assert_same(bound.table.attend(x), qmodel.apply({"params": params}, x, method=lambda m, x: m.table.attend(x)))
    assert bound.table.features == 8


def test_bind_property_reaches_submodules_in_lists_and_dicts() -> None:
    class Listed(nn.Module):
        def setup(self) -> None:
            self.layers, self.named = [nn.Dense(8), nn.Dense(8)], {"head": nn.Dense(3)}

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.named["head"](self.layers[1](self.layers[0](x)))

    qmodel, params = trained(Listed(), Recipe(Rule("**", **SCHEMES["int2"])), full_init(Listed(), X), X)
    bound, x = qmodel.bind({"params": params}), X
    for layer in (*bound.layers, bound.named["head"]):
        x = layer(x)
    assert_same(x, qmodel.apply({"params": params}, X))


def test_apply_property_is_the_models_own_interface() -> None:
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
            return nn.Dropout(0.5, deterministic=not train)(x)

    qmodel = Quantized(Noisy(), Recipe(Rule("**", weights="int8", inputs="int8")))
    variables = qmodel.init(jax.random.key(0), X)
    rngs = {"dropout": jax.random.key(1)}
    _, changed = qmodel.apply(variables, X, train=True, rngs=rngs, mutable=["batch_stats"])
    assert set(changed) == {"batch_stats"}
    _, state = qmodel.apply(variables, X, capture_intermediates=True, mutable="intermediates")
    assert "Dense_0" in state["intermediates"]
    assert "Dense_0" in qmodel.tabulate(jax.random.key(0), X) and hash(qmodel) == hash(
        Quantized(Noisy(), qmodel.recipe)
    )
    assert_same_tree(qmodel.init(jax.random.key(0), X), Noisy().init(jax.random.key(0), X))


def test_tabulate_property_shows_what_training_adds() -> None:
    recipe = Recipe(Rule("**", **SCHEMES["lsq"]), schedule=Schedule(start=3))
    text = Quantized(Stack("scan"), recipe).tabulate(jax.random.key(0), X, console_kwargs={"width": 200})
    for name in ("kernel_scale", "inputs_scale", "step", "int4:axis1"):
        assert name in text


def test_tabulate_property_has_the_report_of_prepare() -> None:
    """Also where lifted modules run in the scope of the module that holds them, at the root and below."""

    class Holder(nn.Module):
        depth: int

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            gain = self.param("gain", nn.initializers.ones, ())
            return gain * (Holder(self.depth - 1, name="inner")(x) if self.depth else Stack("scan of remat")(x))

    recipe = Recipe(Rule("**", weights="int8"))
    qmodel = Quantized(Holder(1), recipe)
    _, report = linen_api.prepare(qmodel, Holder(1).init(jax.random.key(0), X)["params"], X)
    assert {row.path: row.kind for row in report}[""] == "Holder"
    assert qmodel.tabulate(jax.random.key(0), X).endswith(f"{report}\n")


def test_boxed_parameters_differential_keep_their_names() -> None:
    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
            x = nn.Dense(6, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out")))(x)
            return nn.Embed(5, 6, embedding_init=init)(jnp.arange(3)) @ x[0].T

    floats = Boxed().init(jax.random.key(0), X)["params"]
    qmodel, params = trained(Boxed(), Recipe(Rule("**", **SCHEMES["lsq"])), floats, X)
    assert params["Dense_0"]["kernel_scale"].names == (None, "out")
    converted = linen_api.convert(qmodel, params)
    kernel = converted["Dense_0"]["kernel"]
    assert isinstance(kernel, QTensor) and kernel.codes.names == ("in", "out") and kernel.scale.names == (None, "out")
    assert converted["Embed_0"]["embedding"].scale.names == ("in", None)
    assert_same(jitted(qmodel, converted, X), jitted(qmodel, params, X))


def test_explain_property_has_a_row_a_layer() -> None:
    qmodel, params = trained(Stack("vmap"), Recipe(Rule("**", **SCHEMES["int2"])), full_init(Stack("vmap"), X), X)
    rows = {row.path: row for row in linen_api.explain(qmodel, params, X)}
    assert set(rows) == {f"layers/up[{i}]" for i in range(4)}
    assert all(0.01 < row.error < 1 and row.codes <= 4 for row in rows.values())


def test_a_new_wrapper_property_has_not_run_yet() -> None:
    """Shapes tell which layers there are: after a restart convert needs the inputs too."""
    model, recipe = Stack("sequential"), Recipe(Rule("**", **SCHEMES["int3"]))
    _, params = trained(model, recipe, full_init(model, X), X)
    with pytest.raises(ValueError, match="convert: qmodel has not run yet, need the model's inputs too"):
        linen_api.convert(Quantized(model, recipe), params)
    linen_api.convert(Quantized(model, recipe), params, X)


def test_observe_property_adds_up_and_compiles_once() -> None:
    model, recipe = Stack("sequential"), Recipe(Rule("**", **SCHEMES["int3"]))
    qmodel = Quantized(model, recipe)
    params, _ = linen_api.prepare(qmodel, full_init(model, X), X)
    stats = linen_api.observe(qmodel, params, X * 2, stats=linen_api.observe(qmodel, params, X))
    before = linen_api._observed._cache_size()
    for _ in range(2):
        stats = linen_api.observe(Quantized(model, recipe), params, X * 2, stats=stats)
    assert linen_api._observed._cache_size() == before
    once = linen_api.calibrate(qmodel, params, linen_api.observe(qmodel, params, X * 2))
    assert_same_tree(linen_api.calibrate(qmodel, params, stats), once)
