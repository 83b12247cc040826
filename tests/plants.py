"""Planting a mistake: one snippet of a module's source is replaced, and its functions get the new code in place."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import types
from collections.abc import Iterator


@contextlib.contextmanager
def planted(module_name: str, old: str, new: str) -> Iterator[None]:
    """Run with `old` replaced by `new` in a module; every function that imported its names sees it too."""
    module = importlib.import_module(module_name)
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{module_name}: the snippet stands there {source.count(old)} times: {old!r}"
    changed = codes(compile(source.replace(old, new), module.__file__, "exec"))
    functions = {name: f for name, value in vars(module).items() if (f := plain(value, module_name))}
    before = {name: f.__code__ for name, f in functions.items()}
    try:
        for name, function in functions.items():
            function.__code__ = changed[name]
        forget()
        yield
    finally:
        for name, function in functions.items():
            function.__code__ = before[name]
        forget()


@contextlib.contextmanager
def replaced(module_name: str, name: str, value: object) -> Iterator[None]:
    """Run with a module's attribute replaced."""
    module = importlib.import_module(module_name)
    original = getattr(module, name)
    try:
        setattr(module, name, value)
        forget()
        yield
    finally:
        setattr(module, name, original)
        forget()


def plain(value: object, module_name: str) -> types.FunctionType | None:
    """The Python function inside jit, errstate or lru_cache, where the module defines it."""
    function = inspect.unwrap(value) if callable(value) else None
    is_own = isinstance(function, types.FunctionType) and function.__module__ == module_name
    return function if is_own else None


def codes(code: types.CodeType) -> dict[str, types.CodeType]:
    """Code objects of the functions at the top of a module."""
    return {c.co_name: c for c in code.co_consts if isinstance(c, types.CodeType)}


def forget() -> None:
    """Drop what was computed or compiled with other code."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "refquant":
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
