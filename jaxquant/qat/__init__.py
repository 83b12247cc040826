"""Quantized layer operations, usable without Flax; learned quantizers will stand beside them, each with its vjp."""

from jaxquant.affine import fake_quantize_vjp
from jaxquant.qat.bias import integer_bias
from jaxquant.qat.conv import conv
from jaxquant.qat.dot import dense
from jaxquant.qat.einsum import einsum
from jaxquant.qat.embedding import attend, embed
from jaxquant.qat.integer import matmul
from jaxquant.qat.trained import Trained

__all__ = ["Trained", "attend", "conv", "dense", "einsum", "embed", "fake_quantize_vjp", "integer_bias", "matmul"]
