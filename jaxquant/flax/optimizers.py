"""Whether the state of an optimizer is that of the parameters it is to train: `prepare` adds some."""

from typing import Any

import jax
import numpy as np


def check_optimizer(optimizer: Any, state: Any, params: Any) -> None:
    """Refuse an optimizer's state that is not one of these parameters.

    Args:
      optimizer: an optax.GradientTransformation, as it made the state.
      state: what its `init` or `update` gave, or a checkpoint.
      params: from `prepare`.
    Raises:
      TypeError: no optax optimizer.
      ValueError: the state was made before `prepare`, or of parameters by another recipe.
    """
    if not callable(getattr(optimizer, "init", None)):
        what = type(optimizer).__name__
        raise TypeError(f"check_optimizer: optimizer is a {what}, need (optax's optimizer, its state, the parameters)")
    check_state(state, jax.eval_shape(optimizer.init, params))


def check_state(state: Any, fresh: Any) -> None:
    """Refuse a state whose leaves are not those of a fresh one.

    Args:
      state: of an optimizer.
      fresh: of the same optimizer for the parameters as they are now; shapes are enough.
    Raises:
      ValueError: a leaf is missing, too many, or of another shape.
    """
    own, need = _leaves(state), _leaves(fresh)
    wrong = [path for path in {**need, **own} if own.get(path) != need.get(path)]
    wrong.sort(key=lambda path: "shape" not in need.get(path, ""))  # a parameter says more than a place masked out
    if wrong:
        there, wanted = (leaves.get(wrong[0], "nothing") for leaves in (own, need))
        raise ValueError(
            "check_optimizer: the optimizer's state does not fit the model's parameters, need one made after prepare "
            f"(learned scales are parameters too): it has {there} at {wrong[0]}, need {wanted}"
        )


def _leaves(tree: Any) -> dict[str, str]:
    """The shape of each leaf; where optax masks a parameter out there is a node without leaves, which counts too."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: not jax.tree.leaves(node))
    return {jax.tree_util.keystr(path): _named(leaf) for path, leaf in leaves}


def _named(leaf: Any) -> str:
    return f"shape {np.shape(leaf)}" if jax.tree.leaves(leaf) else type(leaf).__name__
