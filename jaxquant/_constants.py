"""Constants of a program that stay where they are written, selections from them, and their bits."""

import functools
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

PRECISION = {"float32": (8, 23), "bfloat16": (8, 7), "float16": (5, 10)}


def as_dtype(value: jax.Array | int, dtype: jnp.dtype) -> jax.Array | np.ndarray:
    """A Python number as a NumPy scalar: a literal of the program, where a JAX scalar would be a value of it."""
    return value.astype(dtype) if isinstance(value, jax.Array) else np.asarray(value, dtype)


def select(where: jax.Array, yes: jax.Array | float, no: jax.Array | float) -> jax.Array:
    """jnp.where for operands that broadcast to `where`; inline, where jnp.where is a function of the program each time.

    Witness: test_select_differential.
    """
    dtype = (yes if isinstance(yes, jax.Array) else no).dtype
    return lax.select(where, _as_wide(yes, where, dtype), _as_wide(no, where, dtype))


def _as_wide(value: jax.Array | float, like: jax.Array, dtype: jnp.dtype) -> jax.Array:
    if isinstance(value, jax.Array):
        return jnp.broadcast_to(value.astype(dtype), like.shape)
    return constant(jnp.full, like, np.asarray(value, dtype).item(), np.dtype(dtype))


def constant(make: Callable, like: jax.Array, *options: Hashable) -> jax.Array:
    """make(shape of `like`, *options), as a call that depends on `like`.

    Differentiation takes constants out of scans; what remains of a function is then another one than that of the
    backward pass, and the program holds both.  Witness: test_constant_differential.
    """
    return _maker(make, *options)(like)


@functools.cache
def _maker(make: Callable, *options: Hashable) -> Callable[[jax.Array], jax.Array]:
    called = jax.custom_batching.custom_vmap(lambda like: make(like.shape, *options))
    called.def_vmap(lambda _, batched, like: (called(like), batched[0]))
    return called


def bitcast(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """lax.bitcast_convert_type of floats to integers of the same size.

    XLA knows the bits of a constant when it compiles, and takes them in the order of its memory, which a transpose has
    changed where a call or a loop lies between: other elements come out.  A barrier keeps it from looking; XLA:CPU
    takes it away before it settles layouts and fuses (that of JAX 0.12 makes more loops all the same).  Elsewhere it
    would stay between the loops: there a rounding to the precision that x has is a step that is computed, laid out
    anew, which a transpose of long axes does not pass.
    Also of one axis and of none: a vmap has axes that are not seen here.
    Witness: test_bitcast_differential.
    """
    if jax.default_backend() == "cpu":
        x = lax.optimization_barrier(x)
    else:
        x = lax.reduce_precision(x, *PRECISION[x.dtype.name])
    return lax.bitcast_convert_type(x, dtype)
