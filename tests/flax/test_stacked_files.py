"""Converted models with layers stacked for a scan or a vmap: into a file and back, with training's bits (FIL-8)."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from bits import assert_same
from flax import linen as nn
from flax import nnx
from flax.traverse_util import unflatten_dict

from jaxquant import store
from jaxquant.flax import Lsq, LsqPlus, Recipe, Rule, linen_api, nnx_api
from tests.flax import linen_models, nnx_models

X = linen_models.inputs(4, 6, 8)
STATIC = {"inputs": "uint8:tensor:asym", "input_scale": "static"}
SCHEMES = {
    "channel": {"weights": "int4", "inputs": "int8:token", "weight_estimator": Lsq()},
    "groups": {"weights": "int4:g4", "inputs": "int8:tensor", "weight_estimator": Lsq()},
    "tensor, static": {"weights": "int4:tensor:asym", **STATIC},
    "offsets": {"weights": "int4:tensor:asym", **STATIC, "weight_estimator": LsqPlus()},
    "codebook": {"weights": "nf4:g4:sf16"},
}


class Nested(nn.Module):
    """A scan over scans."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        inner = nn.scan(linen_models.Block, **options, length=3)
        return nn.scan(inner, **options, length=2)(name="layers")(x, None)[0]


LINEN = {
    "scan": linen_models.Stack("scan"),
    "scan of remat": linen_models.Stack("scan of remat"),
    "vmap": linen_models.Stack("vmap"),
    "nested": Nested(),
}


def recipe(name: str) -> Recipe:
    return Recipe(Rule("**", **SCHEMES[name]))


def assert_same_tree(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(assert_same, got, want)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("kind", LINEN)
def test_linen_property_round_trip(tmp_path: Any, kind: str, name: str) -> None:
    qmodel = linen_api.Quantized(LINEN[kind], recipe(name))
    params, _ = linen_api.prepare(qmodel, linen_models.full_init(LINEN[kind], X), X)
    if "input_scale" in SCHEMES[name]:
        params = linen_api.calibrate(qmodel, params, linen_api.observe(qmodel, params, X))
    iparams = linen_api.convert(qmodel, params)
    store.save(tmp_path / "net", iparams)
    again = unflatten_dict(store.load(tmp_path / "net"), sep="/")
    assert_same_tree(jax.tree.map(np.asarray, again), jax.tree.map(np.asarray, iparams))
    apply = jax.jit(qmodel.apply)
    assert_same(apply({"params": again}, X), apply({"params": params}, X))


@pytest.mark.parametrize("name", SCHEMES)
def test_nnx_property_round_trip(tmp_path: Any, name: str) -> None:
    @nnx.jit
    def run(model: Any, x: Any) -> Any:
        return model(x)

    def converted(model: Any) -> Any:
        return nnx_api.convert(nnx_api.prepare(model, recipe(name))[0])

    model, _ = nnx_api.prepare(nnx_models.Stack("scan"), recipe(name), X)
    if "input_scale" in SCHEMES[name]:
        nnx_api.observe(model, X)
        nnx_api.calibrate(model)
    imodel = nnx_api.convert(model)
    store.save(tmp_path / "net", nnx_api.tensors(imodel))
    again = store.load(tmp_path / "net")
    restored = converted(nnx.eval_shape(lambda: nnx_models.Stack("scan")))
    nnx_api.restore(restored, again)
    assert_same_tree(jax.tree.map(np.asarray, again), jax.tree.map(np.asarray, nnx_api.tensors(imodel)))
    assert_same(run(restored, X), run(model, X))
