"""gguf: Q8_0 with its binary32 scale amax / 127."""

from __future__ import annotations

import numpy as np
import pytest
from external.peers import affine_probes

from refquant.affine import quantize
from refquant.conventions import PRESETS
from refquant.formats import ALL

gguf = pytest.importorskip("gguf")
INT8 = ALL["int8"]


def blocks(amax: np.float32, scale: np.float32) -> np.ndarray:
    """Blocks of 32 that begin with amax, filled with probes."""
    x = affine_probes("int8", float(scale), 0)
    x = x[np.abs(x) <= amax]
    x = x[: len(x) // 31 * 31].reshape(-1, 31)
    return np.concatenate([np.full((len(x), 1), amax, np.float32), x], axis=1)


def test_q8_0_external_follows_the_preset():
    random = np.random.default_rng(0)
    for amax in random.uniform(0.1, 10, 12).astype(np.float32):
        scale = np.float32(amax / np.float32(127))
        x = blocks(amax, scale)
        packed = gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q8_0).reshape(len(x), 34)
        want = quantize(x, scale, np.int32(0), fmt=INT8, convention=PRESETS["ggml_q8_0"].affine)
        assert np.array_equal(packed[:, 2:].view(np.int8), want)
