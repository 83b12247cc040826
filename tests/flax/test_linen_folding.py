"""Batch norms folded into Linen layers: equal in evaluation mode, bit for bit, and trained with batch statistics."""

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
from jaxquant.flax.mark import is_mark
from refquant import qat
from refquant.formats import ALL
from refquant.granularity import PerAxis
from refquant.qat.folding import fold
from refquant.qtensor import quantize_tensor
from refquant.spec import QuantSpec
from tests.flax.linen_models import full_init, inputs

X = inputs(3, 5, 5, 2)
PLAIN = Recipe(Rule("conv", weights="int8", inputs="int8:token", fold="bn"))
LEARNED = Recipe(
    Rule(
        "conv", weights="int4", inputs="int8:tensor", weight_estimator=Lsq(), input_estimator=Lsq(), fold="bn"
    ),
    schedule=Schedule(freeze_batch_norm=1),
)  # fmt: skip


class Normed(nn.Module):
    """A convolution with a batch norm behind it."""

    between: Any = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(4, (3, 3), use_bias=False, dtype=self.dtype, name="conv")(x)
        x = x if self.between is None else self.between(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train, name="bn")(x))


def floats_of(model: Normed) -> tuple[Any, Any]:
    """Parameters and running statistics."""
    mean, var = inputs(4, seed=1), np.abs(inputs(4, seed=2)) + np.float32(0.1)
    return full_init(model, X), {"batch_stats": {"bn": {"mean": jnp.asarray(mean), "var": jnp.asarray(var)}}}


def trained(recipe: Recipe, model: Normed | None = None) -> tuple[Quantized, Any, Any]:
    model = model or Normed()
    floats, rest = floats_of(model)
    qmodel = Quantized(model, recipe)
    params, _ = linen_api.prepare(qmodel, floats, X, collections=rest)
    if recipe is LEARNED:
        stats = linen_api.observe(qmodel, params, X, collections=rest)
        params = linen_api.calibrate(qmodel, params, stats)
    return qmodel, params, rest


@pytest.mark.parametrize("recipe", [PLAIN, LEARNED], ids=["plain", "learned"])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_folded_differential_converted_is_trained(recipe: Recipe, dtype: Any) -> None:
    qmodel, params, rest = trained(recipe, Normed(dtype=dtype))
    converted = linen_api.convert(qmodel, params, collections=rest)
    assert set(converted["conv"]) >= {"kernel", "bias"} and "kernel_scale" not in converted["conv"]
    run = jax.jit(qmodel.apply)
    want = run({"params": params, **rest}, X)
    assert_same(run({"params": converted, **rest}, X), want)
    exact = jax.jit(qmodel.model.apply)({"params": params, **rest}, X)
    assert 0 < np.linalg.norm(want - exact) / np.linalg.norm(exact) < 0.3


def test_folded_differential_is_the_reference_layer() -> None:
    """The layer is refquant's own with the folded kernel and bias (LAY-14)."""
    qmodel, params, rest = trained(PLAIN)
    norm = [*rest["batch_stats"]["bn"].values(), params["bn"]["scale"], params["bn"]["bias"]]
    kernel, bias = fold(np.asarray(params["conv"]["kernel"]), None, *map(np.asarray, norm), epsilon=1e-5)
    spec = linen_api.convert(qmodel, params, collections=rest)["conv"]["kernel"].spec
    want = qat.conv(X, quantize_tensor(kernel, spec), bias, inputs=QuantSpec(ALL["int8"], PerAxis(0)))
    assert_same(qmodel.apply({"params": params, **rest}, X), np.maximum(want, 0))


def test_training_property_uses_the_batch_until_it_is_frozen() -> None:
    qmodel, params, rest = trained(LEARNED)

    @jax.jit
    def step(params: Any) -> Any:
        def loss(params: Any) -> Any:
            y, changed = qmodel.apply({"params": params, **rest}, X, train=True, mutable=["batch_stats"])
            return (y**3).sum(), (y, changed)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, (y, changed)), gradient = step(params)
    want, wanted = qmodel.model.apply({"params": params, **rest}, X, train=True, mutable=["batch_stats"])
    assert 0 < np.linalg.norm(y - want) / np.linalg.norm(want) < 0.3
    assert np.allclose(changed["batch_stats"]["bn"]["mean"], wanted["batch_stats"]["bn"]["mean"], atol=0.01)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and (np.any(leaf) or path[-1].key == "step" or is_mark(path[-1].key)), path
    (_, (still, kept)), _ = step(linen_api.advance(params))
    assert_same(still, jax.jit(qmodel.apply)({"params": params, **rest}, X))
    assert_same(kept["batch_stats"]["bn"]["mean"], rest["batch_stats"]["bn"]["mean"])
    assert step._cache_size() == 1


def test_errors_property_name_the_norm() -> None:
    qmodel, params, rest = trained(PLAIN)
    converted = linen_api.convert(qmodel, params, collections=rest)
    floats = floats_of(Normed())[0]
    wrong = Recipe(Rule("conv", weights="int8", fold="norm"))
    cases = [
        ("use_running_average is False", lambda: qmodel.apply({"params": converted, **rest}, X, train=True)),
        ("names the batch norm 'norm'", lambda: linen_api.prepare(Quantized(Normed(), wrong), floats, X)),
        ("no running statistics", lambda: linen_api.prepare(Quantized(Normed(), PLAIN), floats, X)),
        ("nothing between them", lambda: linen_api.prepare(Quantized(Normed(nn.relu), PLAIN), floats, X)),
    ]
    for text, call in cases:
        with pytest.raises(ValueError, match=text):
            call()


def test_folded_property_is_refused_twice_before_its_norm() -> None:
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            conv, norm = nn.Conv(4, (3, 3), name="conv"), nn.BatchNorm(use_running_average=True, name="bn")
            a, b = conv(x), conv(x * 2)
            return norm(b) + norm(a)

    _, rest = floats_of(Normed())
    with pytest.raises(ValueError, match="layer 'conv': called again before the batch norm 'bn'"):
        linen_api.prepare(Quantized(Twice(), PLAIN), full_init(Twice(), X), X, collections=rest)


def test_bound_property_every_call_is_a_run_of_its_own() -> None:
    """What a layer leaves for its norm is not kept: not by a call that ends, nor by one that fails."""

    class Parts(nn.Module):
        def setup(self) -> None:
            self.conv, self.bn = nn.Conv(4, (3, 3)), nn.BatchNorm(use_running_average=True)

        def __call__(self, x: jax.Array, times: Any = 1) -> jax.Array:
            return self.bn(self.conv(x) * times if times != 1 else self.conv(x))

    model, rest = Parts(), floats_of(Normed())[1]
    qmodel = Quantized(model, PLAIN)
    params, _ = linen_api.prepare(qmodel, full_init(model, X), X, collections=rest)
    want = qmodel.apply({"params": params, **rest}, X)
    bound = qmodel.bind({"params": params, **rest})
    for call in (bound.conv, jax.jit(lambda x: bound.conv(x)), lambda x: bound(x, 2)):
        with pytest.raises(ValueError, match="need .*norm\\(layer\\(x\\)\\)"):
            call(X)
        assert_same(bound(X), want)
        assert_same(jax.jit(lambda x: bound(x))(X), want)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("cast", ["params", "conv", "all"])
def test_folded_differential_has_the_dtype_of_the_float_model(cast: str, affine: bool) -> None:
    """By the dtypes that the parameters have, not those that the modules were made with."""

    class Cast(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            named = {"use_scale": affine, "use_bias": affine, "name": "bn"}
            return nn.BatchNorm(use_running_average=True, **named)(nn.Conv(4, (3, 3), name="conv")(x))

    rest, x = floats_of(Normed())[1], jnp.asarray(X, jnp.bfloat16)
    floats = full_init(Cast(), X)
    floats |= {"conv": half(floats["conv"])} if cast == "conv" else half(floats)
    rest = half(rest) if cast == "all" else rest
    qmodel = Quantized(Cast(), PLAIN)
    params, _ = linen_api.prepare(qmodel, floats, x, collections=rest)
    converted = linen_api.convert(qmodel, params, collections=rest)
    got = qmodel.apply({"params": params, **rest}, x)
    assert got.dtype == Cast().apply({"params": floats, **rest}, x).dtype
    assert_same(np.asarray(qmodel.apply({"params": converted, **rest}, x)), np.asarray(got))


def half(tree: Any) -> Any:
    return jax.tree.map(lambda v: v.astype(jnp.bfloat16), tree)
