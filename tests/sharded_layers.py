"""Run by test_layers_contexts.py on 8 emulated devices: every layout of the operands gives the reference's bits."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from bits import assert_same
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from layers_support import jax_weight, spec

import jaxquant
from jaxquant import qat as jax_qat
from jaxquant.calibration import mse as jax_mse
from jaxquant.qat import grouped
from refquant import QuantSpec, ScaleRule, calibration, qat, qtensor
from refquant.formats import ALL
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


def multiplied(mesh: Mesh) -> None:
    """Depthwise with several outputs a channel, split over more devices than there are channels."""
    rng, inputs = np.random.default_rng(5), spec("int8")
    parts = (P(), P(None, None, "d"), P()), (P(), P(), P("d")), (P(None, None, None), P(None, None, "d"), P("d"))
    for groups, outputs in ((2, 8), (4, 8), (4, 16), (8, 16)):
        x, w, bias = (rng.standard_normal(n).astype(np.float32) for n in ((2, 5, groups), (2, 1, outputs), outputs))
        weight = qtensor.quantize_tensor(w, spec("int8", PerAxis(2)))
        given = jax_weight(weight)

        def layer(x: jax.Array, codes: jax.Array, b: jax.Array, given=given, groups=groups, how=inputs) -> jax.Array:
            weight = type(given)(codes, given.scale, None, given.spec)
            return jax_qat.conv(x, weight, b, feature_group_count=groups, inputs=how)

        def loss(x: jax.Array, w: jax.Array, b: jax.Array, groups=groups) -> jax.Array:
            weight = jax_qat.Trained(w, spec=spec("int8", PerAxis(2)))
            return (jax_qat.conv(x, weight, b, feature_group_count=groups, inputs=inputs) ** 2).sum()

        want = qat.conv(x, weight, bias, feature_group_count=groups, inputs=inputs)
        floats = np.asarray(jax.jit(lambda *a: layer(*a, how=None))(x, given.codes, bias))
        gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(x, w, bias)
        for on in parts:
            put = [
                jax.device_put(v, NamedSharding(mesh, part)) for v, part in zip((x, given.codes, bias), on, strict=True)
            ]
            assert_same(np.asarray(jax.jit(layer)(*put)), want, call=f"multiplied {groups} {outputs} {on}")
            got = jax.jit(lambda *a: layer(*a, how=None))(*put)
            np.testing.assert_allclose(got, floats, rtol=1e-5, atol=1e-5)
            put[1] = jax.device_put(w, NamedSharding(mesh, on[1]))
            for one, other in zip(jax.jit(jax.grad(loss, (0, 1, 2)))(*put), gradients, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def rows_of_a_table(mesh: Mesh) -> None:
    """A table, its scales and its offsets split by rows: what each device has is added up, and -0 + 0 would be +0."""
    how = QuantSpec(ALL["uint4"], PerAxis(0), ScaleRule(zero="float"))
    parts = np.zeros((8, 4), np.uint8), np.full((8, 1), -0.5, np.float32), np.full((8, 1), -0.0, np.float32)
    split = [jax.device_put(v, NamedSharding(mesh, P("d"))) for v in parts]
    ids = np.arange(8, dtype=np.int32)
    want = qat.embed(ids, qtensor.QTensor(*parts, how))
    assert np.signbit(want).all()
    assert_same(np.asarray(jax.jit(jax_qat.embed)(ids, jaxquant.QTensor(*split, how))), want, call="rows of a table")


def manual(mesh: Mesh) -> None:
    """Inside shard_map, which checks what varies over the devices: loops must start from what varies as they go on."""
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 96), (96, 16)))
    inputs = spec("int8", PerToken())
    weight = qtensor.quantize_tensor(w, spec("int4", PerGroup(0, 32)))
    given, want = jax_weight(weight), qat.dense(x, weight, inputs=inputs)

    def dense(x: jax.Array, codes: jax.Array, scale: jax.Array) -> jax.Array:
        return jax_qat.dense(x, type(given)(codes, scale, None, given.spec), inputs=inputs)

    def check(function: Callable, parts: tuple, out: P, want: np.ndarray, *operands: jax.Array) -> None:
        mapped = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=parts, out_specs=out))
        assert_same(np.asarray(mapped(*operands)), want, call=f"manual {function.__name__} {parts}")

    grouped.AT_ONCE = 64  # sums in tiles of rows
    operands = x, given.codes, given.scale
    check(dense, (P("d"), P(), P()), P("d"), want, *operands)
    check(dense, (P(), P(None, "d"), P(None, "d")), P(None, "d"), want, *operands)
    gradient = jax.grad(lambda x, *w: dense(x, *w).sum())
    check(gradient, (P("d"), P(), P()), P("d"), np.asarray(jax.jit(gradient)(*operands)), *operands)
    found = calibration.mse.search(x, fmt=ALL["int4"], granularity=PerAxis(0))
    for end in (0, 1):
        search = lambda x, end=end: jax_mse.search(x, fmt=ALL["int4"], granularity=PerAxis(0))[end]  # noqa: E731
        check(search, (P("d"),), P("d"), found[end], x)
    for observer in (calibration.ema, calibration.histogram, calibration.minmax, calibration.percentile):
        check_observer(observer, x, mesh)
    tokens = qtensor.quantize_tensor(x, inputs).codes
    check(lambda x: jaxquant.quantize_tensor(x, inputs).codes, (P("d"),), P("d"), tokens, x)


def training(mesh: Mesh) -> None:
    """Replicated parameters meet examples that vary: their gradients are summed over the devices."""
    rng = np.random.default_rng(4)
    x, w, bias, scale = (rng.standard_normal(n).astype(np.float32) for n in ((16, 24), (24, 8), 8, ()))

    def loss(x: jax.Array, w: jax.Array, bias: jax.Array, scale: jax.Array) -> jax.Array:
        y = jax_qat.dense(
            x, jax_qat.Trained(w, spec=spec("int8", PerAxis(1))), bias=bias, inputs=spec("int8", PerToken())
        )
        return jnp.sum(jax_qat.lsq(y, jnp.abs(scale), fmt=ALL["int4"]))

    gradient = jax.grad(loss, (0, 1, 2, 3))
    parts = P("d"), P(), P(), P()
    got = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=parts, out_specs=parts))(x, w, bias, scale)
    local = [jax.jit(gradient)(rows, w, bias, scale) for rows in np.split(x, 8)]
    assert_same(np.asarray(got[0]), np.concatenate([g[0] for g in local]), call="manual gradient of x")
    for one, parts in zip(got[1:], list(zip(*local, strict=True))[1:], strict=True):
        np.testing.assert_allclose(one, np.sum(parts, 0, dtype=np.float64), rtol=1e-5, atol=1e-5)


def check_observer(observer: ModuleType, x: np.ndarray, mesh: Mesh) -> None:
    """A state that is the same on all devices meets rows that are not, and is merged with what has seen them."""

    def ends(module: ModuleType, rows: np.ndarray | jax.Array) -> tuple:
        seen = module.update(module.update(module.init(), rows), rows[::-1])
        return module.finalize(module.merge(module.init(), seen))

    twin = importlib.import_module(observer.__name__.replace("refquant", "jaxquant"))
    mapped = jax.shard_map(lambda x: [v[None] for v in ends(twin, x)], mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    pairs = zip(jax.jit(mapped)(x), zip(*(ends(observer, rows) for rows in np.split(x, 8)), strict=True), strict=True)
    for got, want in pairs:
        assert_same(np.asarray(got), np.stack(want), call=f"manual {observer.__name__}")


def main() -> None:
    assert jax.device_count() == 8
    mesh = Mesh(np.array(jax.devices()), ("d",))
    for layout in LAYOUTS:
        for granularity in (PerAxis(1), PerGroup(0, 65)):
            dense(mesh, layout, granularity)
    conv(mesh)
    multiplied(mesh)
    rows_of_a_table(mesh)
    manual(mesh)
    training(mesh)
    sys.stdout.write("same bits\n")


if __name__ == "__main__":
    main()
