"""A bias as integers at the scale of the sums (specs/60-layers.md, LAY-11)."""

import jax
import jax.numpy as jnp

from jaxquant import _exact, _inputs, _sharding
from refquant import checks

LOWEST, HIGHEST = -(2**31), 2**31 - 128


def integer_bias(bias: jax.Array, input_scale: jax.Array, weight_scale: jax.Array) -> jax.Array:
    """round(bias / (s_x · s_w)) as int32, for the layers' LAY-9.

    Args:
      bias: float32, float16 or bfloat16, any shape.
      input_scale: float32, of a shape that broadcasts with bias.
      weight_scale: likewise: per tensor (), per channel reshaped to the bias's shape.
    Returns:
      int32, the common shape; saturated at -2^31 and 2^31 - 128 (the largest binary32 below 2^31); NaN gives 0.
    Raises:
      TypeError: another dtype.
      ValueError: shapes without a common one.

    Spec: LAY-11 (specs/60-layers.md).  Class: exact.
    """
    names = ("bias", "input_scale", "weight_scale")
    values = (bias, input_scale, weight_scale)
    arrays = {name: _inputs.real("integer_bias", name, v) for name, v in zip(names, values, strict=True)}
    checks.broadcast("integer_bias", **{name: v.shape for name, v in arrays.items()})
    return _integer_bias(*arrays.values())


@_sharding.jit
def _integer_bias(bias: jax.Array, s_x: jax.Array, s_w: jax.Array) -> jax.Array:
    bias, s_x, s_w = (_exact.rounded(_exact.widen(jnp.asarray(v))) for v in (bias, s_x, s_w))
    bias, step = jnp.broadcast_arrays(bias, _exact.rounded(s_x * s_w))
    steps = jnp.round(_exact.div(bias, step))
    steps = jnp.where(jnp.isnan(steps), jnp.float32(0), steps)
    return jnp.clip(steps, jnp.float32(LOWEST), jnp.float32(HIGHEST)).astype(jnp.int32)
