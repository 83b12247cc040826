"""refquant: what the right bits of neural-network quantization are, in readable NumPy."""

import importlib
from types import ModuleType

from refquant import formats
from refquant.affine import dequantize, fake_quantize, fake_quantize_vjp, quantize
from refquant.codec import decode, encode
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor, PerToken
from refquant.packing import pack, unpack
from refquant.qtensor import QTensor, dequantize_tensor, quantize_tensor
from refquant.spec import QuantSpec, ScaleRule

__all__ = [
    "PerAxis",
    "PerBlock",
    "PerGroup",
    "PerTensor",
    "PerToken",
    "QTensor",
    "QuantSpec",
    "ScaleRule",
    "decode",
    "dequantize",
    "dequantize_tensor",
    "encode",
    "fake_quantize",
    "fake_quantize_vjp",
    "formats",
    "pack",
    "quantize",
    "quantize_tensor",
    "unpack",
]

#: Parts that are imported when they are first asked for: `import refquant` stays fast.
_PARTS = ("bits", "calibration", "conventions", "files", "qat", "requantize", "scales", "schemes", "sums", "thresholds")


def __getattr__(name: str) -> ModuleType:
    if name not in _PARTS:
        raise AttributeError(f"module 'refquant' has no attribute {name!r}")
    return importlib.import_module(f"refquant.{name}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PARTS})
