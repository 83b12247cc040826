"""The typer application: verbs, and how errors become one line and an exit code."""

import functools
import os
import sys
from collections.abc import Callable
from importlib.metadata import version

import typer

from jaxquant.cli import EXIT_CODES, EXTRA, INTERRUPTED, MISSING, decide, diff, doctor, look, quantize
from refquant.files.errors import UnreadableFile
from refquant.files.printable import printable


class Interrupted(Exception):
    """Ctrl-C, with what to tell; typer would end the program without a word."""


def guarded(command: Callable[..., int]) -> Callable[..., None]:
    """The verb with its exit code raised, and user errors told in one line on stderr, never as a traceback."""

    @functools.wraps(command)
    def verb(*args: object, **kwargs: object) -> None:
        raise typer.Exit(_code(command, *args, **kwargs))

    return verb


def _code(command: Callable[..., int], *args: object, **kwargs: object) -> int:
    try:
        code = command(*args, **kwargs)
        print(end="", flush=True)  # here, where an error can be told
        return code
    except KeyboardInterrupt as stop:
        raise Interrupted(str(stop) or "originals are untouched and no output was left half written") from None
    except BrokenPipeError:
        _drop_output()
        return 0
    except UnreadableFile as error:
        return _told(str(error), 4)
    except ModuleNotFoundError as error:
        ours = (error.name or "").partition(".")[0] in EXTRA
        return _told(MISSING.format(name=error.name) if ours else str(error), 2)
    except (ValueError, TypeError) as error:
        return _told(str(error), 2)


def _unwritable(error: OSError) -> str:
    """What an error says; of standard output, which still holds what could not be written, that it is that."""
    try:
        print(end="", flush=True)
    except OSError as again:
        _drop_output()
        return f"standard output cannot be written ({again.strerror}), need room for it or another place"
    return str(error)


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(text: str, code: int) -> int:
    print(f"jaxquant: {printable(text)}", file=sys.stderr)
    return code


def _version(asked: bool) -> None:
    if asked:
        own, *others = (version(name) for name in ("refquant", "jax", "numpy"))
        print("jaxquant {}, JAX {}, NumPy {}, Python {}".format(own, *others, sys.version.split()[0]))
        raise typer.Exit


app = typer.Typer(
    help=f"Is my model good enough when it is quantized?  (Which bits are right: see refquant.)  {EXIT_CODES}",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
for module in (decide, look, quantize, diff, doctor):
    app.command(module.__name__.rsplit(".", 1)[-1], epilog=EXIT_CODES)(guarded(module.command))


@app.callback()
def _options(
    asked: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the versions and exit."
    ),
) -> None:
    pass


def run(arguments: list[str]) -> int:
    """Runs a verb; returns its exit code (2 where the arguments do not parse)."""
    try:
        app(arguments, prog_name="jaxquant")
    except Interrupted as stop:
        return _told(f"interrupted; {stop}", INTERRUPTED)
    except OSError as error:
        return _told(_unwritable(error), 4)
    except SystemExit as stop:
        return _told("interrupted", INTERRUPTED) if stop.code == INTERRUPTED else int(stop.code or 0)
    return 0
