"""compressed-tensors: quantize with one scale for the tensor."""

from __future__ import annotations

import numpy as np
import pytest
from external.peers import assert_follows, not_nan

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")
forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
quantization = pytest.importorskip("compressed_tensors.quantization")


def kernel(x: np.ndarray, scale: float, zero: int) -> np.ndarray:
    arguments = quantization.QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="tensor")
    scales, zeros = torch.tensor([scale]), torch.tensor([zero])
    return forward.quantize(torch.from_numpy(x), scales, zeros, arguments, dtype=torch.int8).numpy()


def test_quantize_external_follows_the_preset():
    assert_follows(kernel, "compressed_tensors", "int8", keep=not_nan)


def test_quantize_external_nan_is_code_0():
    assert kernel(np.float32([np.nan]), 0.5, 5).tolist() == [0]
