"""Of Linen alone: unsorted and other stacking axes, methods that failed, the dtype that a kernel leaves behind."""

from __future__ import annotations

import re
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import linen as nn

from jaxquant.flax import Lsq, Recipe, Rule, Schedule, linen_api
from jaxquant.flax.linen_api import Quantized
from jaxquant.flax.mark import is_mark
from tests.flax.linen_models import full_init, inputs

X = inputs(3, 4)
INT8 = Recipe(Rule("**", weights="int8", inputs="int8"))
SCALARS = {
    "schedule": Recipe(Rule("**", weights="int8", inputs="int8"), schedule=Schedule(start=1)),
    "static": Recipe(Rule("**", weights="int8", inputs="int8:tensor", input_scale="static")),
    "learned": Recipe(Rule("**", weights="int8:tensor", weight_estimator=Lsq(), inputs="int8")),
}


ONES = jnp.ones
FOREIGN = {
    "other features": (nn.Dense(2), {"kernel": ONES((4, 3)), "bias": ONES(3)}, "has shape (4, 3), need (4, 2)"),
    "other order": (nn.DenseGeneral((2, 3)), {"kernel": ONES((4, 3, 2))}, "has shape (4, 3, 2), need (4, 2, 3)"),
    "other einsum": (nn.Einsum((4, 2), "ab,bc->ac"), {"kernel": ONES((4, 3))}, "has shape (4, 3), need (4, 2)"),
    "other taps": (nn.Conv(2, (1,)), {"kernel": ONES((3, 4, 2))}, "has shape (3, 4, 2), need (1, 4, 2)"),
    "transposed": (
        nn.ConvTranspose(2, (1,), transpose_kernel=True),
        {"kernel": ONES((1, 4, 2))},
        "has shape (1, 4, 2), need (1, 2, 2)",
    ),
    "no bias": (
        nn.Dense(2),
        {"kernel": ONES((4, 2))},
        "there is no bias beside the kernel, need one or use_bias=False",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_parameters_of_another_model_property_are_refused_as_flax_does(name: str) -> None:
    model, params, text = FOREIGN[name]
    with pytest.raises(flax.errors.FlaxError):
        model.apply({"params": params}, X)
    qmodel = Quantized(model, INT8)
    for act in (
        lambda: linen_api.prepare(qmodel, params, X),
        lambda: qmodel.apply({"params": params}, X),
        lambda: linen_api.convert(qmodel, params, X),
    ):
        with pytest.raises(ValueError, match=re.escape(f"layer '.': {'' if 'bias' in text else 'the kernel '}{text}")):
            act()


@pytest.mark.parametrize(
    ("options", "ascending"),
    [
        ({"axis": (2, 1)}, {"axis": (1, 2)}),
        ({"axis": (-1, -3)}, {"axis": (0, 2)}),
        ({"axis": -1, "batch_dims": (1, 0)}, {"axis": 2, "batch_dims": (0, 1)}),
    ],
)
def test_dense_general_differential_takes_axes_in_any_order(options: Any, ascending: Any) -> None:
    x = inputs(4, 4, 5)
    layer, twin = nn.DenseGeneral(3, **options), nn.DenseGeneral(3, **ascending)
    floats = full_init(layer, x)
    assert_same(layer.apply({"params": floats}, x), twin.apply({"params": floats}, x))
    qmodel = Quantized(layer, INT8)
    params, _ = linen_api.prepare(qmodel, floats, x)
    got, exact = qmodel.apply({"params": params}, x), layer.apply({"params": floats}, x)
    assert_same(got, Quantized(twin, INT8).apply({"params": params}, x))
    assert_same(got, qmodel.apply({"params": linen_api.convert(qmodel, params)}, x))
    assert 0 < np.linalg.norm(got - exact) / np.linalg.norm(exact) < 0.05


@pytest.mark.parametrize("recipe", SCALARS.values(), ids=SCALARS)
def test_scan_property_along_another_axis_is_refused_in_words(recipe: Recipe) -> None:
    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            over = {"variable_axes": {"params": 1}, "split_rngs": {"params": True}, "length": 3}
            return nn.scan(lambda layer, carry, _: (layer(carry), None), **over)(nn.Dense(4, name="d"), x, None)[0]

    floats = full_init(Scanned(), X)
    with pytest.raises(ValueError, match="stacked along an axis other than 0 .* need variable_axes={'params': 0}"):
        linen_api.prepare(Quantized(Scanned(), recipe), floats, X)
    linen_api.prepare(Quantized(Scanned(), INT8), floats, X)


def test_failed_calls_property_are_forgotten() -> None:
    class Two(nn.Module):
        def setup(self) -> None:
            self.first, self.second = nn.Dense(4), nn.Dense(4)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.second(self.first(x))

        def half(self, x: jax.Array) -> jax.Array:
            return self.first(x)

    wrong, qmodel = jnp.ones((3, 5)), Quantized(Two(), INT8)
    params, _ = linen_api.prepare(qmodel, full_init(Two(), X), X)
    failing = [
        lambda: qmodel.apply({"params": params}, wrong, method="half"),
        lambda: linen_api.explain(qmodel, params, wrong, method="half"),
        lambda: linen_api.prepare(qmodel, params, X, methods={"half": wrong}),
        lambda: linen_api.convert(qmodel, params, wrong),
    ]
    for call in failing:
        with pytest.raises(Exception, match=r"5"):
            call()
        assert list(qmodel.seen) == [None] and qmodel.seen[None].args[0].shape == X.shape
    assert linen_api.convert(qmodel, params)["second"]["kernel"].codes.shape == (4, 4)


@pytest.mark.parametrize("boxed", [False, True])
def test_a_cast_kernel_differential_keeps_its_dtype_when_converted(boxed: bool) -> None:
    """Without a bias only the kernel tells the dtype; then a leaf of that dtype stands beside its codes."""

    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            init = nn.initializers.lecun_normal()
            init = nn.with_partitioning(init, ("in", "out")) if boxed else init
            over = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": 3}
            over |= {"metadata_params": {nn.PARTITION_NAME: "layers"}}
            layer = nn.Dense(4, use_bias=False, kernel_init=init, name="d")
            return nn.scan(lambda layer, carry, _: (layer(carry), None), **over)(layer, x, None)[0]

    x, model = jnp.asarray(X, jnp.bfloat16), Scanned()
    floats = jax.tree.map(lambda v: v.astype(jnp.bfloat16), model.init(jax.random.key(0), X)["params"])
    qmodel = Quantized(model, INT8)
    params, _ = linen_api.prepare(qmodel, floats, x)
    converted = linen_api.convert(qmodel, params)
    assert {name for name in converted["d"] if not is_mark(name)} == {"kernel", "kernel_dtype"}
    assert set(jax.tree.leaves(linen_api.labels(converted))) == {"frozen"}
    want = qmodel.apply({"params": params}, x)
    assert want.dtype == jnp.bfloat16
    assert_same(np.asarray(qmodel.apply({"params": converted}, x)), np.asarray(want))
    jax.tree.map(assert_same, linen_api.convert(qmodel, converted), converted)
    plain = Quantized(nn.Dense(4, use_bias=False), INT8)
    assert "kernel_dtype" not in linen_api.convert(plain, {"kernel": jnp.ones((4, 4))}, X)
