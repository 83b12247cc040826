"""What both APIs refuse, in the same words: recipes that do not fit, data and scales that cannot be used."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same

from jaxquant.flax import Lsq, LsqPlus, Recipe, Rule, Schedule, linen_api, nnx_api
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import inputs

X = inputs(4, 6, 8)
INT8 = {"weights": "int8", "inputs": "int8:token"}
INT4 = INT8 | {"weights": "int4"}
STATIC = {"weights": "int8", "inputs": "uint8:tensor:asym", "input_scale": "static"}
LSQ = INT8 | {"weight_estimator": Lsq()}
OFFSET = {
    "weights": "int8:asym", "inputs": "int8:tensor:asym", "weight_estimator": LsqPlus(), "input_estimator": LsqPlus(),
}  # fmt: skip


def prepared(api: Any, options: dict[str, Any], schedule: Schedule | None = None) -> Any:  # noqa: F811
    """Calibrated, where there are static scales."""
    trial = api.prepare(api.float_model("Two", X), Recipe(Rule("**", **options), schedule=schedule), X)
    return trial.calibrated(X) if "tensor" in options["inputs"] else trial


@pytest.mark.parametrize(
    ("kind", "x", "rule", "text"),
    [
        ("dense", X, Rule("leyer", weights="int8"), "rule 'leyer' matches nothing.*'layer'"),
        ("dense", inputs(2, 2**18), Rule("**", weights="int8", inputs="int8"), "the sum is kept in int32"),
        ("wide conv", X, Rule("**", weights="int8:g2"), "2 summed axes"),
    ],
)
def test_recipes_property_that_do_not_fit_are_refused_at_prepare(
    api: Any, kind: str, x: Any, rule: Rule, text: str  # noqa: F811
) -> None:  # fmt: skip
    floats = api.own_model("one", x, kind, {"features": x.shape[-1]} if x is not X else {})
    with pytest.raises(ValueError, match=text):
        api.prepare(floats, Recipe(rule), x)


def test_other_objects_property_are_refused(api: Any) -> None:  # noqa: F811
    recipe, floats = Recipe(Rule("**", **INT8)), api.float_model("Two", X)
    model = floats.qmodel if api.name == "linen" else floats.model
    for given, need in (((object(), recipe), "model is a object, need an? (Linen m|nnx.M)odule"),
                        ((model, {}), r"recipe is a dict, need a Recipe")):  # fmt: skip
        with pytest.raises(TypeError, match=need):
            (linen_api.Quantized if api.name == "linen" else nnx_api.prepare)(*given)


def test_calibration_property_what_it_cannot_use_is_refused(api: Any) -> None:  # noqa: F811
    trial = api.prepare(api.float_model("Two", X), Recipe(Rule("**", **STATIC)), X)
    with pytest.raises(
        ValueError, match=r"convert: layer 'first' has inputs_scale nan, need finite .*\(not calibrated yet, see obs"
    ):
        trial.converted()
    with pytest.raises(ValueError, match="calibrate: layer 'first' saw no data, need observe"):
        trial.calibrated()
    bad = X.copy()
    bad.reshape(-1)[:2] = np.nan
    with pytest.raises(ValueError, match="calibrate: layer 'first' saw 2 NaN and 0 infinite inputs, need finite"):
        trial.calibrated(bad)
    with pytest.raises(ValueError, match="observe: no layer .*has a static input scale"):
        prepared(api, INT8).observed(X)


@pytest.mark.parametrize(
    ("options", "name", "values"),
    [
        (STATIC, "inputs_scale", (0.0, np.nan, np.inf)),
        (LSQ, "kernel_scale", (0.0, np.nan, np.inf)),
        (OFFSET, "kernel_offset", (np.nan, np.inf)),
        (OFFSET, "inputs_offset", (np.nan, np.inf)),
    ],
)
def test_convert_property_refuses_scales_that_no_training_gave(
    api: Any, options: dict, name: str, values: tuple  # noqa: F811
) -> None:  # fmt: skip
    """A learned one is never a matter of calibration; an offset of 0 is one."""
    trial = prepared(api, options)
    unset = "not calibrated yet, see observe and calibrate; or " if name.startswith("inputs") else ""
    for value in values:
        wrong = trial.changed(f"second/{name}", lambda v, to=value: v.at[(0,) * v.ndim].set(to))
        text = rf"convert: layer 'second' has {name} {value}, need finite numbers, .* not zero \({unset}learned in a"
        with pytest.raises(ValueError, match=text):
            wrong.converted()
    if 0.0 not in values:
        trial.changed(f"second/{name}", jnp.zeros_like).converted()


@pytest.mark.parametrize("options", [LSQ, STATIC], ids=["learned", "static"])
def test_states_property_without_prepare_are_refused(api: Any, options: dict) -> None:  # noqa: F811
    """Once is enough: Linen's second prepare leaves what stands there, NNX's refuses the model."""
    trial, floats = prepared(api, options), api.float_model("Two", X)
    unprepared = trial.given(floats) if api.name == "linen" else floats
    for call in (unprepared.converted, lambda: unprepared.explain(X)):
        with pytest.raises(ValueError, match="not prepared"):
            call()
    if api.name == "linen":
        jax.tree.map(assert_same, trial.prepared_again(X)[0], trial.params)
        return
    with pytest.raises(ValueError, match="calibrate: the model is not prepared, need what prepare returned"):
        floats.settled()
    with pytest.raises(ValueError, match="prepare: the model is prepared already, need the float model"):
        trial.prepared_again(X)


@pytest.mark.parametrize("options", [LSQ, STATIC], ids=["learned", "static"])
def test_states_property_that_are_converted_are_final(api: Any, options: dict) -> None:  # noqa: F811
    """Linen's convert gives converted parameters back, NNX's refuses them."""
    trial = prepared(api, options)
    done = trial.converted()
    calls = {"explain": lambda: done.explain(X)}
    if options is STATIC:
        calls |= {"observe": lambda: done.observed(X), "calibrate": lambda: done.given_statistics(trial, X).settled()}
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name}: .* is converted, need"):
            call()
    with pytest.raises(ValueError, match=r"prepare: .* is (converted|prepared already), need the float"):
        done.prepared_again(X)
    if api.name == "linen":
        assert_same(done.converted().run(X), done.run(X))
    else:
        with pytest.raises(ValueError, match="convert: the model is converted already, need what prepare returned"):
            done.converted()


#: What made a state, the recipe of the model that is given it, whether both are converted, what is said.
STATES = [
    (INT8, INT4, True, "kernel has .*int8.*need .*int4.*another recipe"),
    (LSQ, INT8, False, "there is 'kernel_scale' beside .*, need nothing .*another recipe"),
    (INT8, LSQ, False, "(there is no|a state without) 'kernel_scale'.*, need .*another recipe"),
    (None, LSQ, False, "(there is no|a state without) 'kernel_scale'.*, need .*another recipe"),
    (None, STATIC, False, "(there is no|a state without) 'inputs_scale'.*, need .*another recipe"),
    (STATIC, INT8, False, "there is 'inputs_scale' beside .*, need nothing .*another recipe"),
    (LSQ, OFFSET, False, "(there is no|a state without) 'inputs_offset'.*, need .*another recipe"),
    (LSQ, (LSQ, Schedule(1)), False, "(there is no|a state without) 'step'.*, need .*another recipe"),
    (INT8, STATIC, True, "(there is no|a state without) 'inputs_scale'.*, need .*another recipe"),
]


@pytest.mark.parametrize("of, into, converted, text", STATES, ids=range(len(STATES)))
def test_states_property_of_another_recipe_are_refused(
    api: Any, of: Any, into: Any, converted: bool, text: str  # noqa: F811
) -> None:  # fmt: skip
    source = api.float_model("Two", X) if of is None else prepared(api, of)
    target = prepared(api, *(into if isinstance(into, tuple) else (into,)))
    if converted:
        source, target = source.converted(), target.converted()
    wrong = target.given(source)
    runs = [lambda: wrong.run(X), lambda: wrong.run(X, jit=False), *([] if converted else [wrong.converted])]
    for run in runs:
        with pytest.raises(ValueError, match=f"layer 'first': .*{text}"):
            run()
