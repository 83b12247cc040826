"""Steps on the bits of binary32 numbers: ordered keys and powers of two (specs/00-conventions.md)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxquant import _exact, _inputs, _sharding
from refquant import checks


def ordered_key(x: jax.Array) -> jax.Array:
    """An integer that sorts like the value; both zeros are 0.

    Args:
      x: float32 (or float16, bfloat16, widened), any shape.
    Returns:
      int32, shape of x.  Subnormals count; NaNs lie beyond the infinities of their sign.
    Raises:
      TypeError: another dtype.

    Spec: BIT-1 (specs/00-conventions.md).  Class: exact.
    """
    return _ordered_key(_inputs.real("ordered_key", "x", x))


def from_key(key: jax.Array) -> jax.Array:
    """The binary32 number of an ordered key; key 0 is +0.

    Args:
      key: int32, any shape.
    Returns:
      float32, shape of key.
    Raises:
      TypeError: key has another dtype.

    Spec: BIT-1 (specs/00-conventions.md).  Class: exact.
    """
    key = _inputs.array(key)
    checks.int32("from_key", "key", key.dtype)
    return _from_key(jnp.asarray(key))


def scalb(x: jax.Array, k: jax.Array | int) -> jax.Array:
    """The product x * 2**k, correctly rounded once, also into and out of the subnormals.

    Args:
      x: float32 (or float16, bfloat16, widened), any shape.
      k: an integer dtype, of a shape that broadcasts with x.
    Returns:
      float32, the common shape; ±inf, NaN and ±0 stay.
    Raises:
      TypeError: x has another dtype, or k none of integers.
      ValueError: the shapes have no common one.

    Spec: BIT-2 (specs/00-conventions.md).  Class: exact.
    """
    x, k = _inputs.real("scalb", "x", x), _inputs.array(checks.clamped(k, 600))
    checks.integers("scalb", "k", k.dtype)
    checks.broadcast("scalb", x=x.shape, k=k.shape)
    return _scalb(x, _power(k))


def _power(k: jax.Array) -> jax.Array:
    """k as int32, limited first where a cast would wrap."""
    if not isinstance(k, jax.Array):
        wide = k + np.int64(0)  # NumPy 2.0 refuses limits that k's own dtype has no room for
        return jnp.asarray(np.asarray(np.clip(wide, -600, 600)).astype(np.int32))
    if k.dtype.itemsize >= 4 and k.dtype != jnp.int32:
        k = jnp.minimum(k, 600) if jnp.issubdtype(k.dtype, jnp.unsignedinteger) else jnp.clip(k, -600, 600)
    return k.astype(jnp.int32)


def flush(x: jax.Array) -> jax.Array:
    """The value with every subnormal as the zero of its sign.

    Args:
      x: float32 (or float16, bfloat16, widened), any shape.
    Returns:
      float32, shape of x.
    Raises:
      TypeError: another dtype.

    Spec: GEN-9 (specs/00-conventions.md).  Class: exact.
    """
    return _flush(_inputs.real("flush", "x", x))


@_sharding.jit
def _flush(x: jax.Array) -> jax.Array:
    return _exact.flush(_exact.widen(x))


@_sharding.jit
def _ordered_key(x: jax.Array) -> jax.Array:
    return key_of(x if x.dtype == jnp.float32 else _exact.widen(x))  # a NaN keeps its payload


@_sharding.jit
def _scalb(x: jax.Array, k: jax.Array) -> jax.Array:
    return _exact.scalb(*jnp.broadcast_arrays(_exact.widen(x), k))


def key_of(x: jax.Array) -> jax.Array:
    """BIT-1 inside a trace."""
    pattern = _exact.bits(x)
    return _exact.select(pattern < 0, -(pattern & _exact.MAGNITUDE), pattern)


def value_of(key: jax.Array) -> jax.Array:
    """BIT-1: the inverse of `key_of` inside a trace; key 0 is +0."""
    return _exact.from_bits(_exact.select(key < 0, -key | _exact.NEGATIVE_ZERO, key))


_from_key = _sharding.jit(value_of)
