"""Run by test_contexts.py on 8 emulated devices: a model in training and converted has one result in every layout."""

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
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxquant.flax import Lsq, Recipe, Rule, linen_api
from tests.flax.linen_models import full_init, inputs

#: layout -> (the batch, the first kernel, the second kernel) on the axes "data" (2) and "model" (4)
LAYOUTS = {
    "data": (P(("data", "model")), P(), P()),
    "columns": (P("data"), P(None, "model"), P(None, "model")),
    "rows": (P("data"), P("model"), P("model")),
    "columns then rows": (P(), P(None, "model"), P("model")),
    "fully sharded": (P(("data", "model")), P(("data", "model")), P(("data", "model"))),
}
RECIPES = {
    "token": Rule("**", weights="int4", inputs="int8:token"),
    "tensor": Rule("**", weights="int8:tensor", inputs="uint8:tensor:asym"),
    "groups": Rule("**", weights="int4:g16", inputs="int8:token"),
    "learned": Rule("**", weights="int3", inputs="int8:tensor", weight_estimator=Lsq(), input_estimator=Lsq()),
}


class Residual(nn.Module):
    """Two layers with exact steps between them (the model contract)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.relu(nn.Dense(64, name="up")(x))
        return x + nn.Dense(64, name="down")(hidden)


def placed(mesh: Mesh, params: dict, layout: str) -> dict:
    """Kernels laid out; what stands beside them is on every device."""
    _, up, down = LAYOUTS[layout]

    def put(path: tuple, leaf: jax.Array) -> jax.Array:
        wide = leaf.ndim == 2 and min(leaf.shape) == 64
        part = (up if path[0].key == "up" else down) if wide else P()
        return jax.device_put(leaf, NamedSharding(mesh, part))

    return jax.tree_util.tree_map_with_path(put, params)


def main() -> None:
    assert jax.device_count() == 8
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
    x, model = jnp.asarray(inputs(16, 64)), Residual()
    params = full_init(model, x)
    for name, rule in RECIPES.items():
        qmodel = linen_api.Quantized(model, Recipe(rule))
        ready, _ = linen_api.prepare(qmodel, params, x)
        if name == "learned":
            ready = linen_api.calibrate(qmodel, ready, linen_api.observe(qmodel, ready, x))
        run = jax.jit(lambda p, x, q=qmodel: q.apply({"params": p}, x))
        trained = jax.jit(jax.value_and_grad(lambda p, x, q=qmodel: q.apply({"params": p}, x)[0, 0]))
        want = np.asarray(run(ready, x))
        for layout, (batch, *_) in LAYOUTS.items():
            if name != "token" and layout not in ("rows", "fully sharded"):
                continue  # compiling takes seconds each
            sharded = placed(mesh, ready, layout)
            given = jax.device_put(x, NamedSharding(mesh, batch))
            assert_same(np.asarray(run(sharded, given)), want, call=f"{name} {layout}")
            if name == "token":
                assert_same(np.asarray(trained(sharded, given)[0]), want[0, 0], call=f"{name} {layout} with gradients")
            fixed = linen_api.convert(qmodel, sharded)
            assert_same(np.asarray(run(fixed, given)), want, call=f"{name} {layout} converted where it lies")
    sys.stdout.write("same bits\n")


if __name__ == "__main__":
    main()
