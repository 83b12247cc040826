"""An optimizer's state is that of the parameters after `prepare`: another is refused in words, in both APIs."""

from __future__ import annotations

from typing import Any

import jax
import pytest
from flax import nnx

from jaxquant.flax import Lsq, Recipe, Rule, linen_api, nnx_api
from tests.flax.api_support import LinenTrial, api  # noqa: F401
from tests.flax.linen_models import inputs

optax = pytest.importorskip("optax")
X = inputs(4, 6, 8)
GROUPS = {"weights": optax.adamw(1e-2), "scales": optax.sgd(1e-4), "frozen": optax.set_to_zero()}
OPTIMIZERS = {
    "adam": lambda labels: optax.adam(1e-3),
    "momentum": lambda labels: optax.sgd(1e-3, momentum=0.9),
    "in groups, none of the scales' own": lambda labels: optax.multi_transform(GROUPS, labels),
    "of what is masked": lambda labels: optax.masked(optax.adam(1e-3), lambda p: jax.tree.map(lambda _: True, p)),
}


def recipe(weights: str) -> Recipe:
    return Recipe(Rule("dense", weights=weights, weight_estimator=Lsq()), Rule("**", keep="as it is"))


class Made:
    """An optimizer with a trial's state, and the check of it."""

    def __init__(self, trial: Any, kind: str):
        self.linen = isinstance(trial, LinenTrial)
        self.tx = OPTIMIZERS[kind](linen_api.labels if self.linen else nnx_api.labels)
        self.state = self.tx.init(trial.params) if self.linen else nnx.Optimizer(trial.model, self.tx, wrt=nnx.Param)

    def check(self, trial: Any) -> None:
        if self.linen:
            linen_api.check_optimizer(self.tx, self.state, trial.params)
        else:
            nnx_api.check_optimizer(self.state, trial.model)

    def updated(self, trial: Any) -> None:
        """After a step along the parameters themselves."""
        if self.linen:
            _, self.state = self.tx.update(trial.params, self.state, trial.params)
        else:
            self.state.update(trial.model, nnx.state(trial.model, nnx.Param))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizers_property_of_other_parameters_are_refused(api: Any, kind: str) -> None:  # noqa: F811
    floats = api.float_model("Zoo", X)
    trial, channels = (api.prepare(floats, recipe(weights), X) for weights in ("int4:g4", "int4:channel"))
    own = Made(trial, kind)
    own.check(trial)
    own.updated(trial)
    own.check(trial)
    with pytest.raises(ValueError, match=r"check_optimizer: .* need one made after prepare .*: it has nothing at .*"):
        Made(floats, kind).check(trial)
    if not kind.startswith("in groups"):  # there no state is kept of a scale
        with pytest.raises(ValueError, match=r"it has shape \(1, 5\) at .*kernel_scale.*, need shape \(2, 5\)"):
            Made(channels, kind).check(trial)
    plain = api.prepare(floats, Recipe(Rule("**", weights="int4")), X)
    Made(floats, kind).check(plain)  # nothing was added


def test_optimizers_property_linen_takes_shapes_and_refuses_other_objects() -> None:
    params = {"dense": {"kernel": jax.ShapeDtypeStruct((8, 5), "float32")}}
    adam = optax.adam(1e-3)
    linen_api.check_optimizer(adam, jax.eval_shape(adam.init, params), params)
    with pytest.raises(TypeError, match="optimizer is a dict, need .optax's optimizer, its state, the parameters"):
        linen_api.check_optimizer(params, adam, params)
    with pytest.raises(TypeError, match="check_optimizer: optimizer is a .*, need .nnx.Optimizer, the model"):
        nnx_api.check_optimizer(adam, nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
