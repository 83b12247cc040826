"""Run by test_layers_contexts.py on 8 emulated devices: every layout of the operands gives the reference's bits."""

from __future__ import annotations

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from bits import assert_same
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from layers_support import jax_weight, spec

from jaxquant import qat as jax_qat
from refquant import qat, qtensor
from refquant.granularity import PerAxis, PerGroup, PerToken

LAYOUTS = {"data": (P("d"), P()), "rows": (P(None, "d"), P("d")), "columns": (P(), P(None, "d"))}


def dense(mesh: Mesh, layout: str, granularity: object) -> None:
    rng = np.random.default_rng(1)
    weight = qtensor.quantize_tensor(rng.standard_normal((1040, 16)).astype(np.float32), spec("int8", granularity))
    x, inputs = rng.standard_normal((16, 1040)).astype(np.float32), spec("int8", PerToken())
    on_x, on_w = (NamedSharding(mesh, part) for part in LAYOUTS[layout])
    given = jax_weight(weight)
    given = type(given)(jax.device_put(given.codes, on_w), given.scale, None, given.spec)
    got = jax.jit(lambda x, w: jax_qat.dense(x, w, inputs=inputs))(jax.device_put(x, on_x), given)
    assert_same(np.asarray(got), qat.dense(x, weight, inputs=inputs), call=f"{layout} {granularity}")


def conv(mesh: Mesh) -> None:
    rng = np.random.default_rng(2)
    weight = qtensor.quantize_tensor(rng.standard_normal((3, 3, 4, 8)).astype(np.float32), spec("int8", PerAxis(3)))
    x, inputs = rng.standard_normal((8, 6, 6, 4)).astype(np.float32), spec("uint8")
    got = jax.jit(lambda x, w: jax_qat.conv(x, w, inputs=inputs))(
        jax.device_put(x, NamedSharding(mesh, P("d"))), jax_weight(weight)
    )
    assert_same(np.asarray(got), qat.conv(x, weight, inputs=inputs), call="conv")


def main() -> None:
    assert jax.device_count() == 8
    mesh = Mesh(np.array(jax.devices()), ("d",))
    for layout in LAYOUTS:
        for granularity in (PerAxis(1), PerGroup(0, 65)):
            dense(mesh, layout, granularity)
    conv(mesh)
    sys.stdout.write("same bits\n")


if __name__ == "__main__":
    main()
