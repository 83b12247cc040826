"""The typer application: verbs, and how errors become one line and an exit code."""

import os
import sys

import typer
from click.exceptions import ClickException, Exit

from jaxquant.cli import EXIT_CODES, decide, diff, doctor, look, quantize

app = typer.Typer(
    help=f"Is my model good enough when it is quantized?  (Which bits are right: see refquant.)  {EXIT_CODES}",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
for verb in (decide, look, quantize, diff, doctor):
    app.command(verb.__name__.rsplit(".", 1)[-1], epilog=EXIT_CODES)(verb.command)


def run(arguments: list[str]) -> int:
    """Runs a verb; user errors are one line on stderr, never a traceback."""
    try:
        result = app(arguments, standalone_mode=False)
        return int(result or 0)
    except Exit as stop:
        return stop.exit_code
    except ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("jaxquant: interrupted; originals untouched, no output left half written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        print(f"jaxquant: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"jaxquant: {error}", file=sys.stderr)
        return 4
