"""`refquant decode`: codes to values."""

from argparse import Namespace

import numpy as np

from refquant.cli import facts
from refquant.cli.choice import Choice, choose
from refquant.cli.numbers import bits_of, json_number, parse_code, pattern, power, short, words
from refquant.cli.screen import Screen
from refquant.formats import CodebookFormat, FloatFormat, Format, IntFormat


def run(arguments: Namespace, screen: Screen) -> int:
    """Runs the verb.

    Raises:
      ValueError: a word that is no code of the format.
      OSError: stdin is no text.
    """
    choice = choose(arguments)
    codes = [parse_code(text, choice.fmt) for text in words(arguments.codes)]
    values = choice.values(np.array(codes, choice.fmt.storage))
    if arguments.json:
        named = {key: value for key, value in choice.named().items() if key in ("fmt", "scale_bits", "zero_point")}
        screen.json(named | {"results": [_entry(c, v, choice.fmt) for c, v in zip(codes, values, strict=True)]})
        return 0
    scaled = f"  (value = {_formula(choice)})" if choice.scale is not None else ""
    screen.line(screen.paint(f"decode {choice.fmt.name}{scaled}", "bold"))
    if choice.note():
        screen.wrapped(choice.note(), 2, "mark")
    wide = max(choice.fmt.bits + 3, 6)
    screen.line(screen.paint(f"{'code':<6} {'int':>6}  {_head(choice.fmt, wide)} {'value':>15}  its bits", "dim"))
    for code, value in zip(codes, values, strict=True):
        shown = screen.paint(f"{short(value):>15}", "good")
        where = f"{pattern(code, choice.fmt):<6} {code:>6}  {facts.fields(code, choice.fmt):<{wide}}"
        screen.line(f"{where} {shown}  {bits_of(value)}  {_note(code, choice.fmt)}")
    return 0


def _entry(code: int, value: np.float32, fmt: Format) -> dict[str, object]:
    return {
        "code": code,
        "hex": pattern(code, fmt),
        "fields": facts.fields(code, fmt),
        "value": json_number(value),
        "value_bits": bits_of(value),
        "note": _note(code, fmt),
    }


def _formula(choice: Choice) -> str:
    zero, scale = choice.zero_point, np.float32(1) if choice.scale is None else choice.scale
    if zero is not None and zero.dtype == np.float32 and isinstance(choice.fmt, IntFormat):
        return f"(code - {choice.fmt.qmin}) * {short(scale)} + {short(zero)}"
    return f"code * {short(scale)}" if not zero else f"(code - {zero}) * {short(scale)}"


def _head(fmt: Format, wide: int) -> str:
    if not isinstance(fmt, FloatFormat):
        return f"{'bits':<{wide}}"
    parts = ("S" * fmt.signed, "E" * fmt.exponent_bits, "M" * fmt.mantissa_bits)
    return f"{' '.join(part for part in parts if part):<{wide}}"


def _note(code: int, fmt: Format) -> str:
    """What is special about a code."""
    if isinstance(fmt, IntFormat):
        return "" if fmt.qmin <= code <= fmt.qmax else f"outside {fmt.qmin}..{fmt.qmax}: its value all the same (DCD-2)"
    if isinstance(fmt, CodebookFormat):
        return "" if code < len(fmt.values) else f"beyond the list: code {code % len(fmt.values)} (FMT-8)"
    return _float_note(code, facts.limits(fmt), fmt)


def _float_note(code: int, ends: facts.Limits, fmt: FloatFormat) -> str:
    if code in ends.nan or code in ends.inf:
        return "canonical NaN" if code == fmt.nan_code and len(ends.nan) > 1 else ""
    for name, end in (("max", ends.max), ("min", ends.min), ("min normal", ends.min_normal)):
        if end and end[0] == code:
            return name
    magnitude = code & ~fmt.sign_bit
    exact = power(abs(float(facts.codes_and_values(fmt)[1][code])))
    subnormal = "subnormal" if fmt.zero and 0 < magnitude < 1 << fmt.mantissa_bits else ""
    return ", ".join(
        part for part in (("-" if code & fmt.sign_bit else "") + exact if exact else "", subnormal) if part
    )
