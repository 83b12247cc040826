"""Run by test_nnx_state.py on 8 emulated devices: every layout of an NNX model gives the bits of one device."""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from bits import assert_same
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxquant.flax import Lsq, Recipe, Rule, nnx_api
from tests.flax.nnx_models import inputs, near_boundary

#: Of the kernel of the first layer, of the second, and of x.
LAYOUTS = {
    "data": (P(), P(), P("d")),
    "columns": (P(None, "d"), P("d"), P()),
    "rows": (P("d"), P(None, "d"), P()),
    "fully": (P("d"), P("d"), P("d")),
}
SCHEMES = {
    "learned": {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()},
    "groups": {"weights": "int4:g8", "inputs": "int8"},
}


class Pair(nnx.Module):
    def __init__(self):
        self.up, self.down = nnx.Linear(16, 32, rngs=nnx.Rngs(0)), nnx.Linear(32, 16, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.down(nnx.relu(self.up(x)))


def prepared(model: Pair, scheme: str, x: jax.Array) -> Pair:
    return nnx_api.prepare(model, Recipe(Rule("**", **SCHEMES[scheme])), x)[0]


def calibrated(scheme: str, x: np.ndarray) -> Pair:
    """On one device: `observe` runs the float model, whose products no layout promises."""
    qmodel = prepared(near_boundary(Pair()), scheme, x)
    if scheme == "learned":
        nnx_api.observe(qmodel, x)
        nnx_api.calibrate(qmodel)
    return qmodel


@nnx.jit
def run(model: Pair, x: jax.Array) -> jax.Array:
    return model(x)


@nnx.jit
def gradient(model: Pair, x: jax.Array) -> nnx.State:
    return nnx.grad(lambda m: jnp.sum(m(x) ** 2))(model)


def main() -> None:
    mesh, x = Mesh(np.array(jax.devices()), ("d",)), inputs(16, 16)
    for scheme in SCHEMES:
        alone = calibrated(scheme, x)
        want = np.asarray(run(alone, x))
        for layout, (up, down, rows) in LAYOUTS.items():
            model = near_boundary(Pair())
            for layer, spec in ((model.up, up), (model.down, down)):
                layer.kernel[...] = jax.device_put(layer.kernel[...], NamedSharding(mesh, spec))
            given = jax.device_put(x, NamedSharding(mesh, rows))
            qmodel = prepared(model, scheme, given)
            for layer, one in ((qmodel.up, alone.up), (qmodel.down, alone.down)):
                if scheme == "learned":
                    layer.inputs_scale[...] = one.inputs_scale[...]
            assert_same(np.asarray(run(qmodel, given)), want, call=f"{scheme} {layout} trained")
            assert_same(np.asarray(run(nnx_api.convert(qmodel), given)), want, call=f"{scheme} {layout} converted")
            if scheme == "learned":
                found = jax.tree.leaves(gradient(qmodel, given))
                assert all(np.isfinite(np.asarray(leaf)).all() for leaf in found)
    print("same bits")


if __name__ == "__main__":
    main()
