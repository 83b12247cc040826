"""An exception in the user's own code, told in one line: a traceback through this package would say less."""

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refquant.files.errors import UnreadableFile

OURS = (str(Path(__file__).parents[1]), sysconfig.get_paths()["stdlib"], "<")
INSTALLED = ("site-packages", "dist-packages")


@contextmanager
def code_of_the_user(what: str) -> Iterator[None]:
    """Turns what is raised within into one line; Ctrl-C passes.

    Args:
      what: that runs, as the line names it: "mymodel:build".
    Raises:
      OSError: a file could not be read (exit code 4).
      ValueError: anything else, SystemExit included (2: what a script says with its exit code is no verdict).

    Spec: CMD-2 (specs/80-commands.md).
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        raise told(what, error) from error


def told(what: str, error: BaseException, need: str = "") -> ValueError | OSError:
    """`decide: mymodel:build raised RuntimeError: no weights here (at mymodel.py:12)`, then what is needed."""
    unreadable = isinstance(error, OSError | UnreadableFile)
    text = f"decide: {what} raised {type(error).__name__}{_said(error)}{_place(error)}{need and f'; {need}'}"
    return (OSError if unreadable else ValueError)(text)


def _said(error: BaseException) -> str:
    """The first line of what it says: the others are of no use without the traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f": {lines[0]}" if lines else ""


def _place(error: BaseException) -> str:
    """The last line of the user's own; "" where there is none."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    mine = [frame for frame in frames if not frame[0].startswith(OURS) and not set(INSTALLED) & {*Path(frame[0]).parts}]
    return f" (at {Path(mine[-1][0]).name}:{mine[-1][1]})" if mine else ""
