"""Linen models for the tests: every kind of layer at once, and every transform that Flax puts around layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from strategies import halves


def inputs(*shape: int, seed: int = 0) -> np.ndarray:
    """Values of which many lie within 2 ulp of half a step of their own range."""
    rng = np.random.default_rng(seed)
    values = rng.choice(np.concatenate([halves(1 / 127, -127, 127), halves(1 / 7, -7, 7)]), shape)
    values.reshape(-1)[:1] = 1
    return values.astype(np.float32)


def near_boundary(params: Any) -> Any:
    """Kernels with values at half steps of their scales; other leaves random."""
    rng = np.random.default_rng(0)

    def new(path: tuple, leaf: Any) -> Any:
        name = path[-1].key
        if name not in ("kernel", "embedding"):
            return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
        return jnp.asarray(inputs(*leaf.shape, seed=leaf.size) * rng.choice([0.5, 1, 3]), leaf.dtype)

    return jax.tree_util.tree_map_with_path(new, params)


class Zoo(nn.Module):
    """One layer of every kind on one input (4, 6, 8); a dict of results."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        named = {"dtype": self.dtype}
        table = nn.Embed(11, 8, **named, name="embed")
        ids = jnp.arange(6).reshape(2, 3) * 3 - 4
        grid = x.reshape(4, 6, 4, 2)
        return {
            "dense": nn.Dense(5, **named, name="dense")(x),
            "general": nn.DenseGeneral((2, 3), axis=(-2, -1), **named, name="general")(x),
            "batched": nn.DenseGeneral(3, axis=-1, batch_dims=(0,), **named, name="batched")(x),
            "einsum": nn.Einsum((8, 2, 3), "...d,dhe->...he", **named, name="einsum")(x),
            "conv": nn.Conv(6, (3,), strides=2, padding="CAUSAL", **named, name="conv")(x),
            "dilated": nn.Conv(3, (2, 2), kernel_dilation=2, **named, name="dilated")(grid),
            "depthwise": nn.Conv(8, 3, feature_group_count=8, padding="CIRCULAR", **named, name="depthwise")(x),
            "transposed": nn.ConvTranspose(3, (3, 2), strides=(2, 1), **named, name="transposed")(grid),
            "rows": table(ids),
            "attended": table.attend(x),
        }


class Block(nn.Module):
    """A residual block, in the form of a scan's body."""

    @nn.compact
    def __call__(self, x: jax.Array, _: Any = None) -> tuple[jax.Array, None]:
        return x + nn.Dense(x.shape[-1], name="up")(nn.relu(x)), None


class Exact(nn.Module):
    """A model with exact steps between its layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3,), name="conv")(x))
        x = x + nn.Dense(8, name="dense")(x)
        return nn.Dense(3, name="head")(nn.max_pool(x, (2,), (2,)))


class Stack(nn.Module):
    """Blocks under one of Flax's transforms."""

    kind: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.blocks(x)

    def blocks(self, x: jax.Array) -> jax.Array:
        split, stacked = {"params": True}, {"params": 0}
        if self.kind == "scan":
            return nn.scan(Block, variable_axes=stacked, split_rngs=split, length=3)(name="layers")(x, None)[0]
        if self.kind == "scan of remat":
            body = nn.remat(Block, prevent_cse=False)
            return nn.scan(body, variable_axes=stacked, split_rngs=split, length=3)(name="layers")(x, None)[0]
        if self.kind == "nested":
            inner = nn.scan(Block, variable_axes=stacked, split_rngs=split, length=3)
            return nn.scan(inner, variable_axes=stacked, split_rngs=split, length=2)(name="layers")(x, None)[0]
        if self.kind == "shared scan":
            return nn.scan(Block, variable_broadcast="params", split_rngs={"params": False}, length=3)(name="layers")(
                x, None
            )[0]
        if self.kind == "vmap":
            return nn.vmap(Block, variable_axes=stacked, split_rngs=split)(name="layers")(x)[0]
        if self.kind == "shared vmap":
            return nn.vmap(Block, variable_axes={"params": None}, split_rngs={"params": False})(name="layers")(x)[0]
        if self.kind == "jit":
            return nn.jit(Block)(name="layers")(x)[0]
        if self.kind == "remat of one":
            return nn.remat(nn.Dense)(x.shape[-1], name="layers")(x)
        if self.kind == "plain":
            return Block(name="layers")(x)[0]
        if self.kind == "shared":
            block = Block(name="layers")
            return block(block(x)[0])[0]
        return nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(8)], name="layers")(x)


STACKS = ("scan", "scan of remat", "shared scan", "vmap", "shared vmap", "jit", "remat of one", "shared", "sequential")


class Tied(nn.Module):
    """A small decoder in setup style: a tied table, attention, a norm, and a second method."""

    def setup(self) -> None:
        self.table = nn.Embed(13, 8)
        self.attention = nn.MultiHeadDotProductAttention(num_heads=2)
        self.norm = nn.LayerNorm()
        self.only = nn.Dense(2)

    def __call__(self, ids: jax.Array) -> jax.Array:
        x = self.table(ids)
        return self.table.attend(self.norm(x + self.attention(x)))

    def pooled(self, ids: jax.Array) -> jax.Array:
        return self.only(self.table(ids).max(axis=-2))

    def attended(self, x: jax.Array, mask: Any = None) -> jax.Array:
        return self.attention(x, mask=mask)

    def everything(self, ids: jax.Array) -> Any:
        return self(ids), self.pooled(ids)


class Two(nn.Module):
    """Two dense layers and a method that runs the first alone; the names are those that layers have beside kernels."""

    names: tuple[str, str] = ("first", "second")

    def setup(self) -> None:
        for name in self.names:
            setattr(self, name, nn.Dense(8))

    def __call__(self, x: jax.Array) -> jax.Array:
        return getattr(self, self.names[1])(self.half(x))

    def half(self, x: jax.Array) -> jax.Array:
        return getattr(self, self.names[0])(x)


class Own(nn.Module):
    """A layer, and a parameter of the user's own with the name of a layer's step."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(4, name="dense")(x) * self.param("step", nn.initializers.ones, ())


Options = tuple[tuple[str, Any], ...]  # modules are hashed, so no dicts


class Normed(nn.Module):
    """Layers with a batch norm behind them, by the options of each; `between` is what stands before the first norm."""

    layer: Options
    norm: Options
    between: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        layer, norm = dict(self.layer), {"use_running_average": not train, **dict(self.norm)}
        x = nn.Conv(6, (3, 3), **layer, name="conv")(x)
        x = x if self.between is None else self.between(x)
        x = nn.relu(nn.BatchNorm(**norm, name="bn")(x))
        return nn.BatchNorm(**norm, name="a_norm")(nn.Dense(3, **layer, name="dense")(x.max(axis=(1, 2))))


class OneNormed(nn.Module):
    """A convolution with its batch norm alone."""

    layer: Options
    norm: Options

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        norm = nn.BatchNorm(use_running_average=not train, **dict(self.norm), name="bn")
        return norm(nn.Conv(6, (3, 3), **dict(self.layer), name="conv")(x))


def normed(layer: Any = None, norm: Any = None, between: Any = None) -> Normed:
    """By the options of both; without a bias unless they say so."""
    return Normed(tuple({"use_bias": False, **(layer or {})}.items()), tuple((norm or {}).items()), between)


def one_normed(layer: Any = None, norm: Any = None) -> OneNormed:
    """By the options of both."""
    return OneNormed(tuple((layer or {}).items()), tuple((norm or {}).items()))


class Twice(nn.Module):
    """Its layer runs twice before its norm does."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, norm = nn.Conv(4, (3, 3), name="conv"), nn.BatchNorm(use_running_average=True, name="bn")
        a, b = conv(x), conv(x * 2)
        return norm(b) + norm(a)


class Pair(nn.Module):
    """Two dense layers, each with a norm."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer, norm in (("a", "n1"), ("b", "n2")):
            x = nn.BatchNorm(use_running_average=True, name=norm)(nn.Dense(8, name=layer)(x))
        return x


class Odd(nn.Dense):
    """A class that may compute something else."""


class Mixed(nn.Module):
    """What stays in float, for every reason there is, and a head."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.RNN(nn.LSTMCell(8, name="cell"), name="rnn")(x) + self.param("own", nn.initializers.ones, (8,))
        x = nn.LayerNorm(name="norm")(Odd(8, name="odd")(x))
        return nn.Dense(2, name="head")(nn.MultiHeadDotProductAttention(1, name="attention")(x))


class One(nn.Module):
    """A single layer."""

    layer: nn.Module

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x)


def one(kind: str, options: dict[str, Any]) -> One:
    """One layer of a kind, of inputs (..., 8), or (..., features)."""
    options = {name: option for name, option in options.items() if name != "features"}
    kinds = {
        "dense": lambda: nn.Dense(2, **options),
        "general": lambda: nn.DenseGeneral(2, **options),
        "einsum": lambda: nn.Einsum((8, 2), "...d,de->...e", **options),
        "conv": lambda: nn.Conv(2, (1,), **options),
        "wide conv": lambda: nn.Conv(2, (3,), **options),
        "transposed": lambda: nn.ConvTranspose(2, (1,), **options),
        "attention": lambda: nn.MultiHeadDotProductAttention(2, **options),
    }
    return One(kinds[kind]())


class Dilated(nn.Module):
    """A convolution of dilated inputs, which Flax refuses with a name for a padding; its parameters are there."""

    padding: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = ((1, 1),) if self.is_initializing() else self.padding
        return nn.Conv(2, (3,), padding=padding, input_dilation=2, name="layer")(x)


def statistics(variables: Any) -> Any:
    """Other collections than the parameters: means that lie anywhere, variances above zero."""

    def new(path: tuple, leaf: Any) -> Any:
        mean = path[-1].key == "mean"
        value = inputs(*leaf.shape, seed=1) if mean else np.abs(inputs(*leaf.shape, seed=2)) + np.float32(0.1)
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(new, {name: v for name, v in variables.items() if name != "params"})


def variables_of(model: nn.Module, *args: Any) -> tuple[Any, Any]:
    """Near-boundary parameters of all methods, and the other collections; nothing is compiled."""
    method = getattr(type(model), "everything", None)
    shapes = jax.eval_shape(lambda *args: model.init(jax.random.key(0), *args, method=method), *args)
    return near_boundary(shapes["params"]), statistics(shapes)


class Encoder(nn.Module):
    """A table that its call looks up in, and a second method that attends to it."""

    def setup(self) -> None:
        self.table, self.inner = nn.Embed(13, 8), nn.Dense(8)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return nn.relu(self.inner(self.table(ids)))

    def logits(self, ids: jax.Array) -> jax.Array:
        return self.table.attend(self(ids))


def full_init(model: nn.Module, *args: Any, **options: Any) -> Any:
    """Float parameters with near-boundary kernels; nothing is compiled."""
    shapes = jax.eval_shape(lambda *args: model.init(jax.random.key(0), *args, **options), *args)
    return near_boundary(shapes["params"])
