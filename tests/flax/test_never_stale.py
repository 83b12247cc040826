"""Float, 2-bit and 8-bit versions of one model in one process never give each other's results, whatever ran before.

The model has what keeps traces for others: parts under jit, remat and scan that are made once at the module level, a
shared module, a tied table, an attention, and products of the user's own.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant.flax import Recipe, Rule, linen_api, nnx_api
from tests.flax import linen_models, nnx_models

IDS, X = jnp.arange(10).reshape(2, 5), linen_models.inputs(2, 8)
VERSIONS = ("float", "2 bits", "8 bits")
ORDERS = list(itertools.permutations(VERSIONS))


def recipe(version: str) -> Recipe:
    return Recipe(Rule("**", weights=f"int{version[0]}", inputs="int8:token", attention="int8:token"))


class Nnx(nnx.Module):
    """Its parts run in functions of the module level."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.table = nnx.Embed(13, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.block = self.again = nnx_models.Block(8, rngs)
        self.layers = nnx_models.Stack("scan").layers
        self.own = nnx.Param(jnp.ones((8, 8)))

    def __call__(self, ids: jax.Array) -> jax.Array:
        x = self.table(ids)
        x = nnx_models.jitted(self.block, x + self.attention(x))
        x = nnx_models.scanned(self.layers, nnx_models.remat(self.again, x))
        return self.table.attend(jnp.einsum("...d,de->...e", jnp.tanh(x), self.own[...]) + x @ self.own[...])


JITTED, REMAT = nn.jit(linen_models.Block), nn.remat(linen_models.Block)
SCANNED = nn.scan(linen_models.Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)


class Linen(nn.Module):
    """Its parts are classes of the module level."""

    def setup(self) -> None:
        self.table = nn.Embed(13, 8)
        self.attention = nn.MultiHeadDotProductAttention(num_heads=2)
        self.jitted, self.remat, self.layers, self.block = JITTED(), REMAT(), SCANNED(), linen_models.Block()
        self.own = self.param("own", nn.initializers.ones, (8, 8))

    def __call__(self, ids: jax.Array) -> jax.Array:
        x = self.table(ids)
        x = self.jitted(x + self.attention(x))[0]
        for part in (self.remat, self.block, self.block):
            x = part(x)[0]
        x = self.layers(x, None)[0]
        return self.table.attend(jnp.einsum("...d,de->...e", jnp.tanh(x), self.own) + x @ self.own)

    def part(self, x: jax.Array) -> jax.Array:
        return self.jitted(x)[0]


@nnx.jit
def called(model: nnx.Module, ids: jax.Array) -> jax.Array:
    return model(ids)


def in_nnx(version: str) -> list[jax.Array]:
    """What a new model of a version gives, and a part of it alone."""
    model = nnx_models.near_boundary(Nnx())
    model = model if version == "float" else nnx_api.prepare(model, recipe(version))[0]
    return [called(model, IDS), nnx_models.jitted(model.block, X)]


@functools.partial(jax.jit, static_argnums=0)
def applied(model: Any, params: Any, ids: jax.Array) -> jax.Array:
    return model.apply({"params": params}, ids)


def in_linen(version: str) -> list[jax.Array]:
    """The same in Linen, where the parameters of all versions are the float ones."""
    model = Linen()
    params = linen_models.full_init(model, IDS)
    model = model if version == "float" else linen_api.Quantized(model, recipe(version))
    return [applied(model, params, IDS), model.apply({"params": params}, X, method="part")]


@pytest.fixture(scope="module", params=[in_nnx, in_linen], ids=["nnx", "linen"])
def api(request: pytest.FixtureRequest) -> tuple[Callable, dict[str, list[np.ndarray]]]:
    """What runs a version, and what each gives where nothing ran before."""
    alone = {}
    for version in VERSIONS:
        jax.clear_caches()
        alone[version] = [np.asarray(y) for y in request.param(version)]
        assert all(np.isfinite(y).all() for y in alone[version])
    for one, other in itertools.combinations(VERSIONS, 2):
        assert all((a != b).any() for a, b in zip(alone[one], alone[other], strict=True))
    return request.param, alone


@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
def test_versions_differential_in_every_order_twice(api: tuple, order: tuple[str, ...]) -> None:
    run, alone = api
    jax.clear_caches()  # or the first order alone would decide what is traced first
    for version in (*order, *order):
        for got, want in zip(run(version), alone[version], strict=True):
            assert_same(np.asarray(got), want, call=version)
