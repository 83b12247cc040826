"""GPTQ: `quantize` of its quant.py, as AutoGPTQ ships it (pip install --no-deps auto-gptq, beside torch)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from external.peers import assert_follows, not_nan

torch = pytest.importorskip("torch")
found = importlib.util.find_spec("auto_gptq")
if found is None:
    pytest.skip("auto_gptq is not installed", allow_module_level=True)


def quantizer() -> ModuleType:
    """The file alone: the package imports a GPU's libraries."""
    path = Path(str(found.origin)).parent / "quantization" / "quantizer.py"
    spec = importlib.util.spec_from_file_location("gptq_quantizer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["uint4", "uint8"])
def test_quantize_external_follows_the_preset(name):
    """It gives scale * (q - zero): with zero added to a product with scale 1 the code is read off exactly."""
    module, top = quantizer(), 15 if name == "uint4" else 255

    def kernel(x: np.ndarray, scale: float, zero: int) -> np.ndarray:
        x, held, zero_point = torch.from_numpy(x), torch.tensor([scale]), torch.tensor([float(zero)])
        values = module.quantize(x, held, zero_point, torch.tensor(top)).double().numpy()
        return np.rint(values / scale) + zero

    assert_follows(kernel, "gptq", name, keep=not_nan)
