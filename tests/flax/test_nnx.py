"""NNX models on codes: converted equals trained, whatever stands around the layers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant.flax import Lsq, Pact, Recipe, Rule, Schedule, nnx_api
from tests.flax.nnx_models import Stack, Tied, Zoo, inputs, near_boundary

X = inputs(4, 6, 8)
STATIC = {"inputs": "uint8:tensor:asym", "input_scale": "static"}
SCHEMES = {
    "lsq": {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()},
    "pact": {"weights": "int4", "inputs": "uint4:tensor:asym", "input_estimator": Pact()},
}
GROUPED = {"groups": {"weights": "int4:g4", "inputs": "int8"}, "float groups": {"weights": "int4:g4:fzero"}}


def ready(model, recipe, x=X):
    """Prepared and, where scales are static, calibrated."""
    qmodel, report = nnx_api.prepare(model, recipe, x)
    if any(rule.input_scale == "static" for rule in recipe.rules):
        nnx_api.observe(qmodel, x)
        nnx_api.calibrate(qmodel)
    return qmodel, report


def same_tree(got, want):
    jax.tree.map(assert_same, got, want)


def call(model, x):
    return model(x)


@pytest.mark.parametrize("scheme", GROUPED)
def test_groups_converted_is_trained(scheme):
    recipe = Recipe(Rule("head", **GROUPED[scheme]), Rule("**", keep="no groups"))
    qmodel, report = ready(near_boundary(Stack("list")), recipe, inputs(5, 8))
    head, codes = qmodel.head, nnx_api.convert(qmodel).head
    assert_same(nnx.jit(call)(codes, X), nnx.jit(call)(head, X))
    assert report["head"].weights.startswith("int4:g4") and report["layers/0/up"].why.startswith("kept (rule 2: '**')")


def test_vmap_over_examples_keeps_the_bits():
    x = inputs(5, 8)
    qmodel, _ = ready(near_boundary(Stack("list")), Recipe(Rule("**", weights="int4", inputs="int8:token")), x)
    imodel = nnx_api.convert(qmodel)
    want = qmodel(x)
    for model in (qmodel, imodel):
        assert_same(nnx.vmap(call, in_axes=(None, 0))(model, x), want)
    value, _ = nnx.value_and_grad(lambda m: (m(x).sum(), m(x)), has_aux=True)(qmodel)
    assert_same(value[1], want)


def test_nothing_compiles_twice():
    """Steps, schedules and other batches of the same shape run the one program."""
    traced = []
    recipe = Recipe(Rule("**", **SCHEMES["lsq"]), schedule=Schedule(start=2, freeze_scales=4))
    qmodel, _ = ready(near_boundary(Stack("scan")), recipe, inputs(5, 8))

    @nnx.jit
    def step(model, x):
        traced.append(1)
        value, grads = nnx.value_and_grad(lambda m: jnp.sum(m(x) ** 2))(model)
        nnx_api.advance(model)
        return value, grads

    plain = near_boundary(Stack("scan"))
    values, scales = [], []
    for seed in range(6):
        value, grads = step(qmodel, inputs(5, 8, seed=seed))
        values.append(float(value))
        scales.append(bool(np.asarray(grads["head"]["kernel_scale"][...]).any()))
    assert len(traced) == 1
    np.testing.assert_allclose(values[0], float(jnp.sum(plain(inputs(5, 8)) ** 2)), rtol=1e-5)
    assert scales == [False, False, True, True, False, False]


def test_shared_modules_and_tied_tables_stay_shared():
    ids = jnp.arange(12).reshape(2, 6)
    recipe = Recipe(Rule("**", weights="int4", inputs="int8"))
    qmodel, report = ready(near_boundary(Tied()), recipe, ids)
    imodel = nnx_api.convert(qmodel)
    assert_same(nnx.jit(call)(imodel, ids), nnx.jit(call)(qmodel, ids))
    assert isinstance(qmodel.table, nnx.Embed) and isinstance(qmodel.only, nnx.Linear)
    assert imodel.table.embedding.codes.dtype == jnp.int8
    assert report["only"].why.endswith("not reached by x") and report["norm"].why == "a norm"
    assert [r.why for r in report if r.kind in ("QKᵀ", "PV")] == ["off unless a rule has attention"] * 2
    _, report = nnx_api.prepare(Tied(), recipe, ids, methods={"pooled": ids})
    assert "not reached" not in str(report)
    shared, report = ready(near_boundary(Stack("shared")), recipe, inputs(5, 8))
    assert shared.again is shared.layers and "also 'layers/up'" in report["again/up"].why


def test_a_tied_variable_has_one_quantizer():
    rngs = nnx.Rngs(0)
    model = nnx.Dict(a=nnx.Linear(8, 8, rngs=rngs), b=nnx.Linear(8, 8, rngs=rngs))
    model.b.kernel = model.a.kernel
    learned = {"weights": "int4", "weight_estimator": Lsq()}
    qmodel, _ = nnx_api.prepare(model, Recipe(Rule("**", **learned)))
    assert qmodel.a.kernel_scale is qmodel.b.kernel_scale
    imodel = nnx_api.convert(qmodel)
    assert imodel.a.kernel is imodel.b.kernel
    with pytest.raises(ValueError, match="'a' and 'b' share a parameter"):
        nnx_api.prepare(model, Recipe(Rule("a", **learned), Rule("b", weights="int8")))


def test_a_shared_module_has_one_rule():
    recipe = Recipe(Rule("again/**", weights="int4"), Rule("**", weights="int8"))
    with pytest.raises(ValueError, match="the shared module 'again/down' falls under rule 'again/\\*\\*'"):
        nnx_api.prepare(Stack("shared"), recipe)


@pytest.mark.parametrize(
    ("hook", "value", "name"),
    [
        ("dot_general", lambda *a, **k: jax.lax.dot_general(*a, **k), "dense"),
        ("promote_dtype", lambda args, dtype=None: args, "dense"),
        ("preferred_element_type", jnp.float32, "dense"),
        ("dot_general_cls", object, "general"),
        ("mask", jnp.ones((3, 8, 6)), "conv"),
    ],
)
def test_hooks_are_refused_by_name(hook, value, name):
    model = Zoo()
    setattr(getattr(model, name), hook, nnx.data(value) if hook == "mask" else value)
    with pytest.raises(ValueError, match=f"layer '{name}': .* has {hook} set, need its default or a rule that keeps"):
        nnx_api.prepare(model, Recipe(Rule("**", weights="int8")))
    nnx_api.prepare(model, Recipe(Rule(name, keep="a hook"), Rule("**", weights="int8")))


def test_errors_come_at_prepare():
    wide = nnx.Linear(2**18, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="the sum is kept in int32"):
        nnx_api.prepare(wide, Recipe(Rule("**", weights="int8", inputs="int8")))
    with pytest.raises(ValueError, match="rule 'densee' matches nothing.*'dense'"):
        nnx_api.prepare(Zoo(), Recipe(Rule("densee", weights="int8")))
    with pytest.raises(ValueError, match="2 summed axes"):
        nnx_api.prepare(Zoo(), Recipe(Rule("**", weights="int8:g2")))
    qmodel, _ = nnx_api.prepare(Zoo(), Recipe(Rule("**", weights="int8")))
    with pytest.raises(ValueError, match="prepared already"):
        nnx_api.prepare(qmodel, Recipe(Rule("**", weights="int8")))
    imodel = nnx_api.convert(qmodel)
    for function in (nnx_api.convert, nnx_api.calibrate, lambda m: nnx_api.explain(m, X)):
        with pytest.raises(ValueError, match="the model is converted"):
            function(imodel)
        with pytest.raises(ValueError, match="the model is not prepared"):
            function(Zoo())


class Odd(nnx.Linear):
    def __call__(self, x):
        return x @ self.kernel[...] * 2


class Own(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(jnp.ones((3, 3)))


def test_the_report_names_what_is_left_alone():
    rngs = nnx.Rngs(0)
    model = nnx.Dict(
        odd=Odd(3, 3, rngs=rngs),
        own=Own(),
        cell=nnx.LSTMCell(3, 3, rngs=rngs),
        norm=nnx.BatchNorm(3, rngs=rngs),
        open=nnx.Einsum("ab,bc->ac", (3, 3), rngs=rngs),
        dense=nnx.Linear(3, 3, rngs=rngs),
    )
    model.open.einsum_str = None
    _, report = nnx_api.prepare(model, Recipe(Rule("odd", keep="mine"), Rule("**", weights="int8")))
    assert {r.path for r in report.left_in_float} == {r.path for r in report} - {"dense"}
    assert report["odd"].why == "kept (rule 1: 'odd'): mine"
    assert report["own"].why.startswith("parameters of a class")
    assert report["norm"].why == "a norm"
    assert "subscripts" in report["open"].why
    cells = [r for r in report if r.path.startswith("cell/")]
    assert cells and all(r.why == "inside a recurrent cell: left alone" for r in cells)
    _, report = nnx_api.prepare(nnx.Dict(odd=model.odd, dense=model.dense), Recipe(Rule("**", weights="int8")))
    assert report["odd"].why.startswith("a subclass of Linear")


def test_calibration_refuses_what_it_cannot_use():
    recipe = Recipe(Rule("**", weights="int8", **STATIC))
    qmodel, _ = nnx_api.prepare(near_boundary(Stack("scan")), recipe)
    with pytest.raises(ValueError, match=r"has inputs_scale nan, need finite .*\(not calibrated yet, see observe"):
        nnx_api.convert(qmodel)
    with pytest.raises(ValueError, match="saw no data"):
        nnx_api.calibrate(qmodel)
    bad = inputs(5, 8)
    bad[0, 0] = np.nan
    nnx_api.observe(qmodel, bad)
    with pytest.raises(ValueError, match="NaN and 0 infinite inputs"):
        nnx_api.calibrate(qmodel)
    with pytest.raises(ValueError, match="no layer has a static input scale"):
        nnx_api.observe(ready(Stack("list"), Recipe(Rule("**", weights="int8")), inputs(5, 8))[0], inputs(5, 8))
    learned, _ = nnx_api.prepare(Stack("list"), Recipe(Rule("**", weights="int8", weight_estimator=Lsq())))
    learned.head.kernel_scale[...] = learned.head.kernel_scale[...].at[0, 1].set(0)
    with pytest.raises(
        ValueError, match=r"layer 'head' has kernel_scale 0\.0, need .* not zero \(learned in a training that"
    ):
        nnx_api.convert(learned)


@pytest.mark.parametrize("calibration", ["ema:0.5", "percentile:990000", "mse", "entropy"])
def test_calibrations_keep_the_bits_under_scan(calibration):
    recipe = Recipe(Rule("**", weights="int8", inputs="int8:tensor", input_scale="static", calibration=calibration))
    qmodel, _ = nnx_api.prepare(near_boundary(Stack("scan")), recipe)
    structure = jax.tree.structure(nnx.state(qmodel))
    for seed in range(2):
        nnx_api.observe(qmodel, inputs(5, 8, seed=seed))
    nnx_api.calibrate(qmodel)
    assert jax.tree.structure(nnx.state(qmodel)) == structure
    assert len(np.unique(qmodel.layers.up.inputs_scale[...])) == 3
    assert_same(nnx_api.convert(qmodel)(inputs(5, 8)), qmodel(inputs(5, 8)))


def test_abstract_models_are_prepared_and_converted():
    recipe = Recipe(Rule("**", **SCHEMES["lsq"]))
    shapes = nnx.eval_shape(lambda: Stack("scan"))
    qshapes, report = nnx_api.prepare(shapes, recipe, jax.ShapeDtypeStruct((5, 8), jnp.float32))
    qmodel, real_report = ready(near_boundary(Stack("scan")), recipe, inputs(5, 8))
    assert report == real_report

    def described(model):
        leaves = jax.tree_util.tree_leaves_with_path(nnx.state(model))
        return {jax.tree_util.keystr(path): (v.shape, str(v.dtype)) for path, v in leaves}

    assert described(qshapes) == described(qmodel)
    assert described(nnx_api.convert(qshapes)) == described(nnx_api.convert(qmodel))
    made = nnx.eval_shape(lambda: nnx_api.convert(nnx_api.prepare(Stack("scan"), recipe)[0]))
    assert described(made) == described(nnx_api.convert(qmodel))


def test_explain_tells_errors_and_codes():
    recipe = Recipe(Rule("**", weights="int2", inputs="int8:tensor", input_scale="static", weight_estimator=Lsq()))
    x = inputs(5, 8)
    qmodel, _ = ready(near_boundary(Stack("scan")), recipe, x)
    qmodel.head.kernel_scale[...] *= 0.3
    state = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(qmodel)))
    rows = nnx_api.explain(qmodel, x * 2)
    assert [row.path for row in rows][:3] == ["head", "layers/down[0]", "layers/down[1]"]
    assert all(0 < row.error < 2 and 1 <= row.codes <= 4 == row.of for row in rows)
    assert any(row.inputs_clipped for row in rows) and any(row.weights_clipped for row in rows)
    same_tree(nnx.to_pure_dict(nnx.state(qmodel)), state)
    assert "clipped inputs" in str(rows)


def test_pact_starts_at_the_largest_input():
    qmodel, _ = ready(near_boundary(Stack("list")), Recipe(Rule("**", **SCHEMES["pact"])), inputs(5, 8))
    assert float(qmodel.layers[0].up.inputs_scale[...]) == float(inputs(5, 8).max())


@nnx.jit
def jitted_layer(layer, x):
    return layer(x)


@nnx.remat
def remat_layer(layer, x):
    return layer(x)


@pytest.mark.parametrize("function", [jitted_layer, remat_layer], ids=["jit", "remat"])
def test_versions_of_one_model_do_not_disturb_each_other(function):
    """Float, 2-bit, 8-bit and converted through the same function of a module, in every order: never a stale result."""
    x = inputs(5, 8)
    model = near_boundary(Stack("list")).head
    two = nnx_api.prepare(model, Recipe(Rule("**", weights="int2", inputs="int4")))[0]
    eight = nnx_api.prepare(model, Recipe(Rule("**", weights="int8", inputs="int8")))[0]
    versions = {"float": model, "two": two, "eight": eight, "codes": nnx_api.convert(two)}
    alone = {name: np.asarray(version(x)) for name, version in versions.items()}
    assert len({v.tobytes() for v in alone.values()}) == 3 and (alone["two"] == alone["codes"]).all()
    for first in versions:
        jax.clear_caches()
        for order in itertools.permutations([name for name in versions if name != first]):
            for name in (first, *order):
                assert_same(function(versions[name], x), alone[name])


class Normed(nnx.Module):
    """What behaves otherwise in training: dropout, and a norm with statistics."""

    def __init__(self):
        self.inner, self.norm = nnx.Linear(8, 8, rngs=nnx.Rngs(0)), nnx.BatchNorm(8, rngs=nnx.Rngs(0))
        self.dropout, self.head = nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.Linear(8, 4, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.head(self.dropout(self.norm(self.inner(x))))


def test_observe_and_explain_run_in_evaluation_mode():
    """What is calibrated is what is shipped; the modes and the statistics of the model stay."""
    recipe = Recipe(Rule("**", weights="int4", inputs="int8:tensor", input_scale="static"))
    x, found = inputs(16, 8) * 5, []
    for mode in ("train", "eval"):
        qmodel, _ = nnx_api.prepare(Normed(), recipe, x)
        getattr(qmodel, mode)()
        before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(qmodel, nnx.BatchStat)))
        y = nnx_api.observe(qmodel, x)
        nnx_api.calibrate(qmodel)
        rows = nnx_api.explain(qmodel, x)
        same_tree(nnx.to_pure_dict(nnx.state(qmodel, nnx.BatchStat)), before)
        assert qmodel.dropout.deterministic == qmodel.norm.use_running_average == (mode == "eval")
        found.append((np.asarray(y), np.asarray(qmodel.head.inputs_scale[...]), [row.error for row in rows]))
    same_tree(found[0], found[1])
