"""Replacing modules of an NNX model in a clone, so that the original is never touched."""

from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

Path = tuple[str | int, ...]


def modules(model: nnx.Module, kind: type = nnx.Linear) -> Iterator[tuple[Path, Any]]:
    """Every module of exactly that class with its path, each shared module once."""
    for path, module in nnx.iter_graph(model):  # iter_modules is younger than Flax 0.12.0
        if type(module) is kind:
            yield tuple(path), module


def replaced(model: nnx.Module, make: Callable[[Path, Any], nnx.Module | None], kind: type = nnx.Linear) -> nnx.Module:
    """A clone of the model with modules of a class replaced wherever they are referenced.

    Args:
      model: any NNX module; unchanged afterwards.
      make: from a path and the module there to its replacement, None to leave it.
      kind: the exact class to replace.
    """
    clone = nnx.clone(model)
    swaps = {id(old): new for path, old in modules(clone, kind) if (new := make(path, old)) is not None}
    if id(clone) in swaps:
        return swaps[id(clone)]
    for holder in [node for _, node in nnx.iter_graph(clone) if isinstance(node, nnx.Module)]:
        for key, value in list(vars(holder).items()):
            if id(value) in swaps:
                _put(holder, key, swaps[id(value)])
    return clone


def _put(holder: Any, key: str, module: nnx.Module) -> None:
    if isinstance(holder, nnx.List):
        holder[int(key)] = module
    else:
        setattr(holder, key, module)
