"""A state of another recipe with the same names and shapes is refused, by the mark beside the kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
from bits import assert_same
from flax import nnx

from jaxquant import store
from jaxquant.flax import Lsq, Pact, Recipe, Rule, linen_api, nnx_api
from jaxquant.flax.mark import is_mark
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
    assert {path: leaf.shape for path, leaf in marks.items()} == {path: k.shape[:-2] for path, k in kernels.items()}
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
