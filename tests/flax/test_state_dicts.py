"""Converted trees through flax.serialization: the same bits back, and nothing of another recipe or model."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import linen as nn
from flax import nnx, serialization
from flax.core import freeze

from jaxquant import formats
from jaxquant.flax import Recipe, Rule, linen_api
from jaxquant.qtensor import QTensor
from tests.flax.api_support import LinenApi, NnxApi
from tests.flax.linen_models import inputs

X = inputs(4, 6, 8)
SCHEMES = {
    "channel": {"weights": "int4", "inputs": "int8:token"},
    "zero points": {"weights": "int4:tensor:asym", "inputs": "uint8:tensor:asym", "input_scale": "static"},
    "offsets": {"weights": "int4:g4:fzero"},
    "codebook": {"weights": "nf4:g4:sf16"},
}


def converted(name: str, kind: str = "scan", api: Any = LinenApi()) -> Any:  # noqa: B008
    made = api.prepare(api.own_model("Stack", X, kind), Recipe(Rule("**", **SCHEMES[name])), X)
    return (made.calibrated(X) if "input_scale" in SCHEMES[name] else made).converted()


def emptied(tree: Any) -> Any:
    """Its twin without its values."""
    return jax.tree.map(jnp.zeros_like, tree)


def abstract(tree: Any) -> Any:
    return jax.eval_shape(lambda: tree)


def assert_equal(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(assert_same, got, want)


@pytest.mark.parametrize("kind", ["scan", "sequential"])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_converted_tree_comes_back_with_its_bits(name: str, kind: str) -> None:
    made = converted(name, kind)
    by_bytes = serialization.from_bytes(emptied(made.params), serialization.to_bytes(made.params))
    by_dicts = serialization.from_state_dict(abstract(made.params), serialization.to_state_dict(made.params))
    assert_equal(by_bytes, made.params)
    assert_equal(by_dicts, made.params)
    assert_same(replace(made, params=by_bytes).run(X), made.run(X))


def test_other_trees_that_hold_codes_come_back_too() -> None:
    """Frozen dicts, boxes that name axes, and the pure dict of an NNX state."""
    named = nn.Dense(4, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out")))
    qmodel = linen_api.Quantized(named, Recipe(Rule("**", weights="int4:asym", inputs="int8")))
    boxed = linen_api.convert(qmodel, qmodel.init(jax.random.key(0), X)["params"], X)
    assert isinstance(boxed["kernel"].codes, nn.Partitioned)
    pure = nnx.to_pure_dict(nnx.state(converted("channel", api=NnxApi()).model))
    assert isinstance(pure["head"]["kernel"], QTensor)
    for tree in (freeze(converted("channel").params), boxed, pure):
        assert_equal(serialization.from_bytes(emptied(tree), serialization.to_bytes(tree)), tree)


def test_a_state_dict_holds_arrays_and_the_text_of_the_spec() -> None:
    state = serialization.to_state_dict(converted("channel", "sequential").params)["Dense_0"]["kernel"]
    assert state["spec"] == '{"convention": {}, "fmt": "int4", "granularity": {"PerAxis": {"axis": 1}}, "scale": {}}'
    assert {*state} == {"codes", "scale", "zero_point", "spec"} and state["zero_point"] is None


def test_another_spec_or_shape_is_refused() -> None:
    own = converted("channel", "sequential").params
    kernel = own["Dense_0"]["kernel"]
    path = r"from_state_dict: './Dense_0/kernel' has "
    wrong = {
        path + r"codes of {.*int2.*}, need {.*int4.*} \(a checkpoint of another recipe\)": replace(
            kernel, spec=replace(kernel.spec, fmt=formats.get("int2"))
        ),
        path + r"codes int8\[16, 8\], need int8\[8, 8\]": replace(kernel, codes=jnp.tile(kernel.codes, (2, 1))),
        path + r"codes int32\[8, 8\], need int8\[8, 8\]": replace(kernel, codes=kernel.codes.astype(jnp.int32)),
        path + r"scale float32\[1, 4\], need float32\[1, 8\]": replace(kernel, scale=kernel.scale[:, :4]),
        path + r"zero_point int32\[1, 8\], need nothing": replace(kernel, zero_point=jnp.zeros((1, 8), jnp.int32)),
        path + r"a ndarray, need \['codes', 'scale', 'zero_point', 'spec'\]": np.zeros((8, 8), np.float32),
        path + r"\['codes'\], need": {"codes": kernel.codes},
    }
    for text, other in wrong.items():
        tree = {**own, "Dense_0": {**own["Dense_0"], "kernel": other}}
        with pytest.raises(ValueError, match=text):
            serialization.from_bytes(own, serialization.to_bytes(tree))


@pytest.mark.parametrize("api", ["linen_api", "nnx_api"])
def test_either_api_alone_registers(api: str) -> None:
    """Each in a process of its own; again without an error, as when a module is reloaded."""
    code = f"""
import importlib
from flax import serialization
from jaxquant import QTensor
assert not serialization.is_serializable(QTensor)
from jaxquant.flax import {api}
importlib.reload({api})
assert serialization.is_serializable(QTensor)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
