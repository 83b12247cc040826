"""Options: a field that is annotated with Literal is one of its texts, and nothing else (rule GEN-5)."""

from functools import cache
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints


def told(value: object) -> str:
    """A value as a message names it: in one line, whatever it is."""
    text, kind = repr(value), type(value)
    return text if len(text) <= 40 and "\n" not in text else f"of type {kind.__module__}.{kind.__qualname__}"


@cache
def options(kind: type) -> dict[str, tuple[str | None, ...]]:
    """The fields of a dataclass that are annotated with Literal, and what each may be: its texts, then None."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        texts = [text for part in parts if get_origin(part) is Literal for text in get_args(part)]
        if texts:
            found[name] = (*texts, *(None for part in parts if part is NoneType))
    return found


def check_options(instance: object, why: str) -> None:
    """Refuses a dataclass with an option that its annotations do not have: it would be taken for another one.

    Args:
      instance: of the dataclass, in its `__post_init__`.
      why: the rules that say what the options mean.

    Raises:
      ValueError: there is one; the message has the nearest of those that the field may be.
    """
    for name, allowed in options(type(instance)).items():
        value = getattr(instance, name)
        if not isinstance(value, str | None) or value not in allowed:
            need = ", ".join(map(repr, allowed))
            where = f"{type(instance).__name__}: {name}"
            raise ValueError(f"{where} is {told(value)}, need {need} ({why}){_nearest(value, allowed)}")


def _nearest(value: object, allowed: tuple[str | None, ...]) -> str:
    import difflib

    near = difflib.get_close_matches(str(value).lower(), [one for one in allowed if one], 1, 0.5)
    return f"; nearest: {near[0]}" if near else ""
