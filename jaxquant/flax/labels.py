"""Groups of parameters for an optimizer: learned scales want a learning rate of their own."""

from typing import Any

import jax

from jaxquant.flax.mark import is_mark

SCALES = ("kernel_scale", "kernel_offset", "inputs_scale", "inputs_offset")
FROZEN = ("inputs_zero_point", "step")
#: The attribute that a Variable or a box adds behind its own name.
WRAPPERS = ("value", "raw_value")


def labels(params: Any) -> Any:
    """The group of each leaf: "scales" (learned), "frozen" (counted, calibrated, marks), else "weights".

    Args:
      params: a tree of parameters as optax is given it: an nnx.State, or Linen's params.
    Returns:
      A tree of the same structure with a string at each leaf: what optax.multi_transform takes as labels.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> from jaxquant.flax import Lsq, Recipe, Rule, nnx_api
      >>> recipe = Recipe(Rule("**", weights="int4", weight_estimator=Lsq()))
      >>> qmodel, _ = nnx_api.prepare(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), recipe)
      >>> groups = {"weights": optax.adamw(1e-3), "scales": optax.adam(1e-4), "frozen": optax.set_to_zero()}
      >>> optimizer = nnx.Optimizer(qmodel, optax.multi_transform(groups, nnx_api.labels), wrt=nnx.Param)
      >>> grads = nnx.grad(lambda m: jnp.sum(m(jnp.ones((3, 4))) ** 2))(qmodel)
      >>> _ = optimizer.update(qmodel, grads)
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: _label(path), params)


def _label(path: tuple) -> str:
    """By the variable's name, the last key: modules may be called as they like."""
    keys = [key for key in path if getattr(key, "name", "") not in WRAPPERS]
    own = str(getattr(keys[-1], "key", getattr(keys[-1], "name", ""))) if keys else ""
    return "scales" if own in SCALES else "frozen" if own in FROZEN or is_mark(own) else "weights"
