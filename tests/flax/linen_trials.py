"""A Linen model, its parameters and what becomes of them as one object, with the names of nnx_trials.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxquant.flax import linen_api
from jaxquant.flax.report import Report
from tests.flax.trials import TRACED, WIDE, Leaves, total


@dataclass(frozen=True)
class LinenTrial:
    """A Linen model with a recipe and its parameters.

    Attributes:
      qmodel: the wrapper; before `prepare` the float model.
      params: at this moment.
      report: of prepare.
      rest: the other collections.
      stats: of what was observed.
    """

    qmodel: Any
    params: Any
    report: Report | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)
    stats: Any = None

    def run(self, *inputs: Any, jit: bool = True, method: Any = None) -> Any:
        """What the model gives."""
        apply = _linen_run if jit else _linen_run.__wrapped__
        return apply(self.qmodel, method, {"params": self.params, **self.rest}, *inputs)

    def observed(self, *batches: Any, method: Any = None) -> LinenTrial:
        """With statistics of these batches too."""
        stats = self.stats
        for batch in batches:
            stats = linen_api.observe(
                self.qmodel, self.params, batch, stats=stats, method=method, collections=self.rest
            )
        return replace(self, stats=stats)

    def settled(self) -> LinenTrial:
        """With the scales that follow from the statistics."""
        return replace(self, params=linen_api.calibrate(self.qmodel, self.params, self.stats), stats=None)

    def calibrated(self, *batches: Any, method: Any = None) -> LinenTrial:
        """After observing batches."""
        return self.observed(*batches, method=method).settled()

    def converted(self) -> LinenTrial:
        """With codes."""
        return replace(self, params=linen_api.convert(self.qmodel, self.params, collections=self.rest))

    def traced_conversion(self) -> Leaves:
        """The shapes of what conversion gives inside a trace."""
        params = jax.eval_shape(lambda p: linen_api.convert(self.qmodel, p, collections=self.rest), self.params)
        return replace(self, params=params).leaves()

    def advanced(self) -> LinenTrial:
        """One step later."""
        return replace(self, params=linen_api.advance(self.params))

    def explain(self, *inputs: Any) -> Any:
        """By layer."""
        return linen_api.explain(self.qmodel, self.params, *inputs, collections=self.rest)

    def tabulate(self, *inputs: Any, **options: Any) -> str:
        """Flax's table, wide enough for whole cells."""
        return self.qmodel.tabulate(jax.random.key(0), *inputs, console_kwargs=WIDE, **options)

    def leaves(self) -> Leaves:
        """Parameters by path."""
        return {"/".join(path): leaf for path, leaf in traverse_util.flatten_dict(self.params).items()}

    def statistics(self) -> Leaves:
        """Those of the batch norms by path."""
        found = traverse_util.flatten_dict(self.rest.get("batch_stats", {}))
        return {"/".join(path): leaf for path, leaf in found.items()}

    def labels(self) -> Leaves:
        """The optimizer's group of each parameter by path; of a converted kernel that of its codes."""
        found = traverse_util.flatten_dict(linen_api.labels(self.params))
        return {"/".join(path): getattr(label, "codes", label) for path, label in found.items()}

    def changed(self, path: str, change: Callable[[Any], Any]) -> LinenTrial:
        """With another value at one path, of a parameter or a statistic."""
        params = traverse_util.flatten_dict({"params": self.params, **self.rest}, sep="/")
        (name,) = (name for name in params if name.partition("/")[2] == path)
        params[name] = change(params[name])
        tree = traverse_util.unflatten_dict(params, sep="/")
        return replace(self, params=tree.pop("params"), rest=tree)

    def abstract(self) -> LinenTrial:
        """Shapes in place of values."""
        params, rest = jax.eval_shape(lambda: (self.params, dict(self.rest)))
        return replace(self, params=params, rest=rest)

    def zeros(self) -> LinenTrial:
        """Parameters of another training."""
        return replace(self, params=jax.tree.map(jnp.zeros_like, self.params))

    def awaiting(self, x: Any) -> LinenTrial:
        """With a place for statistics, of what has seen nothing."""
        return replace(self, stats=jax.eval_shape(lambda: self.observed(x).stats))

    def tree(self) -> Any:
        """What a checkpoint holds."""
        return {"params": self.params, **({} if self.stats is None else {"stats": self.stats})}

    def with_tree(self, tree: Any) -> LinenTrial:
        """With what a checkpoint held."""
        return replace(self, params=tree["params"], stats=tree.get("stats"))

    def tensors(self) -> Leaves:
        """What a file holds."""
        return self.leaves()

    def with_tensors(self, tensors: Leaves) -> LinenTrial:
        """With what a file held."""
        return replace(self, params=traverse_util.unflatten_dict(tensors, sep="/"))

    def given(self, other: LinenTrial) -> LinenTrial:
        """With the state of another."""
        return replace(self, params=other.params)

    def given_statistics(self, other: LinenTrial, x: Any) -> LinenTrial:
        """With what another has seen of a batch."""
        return replace(self, stats=other.observed(x).stats)

    def prepared_again(self, *inputs: Any) -> Any:
        """What prepare says of this state."""
        return linen_api.prepare(self.qmodel, self.params, *inputs, collections=self.rest)

    def weights_of(self, other: LinenTrial) -> LinenTrial:
        """A float model with the weights of a prepared one."""
        return replace(self, params=other.params)

    def gradients(self, *inputs: Any) -> Leaves:
        """Of the sum of squares of all results, by path."""
        return replace(self, params=_linen_gradients(self.qmodel, self.params, dict(self.rest), *inputs)).leaves()

    def run_in_training(self, x: Any) -> Any:
        """What a model with batch norms gives in training."""
        return self.qmodel.apply({"params": self.params, **self.rest}, x, train=True, mutable=["batch_stats"])[0]

    def in_training(self, x: Any) -> tuple[Any, LinenTrial, Leaves]:
        """What a model with batch norms gives in training; the trial one step later; gradients of a sum of cubes."""
        y, changed, gradient = _linen_training(self.qmodel, self.params, dict(self.rest), x)
        params = linen_api.advance(self.params)
        return y, replace(self, params=params, rest=changed), replace(self, params=gradient).leaves()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _linen_run(qmodel: Any, method: Any, variables: Any, *inputs: Any) -> Any:
    return qmodel.apply(variables, *inputs, method=method)


@functools.partial(jax.jit, static_argnums=0)
def _linen_gradients(qmodel: Any, params: Any, rest: Any, *inputs: Any) -> Any:
    return jax.grad(lambda params: total(qmodel.apply({"params": params, **rest}, *inputs)))(params)


@functools.partial(jax.jit, static_argnums=0)
def _linen_training(qmodel: Any, params: Any, rest: Any, x: Any) -> tuple[Any, Any, Any]:
    TRACED.append(None)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        y, changed = qmodel.apply({"params": params, **rest}, x, train=True, mutable=["batch_stats"])
        return (y**3).sum(), (y, changed)

    (_, (y, changed)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return y, changed, gradient
