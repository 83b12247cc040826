"""How errors name things: a layer by its path, and what is not there beside the nearest that is."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from refquant.options import told


def named(path: str) -> str:
    """A layer as an error names it; the model itself is ".", as in a report."""
    return f"layer {path or '.'!r}"


def nearest(name: object, known: Iterable[str], count: int | None = 3) -> list[str]:
    """The names that there are, the most similar first, however little they have in common.

    Args:
      name: what was asked for.
      known: the names there are.
      count: how many at most; None: all.
    """
    known = sorted(known)
    return difflib.get_close_matches(str(name), known, count or len(known) or 1, 0.0)


def names_in(function: str, methods: Any) -> tuple[str, ...]:
    """The names that `methods` has; None has none.

    Args:
      function: that was called.
      methods: what it was given.
    Raises:
      TypeError: no dict, or a key that is no name.
    """
    if not isinstance(methods, Mapping | None):
        need = 'a dict of names and what each is called with, such as {"decode": tokens}'
        raise TypeError(f"{function}: methods is {told(methods)}, need {need}")
    return tuple(check_name(function, "methods has", name) for name in methods or ())


def check_name(function: str, what: str, name: Any) -> str:
    """The name of a method.

    Args:
      function: that was called.
      what: the argument as the message has it, "method is" or "methods has".
      name: what was given.
    Raises:
      TypeError: it is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"{function}: {what} {told(name)}, need the name of a method")
    return name


def no_method(function: str, argument: str, name: str, model: Any) -> str:
    """What is said of a method that a model has not.

    Args:
      function: that was called.
      argument: "method", or "methods" where several are given.
      name: of the method.
      model: a Flax module.
    """
    cls = type(model)
    others = {
        own for base in cls.__mro__ if base.__module__.startswith("flax.") and base is not cls for own in vars(base)
    }
    others |= {own for own in dir(cls) if own.startswith("_") or isinstance(getattr(cls, own, None), type)}
    others |= {*getattr(cls, "__dataclass_fields__", ())}
    known = {own for own in dir(cls) if callable(getattr(cls, own, None))} - others
    near = ", ".join(map(repr, nearest(name, {*known, "__call__"})))
    has, need = ("has", "methods") if argument == "methods" else ("is", "a method")
    return f"{function}: {argument} {has} {name!r}, need {need} of {cls.__name__} (nearest: {near})"
