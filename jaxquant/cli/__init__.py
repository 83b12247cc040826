"""The `jaxquant` command: is my model good enough?  One file a verb; nothing heavy is imported before it is needed."""

import os
import sys

EXIT_CODES = (
    "Exit codes: 0 pass or equal, 1 fail or differ, 2 usage, 3 unsure, 4 input unreadable or output unwritable, "
    "5 bits differ (a bug)."
)
INTERRUPTED = 130
ELSEWHERE = ("show", "encode", "decode", "vectors")


MISSING = "jaxquant: no module named {name!r}, need the command's packages: pip install 'refquant[decide]'"


def script() -> int:
    """The command as a program of its own: whenever Ctrl-C comes, one line and status 130.

    The process then ends at once: compiled work of other threads goes on, and tearing down beneath it crashes.
    """
    try:
        code = main()
    except KeyboardInterrupt:
        print("jaxquant: interrupted", file=sys.stderr)
        code = INTERRUPTED
    if code == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in ELSEWHERE:
        print(
            f"jaxquant: {arguments[0]} answers 'which bits are right?', use: refquant {' '.join(arguments)}",
            file=sys.stderr,
        )
        return 2
    try:
        from jaxquant.cli.app import run
    except ModuleNotFoundError as error:
        print(MISSING.format(name=error.name), file=sys.stderr)
        return 2
    return run(arguments)
