"""Run by test_layers_contexts.py on 8 emulated devices: under explicit mesh axes, the bits and the gradients of one."""

from __future__ import annotations

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bits import assert_same
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from layers_support import spec

import jaxquant
from jaxquant import packing, qat, sums
from refquant.estimators import Lsq
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup, PerTensor, PerToken

MESH = jax.make_mesh((2, 4), ("d", "m"), axis_types=(AxisType.Explicit,) * 2)
RNG = np.random.default_rng(0)
X, W, B = (RNG.standard_normal(shape).astype(np.float32) for shape in ((16, 64), (64, 32), (32,)))
IMAGES, TAPS = (RNG.standard_normal(shape).astype(np.float32) for shape in ((8, 6, 6, 4), (3, 3, 4, 8)))
IDS = RNG.integers(0, 64, (16, 3))
INT8, TOKEN = ALL["int8"], spec("int8", PerToken())
#: Of x, of the weight, of the bias, and of the result.
LAYOUTS = {
    "data": (P("d"), P(), P(), P("d", None)),
    "rows": (P(None, "m"), P("m"), P(), P(None, None)),
    "columns": (P("d"), P(None, "m"), P("m"), P("d", "m")),
    "fully": (P("d", "m"), P("d", "m"), P("m"), P("d", "m")),
    "both on one": (P(("d", "m")), P(), P(), P(("d", "m"), None)),
}


def put(array: np.ndarray, layout: P) -> jax.Array:
    return jax.device_put(array, NamedSharding(MESH, layout))


def same(
    function: Callable, *pairs: tuple[np.ndarray, P], want: Any = None, call: str = "", exact: bool = True
) -> None:
    """Eager and jitted, on sharded arrays, the bits of the same on one device; `want`: how the result is sharded."""
    plain = jax.tree.leaves(jax.jit(function)(*(array for array, _ in pairs)))
    for how, run in (("eager", function), ("jit", jax.jit(function))):
        found = jax.tree.leaves(run(*(put(*pair) for pair in pairs)))
        for got, value in zip(found, plain, strict=True):
            if exact:
                assert_same(np.asarray(got), np.asarray(value), call=f"{call} {how}")
            else:
                np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-4, err_msg=f"{call} {how}")
        if want is not None:
            assert jax.typeof(found[0]).sharding.spec == want, (call, how, jax.typeof(found[0]))


def elementwise() -> None:
    scale = np.full((1, 64), 0.1, np.float32)
    options = {"fmt": INT8, "granularity": PerAxis(1)}
    for layout in (P(None, "m"), P(("d", "m"))):
        x, want = (X, layout), P(*layout, *[None] * (2 - len(layout)))
        same(lambda x: jaxquant.quantize(x, scale, **options), x, want=want, call="quantize")
        same(lambda x: jaxquant.dequantize(jaxquant.quantize(x, scale, **options), scale, **options), x, want=want)
        same(lambda x: jaxquant.fake_quantize(x, scale, **options), x, want=want, call="fake_quantize")
        same(jax.grad(lambda x: jnp.sum(jaxquant.fake_quantize(x, scale, **options) ** 2)), x, call="its gradient")
        same(lambda x: jaxquant.encode(x, fmt=ALL["e4m3fn"]), x, want=want, call="encode")
        for grain in (PerTensor(), PerAxis(1), PerGroup(0, 4)):
            tensor = spec("int4", grain)
            same(lambda x, s=tensor: jaxquant.quantize_tensor(x, s), x, want=want, call=f"quantize_tensor {grain}")
            same(lambda x, g=grain: qat.lsq_init(x, fmt=INT8, granularity=g), x, call=f"lsq_init {grain}")
        same(lambda x: jax.vjp(lambda x, s: qat.lsq(x, s, fmt=INT8), x, jnp.float32(0.02))[1](x), x, call="lsq_vjp")
        same(lambda x: sums.tree_sum(x, (0, 1)), x, call="tree_sum")
    same(jax.vmap(lambda x: jaxquant.fake_quantize(x, 0.1, fmt=INT8)), (X, P("d")), want=P("d", None), call="vmap")


def layers() -> None:
    learned = qat.lsq_init(W, fmt=INT8, granularity=PerAxis(1))
    for layout, (on_x, on_w, on_b, want) in LAYOUTS.items():
        operands = (X, on_x), (W, on_w), (B, on_b)
        for grain in (PerAxis(1), PerGroup(0, 16)):

            def dense(x: Any, w: Any, b: Any, s: Any = spec("int8", grain)) -> jax.Array:  # noqa: B008
                return qat.dense(x, qat.Trained(w, spec=s), b, inputs=TOKEN)

            def converted(x: Any, w: Any, b: Any, s: Any = spec("int8", grain)) -> jax.Array:  # noqa: B008
                return qat.dense(x, jaxquant.quantize_tensor(w, s), b, inputs=TOKEN)

            for function in (dense, converted):
                same(function, *operands, want=want, call=f"{layout} {grain}")

        def lsq(x: Any, w: Any, b: Any) -> jax.Array:
            weight = qat.Trained(w, (learned,), spec=spec("int8", PerAxis(1)), estimator=Lsq())
            return jnp.sum(qat.dense(x, weight, b, inputs=TOKEN) ** 2)

        same(jax.grad(lsq, (0, 1, 2)), *operands, call=f"{layout} gradient", exact=False)
        weights = lambda x, w, b: qat.dense(x, qat.Trained(w, spec=spec("int4", PerAxis(1))), b)  # noqa: E731
        same(weights, *operands, want=want, call=f"{layout} weights only", exact=False)
    channels = spec("int8", PerAxis(1))
    turned = lambda x, w: qat.einsum("bk,kn->nb", x, qat.Trained(w, spec=channels), inputs=spec("int8"))  # noqa: E731
    same(turned, (X, P("d")), (W, P(None, "m")), want=P("m", "d"), call="einsum")
    conv = lambda x, w: qat.conv(x, qat.Trained(w, spec=spec("int8", PerAxis(3))), inputs=spec("uint8"))  # noqa: E731
    same(conv, (IMAGES, P("d")), (TAPS, P(None, None, None, "m")), want=P("d", None, None, "m"), call="conv")
    same(conv, (IMAGES, P(None, "d")), (TAPS, P(None, None, "m")), want=P(*[None] * 4), call="conv over space")
    table = lambda i, w: qat.embed(i, qat.Trained(w, spec=spec("int8", PerAxis(0))))  # noqa: E731
    for on_w, want in ((P("m"), P("d", None, None)), (P(None, "m"), P("d", None, "m"))):
        same(table, (IDS, P("d")), (W, on_w), want=want, call="embed")


def refusal() -> None:
    layer = lambda x, w: qat.dense(x, qat.Trained(w, spec=spec("int8", PerAxis(1))), inputs=TOKEN)  # noqa: E731
    x, w = put(X, P("d")), put(W, P(None, "d"))
    try:
        layer(x, w)
    except ValueError as error:
        assert "need 'd' along one of them" in str(error), error
    else:
        raise AssertionError("no error")
    inside = jax.sharding.auto_axes(layer, out_sharding=P("d"))  # what the message says
    assert_same(np.asarray(inside(x, w)), np.asarray(layer(X, W)))
    assert_same(np.asarray(layer(x, jax.sharding.reshard(w, P(None, "m")))), np.asarray(layer(X, W)))


def unset() -> None:
    """JAX's own gradients ask for a set mesh too."""
    for run in (jax.jit(lambda x: jaxquant.quantize(x, 0.1, fmt=INT8)), lambda x: qat.lsq(x, 0.1, fmt=INT8)):
        try:
            run(put(X, P("d")))
        except ValueError as error:
            assert "need jax.set_mesh(mesh) around the call" in str(error), error
        else:
            raise AssertionError("no error")


def others() -> None:
    codes = RNG.integers(-8, 8, (16, 64)).astype(np.int8)
    same(lambda c: packing.pack(c, fmt=ALL["int4"]), (codes, P("d")), call="pack")
    same(lambda a: qat.matmul(a, codes.T, max_a=8, max_b=8), (codes, P("d")), want=P("d", None), call="matmul")
    kernel = codes[:3, None, :4]
    sums = lambda a: qat.convolve(a[..., None], kernel, strides=2, max_a=8, max_b=8)  # noqa: E731
    same(sums, (codes, P("d")), want=P("d", None, None), call="convolve")


def contexts() -> None:
    """Inside transforms, and where other axes of the mesh are manual or automatic."""

    def layer(x: Any) -> jax.Array:
        return qat.dense(x, qat.Trained(W, spec=spec("int8", PerAxis(1))), inputs=TOKEN)

    def square(x: Any) -> jax.Array:
        return x + qat.dense(x, qat.Trained(W @ W.T, spec=spec("int8", PerAxis(1))), inputs=TOKEN)

    same(jax.vmap(layer), (X[:, None], P("d")), want=P("d", None, None), call="vmap")
    same(lambda x: jax.lax.scan(lambda c, _: (square(c), None), x, None, length=2)[0], (X, P("d")), call="scan")
    same(jax.grad(lambda x: jax.checkpoint(layer)(x).sum()), (X, P("d", "m")), call="remat", exact=False)
    want = np.asarray(jaxquant.quantize(X, 0.1, fmt=INT8))
    for names, parts in (({"d"}, P("d")), ({"d", "m"}, P("d", "m"))):
        options = {"in_specs": parts, "out_specs": parts, "axis_names": names}
        manual = jax.jit(jax.shard_map(lambda x: jaxquant.quantize(x, 0.1, fmt=INT8), **options))
        assert_same(np.asarray(manual(put(X, P("d", "m")))), want, call=f"manual {names}")


def mixed() -> None:
    mesh = jax.make_mesh((2, 4), ("d", "m"), axis_types=(AxisType.Explicit, AxisType.Auto))
    with jax.set_mesh(mesh):
        x, w = (jax.device_put(v, NamedSharding(mesh, at)) for v, at in ((X, P("d", "m")), (W, P(None, "m"))))
        got = jax.jit(lambda x, w: qat.dense(x, qat.Trained(w, spec=spec("int8", PerAxis(1))), inputs=TOKEN))(x, w)
        assert jax.typeof(got).sharding.spec == P("d", None)
    want = qat.dense(X, qat.Trained(W, spec=spec("int8", PerAxis(1))), inputs=TOKEN)
    assert_same(np.asarray(got), np.asarray(want), call="mixed")


def main() -> None:
    assert jax.device_count() == 8
    unset()
    with jax.set_mesh(MESH):
        elementwise()
        layers()
        others()
        refusal()
        contexts()
    mixed()
    sys.stdout.write("same bits\n")


if __name__ == "__main__":
    main()
