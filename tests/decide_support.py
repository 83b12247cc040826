"""Models under a scheme, in decide and in jaxquant.flax, for the tests of decide's rows with inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxquant import qat
from jaxquant.decide.bars import parse_bar
from jaxquant.decide.opening import target_of
from jaxquant.decide.run import Ladder
from jaxquant.decide.workloads.examples import open_examples
from jaxquant.flax import linen_api, nnx_api

BAR = parse_bar("same>=1%")


def with_variables(module, examples):
    batch = open_examples(examples).batches(1)[0]
    variables = module.init(jax.random.key(0), *batch)
    return module, jax.tree.map(lambda v: v + jnp.arange(v.size).reshape(v.shape) / (100 * v.size), variables)


def ladder_of(model, examples):
    return Ladder(target_of(model, "net"), open_examples(examples), BAR)


def converted(model, recipe, batch):
    """The outputs of what jaxquant.flax makes of the same model by a recipe."""
    if isinstance(model, nnx.Module):
        model = nnx.clone(model)
        model.eval()
        quantized = nnx_api.convert(nnx_api.prepare(model, recipe, batch)[0])
        return nnx.jit(lambda model, *args: model(*args))(quantized, *batch)
    module, variables = model
    rest = {name: value for name, value in variables.items() if name != "params"}
    quantized = linen_api.Quantized(module, recipe)
    params, _ = linen_api.prepare(quantized, variables["params"], *batch, collections=rest)
    params = linen_api.convert(quantized, params, collections=rest)
    return jax.jit(quantized.apply)({**rest, "params": params}, *batch)


def trained(ladder, plans):
    masters = {p.info.name: jnp.asarray(np.asarray(ladder.target.tensor(p.info.name), np.float32)) for p in plans}
    return {p.info.name: qat.Trained(masters[p.info.name], spec=p.spec) for p in plans if p.scheme}


def assert_same(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert got.tobytes() == want.tobytes()


def rows(shape, count=12, seed=4):
    return list(np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32))
