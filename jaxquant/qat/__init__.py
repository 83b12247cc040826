"""Quantized layer operations and learned quantizers, usable without Flax; each estimator stands beside its vjp."""

from jaxquant.affine import fake_quantize_vjp
from jaxquant.qat.bias import integer_bias
from jaxquant.qat.conv import conv
from jaxquant.qat.dot import dense
from jaxquant.qat.einsum import einsum
from jaxquant.qat.embedding import attend, embed
from jaxquant.qat.folding import fold
from jaxquant.qat.integer import convolve, matmul
from jaxquant.qat.learned import effective, learned_vjp
from jaxquant.qat.lsq import lsq, lsq_init, lsq_vjp
from jaxquant.qat.lsq_plus import lsq_plus, lsq_plus_from_range, lsq_plus_init, lsq_plus_vjp
from jaxquant.qat.pact import pact, pact_vjp
from jaxquant.qat.stochastic import stochastic_fake_quantize, stochastic_fake_quantize_vjp, stochastic_quantize
from jaxquant.qat.trained import Trained

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
