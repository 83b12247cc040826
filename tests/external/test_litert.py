"""LiteRT: QUANTIZE, DEQUANTIZE, REQUANTIZE and FULLY_CONNECTED in three kernels each."""

from __future__ import annotations

import numpy as np
import pytest
from external.peers import assert_follows, assert_follows_point, inside_int32

from refquant.conventions import PRESETS, RESCALES
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
    assert_follows(kernel, "litert_reference", name, keep=inside_int32)


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

    assert_follows_point(body, lanes.body, name, keep=inside_int32)
    assert_follows_point(tail, lanes.tail, name, keep=inside_int32)


@pytest.mark.parametrize("way", ["reference", "builtin"])
def test_quantize_external_overflow_adds_the_zero_point_wrapping(way):
    """Past int32 the cast gives -2**31; adding a negative zero point wraps, so the code is qmax."""
    x = np.float32([3e9, np.inf, np.nan, -np.inf] * 4)
    for zero, code in ((5, -128), (0, -128), (-1, 127), (-128, 127)):
        assert models.quantize(x, 0.5, zero, "int8", way).tolist() == [code] * 16


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
