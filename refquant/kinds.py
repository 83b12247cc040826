"""Arguments that are no array must be of the kind that a function declares (rule GEN-5).

Both packages declare the same kinds, so both raise the same text, before anything is read of the argument or compiled.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from types import UnionType
from typing import ParamSpec, TypeVar, get_args

from refquant.conventions import Affine, Cast, Rescale, StepFunction
from refquant.conventions.steps import NEED_STEPS
from refquant.formats import Format
from refquant.granularity import Granularity
from refquant.options import told

P = ParamSpec("P")
R = TypeVar("R")
Kind = tuple[type, ...]
#: A kind and how to come by one; which of the formats a function takes is said by the function itself.
FAMILIES: tuple[tuple[Kind, str], ...] = (
    (get_args(Format), "a format such as formats.ALL['int8'] (names go to formats.get)"),
    (get_args(Granularity), "a granularity such as PerTensor() or PerAxis(0) (a scheme's text goes to schemes)"),
    ((Affine,), "an Affine such as conventions.DEFAULT or conventions.PRESETS['onnx'].affine"),
    ((Cast,), "a Cast such as conventions.CAST (of a Preset its .point)"),
    ((Rescale,), "a Rescale such as conventions.RESCALE or conventions.RESCALES['xnnpack'].point"),
    ((StepFunction,), NEED_STEPS),
)


def kinds(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which refuses an argument that is annotated with classes of this library and is none of them.

    Raises:
      TypeError: by the function returned; None is accepted where the annotation has it.
    """
    plain = inspect.unwrap(function)
    names = tuple(inspect.signature(plain).parameters)
    declared = {
        name: _allowed(kind) for name, kind in plain.__annotations__.items() if name != "return" and _ours(kind)
    }

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            if name in declared:
                _check(plain.__name__, name, value, declared[name])
        return function(*args, **kwargs)

    return checked


def check_fields(instance: object, *names: str) -> None:
    """The same of fields of a dataclass.

    Raises:
      TypeError: one is of another kind.
    """
    for name in names:
        allowed = _allowed(type(instance).__annotations__[name])
        _check(type(instance).__name__, name, getattr(instance, name), allowed)


def _check(function: str, argument: str, value: object, allowed: tuple[Kind, str]) -> None:
    classes, need = allowed
    if not isinstance(value, classes):
        raise TypeError(f"{function}: {argument} is {told(value)}, need {need}")


def _allowed(kind: object) -> tuple[Kind, str]:
    """The classes of an annotation with their families, and what to say of them."""
    families = dict.fromkeys(map(_family, _classes(kind)))
    return tuple(one for classes, _ in families for one in classes), " or ".join(text for _, text in families)


def _ours(kind: object) -> bool:
    """Whether an annotation names classes of this library alone, None aside."""
    return all(one.__module__.startswith(("refquant", "jaxquant")) for one in _classes(kind) if one is not type(None))


def _classes(kind: object) -> Kind:
    """The classes of an annotation; what is no class counts as object, which is not ours."""
    members = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return tuple(one if isinstance(one, type) else object for one in members)


def _family(one: type) -> tuple[Kind, str]:
    """The family of a class; one without is named with its module, where it is made, without the package."""
    name = "None" if one is type(None) else f"{one.__name__} of {one.__module__.partition('.')[2]}"
    return next((family for family in FAMILIES if one in family[0]), ((one,), name))
