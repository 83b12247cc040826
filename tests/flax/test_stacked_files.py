"""Converted models with layers stacked for a scan or a vmap: into a file and back, with training's bits (FIL-8)."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from bits import assert_same

from jaxquant import store
from jaxquant.flax import Lsq, LsqPlus, Recipe, Rule
from tests.flax.api_support import APIS
from tests.flax.linen_models import inputs

X = inputs(4, 6, 8)
STATIC = {"inputs": "uint8:tensor:asym", "input_scale": "static"}
SCHEMES = {
    "channel": {"weights": "int4", "inputs": "int8:token", "weight_estimator": Lsq()},
    "groups": {"weights": "int4:g4", "inputs": "int8:tensor", "weight_estimator": Lsq()},
    "tensor, static": {"weights": "int4:tensor:asym", **STATIC},
    "offsets": {"weights": "int4:tensor:asym", **STATIC, "weight_estimator": LsqPlus()},
    "codebook": {"weights": "nf4:g4:sf16"},
}


def recipe(name: str) -> Recipe:
    return Recipe(Rule("**", **SCHEMES[name]))


KINDS = {"linen": ("scan", "scan of remat", "vmap", "nested"), "nnx": ("scan",)}
CASES = [pytest.param(one, kind, id=f"{one.name}-{kind}") for one in APIS for kind in KINDS[one.name]]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("api", "kind"), CASES)
def test_stacked_files_property_round_trip(tmp_path: Any, api: Any, kind: str, name: str) -> None:
    floats = api.own_model("Stack", X, kind)
    trial = api.prepare(floats, recipe(name), X)
    trial = trial.calibrated(X) if "input_scale" in SCHEMES[name] else trial
    converted, empty = trial.converted(), api.prepare(floats.abstract(), recipe(name), X).converted()
    tensors = converted.tensors()
    store.save(tmp_path / "net", tensors)
    again = store.load(tmp_path / "net")
    assert again.keys() == tensors.keys()
    for path, tensor in tensors.items():
        jax.tree.map(assert_same, jax.tree.map(np.asarray, again[path]), jax.tree.map(np.asarray, tensor))
    assert_same(empty.with_tensors(again).run(X), trial.run(X))
