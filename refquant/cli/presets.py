"""What there is to say about a named point of a runtime, as data: its kind, its twins, its way from the default."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import numpy as np

from refquant.cli.numbers import bits_of, json_number
from refquant.cli.words import AFFINE, CAST_WORDS, DEQUANT, RESCALE_WORDS, Words
from refquant.conventions import CAST, CASTS, DEFAULT, DEQUANTS, PRESETS, RESCALE, RESCALES, Dequant, Lanes
from refquant.conventions.steps import INF_KEY, StepFunction, differences, key_bits
from refquant.formats import ALL, IntFormat

EVERY = 2**32


@dataclass(frozen=True)
class Kind:
    """A table of presets.

    Attributes:
      name: what `refquant show` calls the table.
      one: what JSON calls a row of it.
      does: what the rows say, in words.
      rows: the presets by name.
      default: the point that the library takes unless told, and whose it is.
      words: the meaning of each value of each field.
      example: (format, scale, zero point) at which distances are counted; None where the way is no step function.
    """

    name: str
    one: str
    does: str
    rows: Mapping[str, Any]
    default: tuple[Any, str]
    words: Words
    example: tuple[str, float, int] | None = None


KINDS = (
    Kind("conventions", "convention", "how a number becomes an integer code", PRESETS, (DEFAULT, "onnxruntime's"),
         AFFINE, ("int8", 0.1, 3)),
    Kind("casts", "cast", "what a cast to a float format or a codebook does at its edges", CASTS,
         (CAST, "the library's"), CAST_WORDS, ("e4m3fn", 1.0, 0)),
    Kind("rescales", "rescale", "how an int32 accumulator becomes a code", RESCALES, (RESCALE, "onnxruntime's"),
         RESCALE_WORDS, ("int8", 0.0123, 3)),
    Kind("dequants", "dequant", "how a code becomes a number again", DEQUANTS, (Dequant(), "onnxruntime's"), DEQUANT),
)  # fmt: skip


def known() -> list[str]:
    """Every name of a preset, once; some runtimes have one in several tables."""
    return list(dict.fromkeys(name for kind in KINDS for name in kind.rows))


def named(name: str) -> list[tuple[Kind, Any]]:
    """The rows of a name, one a table."""
    return [(kind, kind.rows[name]) for kind in KINDS if name in kind.rows]


def point_of(row: Any) -> Any:
    """The point of a row, or `Lanes`."""
    return row.affine if hasattr(row, "affine") else row.point


def parts_of(row: Any) -> dict[str, Any]:
    """The points of a row: one, or those of the body and the tail."""
    point = point_of(row)
    return {"body": point.body, "tail": point.tail} if isinstance(point, Lanes) else {"point": point}


def values_of(point: Any) -> dict[str, str]:
    """The words of a point by field; a cast that leaves ties to the format says "own"."""
    return {field.name: getattr(point, field.name) or "own" for field in fields(point)}


def is_run(row: Any) -> bool:
    """Whether the row was run, not only read."""
    return row.source == "measured"


def twins(row: Any, kind: Kind) -> list[str]:
    """Other names of the same point."""
    return [name for name, other in kind.rows.items() if name != row.name and point_of(other) == point_of(row)]


def departures(point: Any, kind: Kind) -> dict[str, tuple[str, str]]:
    """The fields in which a point is not the default: (its value, the default's)."""
    mine, usual = values_of(point), values_of(kind.default[0])
    return {field: (mine[field], usual[field]) for field in mine if mine[field] != usual[field]}


@dataclass(frozen=True)
class Distance:
    """How many of the 2^32 inputs get another code than under the default, at one example (CNV-4).

    Attributes:
      inputs: all of them.
      nans: those that are NaN.
      first: (input, code, the default's code) nearest zero; None where the functions are equal.
    """

    inputs: int
    nans: int
    first: tuple[Any, int, int] | None


def example_of(point: Any, kind: Kind) -> tuple[str, float, float]:
    """The format, argument and zero point of the example, as the point takes them.

    Under op "given" that is the reciprocal, under zero "bias" the offset that stands for the zero point.
    """
    fmt, scale, zero_point = kind.example or ("", 0.0, 0)
    if getattr(point, "op", "") == "given":
        return fmt, 1 / scale, zero_point
    if getattr(point, "zero", "") == "bias":
        return fmt, scale, float(np.float32((cast("IntFormat", ALL[fmt]).qmin - zero_point) * scale))
    return fmt, scale, zero_point


def distance(point: Any, kind: Kind) -> Distance:
    """The distance of a point from its kind's default, at the kind's example."""
    from refquant.thresholds import thresholds

    fmt, scale, zero_point = example_of(point, kind)
    ours = thresholds(point, ALL[fmt], scale, zero_point)
    default, _ = kind.default
    usual = thresholds(default, ALL[fmt], *example_of(default, kind)[1:])
    apart = differences(ours, usual)
    numbers = [(max(a, -1 - INF_KEY), min(b, INF_KEY + 1)) for a, b in apart] if ours.domain == "float32" else apart
    numbers = [(a, b) for a, b in numbers if a < b]
    every, real = (sum(b - a for a, b in ranges) for ranges in (apart, numbers))
    return Distance(every, every - real, _first(numbers or apart, ours, usual))


def _first(ranges: Any, ours: StepFunction, usual: StepFunction) -> tuple[Any, int, int] | None:
    if not ranges:
        return None
    key = min((end for a, b in ranges for end in (a, b - 1)), key=abs)
    x = np.uint32(key_bits(key)).view(np.float32) if ours.domain == "float32" else np.int32(key)
    return x, ours.code_at(key), usual.code_at(key)


def row_json(row: Any) -> dict[str, Any]:
    """A row of a table: its fields, the point's as a dictionary (`Lanes`: n, body, tail)."""
    return {field.name: getattr(row, field.name) for field in fields(row)} | {
        "affine" if hasattr(row, "affine") else "point": asdict(point_of(row)), "run": is_run(row),
    }  # fmt: skip


def page_json(name: str) -> dict[str, Any]:
    """All that is said of a name: a row a kind, with its twins, and each part's way from the default."""
    found: dict[str, Any] = {"name": name}
    for kind, row in named(name):
        parts = {label: _part_json(point, kind) for label, point in parts_of(row).items()}
        found[kind.one] = row_json(row) | {"same": twins(row, kind), "parts": parts}
    return found


def _part_json(point: Any, kind: Kind) -> dict[str, Any]:
    apart = {field: {"is": mine, "default": usual} for field, (mine, usual) in departures(point, kind).items()}
    if kind.example is None:
        return {"differs": apart}
    fmt, scale, zero_point = example_of(point, kind)
    found = distance(point, kind)
    at = {"fmt": fmt, "scale": scale, "zero_point": zero_point, "differ": found.inputs, "nans": found.nans, "of": EVERY}
    return {"differs": apart, "distance": at | {"first": _first_json(found.first)}}


def _first_json(first: tuple[Any, int, int] | None) -> dict[str, Any] | None:
    if first is None:
        return None
    x, code, usual = first
    real = {"x": json_number(x), "x_bits": bits_of(x)} if x.dtype == np.float32 else {"x": int(x)}
    return real | {"code": code, "default": usual}
