"""What both APIs say, in the same words: layers by their paths, methods by their names, specs as in reports."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from jaxquant.flax import Recipe, Rule, linen_api, nnx_api
from refquant.conventions import Affine
from refquant.formats import ALL
from refquant.granularity import PerAxis
from refquant.spec import QuantSpec
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import inputs
from tests.flax.linen_trials import LinenTrial
from tests.flax.nnx_trials import NnxTrial

X = inputs(4, 6, 8)
INT8 = {"weights": "int8", "inputs": "int8"}
STATIC = {"weights": "int8", "inputs": "int8:tensor", "input_scale": "static"}


def refused(text: str) -> Any:
    return pytest.raises(ValueError, match="^" + re.escape(text))


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        (["half"], "methods is ['half'], need a dict of names and what each is called with"),
        ("half", "methods is 'half', need a dict of names"),
        ({3: X}, "methods has 3, need the name of a method"),
    ],
    ids=str,
)
def test_methods_property_are_a_dict_of_names(api: Any, methods: Any, text: str) -> None:  # noqa: F811
    with pytest.raises(TypeError, match="^" + re.escape(f"prepare: {text}")):
        api.prepare(api.float_model("Two", X), Recipe(Rule("**", **INT8)), X, methods=methods)


def test_method_property_of_nnx_is_a_name() -> None:
    model, _ = nnx_api.prepare(nnx.Linear(8, 2, rngs=nnx.Rngs(0)), Recipe(Rule("**", **STATIC)))
    for function in (nnx_api.observe, nnx_api.explain):
        with pytest.raises(TypeError, match="method is .*, need the name of a method$"):
            function(model, X, method=nnx.Linear.__call__)


def test_explain_property_tells_nothing_of_a_layer_that_was_not_called(api: Any) -> None:  # noqa: F811
    trial = api.prepare(api.float_model("Two", X), Recipe(Rule("**", **INT8)), X)
    if api.name == "linen":
        found = linen_api.explain(trial.qmodel, trial.params, X, method="half")
        assert [row.path for row in found] == ["first"]
    else:
        rows = str(nnx_api.explain(trial.model, X, method="half")).splitlines()
        (idle,) = [row for row in rows if row.startswith("second")]
        assert idle.split() == ["second", *["-"] * 5]


def test_fold_property_of_no_norm_is_told_of_the_layer_before(api: Any) -> None:  # noqa: F811
    rule = Rule("**", fold="norm", **INT8)
    with pytest.raises(ValueError, match=r"^layer '\w+': fold") as refused_by:
        api.prepare(api.float_model("Two", X), Recipe(rule), X)
    assert "called again" not in str(refused_by.value)


def test_rule_property_of_a_layer_without_an_integer_form_is_told_so(api: Any) -> None:  # noqa: F811
    for where in ("odd", "norm"):
        with refused(
            f"Recipe: rule {where!r} matches only {where!r}, which has no integer form here, need the path of"
        ):
            api.prepare(api.own_model("Mixed", X), Recipe(Rule(where, weights="int8")), X)


def one_layer(api: Any, features: int = 8) -> Any:  # noqa: F811
    """A model that is one layer alone, in float."""
    if api.name == "linen":
        model = nn.Dense(2)
        return LinenTrial(model, model.init(jax.random.key(0), jnp.ones((1, features)))["params"])
    return NnxTrial(nnx.Linear(features, 2, rngs=nnx.Rngs(0)))


def test_methods_property_of_no_model_are_refused_with_the_nearest(api: Any) -> None:  # noqa: F811
    floats = api.float_model("Two", X)
    trial = api.prepare(floats, Recipe(Rule("**", **STATIC)), X)
    near = "(nearest: 'half', '__call__')"
    with refused(f"prepare: methods has 'haf', need methods of Two {near}"):
        api.prepare(floats, Recipe(Rule("**", **INT8)), X, methods={"half": X, "haf": X})
    for name in ("observe", "explain"):
        linen, flax = getattr(linen_api, name), getattr(nnx_api, name)
        with refused(f"{name}: method is 'haf', need a method of Two {near}"):
            if api.name == "linen":
                linen(trial.qmodel, trial.params, X, method="haf")
            else:
                flax(trial.model, X, method="haf")
    if api.name == "linen":
        for name in ("calibrate", "convert"):
            given = (None,) if name == "calibrate" else ()
            with refused(f"{name}: methods has 'haf', need methods of Two {near}"):
                getattr(linen_api, name)(trial.qmodel, trial.params, *given, methods={"haf": X})


def test_methods_property_that_are_layers_of_a_setup_are_taken(api: Any) -> None:  # noqa: F811
    """Linen's are no attributes of the model before it is bound."""
    recipe, floats = Recipe(Rule("**", **STATIC)), api.float_model("Two", X)
    trial = api.prepare(floats, recipe, X, methods={"first": X})
    assert trial.observed(X, method="first") is not None


@pytest.mark.parametrize(("depth", "product", "magnitudes"), [(6, "QKᵀ", "4 products"), (2**18, "PV", "262144 prod")])
def test_attentions_property_name_their_path_where_a_sum_might_not_fit(
    api: Any, depth: int, product: str, magnitudes: str  # noqa: F811
) -> None:  # fmt: skip
    """One depth of int16 is too much for QKᵀ; of int8 too many keys for PV."""
    scheme = "int16" if product == "QKᵀ" else "int8"
    x = jax.ShapeDtypeStruct((1, depth, 8), jnp.float32)
    floats = api.own_model("one", X, "attention", {})
    with refused(f"layer 'layer': {product}, einsum: {magnitudes}"):
        api.prepare(floats, Recipe(Rule("**", attention=scheme)), x)


def test_a_model_property_of_one_layer_is_a_dot_in_errors_as_in_reports(api: Any) -> None:  # noqa: F811
    x = inputs(3, 8)
    trial = api.prepare(one_layer(api), Recipe(Rule("**", **STATIC)), x)
    assert str(trial.report).splitlines()[2].startswith(".  ")
    with refused("convert: layer '.' has inputs_scale nan"):
        trial.converted()
    with refused("calibrate: layer '.' saw no data"):
        trial.calibrated()
    with pytest.raises(ValueError, match=r"^layer '\.': .*a checkpoint of another recipe"):
        trial.given(one_layer(api)).run(x)


@pytest.mark.parametrize(
    ("weights", "features", "text"),
    [
        ("int4:g5", 16, "; last group of 1"),
        ("int4:g5", 15, ""),
        ("int4:g32", 16, "; last group of 16"),
        ("nf4:g7", 16, "; last group of 2"),
        ("int4", 16, ""),
    ],
)
def test_reports_property_tell_of_ragged_groups(
    api: Any, weights: str, features: int, text: str  # noqa: F811
) -> None:  # fmt: skip
    trial = api.prepare(one_layer(api, features), Recipe(Rule("**", weights=weights)), inputs(3, features))
    assert trial.report[""].why == f"rule 1: '**'{text}"


def test_codes_property_of_another_spec_are_told_as_in_reports(api: Any) -> None:  # noqa: F811
    """Specs that differ in what reports leave out are told in full."""
    x = inputs(3, 8)
    fused = QuantSpec(ALL["int8"], PerAxis(1), convention=Affine(nan="zero"))
    own, other, third = (
        api.prepare(one_layer(api), Recipe(Rule("**", weights=weights)), x).converted()
        for weights in ("int8", "int4:g2", fused)
    )
    with refused(
        "layer '.': the kernel has codes of int4:g2, need codes of int8:axis1 (a checkpoint of another recipe)"
    ):
        own.given(other).run(x)
    with refused("layer '.': the kernel has codes of QuantSpec(fmt="):
        own.given(third).run(x)
