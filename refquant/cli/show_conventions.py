"""Conventions of runtimes for people: the table of presets, and the page of one."""

import dataclasses
from dataclasses import asdict
from typing import Any

from refquant.cli.screen import Screen
from refquant.conventions import Lanes
from refquant.conventions.presets import PRESETS

WORDS = {
    "op": "div: x / scale; inv: x * (1 / scale); given: x * the argument",
    "prec": "precision of that step",
    "zero": "zero point added after rounding (int), before it (add), in one fused step (fma), or to x (bias)",
    "ties": "where a value midway between two integers goes",
    "overflow": "sat: clamp first; i32, i64: cast first, out of range is the smallest; magic: by adding 1.5 * 2^23",
    "nan": "the code of NaN",
}


def presets() -> dict[str, Any]:
    """Every named convention of affine quantization."""
    return dict(PRESETS)


def as_json(row: Any) -> dict[str, Any]:
    """A preset as JSON: its fields, the point's as a dictionary (`Lanes`: n, body, tail)."""
    return {f.name: getattr(row, f.name) for f in dataclasses.fields(row)} | {"affine": asdict(row.affine)}


def table(screen: Screen, *, as_json: bool) -> int:
    """All presets, a line or two each."""
    if as_json:
        screen.json({"conventions": [_json(row) for row in PRESETS.values()]})
        return 0
    wide = 1 + max(map(len, PRESETS))
    heads = (("name", wide), ("op", 6), ("prec", 5), ("zero", 5), ("ties", 6), ("overflow", 9), ("nan", 5))
    screen.line(screen.paint("".join(f"{name:<{room}}" for name, room in heads) + " known from", "dim"))
    for row in PRESETS.values():
        points = (row.affine.body, row.affine.tail) if isinstance(row.affine, Lanes) else (row.affine,)
        for k, point in enumerate(points):
            name = f"{row.name if k == 0 else '  the rest':<{wide}}"
            words = "".join(f"{getattr(point, key):<{room}}" for key, room in heads[1:])
            known = _known(row, screen.width - wide - 37) if k == 0 else ""
            screen.line(f"{screen.paint(name, 'bold') if k == 0 else name}{words} {known}")
    screen.line()
    for key, text in WORDS.items():
        screen.wrapped(f"{key:<9}{text}", 9, "dim")
    screen.line()
    screen.wrapped("One of them: refquant show torch_per_tensor.  Use it: refquant encode 0.3 --fmt int8 --scale 0.1 "
                   "--convention torch_per_tensor", 2)  # fmt: skip
    return 0


_json = as_json


def _known(row: Any, room: int) -> str:
    text = f"run: {row.version}" if row.source == "measured" else row.source
    return text if len(text) <= room else text[: room - 1] + "…"


def one(row: Any, screen: Screen, *, as_json: bool) -> int:
    """The page of one preset."""
    if as_json:
        screen.json(_json(row))
        return 0
    screen.line(screen.paint(row.name, "bold"))
    measured = row.source == "measured"
    screen.wrapped(f"  known from {'a run of it: 0 mismatches on the probes' if measured else row.source}", 13)
    screen.line(f"  version    {row.version}")
    lanes = isinstance(row.affine, Lanes)
    if lanes:
        screen.line(f"  blocks of  {row.affine.n} elements as in 'body', what is left over as in 'tail'")
    for label, point in (("body", row.affine.body), ("tail", row.affine.tail)) if lanes else (("point", row.affine),):
        screen.line(f"  {label:<10} {point}")
    for key, text in WORDS.items():
        screen.wrapped(f"    {key:<9}{text}", 13, "dim")
    if row.note:
        screen.wrapped(f"  note       {row.note}", 13)
    return 0
