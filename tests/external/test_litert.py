"""LiteRT: QUANTIZE, DEQUANTIZE, REQUANTIZE and FULLY_CONNECTED in three kernels each."""

from __future__ import annotations

import itertools
import platform

import numpy as np
import pytest
from external.peers import assert_follows, assert_follows_point

from refquant.affine import quantize
from refquant.conventions import PRESETS, RESCALES, fixed_point
from refquant.formats import ALL
from refquant.requantize import requantize
from refquant.thresholds import probes, thresholds

pytest.importorskip("ai_edge_litert")
models = pytest.importorskip("external.litert_models")
pytestmark = pytest.mark.filterwarnings("ignore")
INT8 = ALL["int8"]
BOTH = pytest.mark.parametrize("name", ["uint8", "int8"])


@BOTH
def test_quantize_xnnpack_external_follows_the_preset(name):
    assert_follows(lambda x, s, z: models.quantize(x, s, z, name, "xnnpack"), "litert_xnnpack", name)


@BOTH
def test_quantize_reference_external_follows_the_preset(name):
    kernel = lambda x, s, z: models.quantize(x, s, z, name, "reference")  # noqa: E731
    assert_follows(kernel, "litert_reference", name)


@BOTH
def test_quantize_builtin_external_body_and_tail(name):
    lanes = PRESETS["litert_builtin"].affine

    def body(x, scale, zero):
        padded = np.pad(x, (0, -len(x) % lanes.n + lanes.n))
        return models.quantize(padded, scale, zero, name, "builtin")[: len(x)]

    def tail(x, scale, zero):
        """A block of zeros, then at most seven elements: all of them are tail."""
        block = np.zeros(lanes.n, np.float32)
        parts = [x[i : i + lanes.n - 1] for i in range(0, len(x), lanes.n - 1)]
        run = [models.quantize(np.append(block, p), scale, zero, name, "builtin")[lanes.n :] for p in parts]
        return np.concatenate(run)

    assert_follows_point(body, lanes.body, name)
    assert_follows_point(tail, lanes.tail, name)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="C++ leaves it open (CNV-8)")
@pytest.mark.parametrize("way", ["reference", "builtin"])
def test_quantize_external_beyond_int32(way):
    """CNV-8: past int32 the cast gives -2**31; adding a negative zero point wraps, so the code is qmax."""
    x = np.float32([3e9, np.inf, np.nan, -np.inf] * 4)
    for zero, code in ((5, -128), (0, -128), (-1, 127), (-128, 127)):
        assert models.quantize(x, 0.5, zero, "int8", way).tolist() == [code] * 16
    edge = (2.0**31 * np.array([1, -1]))[:, None] + 128 * np.arange(-20, 21)  # spacing 128 below, 256 above
    far = np.float32([*edge.ravel(), 2.0**32, -(2.0**32), 2.0**32 + 512, 2.0**63, -(2.0**63), 1e38, -1e38, 1e18])
    point = PRESETS["litert_reference"].affine if way == "reference" else PRESETS["litert_builtin"].affine.body
    for name, scale, zero in itertools.product(("int8", "uint8"), (1.0, 0.5, 2.0**-20), (0, 5, 127, -1, -128, 255)):
        if ALL[name].qmin <= zero <= ALL[name].qmax:
            x = np.pad(far * np.float32(scale), (0, -len(far) % 8))
            want = quantize(x, np.float32(scale), np.int32(zero), fmt=ALL[name], convention=point)
            assert np.array_equal(models.quantize(x, scale, zero, name, way), want), (name, scale, zero)


@pytest.mark.parametrize("way", ["xnnpack", "reference", "builtin"])
def test_dequantize_external_all_codes(way):
    codes = np.arange(-128, 128).astype(np.int8)
    for scale, zero in ((0.1, -128), (1 / 3, 99), (0.0123, 5)):
        scale = np.float32(scale)
        subtracted = (codes.astype(np.int32) - zero).astype(np.float32) * scale
        added = codes.astype(np.float32) * scale + np.float32(-zero) * scale
        want = added if way == "builtin" else subtracted
        assert np.array_equal(models.dequantize(codes, float(scale), zero, way), want)


REQUANTIZE = {"xnnpack": "xnnpack_requantize", "reference": "gemmlowp", "builtin": "litert_builtin"}
SCALES = [(0.1, 0, 0.07, 3), (0.05, -3, 0.1, 5), (0.0217, 7, 0.117, -7), (0.5, 0, 1.0, 0), (0.3, -128, 0.029, 1),
          (1.0, 0, 4.0, 2)]  # fmt: skip


@pytest.mark.parametrize("way", REQUANTIZE)
def test_requantize_external_all_codes(way):
    codes = np.arange(-128, 128).astype(np.int8)
    for s_in, z_in, s_out, z_out in SCALES:
        multiplier = float(np.float32(s_in) / np.float32(s_out))
        acc = codes.astype(np.int32) - np.int32(z_in)
        want = requantize(acc, multiplier, np.int32(z_out), fmt=INT8, rescale=RESCALES[REQUANTIZE[way]].point)
        assert np.array_equal(models.requantize(codes, (s_in, z_in), (s_out, z_out), way), want), (s_in, s_out)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="C++ leaves it open (CNV-8)")
def test_fully_connected_external_beyond_int32():
    """Products past int32: the presets hold for z >= 0, but for ruy's left shift, which wraps; below 0 none does."""
    acc, zeros = np.int32([2**31 - 1, -(2**31), 2**30, -(2**30), 2**29]), np.zeros((5, 8), np.int8)
    for way, low, high in (("reference", 127, 127), ("xnnpack", 127, 127), ("builtin", -1, -3)):
        for z_out in (0, 5, -1):
            got = models.fully_connected(np.zeros((1, 8), np.int8), zeros, acc, (2.0, 1.0, 1.0), (0, z_out), way)[0]
            row = RESCALES[CONNECTED[way]].point
            multiplier = np.float32(2) if way == "xnnpack" else 2.0
            want = requantize(acc, multiplier, np.int32(z_out), fmt=INT8, rescale=row)
            assert np.array_equal(got, want) == (way != "builtin" and z_out >= 0), (way, z_out)
        assert (got[1], got[0]) == (low, high), way


LAYERS = [(0.5, 0.5, 4.0, 0, 0), (0.0217, 0.0093, 0.117, 3, -7), (0.11, 0.013, 0.29, -128, -128),
          (0.5, 0.25, 1.0, 0, 5), (1.0, 0.75, 1.0, 0, 0)]  # fmt: skip
CONNECTED = {"xnnpack": "xnnpack", "reference": "litert_reference", "builtin": "litert_builtin"}


@pytest.mark.parametrize("way", CONNECTED)
@pytest.mark.parametrize("numbers", LAYERS)
def test_fully_connected_external_follows_the_rescale(way, numbers):
    """Products are zero, so that the bias is the accumulator: any int32."""
    scales, (z_in, z_out) = [np.float32(s) for s in numbers[:3]], numbers[3:]
    real = float(scales[0]) * float(scales[1]) / float(scales[2])
    acc = np.unique(probes(*(thresholds(row.point, INT8, real, z_out) for row in RESCALES.values())))
    x, weights = np.full((1, 8), z_in, np.int8), np.zeros((len(acc), 8), np.int8)
    got = models.fully_connected(x, weights, acc, tuple(map(float, scales)), (z_in, z_out), way)[0]
    multiplier = np.float32(scales[0] * scales[1]) / scales[2] if way == "xnnpack" else real
    want = requantize(acc, multiplier, np.int32(z_out), fmt=INT8, rescale=RESCALES[CONNECTED[way]].point)
    assert np.array_equal(got, want)


def int16_accumulators(real: float) -> np.ndarray:
    """The probes of all rescales to int8, and random ones: of an int16 result most lie inside its range."""
    acc = probes(*(thresholds(row.point, INT8, real, 0) for row in RESCALES.values()))
    return np.concatenate([np.unique(acc), np.random.default_rng(0).integers(-(2**28), 2**28, 20_000, np.int32)])


@pytest.mark.parametrize("way", CONNECTED)
@pytest.mark.parametrize("numbers", LAYERS)
def test_fully_connected_external_of_int16_codes(way, numbers):
    """16x8: binary64 in all kernels, not the 16-bit multiplier that convolutions have."""
    scales = [np.float32(s) for s in numbers[:3]]
    real = float(scales[0]) * float(scales[1]) / float(scales[2])
    acc = int16_accumulators(real)
    x, weights = np.zeros((1, 8), np.int16), np.zeros((len(acc), 8), np.int8)
    got = models.fully_connected(x, weights, acc.astype(np.int64), tuple(map(float, scales)), (0, 0), way)[0]
    want, other = (
        requantize(acc, real, 0, fmt=ALL["int16"], rescale=RESCALES[name].point)
        for name in ("litert_reference", "litert_16x8")
    )
    assert np.array_equal(got, want) and not np.array_equal(got, other)


@pytest.mark.parametrize("way", CONNECTED)
@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("numbers", [*LAYERS, (0.001, 0.002, 30.0, 0, 0)])
def test_convolution_external_of_int16_codes_follows_the_rescale(way, op, numbers):
    """16x8 with a bias of int64: the multiplier is reduced to 16 bits, one rounding."""
    scales = [np.float32(s) for s in numbers[:3]]
    real = float(scales[0]) * float(scales[1]) / float(scales[2])
    acc, x = int16_accumulators(real), np.zeros((1, 1, 1, 1), np.int16)
    got = models.convolution(x, acc.astype(np.int64), tuple(map(float, scales)), op, way)
    want = requantize(acc, real, 0, fmt=ALL["int16"], rescale=RESCALES["litert_16x8"].point)
    assert np.array_equal(got, want), np.nonzero(got != want)[0][:5]


@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_convolution_external_of_int16_codes_wraps_past_int32(op):
    """M = 1.44: the preset holds until the rounded product leaves int32; then LiteRT's is taken mod 2**32."""
    scales, point = (0.9, 0.8, 0.5), RESCALES["litert_16x8"].point
    real = float(np.float32(0.9)) * float(np.float32(0.8)) / 0.5
    acc, x = int16_accumulators(real), np.zeros((1, 1, 1, 1), np.int16)
    got = models.convolution(x, acc.astype(np.int64), scales, op, "reference")
    q, shift = fixed_point(real, point)
    product = (acc.astype(np.int64) * q + (1 << (14 - shift))) >> (15 - shift)
    inside = product == product.astype(np.int32)
    want = requantize(acc, real, 0, fmt=ALL["int16"], rescale=point)
    assert inside.any() and not inside.all() and np.array_equal(got[inside], want[inside])
    assert np.array_equal(got[~inside], np.clip(product[~inside].astype(np.int32), -(2**15), 2**15 - 1))
