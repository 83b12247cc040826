"""The `jaxquant` command: is my model good enough?  One file a verb; nothing heavy is imported before it is needed."""

import _thread
import os
import sys
import time

EXIT_CODES = (
    "Exit codes: 0 pass or equal, 1 fail or differ, 2 usage, 3 unsure, 4 input unreadable or output unwritable, "
    "5 bits differ (a bug)."
)
INTERRUPTED = 130
ELSEWHERE = ("show", "encode", "decode", "vectors")
MISSING = "no module named {name!r}, need the command's packages: pip install 'refquant[decide]'"
EXTRA = ("jax", "flax", "typer", "rich", "jinja2", "matplotlib", "tokenizers", "sklearn", "optax")  # as imported


def script() -> int:
    """The command as a program of its own: whenever Ctrl-C comes, one line and status 130.

    The process then ends at once: compiled work of other threads goes on, and tearing down beneath it crashes.
    """
    try:
        import signal  # here, as all that takes a while

        sys.unraisablehook = _not_lost
        code = main()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and told; tearing JAX down takes a while
    except KeyboardInterrupt:
        print("jaxquant: interrupted", file=sys.stderr)
        code = INTERRUPTED
    if code == INTERRUPTED:
        from contextlib import suppress

        with suppress(OSError):
            print(end="", flush=True)
        os._exit(code)
    return code


def _not_lost(lost: "sys.UnraisableHookArgs") -> None:
    """Ctrl-C in a callback, such as JAX's at every collection of garbage, would be lost: it comes again, outside."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        _thread.start_new_thread(_interrupt_again, ())  # without the locks of threading, which may be held here
    else:
        sys.__unraisablehook__(lost)


def _interrupt_again() -> None:
    time.sleep(0.01)
    _thread.interrupt_main()


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
        print(f"jaxquant: {MISSING.format(name=error.name)}", file=sys.stderr)
        return 2
    return run(arguments)
