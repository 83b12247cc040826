"""Of NNX alone, and rare: shared layers with norms, nnx.update of prepared and converted models, codes that are given.

What holds for Linen too is in the tests with the `api` fixture.
"""

from dataclasses import replace

import jax
import pytest
from bits import assert_same
from flax import nnx

from jaxquant.flax import Lsq, Recipe, Rule, Schedule, nnx_api
from jaxquant.flax.nnx_variables import value_of
from jaxquant.qtensor import QTensor, quantize_tensor
from refquant.granularity import PerTensor
from tests.flax.nnx_models import OneNormed, Pair, inputs, near_boundary

X = inputs(6, 8)
INT8 = {"weights": "int8", "inputs": "int8:token"}


class Parents(nnx.Module):
    """One layer in two parents."""

    def __init__(self, *, one_norm):
        a = Pair()
        self.first, self.second = nnx.Dict(layer=a.a, n=a.n1), nnx.Dict(layer=a.a, n=a.n1 if one_norm else a.n2)

    def __call__(self, x):
        for part in (self.first, self.second):
            x = part["n"](part["layer"](x))
        return x


def folds(b="n2"):
    return Recipe(Rule("a", fold="n1", **INT8), Rule("b", fold=b, **INT8))


@pytest.mark.parametrize("b", ["n2", None])
def test_a_tied_kernel_with_a_folded_norm_is_refused(b):
    model = Pair()
    model.b.kernel = model.a.kernel
    with pytest.raises(ValueError, match="'a' and 'b' share a parameter"):
        nnx_api.prepare(model, folds(b))


def test_a_shared_layer_with_two_norms_is_refused():
    recipe = Recipe(Rule("**/layer", fold="n", **INT8))
    with pytest.raises(ValueError, match="'first/layer' is 'second/layer' too, with another 'n'"):
        nnx_api.prepare(Parents(one_norm=False), recipe)
    qmodel, _ = nnx_api.prepare(Parents(one_norm=True), recipe, X)
    assert_same(nnx_api.convert(qmodel)(X), qmodel(X))


def test_folding_runs_inside_other_transforms():
    x = inputs(3, 5, 5, 2)
    qmodel, _ = nnx_api.prepare(near_boundary(OneNormed({}, {})), Recipe(Rule("conv", fold="bn", **INT8)), x)
    remat = nnx.jit(nnx.remat(lambda m, x: m(x)))
    assert_same(remat(qmodel, x), nnx.jit(lambda m, x: m(x))(qmodel, x))


def test_observe_gives_what_the_float_model_gives():
    model = nnx.MultiHeadAttention(2, 8, 8, 8, decode=False, rngs=nnx.Rngs(0))
    recipe = Recipe(Rule("**", weights="int8", inputs="int8:tensor", input_scale="static", attention="int4:tensor"))
    qmodel, _ = nnx_api.prepare(model, recipe)
    products = qmodel.attention_fn
    assert_same(nnx_api.observe(qmodel, X), model(X))
    assert qmodel.attention_fn == products


LSQ = INT8 | {"weight_estimator": Lsq()}


def dense(converted=False, **options):
    model, _ = nnx_api.prepare(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), Recipe(Rule("**", **options)))
    return nnx_api.convert(model) if converted else model


def scheduled(**options):
    return nnx_api.prepare(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), Recipe(Rule("**", **options), schedule=Schedule(1)))[0]


def static():
    """Converted, with an input scale."""
    qmodel = dense(weights="int8", inputs="int8:tensor", input_scale="static")
    nnx_api.observe(qmodel, X)
    nnx_api.calibrate(qmodel)
    return nnx_api.convert(qmodel)


class Two(nnx.Module):
    """Two layers of one kernel."""

    def __init__(self):
        self.a, self.b = (nnx.Linear(8, 8, rngs=nnx.Rngs(i)) for i in (0, 1))
        self.b.kernel = self.a.kernel

    def __call__(self, x):
        return self.b(self.a(x))


def tied():
    """By rules that differ in the inputs."""
    recipe = Recipe(Rule("a", **LSQ), Rule("b", **LSQ | {"inputs": "int8:tensor", "input_scale": "static"}))
    qmodel, _ = nnx_api.prepare(Two(), recipe)
    nnx_api.observe(qmodel, X)
    nnx_api.calibrate(qmodel)
    return qmodel


@pytest.mark.parametrize("of, into, text", [
    (dense(True, **INT8), dense(**INT8), "need floats"),
    (dense(**INT8), dense(True, **INT8), "has floats, need codes"),
])  # fmt: skip
def test_a_state_of_the_other_step_is_refused(of, into, text):
    model = nnx.clone(into)
    nnx.update(model, nnx.state(of))
    runs = [lambda: model(X), lambda: nnx.jit(lambda m, x: m(x))(model, X)]
    if not nnx_api.layers_of(model)[0].converted:
        runs.append(lambda: nnx_api.convert(model))
    for run in runs:
        with pytest.raises(ValueError, match=rf"layer '\.': .*{text}"):
            run()


@pytest.mark.parametrize("into", [dense(**INT8), dense(**LSQ), scheduled(**LSQ), static(), tied()], ids=range(5))
def test_a_state_of_the_same_recipe_is_taken(into):
    """Of another training, cast, averaged, or through a jitted step; and the converted model's."""
    model, averaged = nnx.clone(into), jax.tree.map(lambda v: v * 1, nnx.state(into))
    nnx.update(model, averaged)
    nnx.jit(lambda m, state: nnx.update(m, state))(model, averaged)
    assert_same(model(X), into(X))
    if not nnx_api.layers_of(into)[0].converted:
        into = nnx.clone(into)
        for one in (into, model):
            nnx_api.advance(one)
        once, again = nnx_api.convert(into), nnx_api.convert(model)
        nnx.update(again, nnx.state(once))
        assert_same(again(X), once(X))


def test_codes_that_are_decided_elsewhere_are_taken_as_they_are():
    """`convert` quantizes no layer that it is given codes of; of another spec they are refused when the layer runs."""
    model = nnx.Linear(8, 3, use_bias=False, rngs=nnx.Rngs(0))
    qmodel, _ = nnx_api.prepare(model, Recipe(Rule("**", **INT8)))
    own = nnx_api.convert(qmodel)
    q = value_of(own.kernel)
    given = nnx_api.convert(qmodel, {"": QTensor(-q.codes, q.scale, None, q.spec)})
    assert_same(given(X), -own(X))
    wrong = nnx_api.convert(qmodel, {"": quantize_tensor(model.kernel[...], replace(q.spec, granularity=PerTensor()))})
    with pytest.raises(ValueError, match=r"layer '\.': the kernel has codes of .* need codes of"):
        wrong(X)


@pytest.mark.skipif(not hasattr(nnx, "WeightNorm"), reason="this Flax has no nnx.WeightNorm")
def test_layers_whose_kernel_a_wrapper_computes_are_left_alone():
    """nnx.WeightNorm writes into the kernel at each call: there is nothing to store codes beside."""
    rngs = nnx.Rngs(0)
    model = nnx.Dict(normed=nnx.WeightNorm(nnx.Linear(8, 8, rngs=rngs), rngs=rngs), head=nnx.Linear(8, 3, rngs=rngs))
    _, report = nnx_api.prepare(model, Recipe(Rule("**", weights="int8")))
    assert [row.path for row in report if row.quantized] == ["head"]
    assert report["normed/layer_instance"].why == "inside a WeightNorm: left alone"
