"""Two stand-ins for nnx.Linear: one that runs on codes, one that records its inputs' magnitudes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxquant import qat
from jaxquant.qtensor import QTensor
from refquant.spec import QuantSpec


class Codes(nnx.Variable):
    """Frozen integers and scales: not a Param, so gradients and optimizers pass them by."""


class QuantizedLinear(nnx.Module):
    """A dense layer on codes with inputs quantized on the fly (LAY-1..LAY-4), or on dequantized weights (LAY-7).

    The weight's spec is static; its codes, scale and zero point are variables, so nothing is a compile-time constant.
    """

    def __init__(self, weight: QTensor, bias: jax.Array | None, inputs: QuantSpec | None):
        """Weight of shape [in, out], bias float32 [out] or None, spec of the inputs (None: left in float)."""
        self.spec, self.inputs = weight.spec, inputs
        self.codes, self.scale = Codes(weight.codes), Codes(weight.scale)
        self.zero_point = None if weight.zero_point is None else Codes(weight.zero_point)
        self.bias = None if bias is None else Codes(bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [..., out] from x float [..., in]."""
        zero = None if self.zero_point is None else self.zero_point[...]
        weight = QTensor(self.codes[...], self.scale[...], zero, self.spec)
        return qat.dense(x, weight, None if self.bias is None else self.bias[...], inputs=self.inputs)


class Seen(nnx.Variable):
    """What a recording layer saw in one call."""


class RecordingLinear(nnx.Module):
    """A dense layer that keeps the largest |input| of each input channel of its last call."""

    def __init__(self, linear: nnx.Linear):
        """Wraps the layer; its parameters are shared, not copied."""
        self.linear = linear
        self.seen = Seen(jnp.zeros(linear.in_features, jnp.float32))

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        """The wrapped layer's own output."""
        x = args[0]
        self.seen[...] = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=tuple(range(x.ndim - 1)))
        return self.linear(*args, **kwargs)
