"""Quantized layer operations, usable without Flax; learned quantizers will stand beside them, each with its vjp."""

from refquant.affine import fake_quantize_vjp
from refquant.qat.bias import integer_bias
from refquant.qat.conv import conv
from refquant.qat.dot import dense
from refquant.qat.einsum import einsum
from refquant.qat.embedding import attend, embed
from refquant.qat.integer import matmul
from refquant.qat.trained import Trained

__all__ = ["Trained", "attend", "conv", "dense", "einsum", "embed", "fake_quantize_vjp", "integer_bias", "matmul"]
