"""torchao: quantize_affine, one scale for the tensor."""

from __future__ import annotations

import numpy as np
import pytest
from external.peers import assert_follows, not_nan

from refquant.formats import ALL

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")
primitives = pytest.importorskip("torchao.quantization.quant_primitives")


def kernel(x: np.ndarray, scale: float, zero: int, name: str) -> np.ndarray:
    fmt, dtype = ALL[name], getattr(torch, name)
    scales, zeros = torch.tensor([scale]), torch.tensor([zero], dtype=torch.int32)
    codes = primitives.quantize_affine(torch.from_numpy(x), (len(x),), scales, zeros, dtype, fmt.qmin, fmt.qmax)
    return codes.numpy()


@pytest.mark.parametrize("name", ["uint8", "int8"])
def test_quantize_affine_external_follows_the_preset(name):
    keep = not_nan if name == "int8" else None
    assert_follows(lambda x, s, z: kernel(x, s, z, name), "torchao", name, keep=keep)
