"""refquant: what the right bits of neural-network quantization are, in readable NumPy."""

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
