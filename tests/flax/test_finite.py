"""Weights that are not finite are refused before codes would hide them; a trace and shapes pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxquant import qtensor
from jaxquant.flax import Lsq, Recipe, Rule, linen_api, nnx_api
from jaxquant.flax.nnx_variables import value_of
from tests.flax import linen_models, nnx_models

X = linen_models.inputs(5, 8)
INT4 = Recipe(Rule("**", weights="int4", inputs="int8"))
LEARNED = Recipe(Rule("**", weights="int4", inputs="int8", weight_estimator=Lsq()))
NEED = "need finite weights"


class Twins(nn.Module):
    """A layer and a table in float beside it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(4, name="dense")(x) + nn.Dense(4, name="plain")(x)


def spoilt(value: Any, *wrong: float) -> jax.Array:
    flat = jnp.ravel(value)
    return flat.at[jnp.arange(len(wrong))].set(jnp.asarray(wrong, flat.dtype)).reshape(value.shape)


@pytest.mark.parametrize("recipe", [INT4, LEARNED], ids=["range", "learned"])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [((np.nan,), "1 NaN and 0 infinite"), ((np.inf, -np.inf, np.nan), "1 NaN and 2 infinite")],
    ids=["nan", "inf"],
)
def test_linen_weights_are_refused_with_their_layer(recipe: Recipe, wrong: tuple, told: str) -> None:
    model = Twins()
    floats = linen_models.full_init(model, X)
    qmodel = linen_api.Quantized(model, recipe)
    params, _ = linen_api.prepare(qmodel, floats, X)
    text = rf"the kernel of layer 'dense' has {told} of 32 elements, {NEED} \(.*hide"
    bad = {**params, "dense": {**params["dense"], "kernel": spoilt(params["dense"]["kernel"], *wrong)}}
    with pytest.raises(ValueError, match=f"^convert: {text}"):
        linen_api.convert(qmodel, bad)
    floats["dense"]["kernel"] = bad["dense"]["kernel"]
    with pytest.raises(ValueError, match=f"^prepare: {text}"):
        linen_api.prepare(qmodel, floats, X)
    traced = jax.eval_shape(lambda p: linen_api.convert(qmodel, p), bad)
    assert isinstance(traced["dense"]["kernel"], qtensor.QTensor)
    half = Recipe(Rule("dense", keep="diverged"), Rule("**", weights="int4"))
    linen_api.prepare(linen_api.Quantized(model, half), floats, X)  # what stays in float shows it


@pytest.mark.parametrize("recipe", [INT4, LEARNED], ids=["range", "learned"])
@pytest.mark.parametrize("kind", ["list", "scan"])
def test_nnx_weights_are_refused_with_their_layer(kind: str, recipe: Recipe) -> None:
    floats = nnx_models.near_boundary(nnx_models.Stack(kind))
    qmodel, _ = nnx_api.prepare(floats, recipe)
    text = rf"the kernel of layer 'head' has 1 NaN and 2 infinite of 24 elements, {NEED} \(.*hide"
    for model in (floats, qmodel):
        model.head.kernel[...] = spoilt(model.head.kernel[...], np.inf, -np.inf, np.nan)
    with pytest.raises(ValueError, match=f"^prepare: {text}"):
        nnx_api.prepare(floats, recipe)
    with pytest.raises(ValueError, match=f"^convert: {text}"):
        nnx_api.convert(qmodel)
    graph, state = nnx.split(qmodel)
    jax.eval_shape(lambda state: nnx.state(nnx_api.convert(nnx.merge(graph, state))), state)
    if kind == "scan":
        first = qmodel.layers.up.kernel
        first[...] = first[...].at[2, 0, 0].set(jnp.nan)  # one of the stacked layers
        qmodel.head.kernel[...] = jnp.zeros((8, 3))
        with pytest.raises(ValueError, match=f"the kernel of layer 'layers/up' has 1 NaN and 0 .* of 288 .*{NEED}"):
            nnx_api.convert(qmodel)


def test_nnx_codes_that_are_given_need_no_weights() -> None:
    qmodel, _ = nnx_api.prepare(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), INT4)
    codes = value_of(nnx_api.convert(qmodel).kernel)
    qmodel.kernel[...] = jnp.full((8, 4), jnp.nan)
    assert value_of(nnx_api.convert(qmodel, {"": codes}).kernel).codes is codes.codes


def test_bfloat16_and_tables_are_looked_at() -> None:
    model = nn.Embed(5, 8)
    params = {"embedding": spoilt(jnp.ones((5, 8), jnp.bfloat16), np.nan)}
    with pytest.raises(ValueError, match=r"prepare: the embedding of layer '' has 1 NaN and 0 infinite of 40"):
        linen_api.prepare(linen_api.Quantized(model, INT4), params, np.zeros(3, np.int32))


def test_scales_that_no_training_gave_say_what_they_are() -> None:
    """A learned one is never a matter of calibration."""
    qmodel, _ = nnx_api.prepare(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), LEARNED)
    qmodel.kernel_scale[...] = jnp.full((1, 4), jnp.nan)
    want = r"convert: layer '' has kernel_scale nan, need finite numbers, .* \(learned in a training that diverged\)"
    with pytest.raises(ValueError, match=want):
        nnx_api.convert(qmodel)
    twin = linen_api.Quantized(nn.Dense(4), LEARNED)
    params, _ = linen_api.prepare(twin, nn.Dense(4).init(jax.random.key(0), X)["params"], X)
    with pytest.raises(ValueError, match=want):
        linen_api.convert(twin, {**params, "kernel_scale": params["kernel_scale"] * jnp.nan})


def test_arguments_in_another_order_are_refused_by_name() -> None:
    model = nn.Dense(4)
    qmodel = linen_api.Quantized(model, INT4)
    params, _ = linen_api.prepare(qmodel, model.init(jax.random.key(0), X)["params"], X)
    for name, rest in (("prepare", (X,)), ("observe", (X,)), ("calibrate", ({},)), ("convert", ()), ("explain", (X,))):
        with pytest.raises(
            TypeError, match=rf"^{name}: qmodel is a dict, need Quantized\(model, recipe\) \(it comes first"
        ):
            getattr(linen_api, name)(params, qmodel, *rest)


def test_a_list_of_arguments_is_refused_where_the_model_takes_none() -> None:
    class Sum(nnx.Module):
        def __init__(self) -> None:
            self.layer = nnx.Linear(8, 4, rngs=nnx.Rngs(0))

        def __call__(self, parts: list) -> jax.Array:
            return self.layer(sum(parts))

    with pytest.raises(
        TypeError, match=r"^prepare: the argument of __call__ is a list, .* need an array, or a tuple of"
    ):
        nnx_api.prepare(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), INT4, [X])
    assert nnx_api.prepare(Sum(), INT4, [X, X])[1]["layer"].weights
