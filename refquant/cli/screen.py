"""What is printed and how: width, glyphs where the stream can write them, colour where someone looks."""

import json
import os
import shutil
from dataclasses import dataclass
from typing import Any, TextIO

STYLES = {"bold": "1", "dim": "2", "good": "32", "bad": "31", "mark": "36"}
PLAIN = str.maketrans({
    "±": "+-", "×": "x", "≤": "<=", "≥": ">=", "−": "-", "…": "...", "→": "->", "·": ".", "–": "-",
    "─": "-", "┬": "+", "├": "|", "┤": "|", "┊": ":", "●": "*", "│": "|",
})  # fmt: skip


@dataclass(frozen=True)
class Screen:
    """A place for lines.

    Attributes:
      stream: where they go.
      width: columns to use.
      unicode: whether glyphs beyond ASCII can be written.
      colour: whether ANSI styles are wanted.
    """

    stream: TextIO
    width: int = 80
    unicode: bool = True
    colour: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> "Screen":
        """The screen that a stream is: COLUMNS, its encoding, NO_COLOR and FORCE_COLOR decide."""
        width = min(max(shutil.get_terminal_size((80, 24)).columns, 40), 160)
        encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "").replace("_", "")
        return cls(stream, width, encoding in ("utf8", "utf16", "utf32", "utf8sig"), _wants_colour(stream))

    def line(self, text: str = "") -> None:
        """One line; without unicode its glyphs become ASCII."""
        if not self.unicode:
            text = text.translate(PLAIN).encode("ascii", "replace").decode()
        print(text.rstrip(), file=self.stream)

    def paint(self, text: str, style: str) -> str:
        """The text in a style, unchanged where there is no colour."""
        return f"\033[{STYLES[style]}m{text}\033[0m" if self.colour else text

    def wrapped(self, text: str, indent: int, style: str = "") -> None:
        """A paragraph with a hanging indent; what stands in the first `indent` columns is the text's own."""
        import textwrap

        room = max(self.width - 1, indent + 20)
        if len(text) <= room:  # wrapping would swallow the columns of a table
            self.line(self.paint(text, style) if style else text)
            return
        for line in textwrap.wrap(text, room, subsequent_indent=" " * indent):
            self.line(self.paint(line, style) if style else line)

    def json(self, value: Any) -> None:
        """One JSON document, without NaN or Infinity (which JSON does not have)."""
        print(json.dumps(value, indent=1, allow_nan=False), file=self.stream)


def _wants_colour(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
