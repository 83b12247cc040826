"""Rules as JSON and back."""

import dataclasses
import importlib
import json
from collections.abc import Callable
from typing import Any, get_args

from jaxquant.flax.names import nearest
from jaxquant.flax.rule import Rule, function_name
from refquant import estimators, formats, granularity
from refquant.conventions import Affine
from refquant.schemes import TensorScheme, parse_tensor
from refquant.spec import QuantSpec, ScaleRule

VERSION = 1
ESTIMATORS = {cls.__name__: cls for cls in (estimators.Ste, estimators.Lsq, estimators.LsqPlus, estimators.Pact)}
GRAINS = {cls.__name__: cls for cls in get_args(granularity.Granularity)}
FIELDS = {f.name: f for f in dataclasses.fields(Rule)}


def dumps(rules: tuple[Rule, ...], schedule: Any) -> str:
    """The text of a recipe."""
    body: dict[str, Any] = {"recipe": VERSION, "rules": [_rule(rule) for rule in rules]}
    if schedule is not None:
        body["schedule"] = _changed(schedule)
    return json.dumps(body, indent=2)


def loads(text: str) -> tuple[list[Rule], dict[str, Any] | None]:
    """The rules and the fields of the schedule.

    Raises:
      ValueError: not the text of a recipe.
    """
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"Recipe.from_json: no JSON ({error}), need the text of to_json") from None
    if not isinstance(body, dict) or body.get("recipe") != VERSION or not isinstance(body.get("rules"), list):
        raise ValueError(f'Recipe.from_json: need {{"recipe": {VERSION}, "rules": [...]}}')
    _known("the recipe", body, {"recipe", "rules", "schedule"})
    schedule = body.get("schedule")
    if schedule is not None:
        _known("the schedule", schedule, {"start", "freeze_scales", "freeze_batch_norm"})
    return [_read_rule(rule) for rule in body["rules"]], schedule


def _changed(value: Any) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    fields = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value)}
    return {name: own for name, (own, default) in fields.items() if own != default}


def _rule(rule: Rule) -> dict[str, Any]:
    return {name: written(value) for name, value in _changed(rule).items()}


def written(value: Any) -> Any:
    """A scheme, a spec, an estimator or a predicate as JSON has it."""
    if isinstance(value, TensorScheme):
        return str(value)
    if isinstance(value, QuantSpec):
        grain = {type(value.granularity).__name__: _changed(value.granularity)}
        return {
            "fmt": value.fmt.name,
            "granularity": grain,
            "scale": _changed(value.scale),
            "convention": _changed(value.convention),
        }
    if type(value).__name__ in ESTIMATORS:
        return {type(value).__name__: _changed(value)}
    return value if isinstance(value, str) else {"function": _importable(value)}


def _importable(function: Callable) -> str:
    name = function_name(function)
    try:
        found = _imported(name)
    except ValueError:
        found = None
    if found is not function:
        raise ValueError(
            f"Recipe.to_json: predicate {name} cannot be imported by that name, need a function of a module (no "
            "lambda, no inner function), or a pattern"
        )
    return name


def _imported(name: str) -> Callable:
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"Recipe.from_json: predicate {name!r} not found ({error}), need 'module:function'") from None
    return found


def _read_rule(body: Any) -> Rule:
    if not isinstance(body, dict):
        raise ValueError(f"Recipe.from_json: rule {body!r}, need an object with where, weights, ...")
    _known("a rule", body, set(FIELDS))
    if "where" not in body:
        raise ValueError(f"Recipe.from_json: rule {body!r} has no where, need a pattern")
    return Rule(**{name: _read(name, value) for name, value in body.items()})


def _read(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return parse_tensor(value) if name in ("weights", "inputs", "attention") else value
    if not isinstance(value, dict):
        raise ValueError(f"Recipe.from_json: {name} is {value!r}, need text or an object")
    if name == "where":
        _known("where", value, {"function"})
        return _imported(value["function"])
    if name in ("weight_estimator", "input_estimator"):
        return _one(name, value, ESTIMATORS)
    return _spec(name, value)


def _spec(name: str, body: dict[str, Any]) -> QuantSpec:
    _known(name, body, {"fmt", "granularity", "scale", "convention"})
    missing = [part for part in ("fmt", "granularity") if part not in body]
    if missing:
        raise ValueError(f"Recipe.from_json: {name} has no {missing[0]}, need fmt and granularity (of a QuantSpec)")
    grain = _one("granularity", body["granularity"], GRAINS)
    parts = {part: body.get(part, {}) for part in ("scale", "convention")}
    for part, cls in (("scale", ScaleRule), ("convention", Affine)):
        _known(f"the {part} of {name}", parts[part], {f.name for f in dataclasses.fields(cls)})
    return QuantSpec(formats.get(body["fmt"]), grain, ScaleRule(**parts["scale"]), Affine(**parts["convention"]))


def _one(name: str, body: Any, classes: dict[str, type]) -> Any:
    """The object of {"Class": {fields}}."""
    cls = next(iter(body), "") if isinstance(body, dict) else body
    if not isinstance(body, dict) or len(body) != 1 or cls not in classes:
        need = ", ".join(nearest(cls, classes, None))
        raise ValueError(f"Recipe.from_json: {name} is {body!r}, need one of {need} with its fields")
    _known(cls, body[cls], {f.name for f in dataclasses.fields(classes[cls])})
    return classes[cls](**{field: _tuples(value) for field, value in body[cls].items()})


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _known(what: str, body: Any, names: set[str]) -> None:
    """Refuse other fields; those that there are stand in the message, the nearest first."""
    unknown = sorted(set(body) - names) if isinstance(body, dict) else [body]
    if unknown:
        need = f"only {', '.join(nearest(unknown[0], names, None))}" if names else "no field"
        raise ValueError(f"Recipe.from_json: {what} has {', '.join(map(repr, unknown))}, need {need}")
