"""Of Linen alone: running statistics in a collection, and calls of a bound model's own parts."""

from __future__ import annotations

from typing import Any

import jax
import pytest
from bits import assert_same
from flax import linen as nn

from jaxquant.flax import Recipe, Rule, linen_api
from jaxquant.flax.linen_api import Quantized
from tests.flax.linen_models import full_init, inputs, normed, statistics

X = inputs(3, 5, 5, 2)
PLAIN = Recipe(Rule("conv", weights="int8", inputs="int8:token", fold="bn"))


def test_running_statistics_property_are_asked_for() -> None:
    with pytest.raises(ValueError, match="batch norm 'bn': no running statistics, need collections="):
        linen_api.prepare(Quantized(normed(), PLAIN), full_init(normed(), X), X)


def test_bound_property_every_call_is_a_run_of_its_own() -> None:
    """What a layer leaves for its norm is not kept: not by a call that ends, nor by one that fails."""

    class Parts(nn.Module):
        def setup(self) -> None:
            self.conv, self.bn = nn.Conv(4, (3, 3)), nn.BatchNorm(use_running_average=True)

        def __call__(self, x: jax.Array, times: Any = 1) -> jax.Array:
            return self.bn(self.conv(x) * times if times != 1 else self.conv(x))

    model = Parts()
    rest = statistics(jax.eval_shape(lambda: model.init(jax.random.key(0), X)))
    qmodel = Quantized(model, PLAIN)
    params, _ = linen_api.prepare(qmodel, full_init(model, X), X, collections=rest)
    want = qmodel.apply({"params": params, **rest}, X)
    bound = qmodel.bind({"params": params, **rest})
    for call in (bound.conv, jax.jit(lambda x: bound.conv(x)), lambda x: bound(x, 2)):
        with pytest.raises(ValueError, match="need .*norm\\(layer\\(x\\)\\)"):
            call(X)
        assert_same(bound(X), want)
        assert_same(jax.jit(lambda x: bound(x))(X), want)
