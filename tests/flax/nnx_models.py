"""NNX models for the tests, with the names and shapes of their Linen twins."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from strategies import halves


def inputs(*shape: int, seed: int = 0) -> np.ndarray:
    """Values of which many lie within 2 ulp of half a step of their own range."""
    rng = np.random.default_rng(seed)
    values = rng.choice(np.concatenate([halves(1 / 127, -127, 127), halves(1 / 7, -7, 7)]), shape)
    values.reshape(-1)[:1] = 1
    return values.astype(np.float32)


def near_boundary(model: nnx.Module) -> nnx.Module:
    """The model with kernels at half steps of their scales and random other parameters, set in place."""
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] in ("kernel", "embedding"):
            value = inputs(*variable.shape, seed=variable.size) * rng.choice([0.5, 1, 3])
        else:
            value = rng.normal(size=variable.shape)
        variable[...] = jnp.asarray(value, variable.dtype)
    return model


class Zoo(nnx.Module):
    """One layer of every kind on one input (4, 6, 8); a dict of results."""

    def __init__(self, dtype: Any = None, param_dtype: Any = jnp.float32):
        common = {"dtype": dtype, "param_dtype": param_dtype, "rngs": nnx.Rngs(0)}
        self.dense = nnx.Linear(8, 5, **common)
        self.general = nnx.LinearGeneral((6, 8), (2, 3), axis=(-2, -1), **common)
        self.batched = nnx.LinearGeneral(8, 3, axis=-1, batch_axis={0: 4}, **common)
        self.einsum = nnx.Einsum("...d,dhe->...he", (8, 2, 3), (2, 3), **common)
        self.conv = nnx.Conv(8, 6, (3,), strides=2, padding="CAUSAL", **common)
        self.dilated = nnx.Conv(2, 3, (2, 2), kernel_dilation=2, **common)
        self.depthwise = nnx.Conv(8, 8, (3,), feature_group_count=8, padding="CIRCULAR", **common)
        self.transposed = nnx.ConvTranspose(2, 3, (3, 2), strides=(2, 1), **common)
        self.embed = nnx.Embed(11, 8, **common)

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        ids = jnp.arange(6).reshape(2, 3) * 3 - 4
        grid = x.reshape(4, 6, 4, 2)
        return {
            "dense": self.dense(x),
            "general": self.general(x),
            "batched": self.batched(x),
            "einsum": self.einsum(x),
            "conv": self.conv(x),
            "dilated": self.dilated(grid),
            "depthwise": self.depthwise(x),
            "transposed": self.transposed(grid),
            "rows": self.embed(ids),
            "attended": self.embed.attend(x),
        }


class Block(nnx.Module):
    """A residual block."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.up = nnx.Linear(width, 12, rngs=rngs)
        self.down = nnx.Linear(12, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.down(nnx.relu(self.up(x)))


@nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
def scanned(block: Block, x: jax.Array) -> jax.Array:
    return block(x)


@nnx.remat
def remat(block: Block, x: jax.Array) -> jax.Array:
    return block(x)


@nnx.jit
def jitted(block: Block, x: jax.Array) -> jax.Array:
    return block(x)


@nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
def scanned_remat(block: Block, x: jax.Array) -> jax.Array:
    return remat(block, x)


class Exact(nnx.Module):
    """A model with exact steps between its layers."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(8, 8, (3,), rngs=rngs)
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.conv(x))
        return self.head(nnx.max_pool(x + self.dense(x), (2,), (2,)))


class Stack(nnx.Module):
    """Blocks under one of Flax's transforms (functions of the module level), then a head."""

    def __init__(self, kind: str):
        self.kind, rngs = kind, nnx.Rngs(0)
        self.head = nnx.Linear(8, 3, rngs=rngs)
        if kind.startswith("scan"):
            make = nnx.vmap(lambda rngs: Block(8, rngs), in_axes=0, out_axes=0)
            self.layers = make(nnx.Rngs(params=jax.random.split(jax.random.key(0), 3)))
        elif kind == "list":
            self.layers = nnx.List([Block(8, rngs), Block(8, rngs)])
        elif kind == "dict":
            self.layers = nnx.Dict(a=Block(8, rngs), b=Block(8, rngs))
        elif kind == "sequential":
            self.layers = nnx.Sequential(nnx.Linear(8, 8, rngs=rngs), nnx.relu, Block(8, rngs))
        else:
            self.layers = Block(8, rngs)
        if kind == "shared":
            self.again = self.layers

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.blocks(x))

    def blocks(self, x: jax.Array) -> jax.Array:
        if self.kind == "list":
            return self.layers[1](self.layers[0](x))
        if self.kind == "dict":
            return self.layers.b(self.layers.a(x))
        if self.kind == "shared":
            return self.again(self.layers(x))
        wrapped = {"scan": scanned, "scan of remat": scanned_remat, "remat": remat, "jit": jitted}
        return wrapped[self.kind](self.layers, x) if self.kind in wrapped else self.layers(x)


STACKS = ("scan", "scan of remat", "remat", "jit", "list", "dict", "sequential", "shared")


class Tied(nnx.Module):
    """A small decoder: a tied table, attention, a norm, and a second method."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.table = nnx.Embed(13, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.only = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        x = self.table(ids)
        return self.table.attend(self.norm(x + self.attention(x)))

    def pooled(self, ids: jax.Array) -> jax.Array:
        return self.only(self.table(ids).max(axis=-2))

    def attended(self, x: jax.Array, mask: Any = None) -> jax.Array:
        return self.attention(x, mask=mask)


class Encoder(nnx.Module):
    """A table that its call looks up in, and a second method that attends to it."""

    def __init__(self):
        self.table, self.inner = nnx.Embed(13, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 8, rngs=nnx.Rngs(1))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return nnx.relu(self.inner(self.table(ids)))

    def logits(self, ids: jax.Array) -> jax.Array:
        return self.table.attend(self(ids))


class Two(nnx.Module):
    """Two dense layers and a method that runs the first alone; the names are those that layers have beside kernels."""

    def __init__(self, names: tuple[str, str] = ("first", "second")):
        self.names = names
        for i, name in enumerate(names):
            setattr(self, name, nnx.Linear(8, 8, rngs=nnx.Rngs(i)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return getattr(self, self.names[1])(self.half(x))

    def half(self, x: jax.Array) -> jax.Array:
        return getattr(self, self.names[0])(x)


class Own(nnx.Module):
    """A layer, and a parameter of the user's own with the name of a layer's step."""

    def __init__(self):
        self.dense, self.step = nnx.Linear(8, 4, rngs=nnx.Rngs(0)), nnx.Param(jnp.ones(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense(x) * self.step[...]


class Normed(nnx.Module):
    """Layers with a batch norm behind them, by the options of each; `between` is what stands before the first norm."""

    def __init__(self, layer: dict[str, Any], norm: dict[str, Any], between: Any = None):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 6, (3, 3), **layer, rngs=rngs)
        self.bn = nnx.BatchNorm(6, use_running_average=True, **norm, rngs=rngs)
        self.dense = nnx.Linear(6, 3, **layer, rngs=rngs)
        self.a_norm = nnx.BatchNorm(3, use_running_average=True, **norm, rngs=rngs)
        self.between = between

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        x = x if self.between is None else self.between(x)
        x = nnx.relu(self.bn(x))
        return self.a_norm(self.dense(x.max(axis=(1, 2))))


class OneNormed(nnx.Module):
    """A convolution with its batch norm alone."""

    def __init__(self, layer: dict[str, Any], norm: dict[str, Any]):
        self.conv = nnx.Conv(2, 6, (3, 3), rngs=nnx.Rngs(0), **layer)
        self.bn = nnx.BatchNorm(6, use_running_average=True, rngs=nnx.Rngs(0), **norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.conv(x))


def normed(layer: Any = None, norm: Any = None, between: Any = None) -> Normed:
    """By the options of both; without a bias unless they say so."""
    return Normed({"use_bias": False, **(layer or {})}, norm or {}, between)


def one_normed(layer: Any = None, norm: Any = None) -> OneNormed:
    """By the options of both."""
    return OneNormed(layer or {}, norm or {})


class Twice(nnx.Module):
    """Its layer runs twice before its norm does."""

    def __init__(self):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=nnx.Rngs(0))
        self.bn = nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        a, b = self.conv(x), self.conv(x * 2)
        return self.bn(b) + self.bn(a)


class Pair(nnx.Module):
    """Two dense layers, each with a norm."""

    def __init__(self):
        self.a, self.b = (nnx.Linear(8, 8, rngs=nnx.Rngs(i)) for i in (0, 1))
        self.n1, self.n2 = (nnx.BatchNorm(8, use_running_average=True, rngs=nnx.Rngs(0)) for _ in "12")

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.n2(self.b(self.n1(self.a(x))))


class Odd(nnx.Linear):
    """A class that may compute something else."""


class Mixed(nnx.Module):
    """What stays in float, for every reason there is, and a head."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.rnn, self.own = nnx.RNN(nnx.LSTMCell(8, 8, rngs=rngs), rngs=rngs), nnx.Param(jnp.ones(8))
        self.odd, self.norm = Odd(8, 8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(1, 8, decode=False, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(self.odd(self.rnn(x) + self.own[...]))
        return self.head(self.attention(x))


class One(nnx.Module):
    """A single layer."""

    def __init__(self, layer: nnx.Module):
        self.layer = layer

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x)


def one(kind: str, options: dict[str, Any]) -> One:
    """One layer of a kind, of inputs (..., 8), or (..., features)."""
    options = {"rngs": nnx.Rngs(0), **options}
    features = options.pop("features", 8)
    kinds = {
        "dense": lambda: nnx.Linear(features, 2, **options),
        "general": lambda: nnx.LinearGeneral(8, 2, **options),
        "einsum": lambda: nnx.Einsum("...d,de->...e", (8, 2), (2,), **options),
        "conv": lambda: nnx.Conv(8, 2, (1,), **options),
        "wide conv": lambda: nnx.Conv(8, 2, (3,), **options),
        "transposed": lambda: nnx.ConvTranspose(8, 2, (1,), **options),
        "attention": lambda: nnx.MultiHeadAttention(2, 8, decode=False, **options),
    }
    return One(kinds[kind]())


class Dilated(nnx.Module):
    """A convolution of dilated inputs, which Flax refuses with a name for a padding."""

    def __init__(self, padding: str):
        self.layer = nnx.Conv(8, 2, (3,), padding=padding, input_dilation=2, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x)
