"""Transposed convolutions with every option: Linen, NNX, converted and NumPy, and the float layer they follow."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import linen as nn
from flax import nnx

from jaxquant.flax import Lsq, Recipe, Rule, linen_api, nnx_api
from jaxquant.flax.linen_api import Quantized
from jaxquant.flax.mark import is_mark
from jaxquant.flax.nnx_variables import set_value
from refquant import qat
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup
from refquant.qtensor import dequantize_tensor, quantize_tensor
from refquant.spec import QuantSpec
from tests.flax.linen_models import full_init, inputs

TOKEN = {"weights": "int4", "inputs": "int8:token:asym"}
LEARNED = {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()}
#: Sizes of space, taps, strides, dilation of the kernel.
WINDOWS = {
    "one": ((5,), (3,), (2,), 1),
    "even": ((4, 3), (4, 2), (1, 3), 1),
    "dilated": ((3, 4), (3, 2), (2, 1), 2),
    "strides over taps": ((3,), (2,), (5,), 1),
    "taps over space": ((2,), (9,), (2,), 1),
}


def options(window: str, mirrored: bool, padding: Any) -> tuple[np.ndarray, tuple[int, ...], dict[str, Any]]:
    space, taps, strides, dilation = WINDOWS[window]
    named = {"strides": strides, "kernel_dilation": dilation, "padding": padding, "transpose_kernel": mirrored}
    return inputs(2, *space, 3, seed=len(window)), taps, named


@pytest.mark.parametrize("padding", ["CIRCULAR", "SAME", "VALID"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_transposed_differential_reads_where_flax_reads(window: str, mirrored: bool, padding: str) -> None:
    """With small whole numbers every sum is exact, in Flax's float layer and on codes: the same bits."""
    x, taps, named = options(window, mirrored, padding)
    rng = np.random.default_rng(1)
    layer = nn.ConvTranspose(4, taps, **named)
    x = rng.integers(-127, 128, x.shape).astype(np.float32)
    x[:, 0] = 127  # so that a step is 1
    kernel = rng.integers(-7, 8, layer.init(jax.random.key(0), x)["params"]["kernel"].shape).astype(np.float32)
    kernel[0] = 7
    params = {"kernel": jnp.asarray(kernel), "bias": jnp.arange(4, dtype=jnp.float32)}
    qmodel = Quantized(layer, Recipe(Rule("**", weights="int4", inputs="int8")))
    assert_same(qmodel.apply({"params": params}, x), layer.apply({"params": params}, x) + np.float32(0))


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
@pytest.mark.parametrize("scheme", [TOKEN, LEARNED], ids=["token", "learned"])
@pytest.mark.parametrize("window", ["even", "dilated"])
def test_mirrored_differential_in_linen_and_nnx_converted_is_trained(window: str, scheme: dict, padding: str) -> None:
    x, taps, named = options(window, True, padding)
    recipe, layer = Recipe(Rule("**", **scheme)), nn.ConvTranspose(4, taps, **named)
    floats = full_init(layer, x)
    qmodel = Quantized(layer, recipe)
    params, report = linen_api.prepare(qmodel, floats, x)
    assert report[""].weights.startswith(f"int4:axis{len(taps)}")
    twin = nnx.ConvTranspose(3, 4, taps, **named, rngs=nnx.Rngs(0))
    for name, leaf in floats.items():
        set_value(getattr(twin, name), leaf)
    model, _ = nnx_api.prepare(twin, recipe, x)
    if scheme is LEARNED:
        params = linen_api.calibrate(qmodel, params, linen_api.observe(qmodel, params, x))
        nnx_api.observe(model, x)
        nnx_api.calibrate(model)
    want = qmodel.apply({"params": params}, x)
    assert 0 < np.linalg.norm(want - layer.apply({"params": floats}, x)) / np.linalg.norm(want) < 0.3
    for got in (model(x), nnx_api.convert(model)(x), qmodel.apply({"params": linen_api.convert(qmodel, params)}, x)):
        assert_same(got, want)
    gradient = jax.grad(lambda p: (qmodel.apply({"params": p}, x) ** 2).sum())(params)
    other = nnx.to_pure_dict(nnx.grad(lambda m: (m(x) ** 2).sum())(model))
    for name, leaf in gradient.items():
        assert is_mark(name) or (np.any(leaf) and np.allclose(leaf, other[name], rtol=1e-4)), name


def test_mirrored_differential_is_the_reference_convolution() -> None:
    """refquant's convolution with the kernel turned round, on codes of the stored one."""
    x, taps, named = options("even", True, "VALID")
    layer = nn.ConvTranspose(4, taps, **named)
    floats = full_init(layer, x)
    stored = quantize_tensor(np.asarray(floats["kernel"]), QuantSpec(ALL["int4"], PerAxis(2)))
    kernel = np.flip(np.asarray(floats["kernel"]), (0, 1)).swapaxes(-1, -2)
    turned = quantize_tensor(kernel, QuantSpec(ALL["int4"], PerAxis(3)))
    assert_same(turned.codes, np.flip(stored.codes, (0, 1)).swapaxes(-1, -2))
    want = qat.conv(
        x, turned, np.asarray(floats["bias"]), input_dilation=(1, 3), padding=((3, 3), (1, 2)),
        inputs=QuantSpec(ALL["int8"], PerAxis(0)),
    )  # fmt: skip
    qmodel = Quantized(layer, Recipe(Rule("**", weights="int4", inputs="int8")))
    assert_same(qmodel.apply({"params": floats}, x), want)
    assert_same(linen_api.convert(qmodel, floats, x)["kernel"].codes, stored.codes)


def test_mirrored_differential_groups_of_channels_are_the_same_groups() -> None:
    """Weights alone, in groups of input channels: as the kernel that is turned round by hand."""
    x, taps, named = options("even", True, "VALID")
    layer, spec = nn.ConvTranspose(4, taps, **named), QuantSpec(ALL["int4"], PerGroup(3, 2))
    floats = full_init(layer, x)
    qmodel = Quantized(layer, Recipe(Rule("**", weights=spec)))
    params, _ = linen_api.prepare(qmodel, floats, x)
    got = qmodel.apply({"params": params}, x)
    assert_same(qmodel.apply({"params": linen_api.convert(qmodel, params)}, x), got)
    stored = dequantize_tensor(quantize_tensor(np.asarray(floats["kernel"]), spec))
    assert_same(got, layer.apply({"params": {**floats, "kernel": stored}}, x))


def test_mirrored_property_what_it_cannot_is_said() -> None:
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.ConvTranspose(3, (2,), transpose_kernel=True, name="up")(x)
            return nn.BatchNorm(use_running_average=True, name="bn")(x)

    class Twin(nnx.Module):
        def __init__(self) -> None:
            self.up = nnx.ConvTranspose(3, 3, (2,), transpose_kernel=True, rngs=nnx.Rngs(0))
            self.bn = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    x, recipe = inputs(2, 4, 3), Recipe(Rule("up", weights="int8", fold="bn"))
    variables = Normed().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="layer 'up': fold with transpose_kernel"):
        linen_api.prepare(
            Quantized(Normed(), recipe), variables["params"], x, collections={"batch_stats": variables["batch_stats"]}
        )
    with pytest.raises(ValueError, match="layer 'up': fold with transpose_kernel"):
        nnx_api.prepare(Twin(), recipe)
    grouped = Recipe(Rule("**", weights=QuantSpec(ALL["int4"], granularity=PerGroup(0, 2))))  # along taps
    layer = nn.ConvTranspose(3, (2,), transpose_kernel=True)
    with pytest.raises(ValueError, match="transpose_kernel with weights"):
        linen_api.prepare(Quantized(layer, grouped), full_init(layer, x), x)
