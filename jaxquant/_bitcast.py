"""The bits of an array, also of one that the program holds as a constant."""

import jax
import jax.numpy as jnp
from jax import lax


PRECISION = {"float32": (8, 23), "bfloat16": (8, 7), "float16": (5, 10)}


def bitcast(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """lax.bitcast_convert_type of floats to integers of the same size.

    XLA knows the bits of a constant when it compiles, and takes them in the order of its memory, which a transpose has
    changed where a call or a loop lies between: other elements come out.  A step that is computed has its result laid
    out anew, and a rounding to the precision that x has is one that changes nothing, is not removed before and is free
    after.  Witness: test_bitcast_differential.
    """
    return lax.bitcast_convert_type(lax.reduce_precision(x, *PRECISION[x.dtype.name]), dtype)
