"""A state of another recipe with the same names and shapes is refused, by the mark beside the kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import optax
import pytest
from bits import assert_same
from flax import linen as nn
from flax import nnx

from jaxquant import store
from jaxquant.flax import Lsq, Pact, Recipe, Rule, linen_api, nnx_api
from jaxquant.flax.mark import is_mark
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup
from refquant.spec import QuantSpec
from tests.flax.api_support import LinenApi, NnxApi, api  # noqa: F401
from tests.flax.linen_models import inputs

X = inputs(4, 6, 8)
PLAIN = {"weights": "int4", "inputs": "int8:token"}
LSQ = PLAIN | {"weight_estimator": Lsq()}
STATIC = {"weights": "int4", "inputs": "uint8:tensor:asym", "input_scale": "static"}
PACT = {"weights": "int4", "inputs": "uint8:tensor:asym", "input_estimator": Pact()}
#: What made a prepared state, and the recipe of the model that is given it.
TRAINED = [
    (LSQ, LSQ | {"weights": "int2"}),
    (LSQ, LSQ | {"inputs": "int4:token"}),
    (STATIC, STATIC | {"inputs": "uint4:tensor:asym"}),
    (PACT, PACT | {"input_estimator": Lsq()}),
]
#: The same of a converted one: codes tell their own spec, what becomes of the inputs they do not.
CONVERTED = [
    (PLAIN, PLAIN | {"inputs": "int4:token"}),
    (PLAIN, {"weights": "int4"}),
    (LSQ, LSQ | {"inputs": "int4:token"}),
    (STATIC, STATIC | {"inputs": "uint4:tensor:asym"}),
]
#: Marks of converted layers that files have.
GOLDEN = {PerAxis(1): "recipe_7ce9d6cf", PerAxis((0, 1)): "recipe_79e841f7", PerGroup(0, 4): "recipe_aab2fc36"}
REFUSED = r"layer '[\w/]+': there is 'recipe_\w{8}' beside the kernel, need 'recipe_\w{8}', the mark of int.*another"


def trial(api: Any, options: dict[str, Any], kind: str = "scan") -> Any:  # noqa: F811
    made = api.prepare(api.own_model("Stack", X, kind), Recipe(Rule("**", **options)), X)
    return made if "tensor" not in options.get("inputs", "") else made.calibrated(X)


def moved(of: Any, into: Any) -> Any:
    """The model of one trial with the state of another."""
    if hasattr(into, "params"):
        return replace(into, params=of.params)
    model = nnx.clone(into.model)
    nnx.update(model, nnx.state(of.model))
    return replace(into, model=model)


@pytest.mark.parametrize("kind", ["scan", "sequential"])
@pytest.mark.parametrize("of, into", TRAINED)
def test_a_trained_state_of_another_recipe_is_refused(api: Any, of: dict, into: dict, kind: str) -> None:  # noqa: F811
    wrong = moved(trial(api, of, kind), trial(api, into, kind))
    for run in (lambda: wrong.run(X), lambda: wrong.run(X, jit=False), lambda: wrong.gradients(X), wrong.converted):
        with pytest.raises(ValueError, match=REFUSED):
            run()


@pytest.mark.parametrize("kind", ["scan", "sequential"])
@pytest.mark.parametrize("of, into", CONVERTED)
def test_a_converted_state_of_another_recipe_is_refused(api: Any, of: dict, into: dict, kind: str) -> None:  # noqa: F811
    wrong = moved(trial(api, of, kind).converted(), trial(api, into, kind).converted())
    with pytest.raises(ValueError, match=REFUSED):
        wrong.run(X)


def test_nnx_merge_and_parameters_alone_carry_the_mark() -> None:
    """merge has the names of the graph and the metadata of the state; an optimizer's state is of the Params alone."""
    four, two = (trial(NnxApi(), options).model for options in TRAINED[0])
    given = nnx.clone(two)
    nnx.update(given, nnx.state(four, nnx.Param))
    pure = nnx.clone(two)
    nnx.update(pure, nnx.to_pure_dict(nnx.state(four, nnx.Param)))
    merged = nnx.merge(nnx.graphdef(two), nnx.state(four))
    of, into = (trial(NnxApi(), options).converted().model for options in CONVERTED[0])
    codes = nnx.merge(nnx.graphdef(into), nnx.state(of))
    for model in (given, pure, merged, codes):
        with pytest.raises(ValueError, match=REFUSED):
            model(X)
    assert_same(nnx.merge(nnx.graphdef(two), nnx.state(two))(X), two(X))
    adam = nnx.Optimizer(four, optax.adam(1e-3), wrt=nnx.Param)
    with pytest.raises(ValueError, match="does not fit the model's parameters"):
        nnx_api.check_optimizer(adam, two)
    assert not nnx.state(trial(NnxApi(), LSQ).model, nnx.Not(nnx.Param))


class Normed(nnx.Module):
    def __init__(self) -> None:
        self.fc, self.norm = (
            nnx.Linear(8, 8, rngs=nnx.Rngs(0)),
            nnx.BatchNorm(8, use_running_average=True, rngs=nnx.Rngs(1)),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.fc(x))


class LinenNormed(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.BatchNorm(use_running_average=True, name="norm")(nn.Dense(8, name="fc")(x))


def folding(fold: str | None) -> Recipe:
    return Recipe(Rule("fc", weights="int8", inputs="int8:token", weight_estimator=Lsq(), fold=fold))


@pytest.mark.parametrize("of, into", [("norm", None), (None, "norm")])
def test_a_folded_norm_is_of_the_recipe(of: str | None, into: str | None) -> None:
    """Codes of the folded kernel have the norm in them."""
    source, target = (nnx_api.prepare(Normed(), folding(fold))[0] for fold in (of, into))
    variables = LinenNormed().init(jax.random.key(0), X)
    first, second = (linen_api.Quantized(LinenNormed(), folding(fold)) for fold in (of, into))
    rest = {"batch_stats": variables["batch_stats"]}
    params, _ = linen_api.prepare(first, variables["params"], X, collections=rest)
    linen_api.prepare(second, variables["params"], X, collections=rest)
    for a, b in ((source, target), (nnx_api.convert(source), nnx_api.convert(target))):
        model = nnx.clone(b)
        nnx.update(model, nnx.state(a))
        with pytest.raises(ValueError, match=r"layer 'fc': .*another recipe"):
            model(X)
    for tree in (params, linen_api.convert(first, params, collections=rest)):
        with pytest.raises(ValueError, match=r"layer 'fc': .*another recipe"):
            second.apply({"params": tree, **rest}, X)


@pytest.mark.parametrize("convert", [False, True])
def test_a_layer_that_the_recipe_leaves_in_float_has_nothing_of_another(api: Any, convert: bool) -> None:  # noqa: F811
    """Linen's is told when it runs; NNX's own layer, which knows no recipe, when the model is converted."""
    kept = Rule({"linen": "Dense_0", "nnx": "**/up"}[api.name], keep="as it is")
    into = api.prepare(api.own_model("Stack", X, "sequential"), Recipe(kept, Rule("**", **LSQ)), X)
    of = trial(api, LSQ, "sequential")
    wrong = moved(of.converted() if convert else of, into)
    there = "are codes in place of" if convert else r"is 'recipe_\w{8}' beside"
    with pytest.raises(ValueError, match=f"there {there} the kernel, need a rule with weights"):
        wrong.run(X) if api.name == "linen" else wrong.converted()


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("loop", ["scan", "vmap"])
def test_linen_stacks_along_any_axis(loop: str, axis: int) -> None:
    """A mark is split where the kernel is."""

    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            lifted = {"variable_axes": {"params": axis}, "split_rngs": {"params": True}}
            if loop == "vmap":
                return nn.vmap(Layer, in_axes=None, axis_size=3, **lifted)(name="layers")(x)
            return nn.scan(Layer, length=3, **lifted)(name="layers")(x, None)[0]

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, _: None = None) -> Any:
            y = nn.Dense(8, name="fc")(x)
            return (y, None) if loop == "scan" else y

    params = Layers().init(jax.random.key(0), X)["params"]
    qmodel = linen_api.Quantized(Layers(), Recipe(Rule("**", **LSQ)))
    prepared, _ = linen_api.prepare(qmodel, params, X)
    want = qmodel.apply({"params": prepared}, X)
    assert_same(qmodel.apply({"params": linen_api.convert(qmodel, prepared)}, X), want)


def test_statistics_of_another_calibration_are_refused() -> None:
    """Linen's are a tree of their own, without marks."""
    of, into = (
        LinenApi().prepare(LinenApi().own_model("Stack", X, "scan"), Recipe(Rule("**", **STATIC, calibration=c)), X)
        for c in ("minmax", "mse")
    )
    stats = linen_api.observe(of.qmodel, of.params, X)
    with pytest.raises(
        ValueError, match="calibrate: layer 'layers/up' has statistics of type MinMaxState, need .*'mse'"
    ):
        linen_api.calibrate(into.qmodel, into.params, stats)


def test_another_gradient_or_calibration_goes_on(api: Any) -> None:  # noqa: F811
    """They are of the training, as a learning rate is; and once converted an estimator is past."""
    first = trial(api, LSQ)
    again = moved(first, trial(api, LSQ | {"weight_estimator": Lsq(gradient_scale="none", mask="rounded")}))
    assert_same(again.run(X), first.run(X))
    assert_same(moved(first.converted(), trial(api, PLAIN).converted()).run(X), first.run(X))
    static = trial(api, STATIC)
    assert_same(moved(static, trial(api, STATIC | {"calibration": "mse"})).run(X), static.run(X))


def test_a_mark_is_a_zero_that_no_optimizer_trains(api: Any) -> None:  # noqa: F811
    """One a layer, stacked as the kernel is; where nothing depends on the recipe there is none."""
    trained = trial(api, LSQ)
    leaves = trained.leaves()
    kernels = {path.removesuffix("/kernel"): leaf for path, leaf in leaves.items() if path.endswith("/kernel")}
    marks = {path.rpartition("/")[0]: leaf for path, leaf in leaves.items() if is_mark(path.rpartition("/")[2])}
    shapes = {path: kernel.shape[:-2] + (1, 1) for path, kernel in kernels.items()}
    assert {path: leaf.shape for path, leaf in marks.items()} == shapes
    assert not any(leaf.any() for leaf in marks.values())
    found = linen_api.labels(trained.params) if hasattr(trained, "params") else nnx_api.labels(nnx.state(trained.model))
    assert jax.tree.leaves(found).count("frozen") == len(marks)
    plain = trial(api, PLAIN)
    assert not any("recipe_" in path for path in plain.leaves())
    assert sum("recipe_" in path for path in plain.converted().leaves()) == len(marks)


def test_marks_pass_through_orbax(tmp_path: Path) -> None:
    """Whole trees without a target, as one finds them in a folder."""
    orbax = pytest.importorskip("orbax.checkpoint")
    of, into = (trial(LinenApi(), options) for options in TRAINED[0])
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "mid", of.params)
        checkpointer.wait_until_finished()
        params = checkpointer.restore(tmp_path / "mid")
    assert_same(replace(of, params=params).run(X), of.run(X))
    with pytest.raises(ValueError, match=REFUSED):
        replace(into, params=params).run(X)


def test_a_file_of_another_recipe_is_refused(tmp_path: Path) -> None:
    of, into = (trial(NnxApi(), options).converted().model for options in CONVERTED[0])
    store.save(tmp_path / "codes.safetensors", nnx_api.tensors(of))
    tensors = store.load(tmp_path / "codes.safetensors")
    with pytest.raises(ValueError, match=r"restore: 'head/recipe_\w{8}' is missing, need a file of the recipe"):
        nnx_api.restore(into, tensors)
    nnx_api.restore(of, tensors)
    broken = {**tensors, "head/kernel": replace(tensors["head/kernel"], scale=0 * tensors["head/kernel"].scale)}
    with pytest.raises(ValueError, match="restore: layer 'head' has kernel's scale 0.0, need finite numbers"):
        nnx_api.restore(of, broken)


@pytest.mark.parametrize(
    ("counted", "grain"),
    [
        (PerAxis(1), PerAxis(-1)),
        (PerAxis((0, 1)), PerAxis((-2, -1))),
        (PerGroup(0, 4), PerGroup(-2, 4)),
    ],
)
def test_axes_property_have_one_mark_from_either_end(api: Any, counted: Any, grain: Any) -> None:  # noqa: F811
    """The mark is that of the axes counted from the first, and a state of one is a state of the other."""
    options = {"weight_estimator": Lsq()} if grain.__class__ is PerAxis else {}
    recipes = [Recipe(Rule("**", weights=QuantSpec(ALL["int4"], one), **options)) for one in (counted, grain)]
    floats = api.float_model("Two", X)
    first, last = (api.prepare(floats, recipe, X) for recipe in recipes)
    assert first.leaves().keys() == last.leaves().keys()
    assert str(first.report) == str(last.report)
    assert_same(last.given(first).run(X), first.run(X))
    assert_same(last.converted().given(first.converted()).run(X), first.converted().run(X))
    marks = {path.partition("/")[2] for path in first.converted().leaves() if is_mark(path.rpartition("/")[2])}
    assert marks == {GOLDEN[counted]}
