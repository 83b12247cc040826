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
from tests.flax import linen_models
from tests.flax.api_support import api  # noqa: F401

X = linen_models.inputs(5, 8)
INT4 = Recipe(Rule("**", weights="int4", inputs="int8"))
LEARNED = Recipe(Rule("**", weights="int4", inputs="int8", weight_estimator=Lsq()))
NEED = "need finite weights"


def spoilt(value: Any, *wrong: float) -> jax.Array:
    flat = jnp.ravel(value)
    return flat.at[jnp.arange(len(wrong))].set(jnp.asarray(wrong, flat.dtype)).reshape(value.shape)


@pytest.mark.parametrize("recipe", [INT4, LEARNED], ids=["range", "learned"])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [((np.nan,), "1 NaN and 0 infinite"), ((np.inf, -np.inf, np.nan), "1 NaN and 2 infinite")],
    ids=["nan", "inf"],
)
def test_weights_are_refused_with_their_layer(api: Any, recipe: Recipe, wrong: tuple, told: str) -> None:  # noqa: F811
    floats = api.float_model("Two", X)
    trial = api.prepare(floats, recipe, X)
    bad, worse = (one.changed("first/kernel", lambda v: spoilt(v, *wrong)) for one in (trial, floats))
    text = rf"the kernel of layer 'first' has {told} of 64 elements, {NEED} \(.*hide"
    with pytest.raises(ValueError, match=f"^convert: {text}"):
        bad.converted()
    with pytest.raises(ValueError, match=f"^prepare: {text}"):
        api.prepare(worse, recipe, X)
    codes = bad.traced_conversion()["first/kernel"]
    assert isinstance(codes, qtensor.QTensor)
    half = Recipe(Rule("first", keep="diverged"), Rule("**", weights="int4"))
    api.prepare(worse, half, X)  # what stays in float shows it


def test_one_of_stacked_weights_is_refused(api: Any) -> None:  # noqa: F811
    trial = api.prepare(api.own_model("Stack", X, "scan"), INT4, X)
    size = trial.leaves()["layers/up/kernel"].size
    bad = trial.changed("layers/up/kernel", lambda v: v.at[2, 0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match=f"the kernel of layer 'layers/up' has 1 NaN and 0 .* of {size} .*{NEED}"):
        bad.converted()


def test_bfloat16_and_tables_are_looked_at(api: Any) -> None:  # noqa: F811
    ids = np.zeros(3, np.int32)
    floats = api.float_model("Tied", ids[None]).changed(
        "table/embedding", lambda v: spoilt(v.astype("bfloat16"), np.nan)
    )
    with pytest.raises(ValueError, match=r"prepare: the embedding of layer 'table' has 1 NaN and 0 infinite of 104"):
        api.prepare(floats, INT4, ids[None])


def test_nnx_codes_that_are_given_need_no_weights() -> None:
    qmodel, _ = nnx_api.prepare(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), INT4)
    codes = value_of(nnx_api.convert(qmodel).kernel)
    qmodel.kernel[...] = jnp.full((8, 4), jnp.nan)
    assert value_of(nnx_api.convert(qmodel, {"": codes}).kernel).codes is codes.codes


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
