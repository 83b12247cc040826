"""How errors name things: a layer by its path, and what is not there beside the nearest that is."""

import difflib
from collections.abc import Iterable


def named(path: str) -> str:
    """A layer as an error names it; the model itself is ".", as in a report."""
    return f"layer {path or '.'!r}"


def nearest(name: object, known: Iterable[str], count: int | None = 3) -> list[str]:
    """The names that there are, the most similar first, however little they have in common.

    Args:
      name: what was asked for.
      known: the names there are.
      count: how many at most; None: all.
    """
    known = sorted(known)
    return difflib.get_close_matches(str(name), known, count or len(known) or 1, 0.0)
