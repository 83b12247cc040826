"""Options as JSON and as objects.  Conventions are text ("div f32 int even sat qmin"), the rest objects."""

from __future__ import annotations

import dataclasses
from typing import get_args

from refquant import formats
from refquant.conventions import Affine, Cast, Rescale
from refquant.estimators import Lsq, LsqPlus, Pact, Ste
from refquant.granularity import Granularity
from refquant.spec import QuantSpec, ScaleRule

GRAINS = {kind.__name__: kind for kind in get_args(Granularity)}
ESTIMATORS = {kind.__name__: kind for kind in (Ste, Lsq, LsqPlus, Pact)}
NAMES = ("inputs", "spec", "weight")


def to_json(value: object) -> object:
    if isinstance(value, Affine | Rescale):
        return str(value)
    if isinstance(value, Cast | ScaleRule):
        return dataclasses.asdict(value)
    if isinstance(value, QuantSpec):
        fields = {
            "fmt": value.fmt,
            "granularity": value.granularity,
            "scale": value.scale,
            "convention": value.convention,
        }
        return {name: to_json(field) for name, field in fields.items()}
    if isinstance(value, Granularity | Ste | Lsq | LsqPlus | Pact):
        return {"kind": type(value).__name__} | {k: to_json(v) for k, v in dataclasses.asdict(value).items()}
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    return getattr(value, "name", value)


def of_json(options: dict) -> dict:
    return {name: _parsed(name, value) for name, value in options.items()}


def _parsed(name: str, value: object) -> object:
    if name == "fmt":
        return formats.ALL[value]
    if name == "convention":
        return Affine(*value.split())
    if name == "rescale":
        return Rescale(*value.split())
    if name == "cast":
        return Cast(**value)
    if name == "rule":
        return ScaleRule(**value)
    if name == "estimator":
        return ESTIMATORS[value["kind"]](**{k: v for k, v in value.items() if k != "kind"})
    if name == "granularity":
        return GRAINS[value["kind"]](*(_tuples(v) for k, v in value.items() if k != "kind"))
    if name in NAMES:
        rule = ScaleRule(**value["scale"])
        return QuantSpec(
            *(_parsed(k, value[k]) for k in ("fmt", "granularity")), rule, _parsed("convention", value["convention"])
        )
    return _tuples(value)


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
