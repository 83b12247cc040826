"""Small Flax models and their examples, for the tests of decide."""

from __future__ import annotations

import jax
import numpy as np
from flax import linen, nnx


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.table = nnx.Embed(32, 16, rngs=rngs)
        self.inner = nnx.Linear(16, 40, rngs=rngs)
        self.twice = self.inner
        self.outer = nnx.Linear(40, 10, rngs=rngs)

    def __call__(self, ids):
        x = self.table(ids).sum(1)
        return self.outer(jax.nn.relu(self.inner(x) + self.twice(x)))


class ConvNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, dense: bool):
        self.conv = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 10, rngs=rngs) if dense else nnx.Conv(8, 10, (1, 1), rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.conv(x)))
        return self.head(x.mean((1, 2))) if isinstance(self.head, nnx.Linear) else self.head(x).mean((1, 2))


class LinenConvNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(10)(jax.nn.relu(linen.Conv(8, (3, 3))(x)).mean((1, 2)))


class LinenNormNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=True)(linen.Conv(8, (3, 3))(x))
        return linen.Dense(10)(jax.nn.relu(x).mean((1, 2)))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(10)(jax.nn.relu(linen.Dense(40)(x)))


def build():
    return Net(nnx.Rngs(0))


def build_linen():
    module = LinenNet()
    return module, module.init(jax.random.key(1), np.zeros((1, 12), np.float32))


def build_norm():
    return ConvNet(nnx.Rngs(0), True)


def build_norm_linen():
    module = LinenNormNet()
    return module, module.init(jax.random.key(1), np.zeros((1, 6, 6, 1), np.float32))


def images():
    return list(np.random.default_rng(6).normal(size=(64, 6, 6, 1)).astype(np.float32))


def ids():
    return list(np.random.default_rng(3).integers(0, 32, (200, 5), np.int32))


def vectors():
    return list(np.random.default_rng(4).normal(size=(200, 12)).astype(np.float32))


def labelled():
    return [(x, int(np.argmax(x) % 10)) for x in vectors()]


def score(output, example) -> float:
    return float(np.argmax(output) == example[1])


def bad_score(output, example) -> float:
    return float("nan")


def broken(output, example) -> float:
    return [][0]


def never(output, example) -> float:
    return 0.0
