"""OpenVINO on CPU: FakeQuantize to levels 0..255."""

from __future__ import annotations

import numpy as np
import pytest
from external.peers import affine_probes

from refquant.affine import quantize
from refquant.conventions import PRESETS
from refquant.formats import ALL

ov = pytest.importorskip("openvino")
ops = pytest.importorskip("openvino.opset13")
pytestmark = pytest.mark.filterwarnings("ignore")


def levels(x: np.ndarray, low: np.float32, high: np.float32) -> np.ndarray:
    parameter = ops.parameter([len(x)], np.float32, name="x")
    node = ops.fake_quantize(parameter, low, high, np.float32(0), np.float32(255), 256)
    model = ov.Core().compile_model(ov.Model([node], [parameter], "m"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model([x])[0]


@pytest.mark.parametrize(("low", "high"), [(0.0, 25.5), (-1.28, 1.27), (0.0, 1.0), (-10.0, 15.5)])
def test_fake_quantize_external_follows_the_preset_where_the_shift_is_an_integer(low, high):
    low, high = np.float32(low), np.float32(high)
    scale = np.float32(255) / np.float32(high - low)
    shift = np.float32(-low * scale)
    assert float(shift).is_integer()
    x = affine_probes("uint8", float(1 / scale), int(shift))
    want = quantize(x, scale, np.int32(shift), fmt=ALL["uint8"], convention=PRESETS["openvino"].affine)
    assert np.array_equal(levels(x, low, high), want)
