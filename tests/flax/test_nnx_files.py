"""Of NNX alone: `tensors` and `restore` of converted models: names, random state, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxquant import store
from jaxquant.flax import Lsq, Recipe, Rule, nnx_api
from tests.flax.nnx_models import inputs, near_boundary

RECIPE = Recipe(
    Rule("t*", weights="int4:g4"),
    Rule("**", weights="int4", inputs="int8:tensor", input_scale="static", weight_estimator=Lsq()),
)
X = inputs(5, 8)


class Dropped(nnx.Module):
    """Two dropouts, streams that are kept whole, layers in a list, statistics, a layer that stands twice."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(8, 8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.other = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.tail = self.tied = nnx.Linear(8, 8, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x):
        x = self.other(self.drop(self.first(x)))
        for layer in self.layers:
            x = layer(x)
        return self.tied(self.tail(self.norm(x)))


class Stacked(nnx.Module):
    """Layers of one kind stacked along the first axis, each with a key of its own."""

    def __init__(self, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return Layer(rngs)

        self.layers = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def over(layer, x):
            return layer(x)

        return over(self.layers, x)


class Layer(nnx.Module):
    """A layer and its dropout."""

    def __init__(self, rngs: nnx.Rngs):
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.dense(x))


def streams():
    return nnx.Rngs(params=0, dropout=1)


def converted(kind=Dropped, rngs=streams):
    model = near_boundary(kind(rngs()))
    model.eval()
    qmodel, _ = nnx_api.prepare(model, recipe(kind))
    if kind is Dropped:
        nnx_api.observe(qmodel, X)
        nnx_api.calibrate(qmodel)
    return nnx_api.convert(qmodel)


def recipe(kind):
    return RECIPE if kind is Dropped else Recipe(Rule("**", weights="int4", inputs="int8"))


def empty(kind=Dropped, rngs=streams):
    model = nnx.eval_shape(lambda: kind(rngs()))
    return nnx_api.convert(nnx_api.prepare(model, recipe(kind))[0])


@nnx.jit
def run(model, x):
    return model(x)


def random_keys(model):
    state = nnx.to_flat_state(nnx.state(model, nnx.RngKey))
    return [np.asarray(jax.random.key_data(nnx_api.value_of(v))) for _, v in state]


@pytest.mark.parametrize("rngs", [streams, lambda: nnx.Rngs(0)], ids=["named", "default"])
@pytest.mark.parametrize("kind", [Dropped, Stacked])
def test_a_model_with_dropout_is_saved_and_restored(tmp_path, kind, rngs):
    imodel, restored = converted(kind, rngs), empty(kind, rngs)
    store.save(tmp_path / "net", nnx_api.tensors(imodel))
    nnx_api.restore(restored, store.load(tmp_path / "net"))
    restored.eval()
    assert np.asarray(run(restored, X)).tobytes() == np.asarray(run(imodel, X)).tobytes()
    assert not any("rngs" in name or "drop" in name for name in nnx_api.tensors(imodel))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(nnx.state(restored)))
    restored.train()
    once, again = run(restored, X), run(restored, X)
    assert bool(jnp.isfinite(once).all()) and bool((once != again).any())


def test_random_state_is_of_the_seed_and_each_stream_has_its_own():
    given = nnx_api.tensors(converted())
    made = [empty() for _ in range(3)]
    for model, seed in zip(made, (0, 0, 1), strict=True):
        nnx_api.restore(model, given, seed=seed)
    first, same, other = map(random_keys, made)
    assert len({key.tobytes() for key in first}) == len(first) > 2
    assert all((a == b).all() for a, b in zip(first, same, strict=True))
    assert not any((a == b).all() for a, b in zip(first, other, strict=True))


def test_random_state_that_a_model_has_stays():
    imodel = converted()
    before = random_keys(imodel)
    nnx_api.restore(imodel, nnx_api.tensors(imodel))
    assert all((a == b).all() for a, b in zip(before, random_keys(imodel), strict=True))


def test_names_are_the_paths_of_the_model():
    found = nnx_api.tensors(converted())
    assert "layers/0/kernel" in found and "norm/mean" in found and "first/inputs_scale" in found
    assert sum("tail/" in name or "tied/" in name for name in found) == 3  # kernel, bias, mark


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tail/bias": None}, r"restore: 'tail/bias' is missing, need one tensor for each of the model's"),
        ({"head/bias": np.ones(8, np.float32)}, r"restore: the model has no 'head/bias', need"),
        ({"tail/bias": np.ones(7, np.float32)}, r"restore: 'tail/bias' is float32\[7\], need float32\[8\]"),
        ({"tail/bias": np.ones(8, np.float16)}, r"restore: 'tail/bias' is float16\[8\], need float32\[8\]"),
        ({"tail/kernel": np.ones((8, 8), np.float32)}, r"restore: 'tail/kernel' is float32\[8, 8\], need .*int4.*g4"),
    ],
)
def test_tensors_of_another_model_are_refused_and_nothing_is_changed(change, message):
    given, model = nnx_api.tensors(converted()), empty()
    given = {name: value for name, value in (given | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        nnx_api.restore(model, given)
    assert isinstance(nnx_api.value_of(model.first.bias), jax.ShapeDtypeStruct)


def test_a_model_that_is_not_converted_is_refused():
    """Its kernels are floats: a file of them would pass for one of codes."""
    qmodel, _ = nnx_api.prepare(Dropped(streams()), RECIPE)
    for model, what in ((qmodel, "not converted"), (Dropped(streams()), "not prepared")):
        with pytest.raises(ValueError, match=f"tensors: the model is {what}, need what convert returned"):
            nnx_api.tensors(model)
        with pytest.raises(ValueError, match=f"restore: the model is {what}, need what convert returned"):
            nnx_api.restore(model, {})
