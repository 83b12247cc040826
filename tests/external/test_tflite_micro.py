"""tflite-micro on x86: FULLY_CONNECTED in its reference kernels, the models built as for LiteRT."""

from __future__ import annotations

import numpy as np
import pytest

from refquant.conventions import RESCALES
from refquant.formats import ALL
from refquant.requantize import requantize
from refquant.thresholds import probes, thresholds

micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
pytest.importorskip("ai_edge_litert")
models = pytest.importorskip("external.litert_models")
LAYERS = [(0.5, 0.5, 4.0, 0, 0), (0.0217, 0.0093, 0.117, 3, -7), (0.11, 0.013, 0.29, -128, -128),
          (0.5, 0.25, 1.0, 0, 5), (1.0, 0.75, 1.0, 0, 0)]  # fmt: skip
ROWS = {"int8": "gemmlowp", "int16": "litert_16x8"}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("numbers", LAYERS)
def test_fully_connected_external_follows_the_rescale(name, numbers):
    """Products are zero, so that the bias is the accumulator: int32 for int8 codes, int64 for int16 codes."""
    scales, (z_in, z_out) = [np.float32(s) for s in numbers[:3]], numbers[3:] if name == "int8" else (0, 0)
    real = float(scales[0]) * float(scales[1]) / float(scales[2])
    acc = probes(*(thresholds(row.point, ALL["int8"], real, z_out) for row in RESCALES.values()))
    acc = np.concatenate([np.unique(acc), np.random.default_rng(0).integers(-(2**28), 2**28, 20_000, np.int32)])
    x, weights = np.full((1, 8), z_in, name), np.zeros((len(acc), 8), np.int8)
    bias = acc.astype(np.int32 if name == "int8" else np.int64)
    content = models.connected_model(x, weights, bias, tuple(map(float, scales)), (z_in, z_out))
    interpreter = micro.Interpreter.from_bytes(content, arena_size=4_000_000)
    interpreter.set_input(x, 0)
    interpreter.invoke()
    want = requantize(acc, real, np.int32(z_out), fmt=ALL[name], rescale=RESCALES[ROWS[name]].point)
    assert np.array_equal(interpreter.get_output(0)[0], want)
