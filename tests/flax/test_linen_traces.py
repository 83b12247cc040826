"""Of Linen alone: parts compiled by nn.jit, whose shared traces never hand one run the result of another."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from bits import assert_same
from flax import linen as nn

from jaxquant.flax import Lsq, Recipe, Rule, linen_api
from jaxquant.flax.linen_api import Quantized
from jaxquant.qtensor import QTensor
from tests.flax.linen_models import full_init, inputs

X = inputs(3, 4)
INT8 = Recipe(Rule("**", weights="int8", inputs="int8"))
LEARNED = Recipe(Rule("**", weights="int8", inputs="int8:tensor", weight_estimator=Lsq(), input_scale="static"))


class Body(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(4, name="dense")(x)


class Method(nn.Module):
    @nn.jit
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(4, name="dense")(x)


#: Made once: the traces of nn.jit live as long as the class.
PARTS = {"plain": Body, "class": nn.jit(Body), "method": Method}


class Model(nn.Module):
    """Two parts that differ in the name alone."""

    kind: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return PARTS[self.kind](name="second")(PARTS[self.kind](name="first")(x))


class Named:
    """A predicate whose repr says nothing."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, path: str, module: Any) -> bool:
        return path.startswith(self.name)

    def __repr__(self) -> str:
        return "Named"


def leaf_paths(tree: Any) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, QTensor))
    return [jax.tree_util.keystr(path) for path, _ in leaves]


def converted(kind: str) -> tuple[Any, Any]:
    qmodel, floats = Quantized(Model(kind), LEARNED), full_init(Model("plain"), X)
    params, report = linen_api.prepare(qmodel, floats, X)
    assert [row.path for row in report] == ["first/dense", "second/dense"]
    params = linen_api.calibrate(qmodel, params, linen_api.observe(qmodel, params, X))
    return linen_api.convert(qmodel, params), qmodel.apply({"params": params}, X)


@pytest.mark.parametrize("kind", ["class", "method"])
def test_jitted_parts_differential_every_run_is_its_own(kind: str) -> None:
    want, output = converted("plain")
    for _ in range(2):
        got, found = converted(kind)
        assert leaf_paths(got) == leaf_paths(want)
        jax.tree.map(assert_same, got, want)
        assert_same(found, output)


@pytest.mark.parametrize("kind", ["class", "method"])
def test_jitted_parts_differential_follow_the_rules_of_their_paths(kind: str) -> None:
    floats = {"params": full_init(Model("plain"), X)}
    recipe = Recipe(Rule("first/**", weights="int8", inputs="int8"), Rule("second/**", weights="int2", inputs="int8"))
    assert_same(Quantized(Model(kind), recipe).apply(floats, X), Quantized(Model("plain"), recipe).apply(floats, X))


def test_predicates_differential_are_told_apart_by_themselves() -> None:
    """Not by their repr, nor by an address that a freed one may leave to the next."""
    floats = {"params": full_init(Model("plain"), X)}

    def run(kind: str, where: Any) -> jax.Array:
        return Quantized(Model(kind), Recipe(Rule(where, weights="int2", inputs="int8"))).apply(floats, X)

    for name in ("first", "second") * 2:
        assert_same(run("class", Named(name)), run("plain", Named(name)))
        assert_same(run("class", lambda path, _, n=name: n in path), run("plain", Named(name)))


def test_equal_recipes_property_share_compiled_parts() -> None:
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            traces.append(x)
            return nn.Dense(4, name="dense")(x)

    model, kept = nn.jit(Counted)(), INT8
    floats = {"params": full_init(Counted(), X)}
    Quantized(model, kept).apply(floats, X)
    before = len(traces)
    for _ in range(3):
        Quantized(model, Recipe(*kept.rules)).apply(floats, X)
    assert len(traces) == before


def test_tabulate_property_leaves_no_trace_behind() -> None:
    model = Model("class")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), X))
    text = Quantized(model, LEARNED).tabulate(jax.random.key(0), X)
    assert text.count("kernel_scale") == 2
    assert jax.eval_shape(lambda: model.init(jax.random.key(0), X)) == shapes


def test_convert_property_refuses_to_convert_nothing() -> None:
    class Two(nn.Module):
        def setup(self) -> None:
            self.dense = nn.Dense(4)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.dense(x)

        def plain(self, x: jax.Array) -> jax.Array:
            return np.float32(2) * x

    floats = full_init(Two(), X)
    qmodel = Quantized(Two(), INT8)
    qmodel.apply({"params": floats}, X, method="plain")
    with pytest.raises(ValueError, match=r"convert: nothing was converted, need a method .*\['plain'\]"):
        linen_api.convert(qmodel, floats)
    done = linen_api.convert(qmodel, floats, X)
    jax.tree.map(assert_same, linen_api.convert(qmodel, done), done)
