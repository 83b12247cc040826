"""One life in Linen and in NNX: prepared, calibrated, trained, explained, converted, with each other's bits."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant.flax import Lsq, Pact, Recipe, Rule, Schedule, linen_api, measures, nnx_api
from jaxquant.flax.site import resolve
from tests.flax.api_support import APIS, api  # noqa: F401
from tests.flax.linen_models import inputs

X = inputs(4, 6, 8)
LEARNED = Recipe(
    Rule("general", weights="int3", inputs="int8:tensor", input_scale="static", calibration="percentile"),
    Rule("einsum", weights="int8", inputs="uint8:tensor:asym", input_estimator=Pact()),
    Rule("**", weights="int4", inputs="int8:tensor", weight_estimator=Lsq(), input_estimator=Lsq()),
    schedule=Schedule(start=1),
)


def same_tree(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(assert_same, got, want)


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, str], Any]:
    """What the APIs gave, to be compared at the end."""
    return {}


def test_the_report_says_that_an_optimizer_comes_after_parameters_were_added(api: Any) -> None:  # noqa: F811
    floats = api.float_model("Zoo", X)
    trial = api.prepare(floats, LEARNED, X)
    added, later = str(trial.report).splitlines()[-2:]
    assert later == "the layers run in float until step 1; call advance after each step"
    assert added == f"parameters added beside the kernels: {trial.report.added}; make the optimizer after prepare"
    assert trial.report.added >= 9
    assert "optimizer" not in str(api.prepare(floats, Recipe(Rule("**", weights="int4")), X).report)


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint8"])
def test_a_batch_of_numpy_differential_is_float32_where_flax_takes_it_so(api: Any, dtype: str) -> None:  # noqa: F811
    """NumPy makes float64 and int64, which Flax itself takes without a warning; warnings are errors here."""
    single = np.abs(X) if dtype == "float64" else np.rint(np.abs(X) * 9).astype(np.float32)
    double = single.astype(dtype)
    table = Rule("embed", weights="int8", inputs="int8")  # integers may be ids there
    recipe = Recipe(table, Rule("**", weights="int8", inputs="int8:tensor", input_scale="static"))
    floats = api.float_model("Zoo", X)
    got, want = (api.prepare(floats, recipe, x).calibrated(x) for x in (double, single))
    same_tree(got.leaves(), want.leaves())
    same_tree(got.run(double, jit=False), want.run(single, jit=False))
    same_tree(got.converted().run(double), want.run(single))
    if dtype == "float64":
        assert str(got.explain(double)) == str(want.explain(single))


def test_convert_and_explain_property_refuse_a_schedule_that_has_not_started(api: Any) -> None:  # noqa: F811
    """Before it the model runs in float, so its codes would not be what was trained."""
    trial = api.prepare(api.float_model("Zoo", X), LEARNED, X).calibrated(X)
    text = r": layer '\w+' is at step 0 of a schedule that starts at 1, need advance after each step"
    with pytest.raises(ValueError, match="convert" + text):
        trial.converted()
    with pytest.raises(ValueError, match="explain" + text):
        trial.explain(X)
    late = trial.advanced()
    same_tree(late.converted().run(X), late.run(X))
    assert late.explain(X)


def test_learned_differential_converted_is_trained(api: Any, results: dict) -> None:  # noqa: F811
    floats = api.float_model("Zoo", X)
    trial = api.prepare(floats, LEARNED, X).calibrated(X, X / 2)
    leaves, before = trial.leaves(), floats.leaves()
    for path, value in before.items():
        assert_same(leaves[path], value)
    trial = trial.advanced()
    want = trial.run(X)
    same_tree(trial.converted().run(X), want)
    gradients = trial.gradients(X)
    assert all(np.isfinite(np.asarray(g)).all() for g in gradients.values())
    assert np.any(gradients["dense/kernel_scale"]) and np.any(gradients["einsum/inputs_scale"])
    rows = {row.path: row.error for row in trial.explain(X)}
    assert set(rows) == {name.partition("/")[0] for name in before} and max(rows.values()) < 0.5
    results[api.name, "learned"] = want
    results[api.name, "gradients"] = {k: gradients[k] for k in sorted(before)}


@pytest.mark.parametrize("where", ["dense", "embed", "**"])
def test_calibration_property_without_data_is_refused(api: Any, where: str) -> None:  # noqa: F811
    """Also where a table alone has a scale to set, and for whatever stands for no statistics."""
    static = Rule(where, weights="int8", inputs="int8:tensor", input_scale="static")
    recipe = Recipe(static) if where == "**" else Recipe(static, Rule("**", keep="as it is"))
    trial = api.prepare(api.float_model("Zoo", X), recipe, X)
    with pytest.raises(ValueError, match="calibrate: layer '.*' saw no data, need observe with inputs that reach it"):
        trial.calibrated()
    if api.name == "linen":
        with pytest.raises(ValueError, match="saw no data"):
            linen_api.calibrate(trial.qmodel, trial.params, {})
    else:
        place = nnx.clone(trial.model)
        nnx_api.observe(place)
        with pytest.raises(ValueError, match="saw no data"):
            nnx_api.calibrate(place)
    trial.calibrated(X)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibration_property_names_values_that_are_not_finite(api: Any, value: float) -> None:  # noqa: F811
    """Also where nothing else was seen: the data reached the layer."""
    recipe = Recipe(Rule("dense", weights="int8", inputs="int8:tensor", input_scale="static"))
    trial = api.prepare(api.float_model("Zoo", X), recipe, X)
    for x in (np.full_like(X, value), np.where(X.max() == X, np.float32(value), X)):
        with pytest.raises(
            ValueError, match=r"calibrate: layer 'dense' saw \d+ NaN and \d+ infinite inputs, need finite"
        ):
            trial.calibrated(x)


@pytest.mark.parametrize("calibration", ["minmax", "ema:0.9", "percentile:999000", "mse", "entropy"])
def test_calibration_property_on_zeros_alone_is_refused(api: Any, calibration: str) -> None:  # noqa: F811
    rule = Rule("dense", weights="int8", inputs="int8:tensor", input_scale="static", calibration=calibration)
    trial = api.prepare(api.float_model("Zoo", X), Recipe(rule), X)
    with pytest.raises(
        ValueError, match="^calibrate: layer 'dense' saw zeros alone, need data with which it is at work"
    ):
        trial.calibrated(np.zeros_like(X))
    trial.calibrated(np.zeros_like(X), X)


SCHEMES = {
    "lsq": {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()},
    "int8 token": {"weights": "int8", "inputs": "int8:token"},
    "int2 static": {"weights": "int2", "inputs": "uint8:tensor:asym", "input_scale": "static"},
}
#: Learned scales in every transform, the others in some; a scan that shares parameters cannot be observed.
OTHERS = [("scan", "int8 token"), ("scan", "int2 static"), ("sequential", "int2 static")]
STACKED = [
    pytest.param(one, kind, scheme, id=f"{one.name}-{kind}-{scheme}")
    for one in APIS
    for kind, scheme in [*((k, "int8 token" if k == "shared scan" else "lsq") for k in one.stacks), *OTHERS]
]


@pytest.mark.parametrize(("api", "kind", "scheme"), STACKED)
def test_transforms_differential_converted_is_trained(api: Any, kind: str, scheme: str) -> None:  # noqa: F811
    """Whatever stands around layers: compiled, eager, and with gradients for every kernel."""
    trial = api.prepare(api.own_model("Stack", X, kind), Recipe(Rule("**", **SCHEMES[scheme])), X)
    assert not [row for row in trial.report if re.search("not (reached|run)", row.why)]
    if scheme == "int2 static":
        assert np.isnan(np.asarray(trial.run(X))).all()  # not calibrated
    trial = trial if scheme == "int8 token" else trial.calibrated(X)
    converted, want = trial.converted(), trial.run(X)
    assert np.isfinite(want).all()
    assert_same(converted.run(X), want)
    for one in (trial, converted):
        assert_same(one.run(X, jit=False), want)
    gradients = trial.gradients(X)
    assert all(np.isfinite(np.asarray(g)).all() for g in gradients.values())
    assert all(np.any(g) for path, g in gradients.items() if path.endswith("kernel"))


@pytest.mark.parametrize("kind", ["sequential", "scan"])
def test_tabulate_shows_what_explain_found(api: Any, kind: str) -> None:  # noqa: F811
    """In Flax's own table, each number in its layer's row; layers stacked for a scan have one row."""
    trial = api.prepare(api.own_model("Stack", X, kind), Recipe(Rule("**", **SCHEMES["lsq"])), X).calibrated(X)
    found, before = trial.explain(2 * X), trial.leaves()
    plain, table = trial.tabulate(X), trial.tabulate(X, explained=found)
    same_tree(trial.leaves(), before)
    assert "explained" not in plain and "clipped" not in plain
    assert len({row.error for row in found}) == len(found) > 1 and any(row.inputs_clipped for row in found)
    for path in {row.path.partition("[")[0] for row in found}:
        rows = [row for row in found if row.path.partition("[")[0] == path]
        cell = table.partition(f" {path} ")[2].partition("├")[0]
        told = dict(re.findall(r"(\w+): ([^│]*?) +│", cell))
        assert told["error"] == ", ".join(f"{row.error:.2%}" for row in rows)
        assert told["clipped_inputs"] == ", ".join(f"{row.inputs_clipped:.2%}" for row in rows)
        assert told["codes_in_use"] == ", ".join(f"{row.codes} of {row.of}" for row in rows)


def test_explain_says_why_a_layer_has_no_error(api: Any) -> None:  # noqa: F811
    """Before calibration, and behind a layer that is not calibrated; a table has no nan in it."""
    paths = {"linen": ("Dense_0", "Dense_1"), "nnx": ("layers/layers/0", "layers/layers/2/up")}[api.name]
    recipe = Recipe(Rule(paths[0], **SCHEMES["int2 static"]), Rule("**", weights="int4", inputs="int8"))
    trial = api.prepare(api.own_model("Stack", X, "sequential"), recipe, X)
    found, calibrated = trial.explain(X), trial.calibrated(X).explain(X)
    rows, after = ({row.path: row for row in rows} for rows in (found, calibrated))
    waits, behind = (rows[path] for path in paths)
    assert np.isnan([waits.error, waits.inputs_clipped]).all() and waits.why == measures.WAITS
    assert (waits.codes, waits.weights_clipped) == (after[paths[0]].codes, after[paths[0]].weights_clipped)
    assert np.isnan(behind.error) and behind.inputs_clipped == 0 and behind.why == measures.BROKEN
    assert f"\n-: 1 layer {measures.WAITS}" in str(found) and f" {measures.BROKEN}" in str(found)
    cells = next(line for line in str(found).splitlines() if line.startswith(paths[0])).split()
    assert cells[1:3] == ["-", "-"] and "nan%" not in str(found)
    assert trial.tabulate(X, explained=found).count("error: -") == sum(bool(row.why) for row in found)
    assert all(row.why == "" and np.isfinite(row.error) for row in calibrated) and "-: " not in str(calibrated)


def test_explain_says_why_no_error_is_told_of_zeros_and_without_a_call() -> None:
    site = resolve(Recipe(Rule("**", weights="int4")).rules[0], "linear", (8, 8), path="one")
    idle = measures.nothing(site)
    zeros = measures.measure(site, jnp.ones((8, 8)), {}, X, 0 * X, 0 * X)
    found = measures.explanations([("idle", idle), ("zeros", zeros)])
    assert [(row.why, np.isnan(row.error)) for row in found] == [("not called", True), (measures.ZERO, True)]
    assert str(found).endswith(f"-: 1 layer not called\n-: 1 layer {measures.ZERO}")


def test_apis_differential_give_each_others_bits(results: dict) -> None:
    names = {key for _, key in results}
    if len(results) < 2 * len(names) or not names:
        pytest.skip("needs the other tests of this file")
    first, second = (one.name for one in APIS)
    for key in sorted(names):
        same_tree(results[first, key], results[second, key])
