"""argparse, one parser a verb: errors of one line, negative numbers as numbers, options anywhere."""

import argparse
import re
import shutil
import sys
import textwrap
from typing import NoReturn

from refquant.cli.verbs import EXIT_CODES, JAXQUANT, VERBS, Verb

NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan|0x)", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that names the way to help."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and stops with exit code 2."""
        line = f"{self.prog}: {message} (see {self.prog} --help)"
        print(line.encode("ascii", "backslashreplace").decode(), file=sys.stderr)
        raise SystemExit(2)


def parse(verb: Verb, words: list[str]) -> argparse.Namespace:
    """The arguments of a verb.

    Raises:
      SystemExit: 0 after --help, 2 after an error; the text is already printed.
    """
    return _parser(verb).parse_intermixed_args(_guarded(words))


def _guarded(words: list[str]) -> list[str]:
    """argparse takes -1e9 and -inf for options; what holds a space it takes for a value."""
    return [f" {word}" if NEGATIVE.match(word) else word for word in words]


def _parser(verb: Verb) -> Parser:
    parser = Parser(
        prog=f"refquant {verb.name}",
        description=textwrap.fill(verb.sentence, _width()),
        epilog="\n".join(
            ["examples:", *(f"  {text}" for text in verb.examples), "", textwrap.fill(EXIT_CODES, _width())]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option in verb.options:
        parser.add_argument(*option.names, help=option.help, **dict(option.more))
    return parser


def overview() -> str:
    """The help of the command itself."""
    lines = ["refquant: which bits are right?  The NumPy oracle of neural-network quantization.", ""]
    for verb in VERBS.values():
        lines.append(textwrap.fill(f"  {verb.name:<9}{verb.sentence}", _width(), subsequent_indent=" " * 11))
        lines += [f"{'':<11}$ {verb.examples[0]}"]
    models = f"Each verb has --help and --json.  For a model: jaxquant {' | '.join(JAXQUANT)}."
    return "\n".join([*lines, "", textwrap.fill(models, _width()), textwrap.fill(EXIT_CODES, _width())])


def _width() -> int:
    return min(max(shutil.get_terminal_size((80, 24)).columns, 40), 120) - 2
