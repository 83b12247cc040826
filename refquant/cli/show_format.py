"""Formats for people: the list by family, and the page of one format."""

from typing import Any

import numpy as np

from refquant.cli import facts, picture
from refquant.cli.numbers import pattern, power, short
from refquant.cli.screen import Screen
from refquant.formats import CodebookFormat, FloatFormat, Format, IntFormat

FEW = 16  # formats of at most so many codes get a line for each
SUMMARY = 1 << 8  # formats of more codes are summarised unless --all


def every_json() -> dict[str, Any]:
    """All formats, without codes."""
    return {"formats": [facts.as_json(fmt, codes=False) for rows in facts.by_family().values() for fmt in rows]}


def every_format(screen: Screen) -> None:
    """The table of all formats, by family."""
    families = facts.by_family()
    head = f"  {'name':<17} {'bits':>4}  {'from':>10}  {'to':<11} {'smallest > 0':<12}  special"
    screen.line(screen.paint(head + ("   source" if screen.width >= 120 else ""), "dim"))
    for name, rows in families.items():
        screen.line(screen.paint(name, "bold"))
        for fmt in rows:
            screen.line(_row(fmt, screen))


def _row(fmt: Format, screen: Screen) -> str:
    ends = facts.limits(fmt)
    special = " ".join(word for word, has in (("inf", ends.inf), ("NaN", ends.nan), ("-0", ends.negative_zero)) if has)
    small = power(float(ends.min_positive[1])) or short(ends.min_positive[1])
    low, high = _compact(ends.min[1]), _compact(ends.max[1])
    line = f"  {fmt.name:<17} {fmt.bits:>4}  {low:>10}  {high:<11} {small:<12}  {special:<10}"
    return line + (" " + screen.paint(fmt.source, "dim") if screen.width >= 120 else "")


def _compact(value: np.float32) -> str:
    text = short(value)
    return text if len(text) <= 10 else f"{value:.4g}".replace("e+", "e")


def one_format(fmt: Format, screen: Screen, *, every: bool, as_json: bool) -> int:
    """The page of one format: facts, limits, grid, codes."""
    codes, values = facts.codes_and_values(fmt)
    listed = every or len(codes) <= SUMMARY
    if as_json:
        screen.json(facts.as_json(fmt, codes=listed))
        return 0
    _facts(fmt, screen)
    screen.line()
    picture.draw(values, screen)
    screen.line()
    if every or len(codes) <= FEW:
        _lines(fmt, codes, values, screen)
    elif listed:
        _table(fmt, codes, values, screen)
    else:
        screen.line(f"  {len(codes):,} codes; each on a line of its own: refquant show {fmt.name} --all")
    return 0


def _facts(fmt: Format, screen: Screen) -> None:
    screen.line(f"{screen.paint(fmt.name, 'bold')}   {_kind(fmt)}")
    screen.wrapped(f"  {'source':<15}{fmt.source}", 17)
    for label, text in _limits(fmt):
        screen.wrapped(f"  {label:<15}{text}", 17)
    screen.line(
        f"  {'held in':<15}{fmt.storage}, one code an element; {fmt.bits} bit{'s' * (fmt.bits > 1)} when packed"
    )


def _kind(fmt: Format) -> str:
    if isinstance(fmt, IntFormat):
        return f"{fmt.bits}-bit {'' if fmt.signed else 'un'}signed integers; a code is its value"
    if isinstance(fmt, CodebookFormat):
        return f"codebook of {len(fmt.values)} values; a code is an index; ties go {fmt.ties}"
    sign = "1 sign, " if fmt.signed else "no sign, "
    return (
        f"{fmt.bits}-bit float: {sign}{fmt.exponent_bits} exponent, {fmt.mantissa_bits} mantissa bits, bias {fmt.bias}"
    )


def _limits(fmt: Format) -> list[tuple[str, str]]:
    ends = facts.limits(fmt)

    def end(pair: tuple[int, np.float32]) -> str:
        exact = power(float(pair[1])) if not isinstance(fmt, IntFormat) else ""
        return f"{short(pair[1]):<15} {pattern(pair[0], fmt):<7} {exact}"

    rows = [("max", end(ends.max)), ("min", end(ends.min))]
    if not isinstance(fmt, FloatFormat):
        return rows if isinstance(fmt, IntFormat) else [*rows, ("min above 0", end(ends.min_positive))]
    if ends.min_normal:
        rows += [("min normal", end(ends.min_normal)), ("min subnormal", end(ends.min_positive))]
    over = "overflow gives the max, or NaN (--overflow special)" if ends.nan else "overflow gives the max"
    zero = pattern(ends.negative_zero, fmt) if ends.negative_zero is not None else "none"
    zero_code = "" if fmt.zero else "; no zero at all: 0 encodes to code 0, the smallest power"
    nan = _some(ends.nan, fmt) or "none: NaN encodes to 0"
    return [*rows, ("inf", _some(ends.inf, fmt) or f"none: {over}"), ("NaN", nan), ("-0", zero + zero_code)]


def _some(codes: tuple[int, ...], fmt: Format) -> str:
    """Special codes, runs of them as first..last; the canonical NaN is named."""
    if not codes:
        return ""
    runs = np.split(np.array(codes), np.flatnonzero(np.diff(codes) > 1) + 1)
    text = ", ".join(pattern(int(r[0]), fmt) + (f"..{pattern(int(r[-1]), fmt)}" if len(r) > 1 else "") for r in runs)
    canonical = fmt.nan_code if isinstance(fmt, FloatFormat) else None
    return text + (f"; canonical {pattern(canonical, fmt)}" if canonical in codes and len(codes) > 1 else "")


def _lines(fmt: Format, codes: np.ndarray, values: np.ndarray, screen: Screen) -> None:
    screen.line(screen.paint(f"  {'code':<8} {'bits':<{fmt.bits + 4}} value", "dim"))
    for code, value in zip(codes.tolist(), values, strict=True):
        exact = f"   {power(float(value))}" if not isinstance(fmt, IntFormat) else ""
        name = f"{pattern(code, fmt)}"
        screen.line(f"  {name:<8} {facts.fields(code, fmt):<{fmt.bits + 4}} {short(value):<14}{exact}")


def _table(fmt: Format, codes: np.ndarray, values: np.ndarray, screen: Screen) -> None:
    """Codes from left to right; the left edge names the row's first code, the head what to add."""
    mirrored = fmt if isinstance(fmt, FloatFormat) and fmt.signed else None
    if mirrored:
        codes, values = codes[: mirrored.sign_bit], values[: mirrored.sign_bit]
    exponents = isinstance(fmt, FloatFormat) and not fmt.zero
    cells = [(power(float(value)) if exponents else "") or short(value) for value in values]
    wide = max(map(len, cells)) + 2
    columns = next(n for n in (16, 8, 4, 2, 1) if 8 + n * wide <= screen.width and n * wide < 130 or n == 1)
    head = "".join(f"{'+' + format(k, 'X'):>{wide}}" for k in range(columns))
    screen.line(screen.paint(f"  code {head}", "dim"))
    first = codes.min() & -columns  # rows begin at round patterns, also where a narrow format lacks the first
    for start in range(int(first), int(codes.max()) + 1, columns):
        inside = [start + k - int(codes.min()) for k in range(columns)]
        row = "".join(f"{cells[k] if 0 <= k < len(cells) else '':>{wide}}" for k in inside)
        screen.line(f"  {screen.paint(pattern(start, fmt), 'dim')} {row}")
    if mirrored:
        screen.line(f"  {_mirror(mirrored)}")


def _mirror(fmt: FloatFormat) -> str:
    first, last = pattern(fmt.sign_bit, fmt), pattern((1 << fmt.bits) - 1, fmt)
    zero = "-0" if fmt.negative_zero else "NaN"
    return f"{first}..{last}: the same with a minus sign; {first} is {zero}"
