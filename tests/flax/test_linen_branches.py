"""Of Linen alone: layers inside nn.cond and nn.switch: prepared, observed and converted as outside of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import linen as nn

from jaxquant.flax import Lsq, Recipe, Rule, Schedule, linen_api
from jaxquant.flax.linen_api import Quantized
from tests.flax.linen_models import full_init, inputs

X = inputs(3, 4)
INT8 = {"weights": "int8", "inputs": "int8"}
LEARNED = {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()}
STATIC = {"weights": "int8:tensor", "inputs": "uint8:tensor:asym", "input_scale": "static"}
SCHEMES = {"int8": INT8, "learned": LEARNED, "static": STATIC}


class Branched(nn.Module):
    """Two layers and a third, of which `which` picks one; "plain" runs the same without a transform."""

    kind: str
    again: bool = False

    def setup(self) -> None:
        self.a, self.b, self.c = nn.Dense(4), nn.Dense(4), nn.Dense(4)

    def __call__(self, x: jax.Array, which: Any = 0) -> jax.Array:
        if self.is_initializing() or self.kind == "plain":
            found = jnp.stack([self.a(x), self.b(x), self.c(x)])
            x = jax.lax.dynamic_index_in_dim(found, which, keepdims=False)
        else:
            x = self.branch(x, which)
        return self.a(x) if self.again else x

    def branch(self, x: jax.Array, which: Any) -> jax.Array:
        branches = [lambda m, x: m.a(x), lambda m, x: m.b(x), lambda m, x: m.c(x)]
        if self.kind == "switch":
            return nn.switch(which, branches, self, x)

        def rest(m: nn.Module, x: jax.Array) -> jax.Array:
            return nn.cond(which == 1, branches[1], branches[2], m, x)

        return nn.cond(which == 0, branches[0], rest, self, x)


class Body(nn.Module):
    """A branched model in the form of a scan's body."""

    kind: str

    @nn.compact
    def __call__(self, x: jax.Array, which: jax.Array) -> tuple[jax.Array, None]:
        return x + Branched(self.kind, name="inner")(x, which), None


class Scanned(nn.Module):
    """Three of them, stacked, each with a choice of its own."""

    kind: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        over = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": 3}
        return nn.scan(nn.remat(Body, prevent_cse=False), **over)(self.kind, name="layers")(x, jnp.arange(3))[0]


def trained(model: nn.Module, recipe: Recipe, *calls: tuple, params: Any = None) -> tuple[Quantized, Any]:
    """Prepared and, where scales are static, calibrated on the calls."""
    qmodel = Quantized(model, recipe)
    params, _ = linen_api.prepare(qmodel, full_init(model, *calls[0]), *calls[0])
    stats = None
    if any(rule.input_scale == "static" for rule in recipe.rules):
        for call in calls:
            stats = linen_api.observe(qmodel, params, *call, stats=stats)
        params = linen_api.calibrate(qmodel, params, stats)
    return qmodel, params


def assert_same_tree(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(assert_same, got, want)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", ["switch", "cond"])
def test_branches_differential_are_the_layers_outside(kind: str, again: bool, scheme: str) -> None:
    """Every branch is observed by its own calls; `again`: one of the layers runs behind the branches too."""
    recipe = Recipe(Rule("**", **SCHEMES[scheme]), schedule=Schedule(start=1) if again else None)
    calls = [(X * np.float32(2**i), i) for i in range(3)]
    qmodel, params = trained(Branched(kind, again), recipe, *calls)
    plain = Quantized(Branched("plain", again), recipe)
    fresh, _ = linen_api.prepare(plain, full_init(plain.model, X), X)
    assert jax.tree.structure(fresh) == jax.tree.structure(params)
    assert_same(fresh["b"].get("kernel_scale", 0), params["b"].get("kernel_scale", 0))
    params = linen_api.advance(params)
    converted = linen_api.convert(qmodel, params)
    assert_same_tree(converted, linen_api.convert(plain, params, X))
    for x, which in calls:
        want = jax.jit(plain.apply)({"params": params}, x, which)
        for tree in (params, converted):
            assert_same(jax.jit(qmodel.apply)({"params": tree}, x, which), want)


@pytest.mark.parametrize("kind", ["switch", "cond"])
def test_branches_differential_are_observed_where_they_run(kind: str) -> None:
    """The layer of the branch that runs sees its inputs, once; the others see nothing."""
    qmodel, recipe = Quantized(Branched(kind), Recipe(Rule("**", **STATIC))), Recipe(Rule("**", **STATIC))
    params, _ = linen_api.prepare(qmodel, full_init(qmodel.model, X), X)
    stats = None
    for number in (1, 1, 2):
        stats = linen_api.observe(qmodel, params, X, number, stats=stats)
    alone = Quantized(nn.Dense(4), recipe)
    own, _ = linen_api.prepare(alone, params["b"], X)
    once = linen_api.observe(alone, own, X)
    assert_same_tree(stats["c"], once)
    assert_same_tree(stats["b"], linen_api.observe(alone, own, X, stats=once))
    with pytest.raises(ValueError, match="'a'"):
        linen_api.calibrate(qmodel, params, stats)
    rows = {
        row.path: row for row in linen_api.explain(qmodel, linen_api.calibrate(qmodel, params, all_of(stats)), X, 1)
    }
    assert rows["b"].error < 0.1 and np.isnan(rows["c"].error)


def all_of(stats: Any) -> Any:
    return {**stats, "a": stats["b"]}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["switch", "cond"])
def test_branches_differential_inside_a_scan(kind: str, scheme: str) -> None:
    recipe = Recipe(Rule("**", **SCHEMES[scheme]))
    plain, params = trained(Scanned("plain"), recipe, (X,))
    qmodel = Quantized(Scanned(kind), recipe)
    got, report = linen_api.prepare(qmodel, full_init(plain.model, X), X)
    assert [row.path for row in report] == [f"layers/inner/{name}" for name in "abc"]
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, params)
    converted = linen_api.convert(qmodel, params)
    assert_same_tree(converted, linen_api.convert(plain, params))
    for tree in (params, converted):
        assert_same(jax.jit(qmodel.apply)({"params": tree}, X), jax.jit(plain.apply)({"params": params}, X))


def test_branches_differential_inside_a_scan_of_a_function() -> None:
    class Function(nn.Module):
        kind: str

        def setup(self) -> None:
            self.a = nn.Dense(4)

        def __call__(self, x: jax.Array) -> jax.Array:
            def body(m: nn.Module, x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
                if self.kind == "plain":
                    return jnp.where(i > 0, m.a(x), x), None
                return nn.cond(i > 0, lambda m, x: m.a(x), lambda m, x: x, m, x), None

            over = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": 3}
            return nn.scan(body, **over)(self, x, jnp.arange(3))[0]

    plain, params = trained(Function("plain"), Recipe(Rule("a", **LEARNED)), (X,))
    qmodel = Quantized(Function("cond"), plain.recipe)
    got, _ = linen_api.prepare(qmodel, {"a": {name: params["a"][name] for name in ("kernel", "bias")}}, X)
    assert_same(got["a"]["kernel_scale"], params["a"]["kernel_scale"])
    assert_same_tree(linen_api.convert(qmodel, params), linen_api.convert(plain, params))


def test_a_folded_layer_property_is_refused_in_branches() -> None:
    class Folded(nn.Module):
        def setup(self) -> None:
            self.a, self.bn = nn.Dense(4), nn.BatchNorm(use_running_average=True)

        def __call__(self, x: jax.Array) -> jax.Array:
            if self.is_initializing():
                return self.bn(self.a(x))
            return nn.cond(True, lambda m, x: m.bn(m.a(x)), lambda m, x: x, self, x)

    variables = Folded().init(jax.random.key(0), X)
    qmodel, rest = Quantized(Folded(), Recipe(Rule("a", fold="bn", **INT8))), {"batch_stats": variables["batch_stats"]}
    with pytest.raises(ValueError, match="layer 'a': fold inside nn.cond or nn.switch, need a rule without fold"):
        linen_api.prepare(qmodel, variables["params"], X, collections=rest)
