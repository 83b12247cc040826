"""What is rare in NNX models: shared layers with norms, parameters of other dtypes, states of another recipe."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant.flax import Lsq, LsqPlus, Recipe, Rule, Schedule, nnx_api
from jaxquant.flax.mark import is_mark
from jaxquant.flax.nnx_variables import value_of
from jaxquant.qtensor import QTensor, quantize_tensor
from refquant.granularity import PerTensor
from tests.flax.nnx_models import inputs

X = inputs(6, 8)
INT8 = {"weights": "int8", "inputs": "int8:token"}


class Pair(nnx.Module):
    """Two dense layers, each with a norm."""

    def __init__(self):
        self.a, self.b = (nnx.Linear(8, 8, rngs=nnx.Rngs(i)) for i in (0, 1))
        self.n1, self.n2 = (nnx.BatchNorm(8, use_running_average=True, rngs=nnx.Rngs(0)) for _ in "12")

    def __call__(self, x):
        return self.n2(self.b(self.n1(self.a(x))))


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


def test_a_norm_folded_into_two_layers_is_refused():
    with pytest.raises(ValueError, match="'a' and 'b' fold the same batch norm"):
        nnx_api.prepare(Pair(), folds("n1"))


def test_a_shared_layer_with_two_norms_is_refused():
    recipe = Recipe(Rule("**/layer", fold="n", **INT8))
    with pytest.raises(ValueError, match="'first/layer' is 'second/layer' too, with another 'n'"):
        nnx_api.prepare(Parents(one_norm=False), recipe)
    qmodel, _ = nnx_api.prepare(Parents(one_norm=True), recipe, X)
    assert_same(nnx_api.convert(qmodel)(X), qmodel(X))


def cast(model, dtype):
    nnx.update(model, jax.tree.map(lambda v: v.astype(dtype), nnx.state(model, nnx.Param)))
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_the_dtype_follows_the_parameters(bias):
    """Parameters are cast after the model was made: param_dtype says float32 still."""
    x = jnp.asarray(X, jnp.bfloat16)
    model = cast(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), jnp.bfloat16)
    if not bias:
        model.bias[...] = model.bias[...].astype(jnp.bfloat16)
    else:
        model.bias = nnx.Param(jnp.ones(4))  # float32 beside a bfloat16 kernel
    qmodel, _ = nnx_api.prepare(model, Recipe(Rule("**", **INT8)), x)
    assert model(x).dtype == qmodel(x).dtype == (jnp.float32 if bias else jnp.bfloat16)
    assert_same(nnx_api.convert(qmodel)(x), qmodel(x))


@pytest.mark.parametrize("where", ["layer", "norm", "layer dtype", "both, cast"])
@pytest.mark.parametrize("x", [jnp.float32, jnp.bfloat16], ids=str)
def test_the_dtype_of_a_folded_norm(where, x):
    model = Pair()
    options = {"layer": ("param_dtype", None), "norm": (None, "param_dtype"), "layer dtype": ("dtype", None)}
    own, norms = ({name: jnp.bfloat16} if name else {} for name in options.get(where, (None, None)))
    model.a = nnx.Linear(8, 8, rngs=nnx.Rngs(0), **own)
    model.n1 = nnx.BatchNorm(8, use_running_average=True, rngs=nnx.Rngs(0), **norms)
    if where == "both, cast":
        nnx.update(model, jax.tree.map(lambda v: v.astype(jnp.bfloat16), nnx.state(model)))
    qmodel, _ = nnx_api.prepare(model, folds())
    imodel, x = nnx_api.convert(qmodel), jnp.asarray(X, x)
    wants = [m.n1(m.a(x)) for m in (model, qmodel, imodel)]
    assert wants[0].dtype == wants[1].dtype
    assert_same(wants[2], wants[1])


def test_observe_runs_attention_in_float():
    model = nnx.MultiHeadAttention(2, 8, 8, 8, decode=False, rngs=nnx.Rngs(0))
    recipe = Recipe(Rule("**", weights="int8", inputs="int8:tensor", input_scale="static", attention="int4:tensor"))
    qmodel, _ = nnx_api.prepare(model, recipe)
    products = qmodel.attention_fn
    assert_same(nnx_api.observe(qmodel, X), model(X))
    assert qmodel.attention_fn == products
    nnx_api.calibrate(qmodel)
    assert np.any(np.asarray(qmodel(X)) != np.asarray(model(X)))


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("broadcast", [False, True])
def test_dropout_of_attention_has_the_mask_of_flax(lead, broadcast):
    """Values are the unit vectors, so that the result shows which weights were dropped."""
    q = jnp.asarray(inputs(*lead, 5, 4, 8)) / 8
    v = jnp.broadcast_to(jnp.eye(5, 8)[:, None], (*lead, 5, 4, 8))
    options = {"broadcast_dropout": broadcast, "dropout_rng": jax.random.key(0), "dropout_rate": 0.5}
    qmodel, _ = nnx_api.prepare(nnx.MultiHeadAttention(2, 8, rngs=nnx.Rngs(0)), Recipe(Rule("**", attention="int8")))
    got, want = (f(q, q, v, **options) for f in (qmodel.attention_fn, nnx.dot_product_attention))
    assert_same(np.asarray(got) == 0, np.asarray(want) == 0)


@pytest.mark.parametrize("affine", [False, True])
def test_the_gradient_of_a_folded_norm_is_that_of_the_float_layer(affine):
    """In training mode; 16 bits lose next to nothing, so nor may the gradient.

    A large epsilon, because a norm by the batch hides what only stretches its input.
    """
    model = Pair()
    model.n1 = nnx.BatchNorm(8, epsilon=2.0, use_scale=affine, use_running_average=False, rngs=nnx.Rngs(0))
    model.n1.var[...] = jnp.linspace(0.5, 2, 8)
    if affine:
        model.n1.scale[...] = jnp.linspace(-1, 2, 8) + 0.1
    qmodel, _ = nnx_api.prepare(model, Recipe(Rule("a", weights="int16", fold="n1")))
    weight = jnp.asarray(inputs(6, 8, seed=3))

    def grads(m):
        return nnx.grad(lambda m: jnp.sum(jnp.tanh(m.n1(m.a(X))) * weight))(m)

    want, got = nnx.to_flat_state(grads(model)), dict(nnx.to_flat_state(grads(qmodel)))
    for path, value in want:
        np.testing.assert_allclose(got[path][...], value[...], rtol=1e-2, atol=1e-3, err_msg=str(path))


def test_labels_read_the_name_of_the_variable_alone():
    model = nnx.Dict(step=nnx.Linear(8, 8, rngs=nnx.Rngs(0)), inputs_scale=nnx.Linear(8, 8, rngs=nnx.Rngs(1)))
    qmodel, _ = nnx_api.prepare(
        model, Recipe(Rule("step", weights="int4", weight_estimator=Lsq()), Rule("*", keep="k"))
    )
    state = nnx.state(qmodel, nnx.Param)
    for tree in (state, nnx.to_pure_dict(state)):
        found = nnx_api.labels(tree)
        found = nnx.to_pure_dict(found) if isinstance(found, nnx.State) else found
        assert found["inputs_scale"] == {"bias": "weights", "kernel": "weights"}
        named = {name: label for name, label in found["step"].items() if not is_mark(name)}
        assert named == {"bias": "weights", "kernel": "weights", "kernel_scale": "scales"}


LSQ = INT8 | {"weight_estimator": Lsq()}
OFFSET = {
    "weights": "int8:asym",
    "inputs": "int8:tensor:asym",
    "weight_estimator": LsqPlus(),
    "input_estimator": LsqPlus(),
}


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
    (dense(True, **INT8), dense(True, weights="int4", inputs="int8:token"), "kernel has codes of .*int8.*need codes"),
    (dense(True, **INT8), dense(**INT8), "need floats"),
    (dense(**INT8), dense(True, **INT8), "has floats, need codes"),
    (dense(**LSQ), dense(**INT8), "there is 'kernel_scale' beside the kernel, need nothing"),
    (dense(**INT8), dense(**LSQ), "from a state without 'kernel_scale', need one with .*another recipe"),
    (nnx.Linear(8, 8, rngs=nnx.Rngs(0)), dense(**LSQ), "the float model, which is restored before prepare"),
    (dense(**LSQ), dense(**OFFSET), "from a state without 'inputs_offset'"),
    (dense(**LSQ), scheduled(**LSQ), "from a state without 'step'"),
    (dense(True, **INT8), static(), "from a state without 'inputs_scale'"),
])  # fmt: skip
def test_a_state_of_another_recipe_is_refused(of, into, text):
    model = nnx.clone(into)
    nnx.update(model, nnx.state(of))
    runs = [lambda: model(X), lambda: nnx.jit(lambda m, x: m(x))(model, X)]
    if not nnx_api.layers_of(model)[0].converted:
        runs.append(lambda: nnx_api.convert(model))
    for run in runs:
        with pytest.raises(ValueError, match=f"layer '': .*{text}"):
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


@pytest.mark.parametrize("name", ["kernel_offset", "inputs_offset"])
def test_convert_refuses_offsets_that_are_not_finite(name):
    qmodel = dense(**OFFSET)
    nnx_api.observe(qmodel, X)
    nnx_api.calibrate(qmodel)
    variable = getattr(qmodel, name)
    for value, text in ((0, None), (np.nan, f"{name} nan"), (np.inf, f"{name} inf")):
        variable[...] = jnp.full_like(variable[...], value)
        if text is None:
            nnx_api.convert(qmodel)  # an offset of 0 is one
        else:
            with pytest.raises(ValueError, match=text):
                nnx_api.convert(qmodel)


@pytest.mark.parametrize("text", ["percentile:99.9", "percentile:99", "percentile:0", "percentile:2000000",
                                  "percentile:", "ema:5", "ema:0", "ema:", "ema:x", "minmax:"])  # fmt: skip
def test_rules_refuse_calibrations_out_of_bounds(text):
    need = {"percentile": "millionths from 500000 to 1000000", "ema": "from 2\\*\\*-20 to 1"}.get(
        text.partition(":")[0], "minmax"
    )
    with pytest.raises(ValueError, match=f"calibration is '{text}', need .*{need}"):
        Rule("**", calibration=text, **INT8)
    for good in ("percentile:500000", "percentile:1000000", "ema:1", "ema:1e-3", "ema"):
        assert Rule("**", calibration=good, **INT8).calibration == good


class Dilated(nnx.Module):
    def __init__(self, padding):
        self.conv = nnx.Conv(2, 3, (3,), padding=padding, input_dilation=2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.conv(x)


@pytest.mark.parametrize("inputs", ["int8:tensor", None])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR", "REFLECT", "CAUSAL", [(2, 1)]])
def test_names_of_paddings_beside_dilated_inputs_are_refused_where_flax_does(padding, inputs):
    """LAY-5: what the float layer cannot run is not run quantized; numbers are, by both."""
    model, x, rule = Dilated(padding), np.ones((1, 8, 2), np.float32), Rule("**", weights="int8", inputs=inputs)
    if isinstance(padding, str):
        with pytest.raises(ValueError, match="String padding is not implemented"):
            model(x)
        with pytest.raises(ValueError, match=f"padding is '{padding}' with input_dilation .2,., need pairs of numbers"):
            nnx_api.prepare(model, Recipe(rule), x)
    else:
        assert nnx_api.prepare(model, Recipe(rule), x)[0](x).shape == model(x).shape


def test_codes_that_are_decided_elsewhere_are_taken_as_they_are():
    """`convert` quantizes no layer that it is given codes of; of another spec they are refused when the layer runs."""
    model = nnx.Linear(8, 3, use_bias=False, rngs=nnx.Rngs(0))
    qmodel, _ = nnx_api.prepare(model, Recipe(Rule("**", **INT8)))
    own = nnx_api.convert(qmodel)
    q = value_of(own.kernel)
    given = nnx_api.convert(qmodel, {"": QTensor(-q.codes, q.scale, None, q.spec)})
    assert_same(given(X), -own(X))
    wrong = nnx_api.convert(qmodel, {"": quantize_tensor(model.kernel[...], replace(q.spec, granularity=PerTensor()))})
    with pytest.raises(ValueError, match="layer '': the kernel has codes of .* need codes of"):
        wrong(X)


@pytest.mark.skipif(not hasattr(nnx, "WeightNorm"), reason="this Flax has no nnx.WeightNorm")
def test_layers_whose_kernel_a_wrapper_computes_are_left_alone():
    """nnx.WeightNorm writes into the kernel at each call: there is nothing to store codes beside."""
    rngs = nnx.Rngs(0)
    model = nnx.Dict(normed=nnx.WeightNorm(nnx.Linear(8, 8, rngs=rngs), rngs=rngs), head=nnx.Linear(8, 3, rngs=rngs))
    _, report = nnx_api.prepare(model, Recipe(Rule("**", weights="int8")))
    assert [row.path for row in report if row.quantized] == ["head"]
    assert report["normed/layer_instance"].why == "inside a WeightNorm: left alone"
