"""jaxquant: the operations of refquant, jit-compiled for CPU, GPU and TPU, equal bit for bit.

Names are imported when they are first used, so that commands start before JAX is loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxquant.affine import dequantize, fake_quantize, fake_quantize_vjp, quantize
    from jaxquant.codec import decode, encode
    from jaxquant.decide import decide
    from jaxquant.packing import pack, unpack
    from jaxquant.qtensor import QTensor, dequantize_tensor, quantize_tensor
    from refquant import formats
    from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor, PerToken
    from refquant.spec import QuantSpec, ScaleRule

_HOMES = {
    "jaxquant.affine": ("dequantize", "fake_quantize", "fake_quantize_vjp", "quantize"),
    "jaxquant.codec": ("decode", "encode"),
    "jaxquant.packing": ("pack", "unpack"),
    "jaxquant.qtensor": ("QTensor", "dequantize_tensor", "quantize_tensor"),
    "refquant.granularity": ("PerAxis", "PerBlock", "PerGroup", "PerTensor", "PerToken"),
    "refquant.spec": ("QuantSpec", "ScaleRule"),
    "refquant": ("formats",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "PerAxis", "PerBlock", "PerGroup", "PerTensor", "PerToken", "QTensor", "QuantSpec", "ScaleRule", "decide", "decode",
    "dequantize", "dequantize_tensor", "encode", "fake_quantize", "fake_quantize_vjp", "formats", "pack", "quantize",
    "quantize_tensor", "unpack",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "decide":  # the package itself, which is callable
        return importlib.import_module("jaxquant.decide")
    if name not in _HOME:
        raise AttributeError(f"module 'jaxquant' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
