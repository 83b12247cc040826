"""The `jaxquant` command: is my model good enough?  One file a verb; nothing heavy is imported before it is needed."""

import sys

EXIT_CODES = (
    "Exit codes: 0 pass or equal, 1 fail or differ, 2 usage, 3 unsure, 4 input unreadable, 5 bits differ (a bug)."
)
ELSEWHERE = ("show", "encode", "decode", "vectors")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in ELSEWHERE:
        print(
            f"jaxquant: {arguments[0]} answers 'which bits are right?', use: refquant {' '.join(arguments)}",
            file=sys.stderr,
        )
        return 2
    from jaxquant.cli.app import run

    return run(arguments)
