"""The quantized layers against the third opinion: Python ints and Fractions (specs/60-layers.md)."""

from __future__ import annotations

import itertools

import exact_affine
import exact_layers
import numpy as np
import pytest
from bits import assert_same, bits_of, float32
from layers_support import ASYM, inputs, jax_weight, spec

from refquant import qat, qtensor
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup, PerTensor, PerToken
from refquant.windows import window


def ints(values: np.ndarray) -> list[int]:
    """Binary32 patterns."""
    return [int(b) for b in bits_of(np.asarray(values, np.float32)).reshape(-1)]


def of(backend: object, weight: qtensor.QTensor) -> object:
    return jax_weight(weight) if backend.name == "jaxquant" else weight


def own_codes(row: list[int], inputs: object) -> tuple[list[int], int]:
    """LAY-4: the centred codes of one row and its scale."""
    low, high = exact_affine.range_of(row)
    scale, zero = exact_affine.choose_scale(low, high, fmt=inputs.fmt, rule=inputs.scale)
    codes = [exact_affine.quantize(v, scale, zero, fmt=inputs.fmt) for v in row]
    return [code - (zero or 0) for code in codes], scale


DENSE = [
    (grain, inputs, asym, dtype)
    for (grain, asym), (inputs, dtype) in zip(
        itertools.product((PerTensor(), PerAxis(1), PerGroup(0, 4), PerGroup(0, 3)), (False, True)),
        itertools.cycle((("int8", "float32"), ("uint8", "bfloat16"), ("int4", "float16"))),
        strict=False,
    )
]


@pytest.mark.parametrize(("grain", "fmt", "asym", "dtype"), DENSE, ids=str)
def test_dense_differential_third_opinion(backend: object, grain: object, fmt: str, asym: bool, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(DENSE.index((grain, fmt, asym, dtype)))
    weight = qtensor.quantize_tensor(rng.standard_normal((10, 3)).astype(np.float32), spec("int4", grain, asym))
    x, how = inputs(rng, (4, 10), np.float32(0.21), special=False), spec(fmt, PerToken())
    bias = rng.standard_normal(3).astype(np.float32)
    tile = grain.tile((10, 3))
    size = tile[0] if isinstance(grain, PerGroup) else 10
    spread = (
        [np.broadcast_to(v, grain.scale_shape((10, 3)) or (1, 1)) for v in (weight.scale, weight.zero_point or 0)]
        if weight.zero_point is None or weight.zero_point.ndim == 0
        else [weight.scale, weight.zero_point]
    )
    scales, zeros = (np.atleast_2d(v) for v in spread)
    want = []
    for row in x:
        a, s_x = own_codes(ints(row), how)
        for n in range(3):
            at = min(n, scales.shape[1] - 1)
            w = [int(weight.codes[k, n]) - int(zeros[min(k // size, len(zeros) - 1), at]) for k in range(10)]
            want.append(exact_layers.dense(a, w, ints(scales[:, at]), size, s_x, ints(bias)[n], dtype))
    got = backend.qat.dense(x, of(backend, weight), bias, inputs=how, dtype=dtype)
    assert_same(got.astype(np.float32), float32(want).reshape(4, 3))


CONVS = [
    ((1, 5, 4, 2), (3, 2, 2, 3), {"strides": 2}),
    ((1, 5, 4, 2), (2, 3, 2, 3), {"padding": "SAME_LOWER", "kernel_dilation": (1, 2)}),
    ((1, 4, 4, 4), (3, 3, 2, 4), {"feature_group_count": 2, "padding": "VALID"}),
    ((1, 4, 3, 2), (3, 3, 1, 4), {"feature_group_count": 2, "padding": 1}),
    ((1, 4, 3), (3, 3, 2), {"input_dilation": 3, "padding": ((2, -1),)}),
    ((1, 6, 1), (2, 1, 2), {"padding": ((-2, 3),), "strides": (2,)}),
    ((1, 3, 2, 3, 1), (2, 2, 2, 1, 2), {"padding": (1, (0, 2), (1, 0))}),
]


@pytest.mark.parametrize(("shape", "kernel", "options"), CONVS, ids=str)
def test_conv_differential_third_opinion(backend: object, shape: tuple, kernel: tuple, options: dict) -> None:
    rng = np.random.default_rng(len(str(options)))
    weight = qtensor.quantize_tensor(rng.standard_normal(kernel).astype(np.float32), spec("int8", PerAxis(-1)))
    how, scale, zero = spec("uint8"), np.float32(0.013), 77
    x = inputs(rng, shape, scale, special=True)
    codes = np.reshape([exact_affine.quantize(v, ints(scale)[0], zero, fmt=how.fmt) for v in ints(x)], shape)
    bias = rng.integers(-500, 500, kernel[-1], np.int32)
    full = {"strides": 1, "padding": "SAME", "input_dilation": 1, "kernel_dilation": 1, **options}
    at = window("conv", shape, kernel, groups=full.pop("feature_group_count", 1), **full)
    sums = exact_layers.convolution(
        lambda *i: int(codes[(0, *i)]) - zero, lambda *i: int(weight.codes[i]), shape, kernel, at
    )
    s_w = ints(weight.scale)
    want = {
        i: exact_layers.finished(
            exact_layers.scaled(acc, s_w[i[-1]], int(bias[i[-1]])), ints(scale)[0], None, "float32"
        )
        for i, acc in sums.items()
    }
    got = backend.qat.conv(
        x, of(backend, weight), bias, inputs=how, input_scale=scale, input_zero_point=np.int32(zero), **options
    )
    assert_same(got[0], float32([want[i] for i in np.ndindex(got.shape[1:])]).reshape(got.shape[1:]))
    centred = codes.astype(np.int16) - np.int16(zero)
    acc = backend.qat.convolve(centred, weight.codes, max_a=255, max_b=128, **options)
    assert_same(acc[0], np.array([sums[i] for i in np.ndindex(got.shape[1:])], np.int32).reshape(got.shape[1:]))


def columns(targets: list[int], depth: int) -> np.ndarray:
    """int8 columns whose sum with the row (127, .., 127, 1) is each target."""
    out = np.zeros((depth, len(targets)), np.int8)
    for n, target in enumerate(targets):
        steps = (target + 63) // 127
        whole, rest = divmod(abs(steps), 127)
        signed = [127] * whole + [rest] + [0] * (depth - whole - 2) + [abs(target - 127 * steps)]
        out[:, n] = np.array(signed) * np.sign(steps or 1)
        out[-1, n] = target - 127 * steps
    return out


TIES = [
    sign * (base + step)
    for base, unit in ((2**24, 2), (2**25, 4), (3 * 2**24, 4))
    for step in (-3, -1, 0, 1, 2, 3, unit // 2, unit + unit // 2, 5, 7)
    for sign in (1, -1)
]


@pytest.mark.parametrize("grain", [PerAxis(1), PerGroup(0, 4000)], ids=str)
def test_dense_differential_sums_at_ties_of_binary32(backend: object, grain: object) -> None:
    depth = 3500
    codes = columns(TIES, depth)
    scale = np.linspace(0.5, 2, len(TIES), dtype=np.float32).reshape(1, -1)
    weight = qtensor.QTensor(codes, scale, None, spec("int8", grain))
    x = np.array([[127.0] * (depth - 1) + [1.0]], np.float32)
    got = backend.qat.dense(x, of(backend, weight), inputs=spec("int8"), input_scale=np.float32(1))
    want = [
        exact_layers.finished(exact_layers.scaled(t, s), ints(1.0)[0], None, "float32")
        for t, s in zip(TIES, ints(scale), strict=True)
    ]
    assert_same(got, float32([want]))


def test_integer_bias_differential_third_opinion(backend: object) -> None:
    rng = np.random.default_rng(3)
    s_x, s_w = np.float32(0.0371), rng.uniform(1e-3, 1e-2, 400).astype(np.float32)
    steps = np.round(rng.uniform(-900, 900, 400) * 2) / 2
    bias = np.nextafter((steps * s_w * s_x).astype(np.float32), np.float32(rng.choice([-np.inf, np.inf])))
    bias[:4] = [3e33, -3e33, 0, -0.0]
    want = [exact_layers.integer_bias(b, ints(s_x)[0], s) for b, s in zip(ints(bias), ints(s_w), strict=True)]
    assert_same(backend.qat.integer_bias(bias, s_x, s_w), np.array(want, np.int32))
    odd = backend.qat.integer_bias(np.float32([np.nan, np.inf, -np.inf]), s_x, s_w[0])
    assert odd.tolist() == [0, 2**31 - 128, -(2**31)]


def test_integer_bias_property_close_to_the_float_bias(backend: object) -> None:
    rng = np.random.default_rng(6)
    weight = qtensor.quantize_tensor(rng.standard_normal((20, 5)).astype(np.float32), spec("int8", PerAxis(1)))
    x, bias, s_x = rng.standard_normal((7, 20)).astype(np.float32), np.float32([1, -2, 0, 0.3, 9]), np.float32(0.03)
    folded = backend.qat.integer_bias(bias, s_x, weight.scale.reshape(-1))
    options = {"inputs": spec("int8"), "input_scale": s_x}
    got = backend.qat.dense(x, of(backend, weight), np.asarray(folded), **options)
    want = backend.qat.dense(x, of(backend, weight), bias, **options)
    assert np.abs(got - want).max() <= 0.51 * float(s_x * weight.scale.max()) + 1e-6


def test_dense_property_static_at_its_own_scale_is_dynamic(backend: object) -> None:
    rng = np.random.default_rng(2)
    weight = qtensor.quantize_tensor(rng.standard_normal((9, 4)).astype(np.float32), spec("int4", PerAxis(1)))
    x, how = rng.standard_normal((6, 9)).astype(np.float32), spec("uint8", PerToken())
    assert how.scale == ASYM and how.fmt == ALL["uint8"]
    q = qtensor.quantize_tensor(x, how)
    got = backend.qat.dense(x, of(backend, weight), inputs=how, input_scale=q.scale, input_zero_point=q.zero_point)
    assert_same(got, qat.dense(x, weight, inputs=how))


@pytest.mark.parametrize("shape", [(1, 3, 1), (3, 1, 1)])
def test_convolve_refuses_sums_beyond_int32(backend: object, shape: tuple[int, ...]) -> None:
    """LAY-8: products are counted over taps and channels; two of 2^30 and a bit less fit, three do not."""
    a, options = np.zeros((1, 4, shape[1]), np.int16), {"max_a": 2**15 - 1, "max_b": 2**15 - 1}
    with pytest.raises(ValueError, match="convolve: 3 products of magnitudes"):
        backend.qat.convolve(a, np.zeros(shape, np.int16), padding="VALID", **options)


def test_conv_static_without_zero_point_is_not_centred(backend: object) -> None:
    """LAY-8: 100,000 products of int8 fit where no zero point widens the codes, and are refused where one does."""
    count, x_how = 100_000, spec("int8", PerTensor())
    weight = of(backend, qtensor.quantize_tensor(np.ones((1, count, 1), np.float32), spec("int8", PerTensor())))
    x, static = np.ones((1, 1, count), np.float32), {"inputs": x_how, "input_scale": np.float32(1)}
    assert backend.qat.conv(x, weight, **static).tolist() == [[[float(count)]]]
    with pytest.raises(ValueError, match="conv"):
        backend.qat.conv(x, weight, **static, input_zero_point=np.int32(0))


def test_conv_dilates_an_axis_of_no_elements(backend: object) -> None:
    """LAY-5: between no elements there are no zeros; the padding alone is read."""
    weight = of(backend, qtensor.quantize_tensor(np.ones((1, 2, 3), np.float32), spec("int8", PerTensor())))
    x = np.zeros((1, 0, 2), np.float32)
    got = backend.qat.conv(x, weight, input_dilation=2, padding=((1, 1),))
    assert got.shape == (1, 2, 3) and not got.any()
