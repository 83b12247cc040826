"""What is rare in NNX models: shared layers with norms, parameters of other dtypes, states of another recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant.flax import Lsq, LsqPlus, Recipe, Rule, nnx_api
from tests.flax.nnx_models import inputs

X = inputs(6, 8)
INT8 = {"weights": "int8", "inputs": "int8:token"}


class Pair(nnx.Module):
    """Two dense layers, each with a norm."""

    def __init__(self):
        self.a, self.b = (nnx.Linear(8, 8, rngs=nnx.Rngs(i)) for i in (0, 1))
        self.n1, self.n2 = (nnx.BatchNorm(8, use_running_average=True, rngs=nnx.Rngs(0)) for _ in "12")

    def __call__(self, x):
        return self.n2(self.b(self.n1(self.a(x))))


class Parents(nnx.Module):
    """One layer in two parents."""

    def __init__(self, *, one_norm):
        a = Pair()
        self.first, self.second = nnx.Dict(layer=a.a, n=a.n1), nnx.Dict(layer=a.a, n=a.n1 if one_norm else a.n2)

    def __call__(self, x):
        for part in (self.first, self.second):
            x = part["n"](part["layer"](x))
        return x


def folds(b="n2"):
    return Recipe(Rule("a", fold="n1", **INT8), Rule("b", fold=b, **INT8))


@pytest.mark.parametrize("b", ["n2", None])
def test_a_tied_kernel_with_a_folded_norm_is_refused(b):
    model = Pair()
    model.b.kernel = model.a.kernel
    with pytest.raises(ValueError, match="'a' and 'b' share a parameter"):
        nnx_api.prepare(model, folds(b))


def test_a_norm_folded_into_two_layers_is_refused():
    with pytest.raises(ValueError, match="'a' and 'b' fold the same batch norm"):
        nnx_api.prepare(Pair(), folds("n1"))


def test_a_shared_layer_with_two_norms_is_refused():
    recipe = Recipe(Rule("**/layer", fold="n", **INT8))
    with pytest.raises(ValueError, match="'first/layer' is 'second/layer' too, with another 'n'"):
        nnx_api.prepare(Parents(one_norm=False), recipe)
    qmodel, _ = nnx_api.prepare(Parents(one_norm=True), recipe, X)
    assert_same(nnx_api.convert(qmodel)(X), qmodel(X))
