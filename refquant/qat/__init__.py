"""Quantized layer operations and learned quantizers, usable without Flax; each estimator stands beside its vjp."""

from refquant.affine import fake_quantize_vjp
from refquant.qat.bias import integer_bias
from refquant.qat.conv import conv
from refquant.qat.dot import dense
from refquant.qat.einsum import einsum
from refquant.qat.embedding import attend, embed
from refquant.qat.folding import fold
from refquant.qat.integer import convolve, matmul
from refquant.qat.learned import effective, learned_vjp
from refquant.qat.lsq import lsq, lsq_init, lsq_vjp
from refquant.qat.lsq_plus import lsq_plus, lsq_plus_from_range, lsq_plus_init, lsq_plus_vjp
from refquant.qat.pact import pact, pact_vjp
from refquant.qat.stochastic import stochastic_fake_quantize, stochastic_fake_quantize_vjp, stochastic_quantize
from refquant.qat.trained import Trained

__all__ = [
    "Trained",
    "attend",
    "conv",
    "convolve",
    "dense",
    "effective",
    "einsum",
    "embed",
    "fake_quantize_vjp",
    "fold",
    "integer_bias",
    "learned_vjp",
    "lsq",
    "lsq_init",
    "lsq_plus",
    "lsq_plus_from_range",
    "lsq_plus_init",
    "lsq_plus_vjp",
    "lsq_vjp",
    "matmul",
    "pact",
    "pact_vjp",
    "stochastic_fake_quantize",
    "stochastic_fake_quantize_vjp",
    "stochastic_quantize",
]
