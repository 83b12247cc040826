"""What both APIs say of a model: what was left alone and why, labels for an optimizer, errors by layer."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import pytest
from bits import assert_same

from jaxquant.flax import Lsq, Pact, Recipe, Rule, Schedule
from jaxquant.flax.mark import is_mark
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import inputs

X = inputs(4, 6, 8)
LSQ = {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()}
STATIC = {"weights": "int3", "inputs": "int8:tensor", "input_scale": "static"}


def test_the_report_property_says_what_was_left_and_why(api: Any) -> None:  # noqa: F811
    floats = api.own_model("Mixed", X)
    report = api.prepare(floats, Recipe(Rule("head", keep="mine"), Rule("**", weights="int8")), X).report
    why = {row.path if row.kind not in ("QKᵀ", "PV") else row.kind: row.why for row in report}
    assert why["head"] == "kept (rule 1: 'head'): mine" and why["norm"] == "a norm"
    assert re.fullmatch("a subclass of (Dense|Linear): only Flax's own classes are known", why["odd"])
    assert why["QKᵀ"] == why["PV"] == "off unless a rule has attention"
    cells = [text for path, text in why.items() if "cell/" in path]
    assert len(cells) >= 8 and set(cells) == {"inside a recurrent cell: left alone"}
    assert why[""] == "parameters of a class that is not Flax's own layer"
    quantized = {row.path for row in report if row.quantized}
    assert quantized == {f"attention/{name}" for name in ("query", "key", "value", "out")}
    assert {row.path for row in report.left_in_float} >= {path for path in why if path not in ("QKᵀ", "PV")} - quantized


@pytest.mark.parametrize("names", [("first", "second"), ("step", "inputs_scale")], ids=", ".join)
def test_labels_property_name_every_leaf(api: Any, names: tuple[str, str]) -> None:  # noqa: F811
    """By the name of the leaf alone: layers may be called as they like."""
    first, second = names
    recipe = Recipe(Rule(first, **STATIC), Rule(second, **LSQ), schedule=Schedule(start=1))
    trial = api.prepare(api.float_model("Two", X, names=names), recipe, X).calibrated(X)
    found = trial.labels()
    # Linen's constants are among the parameters, NNX's are no Params.
    constant = {"inputs_scale": "frozen", "inputs_zero_point": "frozen"} if api.name == "linen" else {}
    step = {"step": "frozen"} if api.name == "linen" else {}
    learned = {"kernel": "weights", "bias": "weights", "kernel_scale": "scales", "inputs_scale": "scales"}
    assert of_layer(found, first) == {"kernel": "weights", "bias": "weights"} | constant | step
    assert of_layer(found, second) == learned | step
    converted = trial.advanced().converted().labels()
    for path, label in converted.items():
        assert label == ("weights" if path.endswith("/bias") else "frozen")
    if api.name == "nnx":
        assert set(converted) == {f"{name}/bias" for name in names}


def of_layer(found: dict[str, str], name: str) -> dict[str, str]:
    own = {path.removeprefix(f"{name}/"): label for path, label in found.items() if path.startswith(f"{name}/")}
    marks = [leaf for leaf in own if is_mark(leaf)]
    assert all(own.pop(mark) == "frozen" for mark in marks)
    return own


def test_kept_layers_property_are_weights(api: Any) -> None:  # noqa: F811
    names = ("step", "inputs_scale")
    recipe = Recipe(Rule("step", weights="int4", weight_estimator=Lsq()), Rule("*", keep="k"))
    found = api.prepare(api.float_model("Two", X, names=names), recipe, X).labels()
    assert of_layer(found, "inputs_scale") == {"kernel": "weights", "bias": "weights"}
    assert of_layer(found, "step") == {"kernel": "weights", "bias": "weights", "kernel_scale": "scales"}


def test_explain_property_has_a_row_a_layer_and_changes_nothing(api: Any) -> None:  # noqa: F811
    rule = {"weights": "int2", "inputs": "int8:tensor", "input_scale": "static", "weight_estimator": Lsq()}
    trial = api.prepare(api.own_model("Stack", X, "scan"), Recipe(Rule("**", **rule)), X).calibrated(X)
    scale = next(path for path in trial.leaves() if path.endswith("kernel_scale"))
    trial = trial.changed(scale, lambda v: v * 0.3)
    before = {path: np.array(leaf) for path, leaf in trial.leaves().items()}
    rows = trial.explain(X * 2)
    kernels = [path.removesuffix("/kernel") for path in before if path.endswith("/kernel")]
    stacked = {f"{path}[{i}]" for path in kernels if path.startswith("layers/") for i in range(3)}
    assert [row.path for row in rows] == sorted(row.path for row in rows)
    assert {row.path for row in rows} == stacked | {path for path in kernels if not path.startswith("layers/")}
    assert all(0 < row.error < 2 and 1 <= row.codes <= 4 == row.of for row in rows)
    assert any(row.inputs_clipped for row in rows) and any(row.weights_clipped for row in rows)
    assert "clipped inputs" in str(rows)
    jax.tree.map(assert_same, {path: np.asarray(leaf) for path, leaf in trial.leaves().items()}, before)


def test_pact_property_starts_at_the_largest_input(api: Any) -> None:  # noqa: F811
    recipe = Recipe(Rule("**", weights="int4", inputs="uint4:tensor:asym", input_estimator=Pact()))
    trial = api.prepare(api.float_model("Two", X), recipe, X).calibrated(X)
    assert float(trial.leaves()["first/inputs_scale"]) == float(X.max())
