"""Models that decode one token a call, with a cache among their variables: made, prepared, converted, in both APIs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import linen as nn
from flax import nnx

from jaxquant.flax import Lsq, Recipe, Rule, linen_api, nnx_api
from jaxquant.flax.linen_api import Quantized
from tests.flax import nnx_models
from tests.flax.linen_models import inputs

X = inputs(2, 5, 8)
RECIPE = Recipe(Rule("**", weights="int4", inputs="int8:token", weight_estimator=Lsq()))


class Decoder(nn.Module):
    """A causal attention; the cache and the mask are the two ways to see no later token."""

    @nn.compact
    def __call__(self, x: jax.Array, decode: bool = False) -> jax.Array:
        mask = None if decode else nn.make_causal_mask(x[..., 0])
        return nn.MultiHeadDotProductAttention(2, decode=decode, name="attention")(x, mask=mask)


def decoded(qmodel: Quantized, params: Any, cache: Any) -> np.ndarray:
    """The tokens of X one after the other."""
    found = []
    for at in range(X.shape[1]):
        variables = {"params": params, "cache": cache}
        y, changed = qmodel.apply(variables, X[:, at : at + 1], decode=True, mutable=["cache"])
        found, cache = [*found, y], changed["cache"]
    return np.concatenate(found, axis=1)


def test_linen_differential_init_is_that_of_the_float_model_and_prepare() -> None:
    key, qmodel, other = jax.random.key(0), Quantized(Decoder(), RECIPE), Quantized(Decoder(), RECIPE)
    made, floats = (model.init(key, X, decode=True) for model in (qmodel, Decoder()))
    want = {**floats, "params": linen_api.prepare(other, floats["params"], X)[0]}
    assert jax.tree.structure(made) == jax.tree.structure(want) and "kernel_scale" in made["params"]["attention"]["out"]
    jax.tree.map(assert_same, made, want)
    assert int(made["cache"]["attention"]["cache_index"]) == 0
    got = decoded(qmodel, made["params"], made["cache"])
    assert_same(got, decoded(other, want["params"], floats["cache"]))
    assert_same(decoded(qmodel, linen_api.convert(qmodel, made["params"]), made["cache"]), got)
    np.testing.assert_allclose(got, qmodel.apply(made, X), rtol=1e-4, atol=1e-5)


def test_nnx_differential_a_cache_before_prepare() -> None:
    model = nnx_models.near_boundary(nnx.MultiHeadAttention(2, 8, decode=True, rngs=nnx.Rngs(0)))
    model.init_cache(X.shape)
    qmodel, _ = nnx_api.prepare(model, RECIPE, X[:, :1])
    assert int(qmodel.cache_index[...]) == 0
    imodel = nnx_api.convert(qmodel)
    got, converted = (
        np.concatenate([one(X[:, at : at + 1]) for at in range(X.shape[1])], axis=1) for one in (qmodel, imodel)
    )
    assert_same(converted, got)
    whole = qmodel(X, mask=nn.make_causal_mask(jnp.asarray(X[..., 0])), decode=False)
    np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-5)


class TwoMethods(nn.Module):
    """A layer for each of two methods."""

    def setup(self) -> None:
        self.coder, self.decoder = nn.Dense(4), nn.Dense(8)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.coder(x)

    def decode(self, z: jax.Array) -> jax.Array:
        return self.decoder(z)


@pytest.mark.parametrize("weights", [Lsq(), None])
def test_linen_property_a_layer_of_another_method_is_named_or_refused(weights: Any) -> None:
    """As after a restart: the wrapper is new and has seen nothing."""
    model, z = TwoMethods(), jnp.ones((2, 4))
    extra = {"weight_estimator": weights} if weights else {"input_scale": "static"}
    recipe = Recipe(Rule("**", weights="int4", inputs="int8:tensor" if not weights else "int8:token", **extra))
    shapes = {"coder": {"kernel": (8, 4), "bias": (4,)}, "decoder": {"kernel": (4, 8), "bias": (8,)}}
    floats = {name: {leaf: jnp.full(shape, 0.3) for leaf, shape in own.items()} for name, own in shapes.items()}
    first, second, third = (Quantized(model, recipe) for _ in range(3))
    params, _ = linen_api.prepare(first, floats, X, methods={"decode": z})
    if not weights:
        stats = linen_api.observe(first, params, X)
        stats = linen_api.observe(first, params, z, stats=stats, method="decode")
        params = linen_api.calibrate(second, params, stats, X, methods={"decode": z})
    with pytest.raises(
        ValueError, match=r"layer 'decoder' is prepared \(it has .*\) and not reached by __call__, need meth"
    ):
        linen_api.convert(third, params, X)
    converted = linen_api.convert(third, params, X, methods={"decode": z})
    jax.tree.map(assert_same, converted, linen_api.convert(first, params))
    assert converted["decoder"]["kernel"].codes.dtype == jnp.int8
    got = third.apply({"params": converted}, z, method="decode")
    assert_same(got, first.apply({"params": params}, z, method="decode"))
