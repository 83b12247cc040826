"""jaxquant: the operations of refquant, jit-compiled for CPU, GPU and TPU, equal bit for bit.

Names are imported when they are first used, so that commands start before JAX is loaded.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # typing's, without its import: until the command listens, Ctrl-C is a traceback
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

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


#: Parts that are modules; `decide` is a package that is callable.
_PARTS = ("bits", "calibration", "decide", "flax", "qat", "requantize", "scales", "store", "sums", "thresholds")


def __getattr__(name: str) -> Any:
    if name not in (*_HOME, *_PARTS):
        raise AttributeError(f"module 'jaxquant' has no attribute {name!r}")
    try:
        return _part(name) if name in _PARTS else getattr(importlib.import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in ("jax", "flax"):
            raise
        extra = "jax" if error.name == "jax" else "decide"
        text = f"jaxquant.{name}: no module named {error.name!r}, need it installed: pip install 'refquant[{extra}]'"
        raise ModuleNotFoundError(text, name=error.name) from None


def _part(name: str) -> ModuleType:
    return importlib.import_module(f"jaxquant.{name}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PARTS})
