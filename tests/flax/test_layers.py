"""Rarer options of layers in both APIs: groups, parameters of other dtypes, paddings beside dilated inputs."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same

from jaxquant.flax import Recipe, Rule
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import inputs

X = inputs(4, 6, 8)
INT8 = {"weights": "int8", "inputs": "int8:token"}
GROUPED = {"groups": {"weights": "int4:g4", "inputs": "int8"}, "float groups": {"weights": "int4:g4:fzero"}}


@pytest.mark.parametrize("scheme", GROUPED)
def test_groups_differential_converted_is_trained(api: Any, scheme: str) -> None:  # noqa: F811
    recipe = Recipe(Rule("second", **GROUPED[scheme]), Rule("**", keep="no groups"))
    trial = api.prepare(api.float_model("Two", X), recipe, X)
    assert_same(trial.converted().run(X), trial.run(X))
    report = trial.report
    assert report["second"].weights.startswith("int4:g4") and report["first"].why.startswith("kept (rule 2: '**')")


@pytest.mark.parametrize("wide", [False, True])
def test_dtypes_differential_follow_the_parameters(api: Any, wide: bool) -> None:  # noqa: F811
    """Parameters are cast after the model was made: param_dtype says float32 still; `wide`: not the bias."""
    x, floats = jnp.asarray(X, jnp.bfloat16), api.own_model("one", X, "dense", {})
    for path in ("layer/kernel", *(() if wide else ("layer/bias",))):
        floats = floats.changed(path, lambda v: v.astype(jnp.bfloat16))
    trial = api.prepare(floats, Recipe(Rule("**", **INT8)), x)
    want = trial.run(x, jit=False)
    assert floats.run(x, jit=False).dtype == want.dtype == (jnp.float32 if wide else jnp.bfloat16)
    assert_same(trial.converted().run(x, jit=False), want)


@pytest.mark.parametrize("rule", ["int8:tensor", None])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR", "REFLECT", "CAUSAL", ((2, 1),)])
def test_paddings_property_beside_dilated_inputs_are_refused_where_flax_does(
    api: Any, padding: Any, rule: str | None  # noqa: F811
) -> None:  # fmt: skip
    """LAY-5: what the float layer cannot run is not run quantized; numbers are, by both."""
    recipe = Recipe(Rule("**", weights="int8", inputs=rule))
    if not isinstance(padding, str):
        floats = api.own_model("one", X, "wide conv", {"padding": padding, "input_dilation": 2})
        trial = api.prepare(floats, recipe, X)
        assert trial.run(X, jit=False).shape == floats.run(X, jit=False).shape
        return
    floats = api.own_model("Dilated", X, padding)  # Linen's cannot be made by a call of its own
    with pytest.raises(ValueError, match="String padding is not implemented"):
        floats.run(X, jit=False)
    with pytest.raises(ValueError, match=f"padding is '{padding}' with input_dilation .2,., need pairs of numbers"):
        api.prepare(floats, recipe, X)


def test_failed_calls_property_leave_the_model_as_it_was(api: Any) -> None:  # noqa: F811
    """Also one that fails while it observes or explains."""
    static = {"weights": "int8", "inputs": "int8:tensor", "input_scale": "static"}
    trial = api.prepare(api.float_model("Two", X), Recipe(Rule("**", **static)), X).calibrated(X)
    want, wrong = trial.run(X), np.ones((3, 5), np.float32)
    for call in (trial.run, trial.explain, trial.observed):
        with pytest.raises(Exception, match="5"):
            call(wrong)
        assert_same(trial.run(X, jit=False), want)
    assert_same(trial.converted().run(X), want)
