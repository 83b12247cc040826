"""A straight-through gradient has no derivative of its own: asked for one, JAX would answer 0."""

from collections.abc import Callable
from typing import Any

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

    def refusing_forward(*given: Any) -> tuple[Any, Any]:
        guarded, origin = _guarded(given)
        result, kept = forward(*guarded)
        # what is kept as it came stays the argument itself: a scan would stack a copy of anything else
        return result, jax.tree.map(lambda leaf: origin.get(id(leaf), leaf), kept)

    def refusing_backward(*given: Any) -> Any:
        return backward(*given[:-1], _guarded(given[-1])[0])

    return refusing_forward, refusing_backward


def _guarded(given: Any) -> tuple[Any, dict[int, Any]]:
    """The same with guarded arrays, and by their ids what they were."""
    leaves, tree = jax.tree.flatten(given)
    real = [i for i, leaf in enumerate(leaves) if _is_real(leaf)]
    origin = {}
    for i, leaf in zip(real, _refusing(*(leaves[i] for i in real)), strict=True):
        leaves[i], origin[id(leaf)] = leaf, leaves[i]
    return jax.tree.unflatten(tree, leaves), origin


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
