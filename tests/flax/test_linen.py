"""Linen: converted equals trained, float leaves stay, transforms stack what is added, models stay apart."""

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
from jaxquant.flax.mark import is_mark
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


def test_schedule_property_starts_without_compiling_again() -> None:
    model = Stack("scan of remat")
    floats = full_init(model, X)
    recipe = Recipe(Rule("**", **SCHEMES["lsq"]), schedule=Schedule(start=1))
    qmodel, params = trained(model, recipe, floats, X)
    step = jax.jit(jax.value_and_grad(lambda p: (qmodel.apply({"params": p}, X) ** 2).sum()))
    before, _ = step(params)
    assert_same(before, jax.jit(lambda p: (model.apply({"params": p}, X) ** 2).sum())(floats))
    after, gradient = step(linen_api.advance(params))
    assert step._cache_size() == 1 and after != before
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all()
        assert (path[-1].key == "step" or is_mark(path[-1].key)) == bool((leaf == 0).all()), path


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


@pytest.mark.parametrize("kind", ["scan of remat", "shared"])
def test_prepare_property_of_shapes_has_the_shapes_of_values(kind: str) -> None:
    model, recipe = Stack(kind), Recipe(Rule("**", **SCHEMES["lsq plus"]))
    floats = full_init(model, X)
    qmodel, params = trained(model, recipe, floats, X)
    abstract, shape = jax.eval_shape(lambda: floats), jax.ShapeDtypeStruct(X.shape, X.dtype)
    other = Quantized(model, recipe)
    got, _ = linen_api.prepare(other, abstract, shape)
    for want, found in ((params, got), (linen_api.convert(qmodel, params), linen_api.convert(other, got))):
        assert jax.tree.map(lambda v: (v.shape, v.dtype), found) == jax.tree.map(lambda v: (v.shape, v.dtype), want)


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


def test_tied_attention_differential_converted_is_trained() -> None:
    model, floats, ids = tied()
    recipe = Recipe(
        Rule("table", **SCHEMES["int3"]),
        Rule("**", weights="int4", inputs="int8"),
        Rule("attention", attention="int8:token"),
    )
    qmodel, params = trained(model, recipe, floats, ids, methods={"pooled": ids})
    converted = linen_api.convert(qmodel, params)
    assert_same(jitted(qmodel, converted, ids), jitted(qmodel, params, ids))
    assert isinstance(converted["only"]["kernel"], QTensor)
    got = qmodel.apply({"params": converted}, ids, method="pooled")
    assert_same(got, qmodel.apply({"params": params}, ids, method=Tied.pooled))
    table = {name for name in params["table"] if not is_mark(name)}
    assert "attention" in params and table == {"embedding", "inputs_scale", "inputs_zero_point"}


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


def test_report_property_says_what_was_left_and_why() -> None:
    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.RNN(nn.GRUCell(4), name="rnn")(x)
            x = nn.LayerNorm(name="norm")(x)
            x = nn.MultiHeadDotProductAttention(1, name="attention")(x)
            return nn.Dense(2, name="head")(x)

    qmodel = Quantized(Mixed(), Recipe(Rule("head", keep="sensitive"), Rule("**", weights="int8")))
    _, report = linen_api.prepare(qmodel, full_init(Mixed(), X), X)
    why = {row.path if row.kind not in ("QKᵀ", "PV") else row.kind: row.why for row in report}
    assert "recurrent cell" in why["GRUCell_0/hn"]
    assert why["norm"] == "a norm" and why["head"] == "kept (rule 1: 'head'): sensitive"
    assert why["QKᵀ"] == why["PV"] == "off unless a rule has attention"
    assert report["attention/query"].quantized and len(report.left_in_float) >= 10


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


def test_labels_property_name_every_leaf() -> None:
    recipe = Recipe(Rule("Dense_0", **SCHEMES["int3"]), Rule("**", **SCHEMES["lsq"]), schedule=Schedule(start=1))
    qmodel, params = trained(Stack("sequential"), recipe, full_init(Stack("sequential"), X), X)
    got = {
        name: {leaf: label for leaf, label in own.items() if not is_mark(leaf)}
        for name, own in linen_api.labels(params).items()
    }
    learned = {"kernel": "weights", "bias": "weights", "kernel_scale": "scales", "inputs_scale": "scales"}
    assert got["Dense_1"] == {**learned, "step": "frozen"}
    constant = {"inputs_scale": "frozen", "inputs_zero_point": "frozen", "step": "frozen"}
    assert got["Dense_0"] == {"kernel": "weights", "bias": "weights", **constant}
    converted = linen_api.labels(linen_api.convert(qmodel, linen_api.advance(params)))
    assert converted["Dense_0"]["kernel"].codes == "frozen" and converted["Dense_0"]["bias"] == "weights"


def test_explain_property_has_a_row_a_layer() -> None:
    qmodel, params = trained(Stack("vmap"), Recipe(Rule("**", **SCHEMES["int2"])), full_init(Stack("vmap"), X), X)
    rows = {row.path: row for row in linen_api.explain(qmodel, params, X)}
    assert set(rows) == {f"layers/up[{i}]" for i in range(4)}
    assert all(0.01 < row.error < 1 and row.codes <= 4 for row in rows.values())


class One(nn.Module):
    """A single layer with options."""

    layer: nn.Module

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x)


@pytest.mark.parametrize(
    ("layer", "hook"),
    [
        (nn.Dense(2, dot_general=jax.lax.dot_general), "dot_general"),
        (nn.DenseGeneral(2, dot_general_cls=lambda: jax.lax.dot_general), "dot_general_cls"),
        (nn.Dense(2, promote_dtype=lambda *args, dtype: args), "promote_dtype"),
        (nn.Conv(2, (1,), conv_general_dilated=jax.lax.conv_general_dilated), "conv_general_dilated"),
        (nn.Conv(2, (1,), mask=np.ones((1, 8, 2))), "mask"),
        (nn.Einsum((8, 2), "...d,de->...e", preferred_element_type=jnp.float32), "preferred_element_type"),
        (nn.MultiHeadDotProductAttention(1, attention_fn=lambda q, k, v: v), "attention_fn"),
    ],
)
def test_hooks_property_are_refused_by_name(layer: nn.Module, hook: str) -> None:
    model = One(layer)
    floats = full_init(model, X)
    attention = {"attention": "int8"} if hook == "attention_fn" else {}
    with pytest.raises(ValueError, match=f"has {hook} set, need its default or a rule that keeps"):
        linen_api.prepare(Quantized(model, Recipe(Rule("**", weights="int8", **attention))), floats, X)
    kept = Recipe(Rule("**", keep="hooked"))
    linen_api.prepare(Quantized(model, kept), floats, X)


def test_errors_property_come_before_anything_runs() -> None:
    model = Stack("sequential")
    floats = full_init(model, X)
    static, plain = (Recipe(Rule("**", **SCHEMES[name])) for name in ("int3", "int8"))
    qmodel, params = trained(model, static, floats, X)
    fresh, _ = linen_api.prepare(qmodel, floats, X)
    other = Quantized(model, Recipe(Rule("**", **SCHEMES["int2"])))
    typo = Quantized(model, Recipe(Rule("hed", weights="int8")))
    cases = [
        ("matches nothing", lambda: linen_api.prepare(typo, floats, X)),
        ("not calibrated yet", lambda: linen_api.convert(qmodel, fresh)),
        ("there is no 'inputs_scale' beside the kernel", lambda: linen_api.convert(qmodel, floats)),
        ("no 'inputs_scale' beside the kernel", lambda: qmodel.apply({"params": floats}, X)),
        ("there is 'inputs_scale' beside", lambda: Quantized(model, plain).apply({"params": params}, X)),
        ("another recipe", lambda: other.apply({"params": linen_api.convert(qmodel, params)}, X)),
        ("has not run yet", lambda: linen_api.convert(Quantized(model, static), params)),
        ("has a static input scale", lambda: linen_api.observe(Quantized(model, plain), floats, X)),
        ("2 NaN and 0 infinite", lambda: calibrated_with(qmodel, fresh, X.copy(), np.nan)),
        ("is converted", lambda: linen_api.prepare(qmodel, linen_api.convert(qmodel, params), X)),
        ("need a Linen module", lambda: Quantized(object(), static)),
    ]
    for text, call in cases:
        with pytest.raises((ValueError, TypeError), match=text):
            call()
    zero = {**params, "Dense_0": {**params["Dense_0"], "inputs_scale": jnp.float32(0)}}
    with pytest.raises(ValueError, match="layer 'Dense_0' has inputs_scale 0.0"):
        linen_api.convert(qmodel, zero)


def calibrated_with(qmodel: Quantized, params: Any, x: np.ndarray, value: float) -> Any:
    x.reshape(-1)[:2] = value
    return linen_api.calibrate(qmodel, params, linen_api.observe(qmodel, params, x))


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
