"""Run by test_promises.py on 8 emulated devices: models whose parameters are sharded over explicit mesh axes."""

from __future__ import annotations

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from bits import assert_same
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxquant.flax import Lsq, Recipe, Rule, linen_api, nnx_api
from jaxquant.flax.nnx_variables import set_value
from tests.flax.linen_models import inputs

MESH = jax.make_mesh((2, 4), ("d", "m"), axis_types=(AxisType.Explicit,) * 2)
X = inputs(16, 64)


def put(array: np.ndarray, layout: P) -> jax.Array:
    return jax.device_put(array, NamedSharding(MESH, layout))


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(64, name="down")(nn.relu(nn.Dense(32, name="up")(x)))


class Twin(nnx.Module):
    def __init__(self):
        self.up, self.down = nnx.Linear(64, 32, rngs=nnx.Rngs(0)), nnx.Linear(32, 64, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.relu(self.up(x)))


def models() -> None:
    """Data and columns split; a step of training gives finite gradients of the parameters' own layouts."""
    floats = Pair().init(jax.random.key(0), X)["params"]
    layouts = {"up": {"kernel": P(None, "m"), "bias": P("m")}, "down": {"kernel": P(None, "m"), "bias": P("m")}}
    sharded = {
        name: {n: put(np.asarray(floats[name][n]), at) for n, at in own.items()} for name, own in layouts.items()
    }
    learned = {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()}
    for rule in ({"weights": "int4:g8", "inputs": "int8"}, learned):
        qmodel = linen_api.Quantized(Pair(), Recipe(Rule("**", **rule)))
        alone, _ = linen_api.prepare(qmodel, floats, X)
        params, _ = linen_api.prepare(qmodel, sharded, put(X, P("d")))
        twin = Twin()
        for name, own in sharded.items():
            for leaf, value in own.items():
                set_value(getattr(getattr(twin, name), leaf), value)
        model, _ = nnx_api.prepare(twin, qmodel.recipe, put(X, P("d")))
        if rule is learned:
            alone = linen_api.calibrate(qmodel, alone, linen_api.observe(qmodel, alone, X))
            for name in alone:
                assert_same(np.asarray(params[name]["kernel_scale"]), np.asarray(alone[name]["kernel_scale"]))
                params[name]["inputs_scale"] = alone[name]["inputs_scale"]
                set_value(getattr(model, name).inputs_scale, alone[name]["inputs_scale"])
            linen_api.observe(qmodel, params, put(X, P("d")))
            nnx_api.observe(nnx.clone(model), put(X, P("d")))
        want, x = np.asarray(jax.jit(qmodel.apply)({"params": alone}, X)), put(X, P("d"))
        run = nnx.jit(lambda m, x: m(x))
        for tree in (params, linen_api.convert(qmodel, params)):
            assert_same(np.asarray(jax.jit(qmodel.apply)({"params": tree}, x)), want, call=f"Linen {rule}")
        for one in (model, nnx_api.convert(model)):
            assert_same(np.asarray(run(one, x)), want, call=f"NNX {rule}")
        found = jax.jit(jax.grad(lambda p, q=qmodel, x=x: jnp.sum(q.apply({"params": p}, x) ** 2)))(params)
        for name, own in sharded.items():
            for leaf, value in own.items():
                assert jax.typeof(found[name][leaf]) == jax.typeof(value) and np.isfinite(found[name][leaf]).all()


def main() -> None:
    assert jax.device_count() == 8
    with jax.set_mesh(MESH):
        models()
    sys.stdout.write("same bits\n")


if __name__ == "__main__":
    main()
