"""What the functions of linen_api are given, checked before anything becomes codes."""

from collections.abc import Iterable
from typing import Any

import jax
from flax import linen as nn
from flax.core import meta

from jaxquant.flax import finite
from jaxquant.flax.linen_calls import UNSEEN_RNGS
from jaxquant.flax.linen_quantized import Quantized
from jaxquant.flax.linen_sites import KINDS, Path, is_leaf
from jaxquant.flax.linen_trees import flat, kernel_beside, steps_of
from jaxquant.flax.names import named, names_in, no_method
from jaxquant.flax.recipe import Recipe
from jaxquant.qtensor import QTensor

#: What must be finite before it becomes a constant, and before it becomes codes.
CONSTANTS = ("kernel_scale", "kernel_offset", "inputs_scale", "inputs_offset")
WEIGHTS = frozenset(kind.kernel for kind in KINDS.values())


def need_quantized(function: str, qmodel: Any) -> None:
    """Refuse arguments in another order.

    Raises:
      TypeError: qmodel is none.
    """
    if not isinstance(qmodel, Quantized):
        raise TypeError(
            f"{function}: qmodel is a {type(qmodel).__name__}, need Quantized(model, recipe) (it comes first, then the "
            "parameters; NNX: nnx_api)"
        )


def check_methods(function: str, argument: str, model: nn.Module, variables: Any, methods: Any) -> None:
    """Refuse the name of a method that the model has not; a layer that its setup makes counts as one.

    Args:
      function: that was called.
      argument: "method" or "methods", as which they were given.
      model: the float model.
      variables: what it is bound to, where its class alone does not tell.
      methods: names, functions, or None.
    Raises:
      TypeError: several that are no dict of names.
      ValueError: there is none; the message has the nearest.
    """
    names = names_in(function, methods) if argument == "methods" else methods
    for name in names:
        if not isinstance(name, str) or callable(getattr(type(model), name, None)):
            continue
        bound = model.bind(variables, rngs={own: jax.random.key(0) for own in UNSEEN_RNGS}, mutable=True)
        if name not in dir(bound) or not callable(getattr(bound, name)):
            raise ValueError(no_method(function, argument, name, model))


def check_weights(function: str, params: Any, layers: Iterable[Path]) -> None:
    """Refuse float weights of layers that are not finite; those of a trace or of shapes pass.

    Raises:
      ValueError: one is not.
    """
    layers = set(layers)
    for path, leaf in flat(params).items():
        value = meta.unbox(leaf)
        if path[:-1] in layers and path[-1] in WEIGHTS and not isinstance(value, QTensor):
            finite.check_weight(function, "/".join(path[:-1]), path[-1], value)


def check_started(function: str, recipe: Recipe, params: Any) -> None:
    """Refuse layers that the recipe's schedule still runs in float.

    Raises:
      ValueError: one does.
    """
    for path, leaf in steps_of(params).items():
        finite.check_started(function, "/".join(path[:-1]), meta.unbox(leaf), recipe.start)


def check_reached(function: str, params: Any, layers: Iterable[Path], methods: list[str | None]) -> None:
    """Refuse prepared layers that no run came across: they would silently stay in float.

    Args:
      function: that was called.
      params: prepared.
      layers: the paths of those that runs came across.
      methods: those that ran; None is `__call__`.
    Raises:
      ValueError: there is one.
    """
    leaves, layers = flat(params), set(layers)
    for path in leaves:
        kernel = kernel_beside(path, leaves)
        if (
            is_leaf(path[-1])
            and path[:-1] not in layers
            and kernel is not None
            and not isinstance(meta.unbox(kernel), QTensor)
        ):
            ran = ", ".join(name or "__call__" for name in methods)
            raise ValueError(
                f"{function}: {named('/'.join(path[:-1]))} is prepared (it has {path[-1]}) and not reached by {ran}, "
                "need methods={name: its inputs} with the method that uses it (it would stay in float)"
            )


def check_constants(function: str, params: Any, layers: Iterable[Path]) -> None:
    """The same of their scales and offsets; a scale is not zero either."""
    layers = set(layers)
    for path, leaf in flat(params).items():
        if path[:-1] in layers and path[-1] in CONSTANTS:
            finite.check_constant(function, "/".join(path[:-1]), path[-1], meta.unbox(leaf))
