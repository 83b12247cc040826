"""An NNX model and what becomes of it as one object, with the names of linen_trials.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from jaxquant.flax import Recipe, Rule, nnx_api
from jaxquant.flax.nnx_variables import set_value
from jaxquant.flax.report import Report
from tests.flax.trials import TRACED, WIDE, Leaves, total


@dataclass(frozen=True)
class NnxTrial:
    """An NNX model, prepared or not.

    Attributes:
      model: never changed once it stands here.
      report: of prepare.
    """

    model: Any
    report: Report | None = None

    def run(self, *inputs: Any, jit: bool = True, method: str = "__call__") -> Any:
        """What the model gives."""
        return _nnx_run(self.model, method, *inputs) if jit else getattr(self.model, method)(*inputs)

    def observed(self, *batches: Any, method: str = "__call__") -> NnxTrial:
        """With statistics of these batches too."""
        clone = nnx.clone(self.model)
        for batch in batches:
            nnx_api.observe(clone, batch, method=method)
        return replace(self, model=clone)

    def settled(self) -> NnxTrial:
        """With the scales that follow from the statistics."""
        clone = nnx.clone(self.model)
        nnx_api.calibrate(clone)
        return replace(self, model=clone)

    def calibrated(self, *batches: Any, method: str = "__call__") -> NnxTrial:
        """After observing batches."""
        return self.observed(*batches, method=method).settled()

    def converted(self) -> NnxTrial:
        """With codes."""
        return replace(self, model=nnx_api.convert(self.model))

    def traced_conversion(self) -> Leaves:
        """The shapes of what conversion gives inside a trace."""
        graph, state = nnx.split(self.model)
        return by_path(jax.eval_shape(lambda state: nnx.state(nnx_api.convert(nnx.merge(graph, state))), state))

    def advanced(self) -> NnxTrial:
        """One step later."""
        clone = nnx.clone(self.model)
        nnx_api.advance(clone)
        return replace(self, model=clone)

    def explain(self, *inputs: Any) -> Any:
        """By layer."""
        return nnx_api.explain(self.model, inputs)

    def tabulate(self, *inputs: Any, **options: Any) -> str:
        """Flax's table, wide enough for whole cells."""
        return nnx_api.tabulate(self.model, *inputs, console_kwargs=WIDE, **options)

    def leaves(self) -> Leaves:
        """Parameters by path."""
        return by_path(nnx.state(self.model))

    def statistics(self) -> Leaves:
        """Those of the batch norms by path."""
        return by_path(nnx.state(self.model, nnx.BatchStat))

    def labels(self) -> Leaves:
        """The optimizer's group of each parameter by path; of a converted kernel that of its codes."""
        found = nnx.to_pure_dict(nnx_api.labels(nnx.state(self.model, nnx.Param)))
        return {"/".join(map(str, path)): label for path, label in traverse_util.flatten_dict(found).items()}

    def changed(self, path: str, change: Callable[[Any], Any]) -> NnxTrial:
        """With another value at one path, of a parameter or a statistic."""
        clone = nnx.clone(self.model)
        *owners, name = path.split("/")
        module = clone
        for owner in owners:
            module = module[int(owner)] if owner.isdigit() else getattr(module, owner)
        variable = getattr(module, name)
        set_value(variable, change(nnx_api.value_of(variable)))
        return replace(self, model=clone)

    def abstract(self) -> NnxTrial:
        """Shapes in place of values."""
        graph, state = nnx.split(self.model)
        return replace(self, model=nnx.merge(graph, jax.eval_shape(lambda: state)))

    def zeros(self) -> NnxTrial:
        """Parameters of another training."""
        clone = nnx.clone(self.model)
        nnx.update(clone, jax.tree.map(jnp.zeros_like, nnx.state(clone, nnx.Param)))
        return replace(self, model=clone)

    def awaiting(self, x: Any) -> NnxTrial:
        """With a place for statistics, of what has seen nothing."""
        clone = nnx.clone(self.model)
        assert nnx_api.observe(clone) is None
        return replace(self, model=clone)

    def tree(self) -> Any:
        """What a checkpoint holds."""
        return nnx.to_pure_dict(nnx.state(self.model))

    def with_tree(self, tree: Any) -> NnxTrial:
        """With what a checkpoint held."""
        graph, state = nnx.split(self.model)
        nnx.replace_by_pure_dict(state, tree)
        return replace(self, model=nnx.merge(graph, state))

    def tensors(self) -> Leaves:
        """What a file holds."""
        return nnx_api.tensors(self.model)

    def with_tensors(self, tensors: Leaves) -> NnxTrial:
        """With what a file held."""
        clone = nnx.clone(self.model)
        nnx_api.restore(clone, tensors)
        return replace(self, model=clone)

    def given(self, other: NnxTrial) -> NnxTrial:
        """With the state of another."""
        clone = nnx.clone(self.model)
        nnx.update(clone, nnx.state(other.model))
        return replace(self, model=clone)

    def given_statistics(self, other: NnxTrial, x: Any) -> NnxTrial:
        """They are part of the state, so there is nothing to give."""
        return self

    def prepared_again(self, *inputs: Any) -> Any:
        """What prepare says of this state."""
        return nnx_api.prepare(self.model, Recipe(Rule("**", weights="int8")), inputs)

    def weights_of(self, other: NnxTrial) -> NnxTrial:
        """A float model with the weights of a prepared one."""
        clone, weights = nnx.clone(self.model), other.leaves()
        for path, variable in nnx.to_flat_state(nnx.state(clone, nnx.Param)):
            set_value(variable, weights["/".join(map(str, path))])
        return replace(self, model=clone)

    def gradients(self, *inputs: Any) -> Leaves:
        """Of the sum of squares of all results, by path."""
        return by_path(_nnx_gradients(self.model, *inputs))

    def run_in_training(self, x: Any) -> Any:
        """What a model with batch norms gives in training."""
        return self._for_training()(x)

    def _for_training(self) -> Any:
        clone = nnx.clone(self.model)
        for _, module in nnx.iter_graph(clone):
            if isinstance(module, nnx.BatchNorm):
                module.use_running_average = False
        return clone

    def in_training(self, x: Any) -> tuple[Any, NnxTrial, Leaves]:
        """What a model with batch norms gives in training; the trial one step later; gradients of a sum of cubes."""
        clone = self._for_training()
        y, gradient = _nnx_training(clone, x)
        graph = nnx.graphdef(self.model)
        return y, replace(self, model=nnx.merge(graph, nnx.state(clone))), by_path(gradient)


@functools.partial(nnx.jit, static_argnums=1)
def _nnx_run(model: Any, method: str, *inputs: Any) -> Any:
    return getattr(model, method)(*inputs)


@nnx.jit
def _nnx_gradients(model: Any, *inputs: Any) -> Any:
    return nnx.grad(lambda model: total(model(*inputs)))(model)


@nnx.jit
def _nnx_training(model: Any, x: Any) -> tuple[Any, Any]:
    TRACED.append(None)

    def loss(model: Any) -> tuple[jax.Array, jax.Array]:
        y = model(x)
        return (y**3).sum(), y

    (_, y), gradient = nnx.value_and_grad(loss, has_aux=True)(model)
    nnx_api.advance(model)
    return y, gradient


def by_path(state: Any) -> Leaves:
    """Values of an nnx.State by path."""
    flat = nnx.to_flat_state(state)
    return {"/".join(map(str, path)): nnx_api.value_of(variable) for path, variable in flat}
