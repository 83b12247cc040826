"""MLX on CPU: affine groups with a real offset, and the cast to e4m3fn."""

from __future__ import annotations

import numpy as np
import pytest
from external.peers import cast_mismatches, cast_probes

from refquant.affine import dequantize, quantize
from refquant.conventions import CASTS, PRESETS
from refquant.formats import ALL
from refquant.granularity import PerAxis

mx = pytest.importorskip("mlx.core")
ROWS = PerAxis(0)


def near_boundaries(random: np.random.Generator) -> np.ndarray:
    """Groups of 64 whose inner elements lie beside (k + 1/2) * scale + bias, found by quantizing their ends first."""
    low, high = random.uniform(-3, -0.1, 256), random.uniform(0.1, 3, 256)
    x = np.repeat(np.float32([low, high]).T, 32, axis=1)
    _, scale, bias = (np.array(part) for part in mx.quantize(mx.array(x), group_size=64, bits=4))
    middle = (random.integers(0, 15, (256, 62)) + 0.5) * scale + bias
    inner = np.clip(middle.astype(np.float32), x[:, :1], x[:, -1:])
    inner = np.nextafter(inner, random.choice(np.float32([-9, 0, 9]), inner.shape))
    return np.concatenate([x[:, :1], np.clip(inner, x[:, :1], x[:, -1:]), x[:, -1:]], axis=1)


def test_quantize_external_follows_the_preset():
    x = near_boundaries(np.random.default_rng(0))
    packed, scale, bias = (np.array(part) for part in mx.quantize(mx.array(x), group_size=64, bits=4))
    codes = ((packed[:, :, None] >> (4 * np.arange(8, dtype=np.uint32))) & 15).reshape(x.shape).astype(np.uint8)
    point = PRESETS["mlx"].affine
    assert np.array_equal(codes, quantize(x, scale, bias, fmt=ALL["uint4"], granularity=ROWS, convention=point))
    values = np.array(mx.dequantize(mx.array(packed), mx.array(scale), mx.array(bias), group_size=64, bits=4))
    want = dequantize(codes, scale, bias, fmt=ALL["uint4"], granularity=ROWS)
    assert np.array_equal(values.view(np.uint32), want.view(np.uint32))


def test_to_fp8_external_differs_in_negative_nan_only():
    x = cast_probes("e4m3fn")
    codes = np.array(mx.to_fp8(mx.array(x)))
    wrong = cast_mismatches(codes, x, ALL["e4m3fn"], CASTS["mlx_e4m3fn"].point)
    assert np.isnan(wrong).all() and np.signbit(wrong).all()
