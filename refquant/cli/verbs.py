"""The verbs of the command.  DATA: what each is for, its two examples, and its options (at most eight; CMD-3)."""

from dataclasses import dataclass
from typing import Any

JAXQUANT = ("decide", "look", "quantize", "diff", "doctor")
EXIT_CODES = "Exit codes: 0 pass or equal, 1 fail or differ, 2 usage, 3 unsure, 4 input unreadable, 5 bits differ."


@dataclass(frozen=True)
class Option:
    """One argument of a verb: its names, its help, and what else `add_argument` takes."""

    names: tuple[str, ...]
    help: str
    more: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Verb:
    """A verb: one sentence, two examples, options, and the module whose `run(arguments, screen)` does it."""

    name: str
    sentence: str
    examples: tuple[str, str]
    options: tuple[Option, ...]
    module: str


def _option(*names: str, help: str, **more: Any) -> Option:
    return Option(names, help, tuple(more.items()))


JSON = _option("--json", help="the same as JSON on stdout", action="store_true")
FMT = _option("--fmt", help="format of the codes, a name of `refquant show`", required=True, metavar="NAME")
SCALE = _option("--scale", help="quantize with this scale instead of encoding", metavar="S")
ZERO_POINT = _option("--zero-point", help="zero point beside the scale (integer formats)", metavar="Z")

ROWS = (
    Verb(
        "show",
        "Show a format (every code, its limits, a picture of its grid), what a runtime does, or the names of all.",
        ("refquant show e4m3fn", "refquant show torchao"),
        (
            _option(
                "name",
                help="a format, a runtime's name, or conventions, casts, rescales, dequants; without it: all names",
                nargs="?",
            ),
            _option("--all", help="one line for every code, also of 16-bit formats", action="store_true"),
            JSON,
        ),
        "show",
    ),
    Verb(
        "encode",
        "Print the code that each number becomes, its value, and where the number lies between its neighbours.",
        (
            "refquant encode 0.3 1e9 nan --fmt e4m3fn",
            "refquant encode 0.3 0x3f800000 --fmt int8 --scale 0.1 --zero-point 3 --convention torch_per_tensor",
        ),
        (
            _option("numbers", help="decimals, inf, nan, 0x + 8 digits (binary32 bits), or - for stdin", nargs="+"),
            FMT,
            SCALE,
            ZERO_POINT,
            _option("--convention", help="a NAME of `show conventions` and/or KEY=VALUE,... (op=inv)", metavar="C"),
            _option("--overflow", help="saturate, finite, special; scaled integers: sat, i32, i64, wrap32, magic"),
            _option("--ties", help="even, away, up, down; casts also zero, scaled integers also trunc"),
            _option("--nan", help="canonical, signed, zero, max; scaled integers: qmin, qmax, zero"),
            JSON,
        ),
        "encode",
    ),
    Verb(
        "decode",
        "Print the value that each code stands for, its fields, and its binary32 bits.",
        ("refquant decode 0x7e 0xff --fmt e4m3fn", "refquant decode 130 --fmt uint8 --scale 0.5 --zero-point 128"),
        (
            _option("codes", help="codes: decimal, 0x or 0b bit patterns, or - for stdin", nargs="+"),
            FMT,
            _option("--scale", help="multiply by this scale (dequantize)", metavar="S"),
            ZERO_POINT,
            JSON,
        ),
        "decode",
    ),
    Verb(
        "vectors",
        "List or print the golden vectors, or check someone's answers against them.",
        ("refquant vectors list", "refquant vectors check answers.jsonl --function encode"),
        (
            _option("action", help="list, show or check", choices=("list", "show", "check")),
            _option("what", help="show: a function or a case's id; check: a file of answers, or -", nargs="*"),
            _option("--from", help="folder of the vectors (default: specs/vectors of the checkout)", dest="folder"),
            _option("--function", help="check: only the cases of this function", metavar="NAME"),
            _option(
                "--limit",
                help="show at most this many cases (default 20)",
                type=int,
                default=20,
                metavar="N",
            ),
            JSON,
        ),
        "vectors",
    ),
)

VERBS: dict[str, Verb] = {row.name: row for row in ROWS}
