"""Batch norms folded into layers, in both APIs: evaluation has the same bits, training has batch statistics."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same

from jaxquant.flax import Lsq, Recipe, Rule, Schedule
from jaxquant.flax.mark import is_mark
from refquant import qat
from refquant.formats import ALL
from refquant.granularity import PerAxis
from refquant.qat.folding import fold
from refquant.qtensor import quantize_tensor
from refquant.spec import QuantSpec
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import inputs
from tests.flax.trials import TRACED

X = inputs(3, 5, 5, 2)
PLAIN = {"weights": "int8", "inputs": "int8:token"}
LEARNED = {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()}
HALF = {"dtype": jnp.bfloat16}
OPTIONS = {
    "plain": {},
    "bias": {"layer": {"use_bias": True}},
    "no affine": {"norm": {"use_bias": False, "use_scale": False}},
    "bfloat16": {"layer": HALF, "norm": HALF},
    "bfloat16 layers": {"layer": HALF},
}


def recipe(options: dict[str, Any] = PLAIN, schedule: Schedule | None = None) -> Recipe:
    rules = Rule("conv", fold="bn", **options), Rule("dense", fold="a_norm", **options)
    return Recipe(*rules, schedule=schedule)


def far(got: Any, want: Any) -> float:
    got, want = np.float32(got), np.float32(want)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_folded_differential_converted_is_trained(api: Any, options: dict) -> None:  # noqa: F811
    floats = api.float_model("normed", X, **options)
    trial = api.prepare(floats, recipe(), X)
    converted, want = trial.converted(), trial.run(X)
    assert_same(converted.run(X), want)
    if options == OPTIONS["bias"]:
        assert_same(converted.run(X, jit=False), want)
        assert_same(trial.run(X, jit=False), want)
    exact = floats.run(X)
    assert want.dtype == exact.dtype and 0 < far(want, exact) < 0.05
    rows = {row.path: row.why for row in trial.report}
    assert rows.get("bn", "folded into 'conv'") == "folded into 'conv'"


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_folded_differential_converted_is_trained_with_learned_scales(api: Any, dtype: Any) -> None:  # noqa: F811
    floats = api.float_model("one_normed", X, layer={"use_bias": False, "dtype": dtype})
    trial = api.prepare(floats, Recipe(Rule("conv", fold="bn", **LEARNED)), X).calibrated(X)
    converted, want = trial.converted(), trial.run(X)
    leaves = converted.leaves()
    assert "conv/bias" in leaves and "conv/kernel_scale" not in leaves
    assert_same(converted.run(X), want)
    assert 0 < far(want, floats.run(X)) < 0.3


@pytest.mark.parametrize("bias", [False, True])
def test_folded_differential_is_the_reference_layer(api: Any, bias: bool) -> None:  # noqa: F811
    """The layer is refquant's own with the folded kernel and bias (LAY-14), and with both APIs its own bits."""
    floats = api.float_model("one_normed", X, layer={"use_bias": bias})
    trial = api.prepare(floats, Recipe(Rule("conv", fold="bn", **PLAIN)), X)
    leaves = floats.leaves() | floats.statistics()
    own = np.asarray(leaves["conv/bias"]) if bias else None
    norm = [np.asarray(leaves[f"bn/{name}"]) for name in ("mean", "var", "scale", "bias")]
    kernel, shift = fold(np.asarray(leaves["conv/kernel"]), own, *norm, epsilon=1e-5)
    weight = quantize_tensor(kernel, QuantSpec(ALL["int8"], PerAxis(3)))
    want = qat.conv(X, weight, shift, inputs=QuantSpec(ALL["int8"], PerAxis(0)))
    assert trial.converted().leaves()["conv/kernel"].spec == weight.spec
    assert_same(trial.run(X, jit=False), want)


def test_training_property_uses_the_batch_until_it_is_frozen(api: Any) -> None:  # noqa: F811
    floats = api.float_model("normed", X, layer={"use_bias": True})
    trial = api.prepare(floats, recipe(LEARNED, Schedule(freeze_batch_norm=1)), X).calibrated(X)
    want, wanted, _ = floats.in_training(X)
    traced = len(TRACED)
    y, after, gradients = trial.in_training(X)
    assert 0 < far(y, want) < 0.4
    near, plain = (np.asarray(one.statistics()["bn/mean"]) for one in (after, wanted))
    assert near.any() and np.allclose(near, plain, rtol=0.1, atol=0.02)
    for path, leaf in gradients.items():
        name = path.rpartition("/")[2]
        still = name == "step" or is_mark(name) or path in ("conv/bias", "dense/bias")  # a norm takes a bias away
        assert np.isfinite(leaf).all() and (still or np.any(leaf)), path
    still, kept, _ = after.in_training(X)
    assert len(TRACED) == traced + 1
    assert_same(still, after.run(X))
    for path, leaf in after.statistics().items():
        assert_same(kept.statistics()[path], leaf)


@pytest.mark.parametrize("affine", [False, True])
def test_training_differential_gradients_are_those_of_the_float_layer(api: Any, affine: bool) -> None:  # noqa: F811
    """16 bits lose next to nothing, so nor may the gradient; a norm by the batch hides what only stretches its input.

    Hence a large epsilon.
    """
    norm = {"epsilon": 2.0, "use_scale": affine, "use_bias": affine}
    floats = api.float_model("one_normed", X, norm=norm)
    trial = api.prepare(floats, Recipe(Rule("conv", weights="int16", fold="bn")), X)
    _, _, want = floats.in_training(X)
    _, _, got = trial.in_training(X)
    for path, value in want.items():
        bound = 1e-2 * np.abs(value).max() + 1e-3
        np.testing.assert_allclose(got[path], value, rtol=1e-2, atol=bound, err_msg=path)


def test_explain_property_measures_the_folded_layer(api: Any) -> None:  # noqa: F811
    trial = api.prepare(api.float_model("normed", X), recipe({"weights": "int4"}), X)
    rows = trial.explain(X)
    assert {row.path for row in rows} == {"conv", "dense"} and all(0 < row.error < 1 for row in rows)


BETWEEN = {"something": lambda x: x * 1, "relu": lambda x: jnp.maximum(x, 0)}


@pytest.mark.parametrize("between", BETWEEN)
def test_folding_property_wants_nothing_between(api: Any, between: str) -> None:  # noqa: F811
    floats = api.float_model("normed", X, between=BETWEEN[between])
    with pytest.raises(
        ValueError, match=r"batch norm .*folded into 'conv': .*norm\(layer\(x\)\).*nothing between them"
    ):
        api.prepare(floats, Recipe(Rule("conv", fold="bn", **PLAIN)), X)


@pytest.mark.parametrize(
    ("fold", "text"),
    [
        ("norm", "layer 'conv': fold(='norm' is not there| names the batch norm 'norm', which was not called)"),
        ("dense", "layer 'conv': fold(='dense' is Linear| names the batch norm 'dense', which was not called)"),
        ("a_norm", r"'conv': (fold='a_norm' has .* 3 features, need axis -1 and 6|need norm\(layer\(x\)\))"),
    ],
)
def test_folding_property_names_what_is_no_norm_of_the_layer(api: Any, fold: str, text: str) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=text):
        api.prepare(api.float_model("normed", X), Recipe(Rule("conv", fold=fold, **PLAIN)), X)


def test_folding_property_every_output_goes_to_the_norm(api: Any) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="'conv'.* (called again before the batch norm 'bn'|not that layer's own out)"):
        api.prepare(api.own_model("Twice", X), Recipe(Rule("conv", fold="bn", **PLAIN)), X)


def test_folding_property_one_norm_is_of_one_layer(api: Any) -> None:  # noqa: F811
    x, rules = inputs(6, 8), (Rule("a", fold="n1", **PLAIN), Rule("b", fold="n1", **PLAIN))
    with pytest.raises(ValueError, match="'b'.* fold.* batch norm"):
        api.prepare(api.float_model("Pair", x), Recipe(*rules), x)


def test_converted_property_has_no_training_mode(api: Any) -> None:  # noqa: F811
    trial = api.prepare(api.float_model("normed", X), recipe(), X).converted()
    with pytest.raises(ValueError, match=r"use_running_average is False, need True \(the model is converted"):
        trial.run_in_training(X)


CASTS = {
    "layer": lambda path: path.startswith("conv/"),
    "norm": lambda path: path in ("bn/scale", "bn/bias"),
    "parameters": lambda path: path.partition("/")[2] not in ("mean", "var"),
    "all": lambda path: True,
}
MADE = {"layer": "layer", "norm": "norm", "layer dtype": "layer"}


@pytest.mark.parametrize("x", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("affine", [False, True], ids=["bare", "affine"])
@pytest.mark.parametrize("cast", [*CASTS, *(f"made: {name}" for name in MADE)])
def test_folded_differential_has_the_dtype_of_the_float_model(api: Any, cast: str, affine: bool, x: Any) -> None:  # noqa: F811
    """By the dtypes that the parameters have, whether the modules were made with them or cast later."""
    options: dict[str, Any] = {"norm": {"use_scale": affine, "use_bias": affine}}
    if cast.startswith("made: "):
        name = cast.removeprefix("made: ")
        own = options.setdefault(MADE[name], {})
        own["dtype" if name.endswith("dtype") else "param_dtype"] = jnp.bfloat16
    floats, x = api.float_model("one_normed", X, **options), jnp.asarray(X, x)
    for path in floats.leaves() | floats.statistics():
        if cast in CASTS and CASTS[cast](path):
            floats = floats.changed(path, lambda v: v.astype(jnp.bfloat16))
    trial = api.prepare(floats, Recipe(Rule("conv", fold="bn", **PLAIN)), x)
    want = trial.run(x, jit=False)
    assert want.dtype == floats.run(x, jit=False).dtype
    assert_same(trial.converted().run(x, jit=False), want)
