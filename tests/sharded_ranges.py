"""Run by test_own_scale.py on 8 emulated devices: ranges and scales along axes of which a device has one element."""

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

from jaxquant import quantize_tensor
from jaxquant import scales as jax_scales
from refquant import qtensor, scales
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup, PerTensor
from refquant.spec import QuantSpec, ScaleRule

GRAINS = (PerAxis(1), PerAxis(0), PerGroup(0, 2), PerGroup(0, 4), PerTensor())
RULES = (("int8", ScaleRule()), ("uint8", ScaleRule(zero="int")), ("int4", ScaleRule(storage="float16")))


def main() -> None:
    assert jax.device_count() == 8
    usual = np.abs(np.random.default_rng(0).standard_normal((8, 16))).astype(np.float32) + np.float32(1)
    for axes in (P("d"), P("d", None), P(None, "d")):
        over = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), axes)
        for values in (usual, -usual, usual * 0, usual * np.float32(2.0**-110)):
            placed = jax.device_put(values, over)
            for grain in GRAINS:
                call = f"{axes} {grain}"
                want = scales.range_of(values, granularity=grain)
                for got, one in zip(jax_scales.range_of(placed, granularity=grain), want, strict=True):
                    assert_same(np.asarray(got), one, call=f"range_of {call}")
                for name, rule in RULES:
                    spec = QuantSpec(ALL[name], grain, rule)
                    got, want_q = quantize_tensor(placed, spec), qtensor.quantize_tensor(values, spec)
                    assert_same(np.asarray(got.scale), want_q.scale, call=f"{call} {name}")
                    assert_same(np.asarray(got.codes), want_q.codes, call=f"{call} {name}")
    sys.stdout.write("same bits\n")


if __name__ == "__main__":
    main()
