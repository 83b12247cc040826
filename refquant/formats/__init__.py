"""Every format by name: `formats.ALL["e4m3fn"]`.  A new one is a row in one of the three tables."""

from refquant.formats import codebooks, integers, minifloats
from refquant.formats.codebooks import CodebookFormat, ordered_key
from refquant.formats.integers import IntFormat
from refquant.formats.minifloats import FloatFormat

Format = IntFormat | FloatFormat | CodebookFormat

ALL: dict[str, Format] = {row.name: row for row in (*integers.ROWS, *minifloats.ROWS, *codebooks.ROWS)}


def get(name: str) -> Format:
    """The format of that name.

    Raises:
      ValueError: no such format; the message has the nearest names.
    """
    import difflib

    if name in ALL:
        return ALL[name]
    near = ", ".join(difflib.get_close_matches(name, ALL, 3, 0.4)) or ", ".join(ALL)
    raise ValueError(f"format is {name!r}, need a name in refquant.formats.ALL; nearest: {near}")


__all__ = ["ALL", "CodebookFormat", "FloatFormat", "Format", "IntFormat", "get", "ordered_key"]
