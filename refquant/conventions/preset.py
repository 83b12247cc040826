"""Preset: a named point of one of the spaces, with where it is known from (CNV-1)."""

from dataclasses import dataclass
from typing import Generic, TypeVar

Point = TypeVar("Point")


@dataclass(frozen=True)
class Preset(Generic[Point]):
    """What one runtime's operation does.

    Attributes:
      name: the name in its table.
      point: the point of the space (`Cast`, `Rescale` or `Dequant`).
      source: "measured" (run, 0 mismatches), or "read, not run: " and the document that states it.
      version: of the runtime that was run or of the document.
      note: what else a caller must know.
    """

    name: str
    point: Point
    source: str
    version: str
    note: str = ""


def table(*rows: Preset[Point]) -> dict[str, Preset[Point]]:
    """The rows by name."""
    return {row.name: row for row in rows}
