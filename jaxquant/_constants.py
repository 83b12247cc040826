"""Constants of a program that stay where they are written, selections from them, and their bits."""

import functools
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BARRIERS_FUSE = jax.__version_info__ < (0, 11, 1)  # on CPUs


def as_dtype(value: jax.Array | int, dtype: jnp.dtype) -> jax.Array | np.ndarray:
    """A Python number as a NumPy scalar: a literal of the program, where a JAX scalar would be a value of it."""
    return value.astype(dtype) if isinstance(value, jax.Array) else np.asarray(value, dtype)


def select(where: jax.Array, yes: jax.Array | float, no: jax.Array | float) -> jax.Array:
    """jnp.where for operands that broadcast to `where`; inline, where jnp.where is a function of the program each time.

    Witness: test_select_differential.
    """
    dtype = (yes if isinstance(yes, jax.Array) else no).dtype
    return lax.select(where, _as_wide(yes, where, dtype), _as_wide(no, where, dtype))


def at_least(x: jax.Array, low: jax.Array | float) -> jax.Array:
    """x where it is above low, low elsewhere: for NaN too, where a maximum would be NaN.

    Witness: test_clamps_differential.
    """
    wide = _as_wide(low, x, x.dtype)
    return lax.select(lax.gt(x, wide), x, wide)


def at_most(x: jax.Array, high: jax.Array | float) -> jax.Array:
    """x where it is below high, high elsewhere, for NaN too.  Witness: test_clamps_differential."""
    wide = _as_wide(high, x, x.dtype)
    return lax.select(lax.lt(x, wide), x, wide)


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
    changed where a call or a loop lies between: other elements come out.  A selection by place keeps it from looking:
    no pass folds it, moves a transpose past it, or needs memory for it.  XLA:CPU before JAX 0.11.1 has a cheaper one,
    a barrier that is taken away before loops are made; elsewhere a barrier would stay between them.
    Witness: test_bitcast_differential.
    """
    x = lax.stop_gradient(x)  # a bit cast has no tangent, and linearize refuses a custom_vmap
    barrier = BARRIERS_FUSE and jax.default_backend() == "cpu"
    return lax.bitcast_convert_type(lax.optimization_barrier(x) if barrier else _selected_by_place(x), dtype)


@jax.custom_batching.custom_vmap
def _selected_by_place(x: jax.Array) -> jax.Array:
    """x, where the number of its row is above -1.  A vmap may have rows where the function has none."""
    long = [axis for axis, size in enumerate(x.shape) if size > 1]
    if not long:
        return x
    rows = lax.broadcasted_iota(jnp.int32, x.shape, long[0])
    return lax.select(rows > -1, x, lax.full_like(x, 0))


@_selected_by_place.def_vmap
def _selected_in_a_batch(_: int, batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    return _selected_by_place(x), batched[0]
