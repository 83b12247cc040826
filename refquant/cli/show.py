"""`refquant show`: a format, what a runtime does, a table of runtimes, or the names of all."""

from argparse import Namespace

from refquant import formats
from refquant.cli.screen import Screen
from refquant.formats.names import hint


def run(arguments: Namespace, screen: Screen) -> int:
    """Runs the verb.

    Raises:
      ValueError: a name that nothing has; the message has the nearest.
    """
    from refquant.cli import presets, show_format, show_presets

    name = arguments.name
    if name is None:
        return _everything(screen, as_json=arguments.json)
    if name in formats.ALL:
        return show_format.one_format(formats.ALL[name], screen, every=arguments.all, as_json=arguments.json)
    kinds = {kind.name: kind for kind in presets.KINDS}
    if name in kinds:
        return show_presets.table(kinds[name], screen, as_json=arguments.json)
    if name in presets.known():
        return show_presets.page(name, screen, as_json=arguments.json)
    raise ValueError(unknown(name, [*formats.ALL, *presets.known(), *kinds]))


def _everything(screen: Screen, *, as_json: bool) -> int:
    """Formats with their limits, then the names of the runtimes' conventions, casts, rescales and dequants."""
    from refquant.cli import presets, show_format, show_presets

    if as_json:
        rows = {kind.name: [presets.row_json(row) for row in kind.rows.values()] for kind in presets.KINDS}
        screen.json(show_format.every_json() | rows)
        return 0
    show_format.every_format(screen)
    for kind in presets.KINDS:
        show_presets.names(kind, screen)
    screen.line()
    screen.wrapped("One of them: refquant show e4m3fn, refquant show torchao.  A table: refquant show conventions", 2)
    return 0


def unknown(name: str, known: list[str]) -> str:
    """What to say about a name that nothing has."""
    where = hint(name, known, 0.5) or "`refquant show` lists them"
    return f"there is no format or convention {name!r}; {where}"
