"""jaxquant: the operations of refquant, jit-compiled for CPU, GPU and TPU, equal bit for bit."""

from jaxquant.affine import dequantize, fake_quantize, fake_quantize_vjp, quantize
from jaxquant.codec import decode, encode
from jaxquant.packing import pack, unpack
from jaxquant.qtensor import QTensor, dequantize_tensor, quantize_tensor
from refquant import formats
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor, PerToken
from refquant.spec import QuantSpec, ScaleRule

__all__ = [
    "PerAxis", "PerBlock", "PerGroup", "PerTensor", "PerToken", "QTensor", "QuantSpec", "ScaleRule", "decode",
    "dequantize", "dequantize_tensor", "encode", "fake_quantize", "fake_quantize_vjp", "formats", "pack", "quantize",
    "quantize_tensor", "unpack",
]  # fmt: skip
