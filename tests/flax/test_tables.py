"""A table under static or learned inputs: it has their leaves where it attends, and none where it is only looked up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant import store
from jaxquant.flax import Lsq, LsqPlus, Recipe, Rule, Schedule, nnx_api
from jaxquant.flax.mark import is_mark
from jaxquant.qtensor import QTensor
from tests.flax import nnx_models
from tests.flax.api_support import APIS, LinenApi, NnxApi, api  # noqa: F401

IDS = jnp.arange(6).reshape(2, 3)
SCHEMES = {
    "static": {"weights": "int8", "inputs": "int8:tensor", "input_scale": "static"},
    "zero point": {"weights": "int8", "inputs": "uint8:tensor:asym", "input_scale": "static"},
    "lsq": {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()},
    "lsq inputs": {"weights": "int8", "inputs": "int8:tensor", "input_estimator": Lsq()},
    "offsets": {"weights": "int4", "inputs": "uint8:tensor:asym", "input_estimator": LsqPlus()},
}
REFUSED = (
    r"layer 'table': there is no 'inputs_\w+' beside the embedding, need \['inputs_.* \(not prepared, a call that "
    r"neither prepare's x and methods nor observe and calibrate have run, or a checkpoint of another recipe\)"
)
LOGITS = {"logits": IDS}


def recipe(scheme: str, **options: Any) -> Recipe:
    return Recipe(Rule("**", **SCHEMES[scheme]), **options)


def prepared(api: Any, scheme: str, methods: Any = None, **options: Any) -> Any:  # noqa: F811
    return api.prepare(api.float_model("Encoder", IDS), recipe(scheme, **options), IDS, methods=methods)


def of_table(trial: Any) -> set[str]:
    """The names of the table's own leaves."""
    return {path.partition("/")[2] for path in trial.leaves() if path.startswith("table/")}


def inputs_of(trial: Any) -> set[str]:
    return {name for name in of_table(trial) if name.startswith("inputs")}


def finite(trial: Any) -> bool:
    return all(np.isfinite(np.asarray(v)).all() for v in jax.tree.leaves(trial.leaves()))


def refuses_to_attend(trial: Any) -> None:
    for jit in (True, False):
        with pytest.raises(ValueError, match=REFUSED):
            trial.run(IDS, jit=jit, method="logits")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_table_that_is_only_looked_up_has_no_inputs(api: Any, scheme: str) -> None:  # noqa: F811
    trial = prepared(api, scheme)
    assert trial.report["table"].inputs == "ids"
    assert "1 static input scales: NaN until" in str(trial.report)
    calibrated = trial.calibrated(IDS)
    for one in (trial, calibrated, calibrated.converted()):
        assert not inputs_of(one)
        refuses_to_attend(one)
    assert finite(calibrated) and finite(calibrated.converted())
    assert_same(calibrated.converted().run(IDS), calibrated.run(IDS))
    assert np.isfinite(calibrated.run(IDS)).all()
    assert {row.path for row in calibrated.explain(IDS) if row.inputs_clipped >= 0} == {"inner", "table"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_both_apis_have_the_same_leaves(scheme: str) -> None:
    """The mark among them: what one trains with the other's tools reads."""
    for methods in (None, LOGITS):
        linen, flax = (prepared(one, scheme, methods) for one in APIS)
        assert of_table(linen) - {"inputs_zero_point"} == of_table(flax) - {"inputs_zero_point"}
        method = "logits" if methods else "__call__"
        linen, flax = (trial.calibrated(IDS, method=method) for trial in (linen, flax))
        assert of_table(linen.converted()) == of_table(flax.converted())
    assert {bool(is_mark(name)) for name in of_table(flax)} == {True, False}


@pytest.mark.parametrize("scheme", ["zero point", "lsq", "offsets"])
def test_a_table_attends_where_prepare_or_observe_were_shown_it(api: Any, scheme: str) -> None:  # noqa: F811
    told, seen = prepared(api, scheme, LOGITS), prepared(api, scheme)
    assert told.report["table"].inputs == told.report["inner"].inputs != "ids" == seen.report["table"].inputs
    assert inputs_of(told) and not inputs_of(seen)
    refuses_to_attend(seen)
    told, seen = (trial.calibrated(IDS, method="logits") for trial in (told, seen))
    assert of_table(told) == of_table(seen)
    want = told.run(IDS, method="logits")
    assert np.isfinite(want).all()
    for one in (seen, told.converted(), seen.converted()):
        assert_same(one.run(IDS, method="logits"), want)
        assert_same(one.run(IDS), told.run(IDS))
        assert finite(one)


def test_dynamic_inputs_attend_untold(api: Any) -> None:  # noqa: F811
    """They have no leaves."""
    floats = api.float_model("Encoder", IDS)
    dynamic = Recipe(Rule("**", weights="int4", inputs="int8:token", weight_estimator=Lsq()))
    untold, told = (api.prepare(floats, dynamic, IDS, methods=methods) for methods in (None, LOGITS))
    assert (untold.report["table"].inputs, told.report["table"].inputs) == ("ids", "int8:token dynamic")
    want = told.run(IDS, method="logits")
    for one in (untold, untold.converted(), told.converted()):
        assert_same(one.run(IDS, method="logits"), want)
    weights = Recipe(Rule("**", weights="int4"))
    shown = [api.prepare(floats, weights, IDS, methods=methods).report["table"].inputs for methods in (None, LOGITS)]
    assert shown == ["ids", "float"]


@pytest.mark.parametrize("scheme", ["static", "lsq"])
def test_a_table_that_attends_must_be_calibrated(api: Any, scheme: str) -> None:  # noqa: F811
    """Its scale is no longer passed over, though others saw data."""
    trial = prepared(api, scheme, LOGITS)
    with pytest.raises(ValueError, match="convert: layer '(table|inner)' has inputs_scale nan, need finite numbers"):
        trial.converted()
    with pytest.raises(ValueError, match="calibrate: layer 'table' saw no data, need observe with inputs that reach"):
        trial.calibrated(IDS)
    spoilt = trial.calibrated(IDS, method="logits")
    if api.name == "nnx":
        spoilt.model.table.inputs_scale[...] = jnp.float32(jnp.nan)
        with pytest.raises(ValueError, match="convert: layer 'table' has inputs_scale nan, need finite numbers"):
            spoilt.converted()


@pytest.mark.parametrize("scheme", ["lsq", "lsq inputs"])
def test_no_parameter_is_nan_in_training(api: Any, scheme: str) -> None:  # noqa: F811
    """A sum over all parameters, as weight decay takes it, is a number."""
    trial = prepared(api, scheme).calibrated(IDS)
    found = {path: leaf for path, leaf in trial.gradients(IDS).items() if not isinstance(leaf, QTensor)}
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in found.values())
    assert np.isfinite(sum(float((np.asarray(v, np.float64) ** 2).sum()) for v in trial.leaves().values()))


def test_a_schedule_counts_where_nothing_is_learned(api: Any) -> None:  # noqa: F811
    trial = prepared(api, "lsq inputs", schedule=Schedule(start=1))
    assert {name for name in of_table(trial) if not is_mark(name)} == {"embedding", "step"}
    assert api.name == "linen" or not nnx.state(trial.model.table, nnx_api.Scale)  # the mark goes with the step
    trial = trial.calibrated(IDS).advanced()
    assert_same(trial.converted().run(IDS), trial.run(IDS))


def untold(scheme: str) -> Any:
    """An NNX trial that was prepared without x."""
    floats = NnxApi().float_model("Encoder", IDS)
    return replace(floats, **dict(zip(("model", "report"), nnx_api.prepare(floats.model, recipe(scheme)), strict=True)))


def shapes(scheme: str, *x: Any, **options: Any) -> Any:
    return nnx_api.prepare(nnx.eval_shape(nnx_models.Encoder), recipe(scheme), *x, **options)[0]


@pytest.mark.parametrize("scheme", ["static", "lsq inputs", "offsets"])
@pytest.mark.parametrize("method", ["__call__", "logits"])
def test_nnx_without_x_a_table_has_what_observe_sees(scheme: str, method: str) -> None:
    trial, told = untold(scheme), prepared(NnxApi(), scheme, LOGITS if method == "logits" else None)
    assert not inputs_of(trial)
    assert trial.report["table"].why == "rule 1: '**'; input scale from calibrate on, if it attends"
    refuses_to_attend(trial)
    trial, told = (one.calibrated(IDS, method=method) for one in (trial, told))
    for a, b in ((trial, told), (trial.converted(), told.converted())):
        assert a.leaves().keys() == b.leaves().keys() and finite(a)
        assert nnx.graphdef(a.model) == nnx.graphdef(b.model)
        assert_same(a.run(IDS, method=method), b.run(IDS, method=method))
    if method == "__call__":
        refuses_to_attend(trial)


@pytest.mark.parametrize("scheme", ["static", "lsq inputs", "offsets"])
@pytest.mark.parametrize("method", ["__call__", "logits"])
def test_nnx_states_are_restored_without_x(tmp_path: Any, scheme: str, method: str) -> None:
    """Of models that were prepared with an x that attends, or with one that does not; trained, converted, in a file."""
    of = prepared(NnxApi(), scheme, LOGITS if method == "logits" else None).calibrated(IDS, method=method)
    codes = of.converted()
    path = tmp_path / "codes.safetensors"
    store.save(path, nnx_api.tensors(codes.model))
    trained, updated, filed = shapes(scheme), *(nnx_api.convert(shapes(scheme)) for _ in range(2))
    nnx.update(trained, nnx.state(of.model))
    nnx.update(updated, nnx.state(codes.model))
    nnx_api.restore(filed, store.load(path))
    merged = nnx.merge(nnx.graphdef(codes.model), nnx.state(codes.model))
    for model, source in ((trained, of), (updated, codes), (filed, codes), (merged, codes)):
        again = replace(source, model=model)
        assert again.leaves().keys() == source.leaves().keys()
        for name in ("__call__", method):
            assert_same(again.run(IDS, method=name), of.run(IDS, method=name))
        if method == "__call__":
            refuses_to_attend(again)
    assert_same(replace(of, model=nnx_api.convert(trained)).run(IDS), of.run(IDS))
    assert nnx_api.tensors(filed).keys() == nnx_api.tensors(codes.model).keys()


def test_nnx_shapes_with_x_are_an_exact_target() -> None:
    """A checkpoint's tool that wants one is given the same x."""
    for methods in (None, LOGITS):
        of = prepared(NnxApi(), "lsq", methods)
        target = shapes("lsq", jax.ShapeDtypeStruct(IDS.shape, IDS.dtype), methods=methods)
        assert jax.tree.structure(nnx.state(target)) == jax.tree.structure(nnx.state(of.model))
        restored = nnx.state(target)
        nnx.replace_by_pure_dict(restored, nnx.to_pure_dict(nnx.state(of.model)))
        nnx.update(target, restored)
        assert_same(target(IDS), of.model(IDS))


def test_nnx_files_with_a_scale_that_no_data_set_are_refused() -> None:
    codes = prepared(NnxApi(), "static", LOGITS).calibrated(IDS, method="logits").converted().model
    tensors, model = nnx_api.tensors(codes), nnx_api.convert(shapes("static"))
    with pytest.raises(ValueError, match="restore: layer 'table' has inputs_scale nan, need finite numbers"):
        nnx_api.restore(model, {**tensors, "table/inputs_scale": np.float32(np.nan)})
    with pytest.raises(ValueError, match="restore: the model has no 'table/inputs_offset'"):
        nnx_api.restore(model, {**tensors, "table/inputs_offset": np.float32(1)})
    assert not hasattr(model.table, "inputs_scale")
    missing = {name: value for name, value in tensors.items() if name != "table/inputs_scale"}
    with pytest.raises(ValueError, match="restore: 'table/inputs_scale' is missing"):
        nnx_api.restore(codes, missing)


def test_nnx_a_state_that_never_attended_is_told_apart() -> None:
    """nnx.update passes by what it lacks, so the scale there is another's."""
    told, seen = (prepared(NnxApi(), "lsq", methods).calibrated(IDS, method="logits") for methods in (LOGITS, None))
    fresh = prepared(NnxApi(), "lsq")
    plain = fresh.calibrated(IDS)
    for source, target in zip((fresh, plain) * 2, (told, told, seen, seen), strict=True):
        wrong = replace(target, model=nnx.clone(target.model))
        nnx.update(wrong.model, nnx.state(source.model))
        with pytest.raises(ValueError, match="layer 'table': the embedding is from a state without 'inputs_scale'"):
            wrong.run(IDS, method="logits")
    other = nnx_api.prepare(nnx_models.Encoder(), Recipe(Rule("**", **SCHEMES["lsq"] | {"weights": "int2"})), IDS)[0]
    nnx.update(other, nnx.state(plain.model))
    with pytest.raises(ValueError, match="layer 'table': there is 'recipe_.*another recipe"):
        other(IDS)


class Two(nnx.Module):
    """Two modules that share a table: one is looked up, one attends."""

    def __init__(self) -> None:
        self.above, self.below = (nnx.Embed(13, 8, rngs=nnx.Rngs(0)) for _ in range(2))
        self.above.embedding = self.below.embedding

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.above.attend(nnx.relu(self.below(ids)))


@pytest.mark.parametrize("scheme", ["static", "lsq"])
def test_nnx_one_of_two_that_share_a_table_attends(scheme: str) -> None:
    model = nnx_models.near_boundary(Two())
    for x in (IDS, None):
        qmodel, report = nnx_api.prepare(model, recipe(scheme), x)
        assert x is None or (report["above"].inputs, report["below"].inputs)[1] == "ids" != report["above"].inputs
        nnx_api.observe(qmodel, IDS)
        nnx_api.calibrate(qmodel)
        assert hasattr(qmodel.above, "inputs_scale") and not hasattr(qmodel.below, "inputs_scale")
        imodel = nnx_api.convert(qmodel)
        assert imodel.above.embedding is imodel.below.embedding
        restored = nnx_api.convert(nnx_api.prepare(nnx.eval_shape(Two), recipe(scheme))[0])
        nnx_api.restore(restored, nnx_api.tensors(imodel))
        want = nnx.jit(lambda m, x: m(x))(qmodel, IDS)
        for again in (imodel, restored):
            assert_same(nnx.jit(lambda m, x: m(x))(again, IDS), want)


class Tables(nnx.Module):
    """Tables stacked for a vmap."""

    def __init__(self, attends: bool) -> None:
        make = nnx.vmap(lambda rngs: nnx.Embed(13, 8, rngs=rngs), in_axes=0, out_axes=0)
        self.attends, self.tables = attends, make(nnx.Rngs(params=jax.random.split(jax.random.key(0), 3)))

    def __call__(self, ids: jax.Array) -> jax.Array:
        def one(table: nnx.Embed, ids: jax.Array) -> jax.Array:
            return table.attend(table(ids) ** 2) if self.attends else table(ids)

        return nnx.vmap(one, in_axes=(0, None))(self.tables, ids)


@pytest.mark.parametrize("scheme", ["zero point", "lsq"])
@pytest.mark.parametrize("attends", [False, True])
def test_nnx_stacked_tables(scheme: str, attends: bool) -> None:
    one = Rule("tables", **SCHEMES[scheme])
    for x in (IDS, None):
        qmodel, report = nnx_api.prepare(nnx_models.near_boundary(Tables(attends)), Recipe(one), x)
        assert x is None or (report["tables"].inputs == "ids") != attends
        if attends:
            nnx_api.observe(qmodel, IDS)
            nnx_api.calibrate(qmodel)
        assert getattr(getattr(qmodel.tables, "inputs_scale", None), "shape", None) == ((3,) if attends else None)
        imodel = nnx_api.convert(qmodel)
        restored = nnx_api.convert(nnx_api.prepare(nnx.eval_shape(lambda: Tables(attends)), Recipe(one))[0])
        nnx_api.restore(restored, nnx_api.tensors(imodel))
        want = nnx.jit(lambda m, x: m(x))(qmodel, IDS)
        assert np.isfinite(want).all()
        for again in (imodel, restored):
            assert_same(nnx.jit(lambda m, x: m(x))(again, IDS), want)
        assert [row.path for row in nnx_api.explain(qmodel, IDS)] == [f"tables[{i}]" for i in range(3)]


def test_nnx_an_optimizer_made_before_the_scale_came_is_refused() -> None:
    """Without x the learned scale of a table is a parameter from calibrate on."""
    optax = pytest.importorskip("optax")
    groups = {"weights": optax.adamw(1e-2), "scales": optax.adam(1e-3), "frozen": optax.set_to_zero()}

    def optimizer(model: nnx.Module) -> nnx.Optimizer:
        return nnx.Optimizer(model, optax.multi_transform(groups, nnx_api.labels), wrt=nnx.Param)

    model = untold("lsq").model
    early = optimizer(model)
    nnx_api.observe(model, IDS, method="logits")
    nnx_api.calibrate(model)
    with pytest.raises(ValueError, match="need one made after prepare"):
        nnx_api.check_optimizer(early, model)
    late, before = optimizer(model), model.table.inputs_scale[...]
    grads = nnx.grad(lambda m: (m.logits(IDS) ** 2).sum())(model)
    late.update(model, grads)
    assert model.table.inputs_scale[...] != before and np.isfinite(model.logits(IDS)).all()
    labels = nnx.to_pure_dict(nnx_api.labels(nnx.state(model, nnx.Param)))["table"]
    assert sorted(labels.values()) == ["frozen", "scales", "scales", "weights"]


def test_linen_without_the_leaf_the_table_says_so() -> None:
    """One text for both APIs, by one function."""
    texts = []
    for one in (LinenApi(), NnxApi()):
        with pytest.raises(ValueError, match=REFUSED) as caught:
            prepared(one, "lsq inputs").run(IDS, method="logits")
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
