"""A straight-through gradient has no derivative of its own: asked for one, JAX would answer 0."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def first_order(forward: Callable, backward: Callable) -> tuple[Callable, Callable]:
    """A forward and a backward rule for `defvjp` that refuse to be differentiated themselves.

    What they are given is guarded, not what they give: behind steps on bits there is no tangent left to see.

    Args:
      forward: gives (result, residuals).
      backward: gives the cotangents.
    """
    return lambda *given: forward(*_guarded(given)), lambda *given: backward(*_guarded(given))


def _guarded(given: tuple) -> tuple:
    leaves, tree = jax.tree.flatten(given)
    real = [i for i, leaf in enumerate(leaves) if _is_real(leaf)]
    for i, leaf in zip(real, _refusing(*(leaves[i] for i in real)), strict=True):
        leaves[i] = leaf
    return jax.tree.unflatten(tree, leaves)


def _is_real(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)


@jax.custom_jvp
def _refusing(*values: jax.Array) -> tuple[jax.Array, ...]:
    return values


@_refusing.defjvp
def _refuse(primals: tuple, tangents: tuple) -> tuple:
    raise TypeError(
        "a straight-through gradient was differentiated, need first derivatives only (rounding has no second one: "
        "Hessians and their products are those of the float model)"
    )
