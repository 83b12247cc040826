"""Of NNX alone: modules and Variables that stand in several places, modes, nnx.vmap, nnx.eval_shape and nnx.jit.

What holds for Linen too is in the tests with the `api` fixture.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant.flax import Lsq, Recipe, Rule, nnx_api
from tests.flax.nnx_models import Stack, Tied, inputs, near_boundary

SCHEMES = {
    "lsq": {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()},
}


def ready(model, recipe, x):
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


def test_vmap_over_examples_keeps_the_bits():
    x = inputs(5, 8)
    qmodel, _ = ready(near_boundary(Stack("list")), Recipe(Rule("**", weights="int4", inputs="int8:token")), x)
    imodel = nnx_api.convert(qmodel)
    want = qmodel(x)
    for model in (qmodel, imodel):
        assert_same(nnx.vmap(call, in_axes=(None, 0))(model, x), want)
    value, _ = nnx.value_and_grad(lambda m: (m(x).sum(), m(x)), has_aux=True)(qmodel)
    assert_same(value[1], want)


def test_shared_modules_and_tied_tables_stay_shared():
    ids = jnp.arange(12).reshape(2, 6)
    recipe = Recipe(Rule("**", weights="int4", inputs="int8"))
    qmodel, report = ready(near_boundary(Tied()), recipe, ids)
    assert isinstance(qmodel.table, nnx.Embed) and isinstance(qmodel.only, nnx.Linear)
    assert report["only"].why.endswith("not reached by x")
    assert nnx_api.convert(qmodel).table.embedding.codes.dtype == jnp.int8
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


def test_the_report_names_what_is_not_known():
    """Also of what is kept, with the rule's own reason."""

    class Odd(nnx.Linear):
        """Of the user's own."""

    rngs, recipe = nnx.Rngs(0), Recipe(Rule("odd", keep="mine"), Rule("**", weights="int8"))
    model = nnx.Dict(odd=Odd(3, 3, rngs=rngs), open=nnx.Einsum("ab,bc->ac", (3, 3), rngs=rngs))
    model.norm, model.dense = nnx.BatchNorm(3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs)
    model.open.einsum_str = None
    _, report = nnx_api.prepare(model, recipe)
    assert {r.path for r in report.left_in_float} == {"odd", "open", "norm"}
    assert report["odd"].why == "kept (rule 1: 'odd'): mine" and "subscripts" in report["open"].why
    assert report["norm"].why == "a norm"


def test_abstract_models_are_made_in_one_trace():
    recipe = Recipe(Rule("**", **SCHEMES["lsq"]))

    def described(model):
        leaves = jax.tree_util.tree_leaves_with_path(nnx.state(model))
        return {jax.tree_util.keystr(path): (v.shape, str(v.dtype)) for path, v in leaves}

    made = nnx.eval_shape(lambda: nnx_api.convert(nnx_api.prepare(Stack("scan"), recipe)[0]))
    qmodel, _ = ready(near_boundary(Stack("scan")), recipe, inputs(5, 8))
    assert described(made) == described(nnx_api.convert(qmodel))


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
