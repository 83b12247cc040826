"""From words to a verb, and from errors to one line and an exit code (specs/80-commands.md, CMD-1..CMD-4)."""

import difflib
import importlib
import sys

from refquant.cli.parser import overview, parse
from refquant.cli.verbs import JAXQUANT, VERBS


def run(words: list[str]) -> int:
    """Runs the verb that the words name; returns the exit code."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else 2  # CMD-1
    if words[0] == "--version":
        return _version()
    if words[0] not in VERBS:
        return _unknown(words)
    try:
        return _verb(words)
    except SystemExit as stop:  # argparse has spoken
        return stop.code if isinstance(stop.code, int) else 2
    except BrokenPipeError:
        raise
    except (ValueError, TypeError) as error:
        return _fail(words[0], error, 2)
    except OSError as error:
        if error.errno and not error.filename:  # of no file: standard output's
            raise
        return _fail(words[0], error, 4)


def _verb(words: list[str]) -> int:
    from refquant.cli.screen import Screen

    verb = VERBS[words[0]]
    arguments = parse(verb, words[1:])
    module = importlib.import_module(f"refquant.cli.{verb.module}")
    return module.run(arguments, Screen.of(sys.stdout))


def _fail(verb: str, error: Exception, code: int) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"  # CMD-2: without the error's number
    from refquant.files.printable import printable

    print(f"refquant {verb}: {printable(text)}".encode("ascii", "backslashreplace").decode(), file=sys.stderr)
    return code


def _unknown(words: list[str]) -> int:
    if words[0] in JAXQUANT:
        told = f"{words[0]} answers 'is my model good enough?', use: jaxquant {' '.join(words)}"
    else:
        near = difflib.get_close_matches(words[0], [*VERBS, *JAXQUANT], 1, 0.5)
        hint = f"; did you mean {'refquant' if near[0] in VERBS else 'jaxquant'} {near[0]}?" if near else ""
        told = f"there is no verb {words[0]!r}, need one of {', '.join(VERBS)}{hint}"
    print(f"refquant: {told}".encode("ascii", "backslashreplace").decode(), file=sys.stderr)
    return 2


def _version() -> int:
    from importlib.metadata import version

    import numpy as np

    print(f"refquant {version('refquant')}, NumPy {np.__version__}, Python {sys.version.split()[0]}")
    return 0
