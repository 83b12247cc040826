"""From what the user names to a target and a workload: the default, a folder, or module:function."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxquant.decide.users import code_of_the_user, told

DEFAULT = "all-MiniLM-L6-v2"


def open_target(model: str | None, on: str | None, score: str | None) -> tuple[Any, Any]:
    """The model and the workload that three texts name.

    Args:
      model: None for MiniLM, a folder with config.json of type bert, or module:function giving a Flax model.
      on: module:function giving examples; None only for a bert folder or the default.
      score: module:function taking (output, example); None: agreement with float.
    Raises:
      ValueError: a text that names nothing, or a model for which no workload is known.
      FileNotFoundError: a file is absent.
    """
    if model is None:
        _refuse_without_model(on, score)
        return open_default()
    if (path := Path(model)).exists():
        return _open_path(path, on, score)
    built = called(model)
    if on is None:
        raise ValueError(f"decide: {model} is given without --on, need module:function giving examples of its input")
    return target_of(built, model), _examples(on, score)


def open_default() -> tuple[Any, Any]:
    """MiniLM on docstrings, or the small net on digits that says it is the fallback."""
    from jaxquant.decide.workloads import open_default as opened_default

    opened = opened_default()
    if opened.folder is None:
        return target_of(opened.model, "digits net"), opened.workload
    from dataclasses import replace

    from jaxquant.decide.targets.nnx_target import open_bert

    target = open_bert(opened.folder)
    target.source = replace(target.source, name=DEFAULT)
    return target, opened.workload


def target_of(model: Any, name: str) -> Any:
    """A Flax model as a target: an NNX module, or (Linen module, variables).

    Raises:
      TypeError: neither.
    """
    from flax import linen, nnx

    from jaxquant.decide.targets import Source

    if isinstance(model, nnx.Module):
        from jaxquant.decide.targets.nnx_target import NnxTarget

        return NnxTarget(model, Source(name))
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], linen.Module):
        from jaxquant.decide.targets.linen_target import LinenTarget

        return LinenTarget(*model, Source(name))
    raise TypeError(
        f"decide: the model is a {type(model).__name__}, need an nnx.Module, or (linen.Module, variables) with all "
        "weights in the variables"
    )


def load(text: str) -> Any:
    """The object that module:function names; the current folder counts as a place for modules.

    Raises:
      ValueError: not of that form, no such module or name.
    """
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"decide: {text!r} is no folder or file, and not of the form module:function (mymodel:build)")
    if module.endswith(".py") or "/" in module:
        raise ValueError(f"decide: {text!r} names a file, need a module's name: {Path(module).stem}:{name}")
    sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        here = [path.stem for path in Path().glob("*.py")]
        if error.name not in (module, module.partition(".")[0]):
            raise told(f"importing {module}", error) from error
        raise ValueError(
            f"decide: no module {module!r} here or among the installed ones (from {text!r}){_nearest(module, here)}"
        ) from None
    except (Exception, SystemExit) as error:
        raise told(f"importing {module}", error) from error
    finally:
        sys.path.remove("")
    if not hasattr(found, name):
        raise ValueError(f"decide: module {module!r} has no {name!r} (from {text!r}){_nearest(name, vars(found))}")
    return getattr(found, name)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [one for one in known if not one.startswith("_")])
    return f"; nearest: {', '.join(close)}" if close else ""


def called(text: str) -> Any:
    """What the function that module:function names gives when it is called without arguments.

    Raises:
      ValueError: it is no function, or takes arguments.
    """
    found = load(text)
    if not callable(found):
        raise ValueError(
            f"decide: {text!r} is a {type(found).__name__}, need a function without arguments that gives it"
        )
    try:
        inspect.signature(found).bind()
    except TypeError:
        raise ValueError(f"decide: {text!r} takes arguments, need a function that is called without any") from None
    with code_of_the_user(text):
        return found()


def _examples(on: str, score: str | None) -> Any:
    from jaxquant.decide.workloads.examples import open_examples

    return open_examples(called(on), load(score) if score else None, source=on)


def _open_path(path: Path, on: str | None, score: str | None) -> tuple[Any, Any]:
    if path.is_file():
        raise ValueError(
            f"decide: {path} is a file of weights without a model, so no accuracy can be measured; what can: sizes and "
            f"errors with 'jaxquant look {path}'.  For a decision give a folder with config.json of type bert, or "
            "module:function building a Flax model"
        )
    from jaxquant.decide.targets.nnx_target import open_bert

    target = open_bert(path)
    if on is not None:
        return target, _examples(on, score)
    from jaxquant.decide.workloads import docstrings

    return target, docstrings.open_workload(path)


def _refuse_without_model(on: str | None, score: str | None) -> None:
    if on or score:
        raise ValueError("decide: --on or --score is given without a model, need module:function or a folder first")
