"""Conventions, casts, rescales and dequants of runtimes for people: names, a table of each kind, the page of a name."""

from typing import Any

from refquant.cli import presets
from refquant.cli.numbers import short
from refquant.cli.presets import Kind, departures, example_of, is_run, parts_of, values_of
from refquant.cli.screen import Screen


def names(kind: Kind, screen: Screen) -> None:
    """The names of one kind, for the list of everything."""
    screen.line()
    screen.wrapped(f"{kind.name}: {kind.does}", 2, "bold")
    screen.wrapped("  " + ", ".join(kind.rows), 2)


def table(kind: Kind, screen: Screen, *, as_json: bool) -> int:
    """All presets of a kind, a line each, `Lanes` two."""
    if as_json:
        screen.json({kind.name: [presets.row_json(row) for row in kind.rows.values()]})
        return 0
    wide = 1 + max(map(len, kind.rows))
    heads = {field: 2 + max(map(len, (field, *words))) for field, words in kind.words.items()}
    head = "".join(f"{field:<{room}}" for field, room in heads.items())
    screen.line(screen.paint(f"{'name':<{wide}}{head}known from", "dim"))
    for row in kind.rows.values():
        for k, point in enumerate(parts_of(row).values()):
            name = f"{row.name if k == 0 else '  the rest':<{wide}}"
            words = "".join(f"{value:<{heads[field]}}" for field, value in values_of(point).items())
            known = _cut(_known(row), screen.width - wide - sum(heads.values())) if k == 0 else ""
            screen.line(f"{screen.paint(name, 'bold') if k == 0 else name}{words}{known}")
    screen.line()
    for field, words in kind.words.items():
        screen.wrapped(f"{field:<11}" + "; ".join(f"{key}: {text}" for key, text in words.items()), 11, "dim")
    screen.line()
    screen.wrapped(f"One of them, and its way from the default: refquant show {next(iter(kind.rows))}", 2)
    if kind.one == "convention":
        screen.wrapped("Use it: refquant encode 0.3 --fmt int8 --scale 0.1 --convention torch_per_tensor", 2)
    return 0


def _known(row: Any) -> str:
    return f"run: {row.version}" if is_run(row) else row.source


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(room - 1, 0)] + "…"


def page(name: str, screen: Screen, *, as_json: bool) -> int:
    """The page of a name: what it is in each table that has it."""
    if as_json:
        screen.json(presets.page_json(name))
        return 0
    for k, (kind, row) in enumerate(presets.named(name)):
        if k:
            screen.line()
        _row(kind, row, screen)
    return 0


def _row(kind: Kind, row: Any, screen: Screen) -> None:
    screen.wrapped(f"{row.name}   a {kind.one}: {kind.does}", 2, "bold")
    measured = "a run of it: 0 mismatches on the probes" if is_run(row) else row.source
    screen.wrapped(f"  {'known from':<13}{measured}", 15)
    screen.wrapped(f"  {'version':<13}{row.version}", 15)
    if row.note:
        screen.wrapped(f"  {'note':<13}{row.note}", 15)
    screen.wrapped(f"  {'same point':<13}{', '.join(presets.twins(row, kind)) or 'no other name here'}", 15)
    parts = parts_of(row)
    if len(parts) > 1:
        n = row.affine.n
        screen.wrapped(
            f"  {'blocks':<13}whole ones of {n} elements as in 'body', the last size mod {n} as in 'tail'", 15
        )
    for label, point in parts.items():
        _part(label, point, kind, screen)


def _part(label: str, point: Any, kind: Kind, screen: Screen) -> None:
    """A point field by field; what is not the default's is marked, with the default's beside it."""
    values, apart = values_of(point), departures(point, kind)
    screen.line(f"  {label:<13}{' '.join(values.values())}")
    for field, value in values.items():
        text = f"    {field:<11}{value:<10}{kind.words[field][value]}"
        if field not in apart:
            screen.wrapped(text, 25, "dim")
            continue
        usual = apart[field][1]
        screen.wrapped(f"{text}; {_whose(kind)} is {usual}: {kind.words[field][usual]}", 25, "mark")
    if not apart:
        screen.wrapped(f"  {'differs':<13}in nothing: it is {_whose(kind)}", 15)
    elif kind.example is not None:
        screen.wrapped(f"  {'distance':<13}{_distance(point, kind)}", 15)


def _whose(kind: Kind) -> str:
    _, whose = kind.default
    return f"the default ({whose})"


def _distance(point: Any, kind: Kind) -> str:
    """How many inputs get another code than under the default, and the first of them."""
    fmt, _, _ = example_of(point, kind)
    found = presets.distance(point, kind)
    nans = f", {found.nans:,} of them NaN" if found.nans else ""
    told = f"{found.inputs:,} of the 2^32 inputs get another code to {fmt}{_at(point, kind)}{nans}"
    if found.first is None:
        return told
    x, code, usual = found.first
    return f"{told}; {short(x)} gives {code}, not {usual}"


def _at(point: Any, kind: Kind) -> str:
    """The arguments of the example in words; a cast has none."""
    _, scale, zero_point = example_of(point, kind)
    if kind.one == "cast":
        return ""
    factor = "multiplier" if kind.one == "rescale" else "argument" if getattr(point, "op", "") == "given" else "scale"
    addend = "offset" if getattr(point, "zero", "") == "bias" else "zero point"
    return f" with {factor} {scale:g} and {addend} {zero_point:g}"
