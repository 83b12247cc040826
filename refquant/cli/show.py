"""`refquant show`: a format, all formats, or the conventions."""

import difflib
import re
from argparse import Namespace

from refquant import formats
from refquant.cli.screen import Screen


def run(arguments: Namespace, screen: Screen) -> int:
    """Runs the verb.

    Raises:
      ValueError: a name that is neither a format nor a convention; the message has the nearest.
    """
    from refquant.cli import show_conventions, show_format

    name = arguments.name
    if name is None:
        return show_format.every_format(screen, as_json=arguments.json)
    if name == "conventions":
        return show_conventions.table(screen, as_json=arguments.json)
    if name in formats.ALL:
        return show_format.one_format(formats.ALL[name], screen, every=arguments.all, as_json=arguments.json)
    presets = show_conventions.presets()
    if name in presets:
        return show_conventions.one(presets[name], screen, as_json=arguments.json)
    raise ValueError(unknown(name, [*formats.ALL, *presets, "conventions"]))


def unknown(name: str, known: list[str]) -> str:
    """What to say about a name that nothing has."""
    near = difflib.get_close_matches(re.sub(r"^(float|fp)[468]_", "", name.lower()), known, 3, 0.5)
    hint = f"nearest: {', '.join(near)}" if near else "`refquant show` lists the formats"
    return f"there is no format or convention {name!r}; {hint}"
