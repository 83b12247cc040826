"""The `api` fixture: one test body, two Flax APIs (what becomes of a model: linen_trials.py and nnx_trials.py).

from tests.flax.api_support import api  # noqa: F401

def test_something(api):
    trial = api.prepare("Zoo", recipe, X)
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxquant.flax import Recipe, linen_api, nnx_api
from jaxquant.qtensor import QTensor
from tests.flax import linen_models, nnx_models
from tests.flax.linen_trials import LinenTrial
from tests.flax.nnx_trials import NnxTrial


class LinenApi:
    """Linen behind the names that tests use."""

    name = "linen"
    stacks = linen_models.STACKS

    def own_model(self, name: str, x: Any, *options: Any) -> LinenTrial:
        """A model whose twin has other parameters, near-boundary ones."""
        return _linen(getattr(linen_models, name)(*options), x)

    def float_model(self, kind: str, x: Any, **options: Any) -> LinenTrial:
        """A model of tests/flax/linen_models.py with near-boundary parameters."""
        return _linen(getattr(linen_models, kind)(**options), x)

    def prepare(self, floats: LinenTrial, recipe: Recipe, *inputs: Any, methods: Any = None) -> LinenTrial:
        """The model with a recipe."""
        qmodel = linen_api.Quantized(floats.qmodel, recipe)
        found = linen_api.prepare(qmodel, floats.params, *inputs, methods=methods, collections=floats.rest)
        return LinenTrial(qmodel, *found, floats.rest)


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
        twin = LinenApi().float_model(kind, x, **options)
        values = twin.leaves() | twin.statistics()
        for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))):
            variable[...] = jnp.asarray(values["/".join(map(str, path))]).reshape(variable.shape)
        return NnxTrial(model)

    def prepare(self, floats: NnxTrial, recipe: Recipe, *inputs: Any, methods: Any = None) -> NnxTrial:
        """The model with a recipe."""
        return NnxTrial(*nnx_api.prepare(floats.model, recipe, inputs or None, methods=methods))


def _linen(model: Any, x: Any) -> LinenTrial:
    params, rest = linen_models.variables_of(model, x)
    return LinenTrial(model, params, rest=rest)


APIS = (LinenApi(), NnxApi())


@pytest.fixture(params=APIS, ids=lambda api: api.name)
def api(request: pytest.FixtureRequest) -> Any:
    """Linen, then NNX."""
    return request.param


def codes_of(leaf: QTensor) -> np.ndarray:
    """The codes of a converted kernel."""
    return np.asarray(leaf.codes)
