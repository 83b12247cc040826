"""`refquant encode`: numbers to codes, with where each number lies between the values it could have become."""

from argparse import Namespace
from functools import partial
from typing import Any

import numpy as np

from refquant.cli import reach
from refquant.cli.choice import Choice, choose
from refquant.cli.numbers import bits_of, json_number, parse_real, pattern, short, words
from refquant.cli.screen import Screen

PICTURES = 4  # so many numbers get a picture each; more get the table alone


def run(arguments: Namespace, screen: Screen) -> int:
    """Runs the verb.

    Raises:
      ValueError: a word that is no number, or options without meaning.
      OSError: stdin is no text.
    """
    choice = choose(arguments)
    texts = words(arguments.numbers)
    x = np.array([parse_real(text) for text in texts], np.float32)
    codes = choice.codes(x)
    values = choice.values(codes)
    if arguments.json:
        screen.json(choice.named() | {"results": _entries(x, codes, values, choice)})
        return 0
    _table(texts, x, codes, values, choice, screen)
    if len(x) <= PICTURES:
        for place in range(len(x)):
            _picture(x, codes, values, place, choice, screen)
    return 0


def _entries(x: np.ndarray, codes: np.ndarray, values: np.ndarray, choice: Choice) -> list[dict[str, Any]]:
    first, last = _reach(x, np.arange(len(x)), len(x), choice)
    return [
        {
            "x": json_number(x[k]),
            "x_bits": bits_of(x[k]),
            "code": int(codes[k]),
            "hex": pattern(int(codes[k]), choice.fmt),
            "value": json_number(values[k]),
            "value_bits": bits_of(values[k]),
            "error": json_number(_error(x[k], values[k])),
            "first": bits_of(first[k]),
            "last": bits_of(last[k]),
        }
        for k in range(len(x))
    ]


def _reach(x: np.ndarray, place: np.ndarray, size: int, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    return reach.reach(x, partial(choice.codes, place=place, size=size))


@np.errstate(all="ignore")
def _error(x: np.float32, value: np.float32) -> np.float64:
    return np.float64(value) - np.float64(x)


def _table(
    texts: list[str], x: np.ndarray, codes: np.ndarray, values: np.ndarray, choice: Choice, screen: Screen
) -> None:
    screen.wrapped(str(choice), 2, "bold")
    if choice.note():
        screen.wrapped(choice.note(), 2, "mark")
    room = min(max(12, *map(len, texts)), max(screen.width - 62, 12))
    head = f"{'x':>{room}}  {'its bits':<10}  {'code':<6} {'int':>6}  {'value':>13}  error"
    screen.line(screen.paint(head, "dim"))
    for text, number, code, value in zip(texts, x, codes.tolist(), values, strict=True):
        shown = screen.paint(f"{pattern(code, choice.fmt):<6}", "good")
        text = text if len(text) <= room else short(number)
        told = _told(number, value)
        screen.line(f"{text:>{room}}  {bits_of(number)}  {shown} {code:>6}  {short(value):>13}  {told}")


def _told(x: np.float32, value: np.float32) -> str:
    """The error in words and figures."""
    if np.isnan(x) or np.isnan(value):
        return "kept" if np.isnan(x) and np.isnan(value) else "NaN has no code here" if np.isnan(x) else "becomes NaN"
    error = _error(x, value)
    if not np.isfinite(error):
        return "kept" if x == value else "saturates" if np.isinf(x) else "overflows"
    if error == 0:
        return "exact"
    part = 100 * error / abs(np.float64(x)) if x else 0.0
    percent = f" ({part:+.3g} %)" if 0.001 <= abs(part) < 1000 else ""
    return f"{error:+.6g}{percent}".replace("e+0", "e").replace("e-0", "e-")


def _picture(x: np.ndarray, codes: np.ndarray, values: np.ndarray, place: int, choice: Choice, screen: Screen) -> None:
    """x between the value it takes and the next one on its other side, with the place where the code changes."""
    if not np.isfinite(x[place]) or not np.isfinite(values[place]):
        return
    number, value, code = x[place], values[place], int(codes[place])
    one = np.array([place])
    first, last = (edge[0] for edge in _reach(x[place : place + 1], one, len(x), choice))
    screen.line()
    screen.line(f"  {pattern(code, choice.fmt)} = {short(value)} takes x from {_end(first)} to {_end(last)}")
    if number == value:
        return
    side = 1 if number > value else -1
    next_x = reach.beyond(np.array([last if side > 0 else first]), side)
    next_code = choice.codes(next_x, one, len(x))
    other = choice.values(next_code)[0]
    if not np.isfinite(next_x[0]) or int(next_code[0]) == code or not side * (other - number) > 0:
        name = "largest" if side > 0 else "smallest"
        screen.line(f"  {short(number)} lies beyond it: {short(value)} is the {name} value that x can become")
        return
    upper = next_x[0] if side > 0 else first  # the code changes at the first number that takes the upper one
    _ruler(number, (value, code), (other, int(next_code[0])), upper, choice, screen)


def _end(value: np.float32) -> str:
    return ("-" if value < 0 else "") + "inf" if np.isinf(value) else short(value)


def _ruler(
    x: np.float32,
    taken: tuple[np.float32, int],
    other: tuple[np.float32, int],
    change: np.float32,
    choice: Choice,
    screen: Screen,
) -> None:
    left, right = sorted((taken, other), key=lambda pair: float(pair[0]))
    names = (f"{pattern(left[1], choice.fmt)} {short(left[0])}", f"{short(right[0])} {pattern(right[1], choice.fmt)}")
    columns = max(screen.width - 8 - len(names[0]) - len(names[1]), 10)
    line = ["─"] * columns
    line[0], line[-1] = "├", "┤"
    line[_column(change, left[0], right[0], columns)] = "┊"
    at = _column(x, left[0], right[0], columns)
    line[at] = "●"
    marks = "".join(line)
    painted = marks[:at] + screen.paint(marks[at], "mark") + marks[at + 1 :]
    ends = [
        screen.paint(name, "good") if pair is taken else name for name, pair in zip(names, (left, right), strict=True)
    ]
    screen.line(f"  {ends[0]} {painted} {ends[1]}")
    under = f"● x = {short(x)}   ┊ from {short(change)} on it is {pattern(right[1], choice.fmt)}"
    start = min(max(at - len(under) // 2, 0) + len(names[0]) + 3, max(screen.width - len(under) - 1, 2))
    screen.line(" " * start + screen.paint(under, "dim"))


def _column(value: np.float32, low: np.float32, high: np.float32, columns: int) -> int:
    part = (float(value) - float(low)) / (float(high) - float(low))
    return min(max(round(part * (columns - 1)), 0), columns - 1)
