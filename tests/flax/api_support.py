"""The `api` fixture: one test body, two Flax APIs; a model, its parameters and what becomes of them as one object.

from tests.flax.api_support import api  # noqa: F401

def test_something(api):
    trial = api.prepare("Zoo", recipe, X)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from jaxquant.flax import Recipe, linen_api, nnx_api
from jaxquant.flax.report import Report
from jaxquant.qtensor import QTensor
from tests.flax import linen_models, nnx_models

Leaves = dict[str, Any]
WIDE = {"width": 400, "force_terminal": False}


@dataclass(frozen=True)
class LinenTrial:
    """A Linen model with a recipe and its parameters.

    Attributes:
      qmodel: the wrapper; before `prepare` the float model.
      params: at this moment.
      report: of prepare.
    """

    qmodel: Any
    params: Any
    report: Report | None = None

    def run(self, *inputs: Any, jit: bool = True, method: str = "__call__") -> Any:
        """What the model gives."""
        apply = partial(self.qmodel.apply, method=method)
        return (jax.jit(apply) if jit else apply)({"params": self.params}, *inputs)

    def calibrated(self, *batches: Any, method: str = "__call__") -> LinenTrial:
        """After observing batches."""
        stats = None
        for batch in batches:
            stats = linen_api.observe(self.qmodel, self.params, batch, stats=stats, method=method)
        return replace(self, params=linen_api.calibrate(self.qmodel, self.params, stats))

    def converted(self) -> LinenTrial:
        """With codes."""
        return replace(self, params=linen_api.convert(self.qmodel, self.params))

    def advanced(self) -> LinenTrial:
        """One step later."""
        return replace(self, params=linen_api.advance(self.params))

    def explain(self, *inputs: Any) -> Any:
        """By layer."""
        return linen_api.explain(self.qmodel, self.params, *inputs)

    def tabulate(self, *inputs: Any, **options: Any) -> str:
        """Flax's table, wide enough for whole cells."""
        return self.qmodel.tabulate(jax.random.key(0), *inputs, console_kwargs=WIDE, **options)

    def leaves(self) -> Leaves:
        """Parameters by path."""
        return {"/".join(path): leaf for path, leaf in traverse_util.flatten_dict(self.params).items()}

    def gradients(self, *inputs: Any) -> Leaves:
        """Of the sum of squares of all results, by path."""

        def loss(params: Any, *inputs: Any) -> jax.Array:
            return total(self.qmodel.apply({"params": params}, *inputs))

        found = jax.jit(jax.grad(loss))(self.params, *inputs)
        return replace(self, params=found).leaves()


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

        def call(model: Any, *inputs: Any) -> Any:
            return getattr(model, method)(*inputs)

        return (nnx.jit(call) if jit else call)(self.model, *inputs)

    def calibrated(self, *batches: Any, method: str = "__call__") -> NnxTrial:
        """After observing batches."""
        clone = nnx.clone(self.model)
        for batch in batches:
            nnx_api.observe(clone, batch, method=method)
        nnx_api.calibrate(clone)
        return replace(self, model=clone)

    def converted(self) -> NnxTrial:
        """With codes."""
        return replace(self, model=nnx_api.convert(self.model))

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

    def gradients(self, *inputs: Any) -> Leaves:
        """Of the sum of squares of all results, by path."""
        return by_path(nnx.jit(nnx.grad(lambda model: total(model(*inputs))))(self.model))


class LinenApi:
    """Linen behind the names that tests use."""

    name = "linen"
    stacks = linen_models.STACKS

    def own_model(self, name: str, x: Any, *options: Any) -> LinenTrial:
        """A model whose twin has other parameters, near-boundary ones."""
        model = getattr(linen_models, name)(*options)
        return LinenTrial(model, linen_models.full_init(model, x))

    def float_model(self, kind: str, x: Any, **options: Any) -> LinenTrial:
        """A model of tests/flax/linen_models.py with near-boundary parameters."""
        model = getattr(linen_models, kind)(**options)
        return LinenTrial(model, linen_models.full_init(model, x))

    def prepare(self, floats: LinenTrial, recipe: Recipe, *inputs: Any, methods: Any = None) -> LinenTrial:
        """The model with a recipe."""
        qmodel = linen_api.Quantized(floats.qmodel, recipe)
        return LinenTrial(qmodel, *linen_api.prepare(qmodel, floats.params, *inputs, methods=methods))


class NnxApi:
    """NNX behind the same names; its parameters are those of the Linen twin."""

    name = "nnx"
    stacks = nnx_models.STACKS

    def own_model(self, name: str, x: Any, *options: Any) -> NnxTrial:
        """A model whose twin has other parameters, near-boundary ones."""
        return NnxTrial(nnx_models.near_boundary(getattr(nnx_models, name)(*options)))

    def float_model(self, kind: str, x: Any, **options: Any) -> NnxTrial:
        """The twin in tests/flax/nnx_models.py with the same parameters."""
        model = getattr(nnx_models, kind)(**options)
        twin = LinenApi().float_model(kind, x, **options).leaves()
        for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
            variable[...] = jnp.asarray(twin["/".join(map(str, path))]).reshape(variable.shape)
        return NnxTrial(model)

    def prepare(self, floats: NnxTrial, recipe: Recipe, *inputs: Any, methods: Any = None) -> NnxTrial:
        """The model with a recipe."""
        return NnxTrial(*nnx_api.prepare(floats.model, recipe, inputs, methods=methods))


APIS = (LinenApi(), NnxApi())


@pytest.fixture(params=APIS, ids=lambda api: api.name)
def api(request: pytest.FixtureRequest) -> Any:
    """Linen, then NNX."""
    return request.param


def total(results: Any) -> jax.Array:
    """The sum of squares of all finite results, float32."""
    wide = [v.astype(jnp.float32) for v in jax.tree.leaves(results)]
    return sum(jnp.sum(jnp.where(jnp.isfinite(v), v, 0) ** 2) for v in wide)


def by_path(state: Any) -> Leaves:
    """Values of an nnx.State by path."""
    flat = nnx.to_flat_state(state)
    return {"/".join(map(str, path)): nnx_api.value_of(variable) for path, variable in flat}


def codes_of(leaf: QTensor) -> np.ndarray:
    """The codes of a converted kernel."""
    return np.asarray(leaf.codes)
