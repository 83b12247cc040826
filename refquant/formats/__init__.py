"""Every format by name: `formats.ALL["e4m3fn"]`.  A new one is a row in one of the three tables."""

from refquant.formats import codebooks, integers, minifloats
from refquant.formats.codebooks import CodebookFormat, ordered_key
from refquant.formats.integers import IntFormat
from refquant.formats.minifloats import FloatFormat
from refquant.formats.names import hint

Format = IntFormat | FloatFormat | CodebookFormat


class Table(dict[str, Format]):
    """The formats by name: a dict whose KeyError says which name was meant."""

    def __missing__(self, name: object) -> Format:
        raise KeyError(_unknown(name))


def _unknown(name: object) -> str:
    return f"format is {name!r}, need a name in refquant.formats.ALL; {hint(name, ALL) or ', '.join(ALL)}"


ALL: dict[str, Format] = Table({row.name: row for row in (*integers.ROWS, *minifloats.ROWS, *codebooks.ROWS)})


def get(name: str) -> Format:
    """The format of that name.

    Raises:
      ValueError: no such format; the message has what the name commonly means, or the nearest names.
    """
    if name in ALL:
        return ALL[name]
    raise ValueError(_unknown(name))


__all__ = ["ALL", "CodebookFormat", "FloatFormat", "Format", "IntFormat", "get", "ordered_key"]
