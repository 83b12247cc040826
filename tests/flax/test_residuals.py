"""Bytes that a layer in training keeps for its backward pass, by kind of layer, against those of the float layer."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxquant.flax import Lsq, Recipe, Rule
from jaxquant.flax.linen_api import Quantized
from tests.flax.linen_models import inputs

#: kind -> (the layer, the shape of its input, whether one axis is summed, so that there may be groups)
KINDS = {
    "dense": (nn.Dense(96), (64, 128), True),
    "general": (nn.DenseGeneral((4, 24), axis=(-2, -1)), (64, 8, 16), False),
    "einsum": (nn.Einsum((128, 4, 24), "...d,dhe->...he"), (64, 128), True),
    "conv": (nn.Conv(32, (3, 3)), (4, 16, 16, 16), False),
    "depthwise": (nn.Conv(64, (3, 3), feature_group_count=64), (4, 16, 16, 64), False),
    "transposed": (nn.ConvTranspose(32, (3, 3), strides=(2, 2)), (4, 8, 8, 16), False),
    "attend": (nn.Embed(96, 128), (64, 128), True),
}
INTEGER = {
    "w8a8": {"weights": "int8", "inputs": "int8:token"},
    "w8a8 asymmetric": {"weights": "int8:asym", "inputs": "uint8:token:asym"},
    "w8a8 static": {"weights": "int8", "inputs": "int8:tensor", "input_scale": "static"},
    "w4a8 in groups": {"weights": "int4:g32", "inputs": "int8:token"},
}
OTHER = {
    "w8": {"weights": "int8"},
    "w4 in groups": {"weights": "int4:g32"},
    "learned": {
        "weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq(),
    },
}  # fmt: skip
TABLE = nn.Embed(128, 96)


def cases(schemes: dict) -> list[tuple[str, str]]:
    """Every kind by every scheme that it can have."""
    return [(kind, name) for kind in KINDS for name in schemes if KINDS[kind][2] or "groups" not in name]


def kept(model: Any, params: Any, *x: Any, method: str = "__call__", ids: Any = None) -> int:
    """Bytes between the forward and the backward pass, parameters that the latter reads among them."""
    apply = lambda p, *x: model.apply({"params": p}, *x, *([] if ids is None else [ids]), method=method)  # noqa: E731
    return sum(leaf.nbytes for leaf in jax.tree.leaves(jax.vjp(apply, params, *x)[1]))


def quantized(layer: nn.Module, rule: dict, x: Any, method: str) -> tuple[Quantized, Any]:
    """The layer with a recipe and its parameters, input scales set."""
    qmodel = Quantized(layer, Recipe(Rule("**", **rule)))
    params = qmodel.init(jax.random.key(0), x, method=method)["params"]
    return qmodel, jax.tree.map(lambda v: jnp.where(jnp.isnan(v), 0.01, v), params)


def bytes_of(kind: str, rule: dict) -> tuple[int, int, int]:
    """What the float layer keeps, what the quantized one keeps, and the bytes of the weight's scales and the bias."""
    layer, shape, _ = KINDS[kind]
    method = "attend" if kind == "attend" else "__call__"
    x = jnp.asarray(inputs(*shape))
    qmodel, params = quantized(layer, rule, x, method)
    floats = {name: params[name] for name in ("kernel", "embedding", "bias") if name in params}
    weight = floats.get("kernel", floats.get("embedding"))
    features = {"general": 96, "einsum": 96, "attend": 96}.get(kind, weight.shape[-1])
    scales = features * (128 // 32 if "g32" in rule["weights"] else 1)
    beside = 4 * (scales + np.size(floats.get("bias", ())))
    return kept(layer, floats, x, method=method), kept(qmodel, params, x, method=method), beside


@pytest.mark.parametrize(("kind", "scheme"), cases(INTEGER))
def test_integer_layers_property_keep_less_than_the_float_layer(kind: str, scheme: str) -> None:
    """A byte an element, of a range of its own a code that tells the mask too, where the float layer keeps 4 of x."""
    plain, got, beside = bytes_of(kind, INTEGER[scheme])
    size = math.prod(KINDS[kind][1])
    tokens = 4 * size // KINDS[kind][1][-1] if "token" in INTEGER[scheme]["inputs"] else 4
    bytes_an_element = 2 if scheme in ("w8a8 asymmetric", "w8a8 static") else 1
    assert got <= plain - (4 - bytes_an_element) * size + 2 * (tokens + beside) + 8


@pytest.mark.parametrize(("kind", "scheme"), cases(OTHER))
def test_other_layers_property_keep_the_scales_beside(kind: str, scheme: str) -> None:
    """x itself, as the float layer does; a learned scale stands there twice, as it is and as it is used."""
    plain, got, beside = bytes_of(kind, OTHER[scheme])
    assert got <= plain + (2 * beside + 8 if scheme == "learned" else beside)


@pytest.mark.parametrize("rule", [*INTEGER.values(), *OTHER.values(), {"weights": "int8:tensor"}], ids=str)
def test_look_ups_property_keep_ids_and_the_master_table(rule: dict) -> None:
    """Nothing of the size of a row: 5 bytes an id, where the float look-up keeps 4 and knows no table."""
    ids = jnp.arange(64) % 128
    qmodel, params = quantized(TABLE, rule, ids, "__call__")
    table = {"embedding": params["embedding"]}
    for count in (64, 640):
        more = jnp.tile(ids, count // 64)
        assert kept(TABLE, table, ids=more) == 4 * count
        learned = 2 * 4 * 128 if "weight_estimator" in rule else 4
        assert kept(qmodel, params, ids=more) <= 5 * count + table["embedding"].nbytes + learned
