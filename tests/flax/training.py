"""Training with optax by the labels of an API: one trainer, two APIs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxquant.flax import linen_api, nnx_api
from tests.flax.linen_trials import LinenTrial
from tests.flax.nnx_trials import NnxTrial

GROUPS = {"weights": optax.adamw(3e-3), "scales": optax.adam(1e-3), "frozen": optax.set_to_zero()}


class LinenTrainer:
    """A trial in training; every step advances the schedule."""

    def __init__(self, trial: LinenTrial):
        self.trial, self.traced = trial, 0
        self.tx = optax.multi_transform(GROUPS, linen_api.labels)
        self.state = self.tx.init(trial.params)
        self.compiled = jax.jit(self._step)

    def step(self, x: Any) -> jax.Array:
        """One step; its loss before it."""
        params, self.state, value = self.compiled(self.trial.params, self.state, x)
        self.trial = replace(self.trial, params=params)
        return value

    def _step(self, params: Any, state: Any, x: Any) -> tuple[Any, Any, jax.Array]:
        self.traced += 1
        value, gradient = jax.value_and_grad(lambda p: ((self.trial.qmodel.apply({"params": p}, x) - 1) ** 2).mean())(
            params
        )
        updates, state = self.tx.update(gradient, state, params)
        return linen_api.advance(optax.apply_updates(params, updates)), state, value

    def tree(self) -> Any:
        """What a checkpoint holds."""
        return {"params": self.trial.params, "state": self.state}

    def restore(self, tree: Any) -> None:
        """Go on from a checkpoint."""
        self.trial, self.state = replace(self.trial, params=tree["params"]), tree["state"]


class NnxTrainer:
    """The same of NNX."""

    def __init__(self, trial: NnxTrial):
        self.model, self.traced = nnx.clone(trial.model), 0
        self.optimizer = nnx.Optimizer(self.model, optax.multi_transform(GROUPS, nnx_api.labels), wrt=nnx.Param)
        self.compiled = nnx.jit(self._step)

    @property
    def trial(self) -> NnxTrial:
        """At this moment."""
        return NnxTrial(nnx.clone(self.model))

    def step(self, x: Any) -> jax.Array:
        """One step; its loss before it."""
        return self.compiled(self.model, self.optimizer, x)

    def _step(self, model: Any, optimizer: Any, x: Any) -> jax.Array:
        self.traced += 1
        value, gradient = nnx.value_and_grad(lambda m: jnp.mean((m(x) - 1) ** 2))(model)
        optimizer.update(model, gradient)
        nnx_api.advance(model)
        return value

    def tree(self) -> Any:
        """What a checkpoint holds."""
        return nnx.to_pure_dict(nnx.state((self.model, self.optimizer)))

    def restore(self, tree: Any) -> None:
        """Go on from a checkpoint."""
        state = nnx.state((self.model, self.optimizer))
        nnx.replace_by_pure_dict(state, tree)
        nnx.update((self.model, self.optimizer), state)


def trainer(trial: Any) -> LinenTrainer | NnxTrainer:
    """Of a trial's own API."""
    return LinenTrainer(trial) if isinstance(trial, LinenTrial) else NnxTrainer(trial)
