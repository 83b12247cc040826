"""The `refquant` command: which bits are right?  NumPy and the standard library alone; one file a verb."""

import os
import sys


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the words after the command's name; None takes the process's own.
    Returns:
      the exit code: 0 pass or equal, 1 fail or differ, 2 usage, 3 unsure, 4 input unreadable or output unwritable,
      5 bits differ.

    Spec: CMD-1..CMD-4 (specs/80-commands.md).
    """
    from refquant.cli.run import run

    try:
        code = run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader (head, less) has seen enough
            return 0
        why = f"standard output cannot be written ({error.strerror}), need room for it or another place"
        print(f"refquant: {why}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        return 130
    return code
