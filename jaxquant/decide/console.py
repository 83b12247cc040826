"""What `jaxquant decide` prints: lines as they become known, in a terminal or a pipe alike."""

import os
import sys
import textwrap
import time
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.text import Text

from jaxquant.decide.intervals import Interval
from jaxquant.decide.rows import Row
from jaxquant.decide.speed import Timing
from jaxquant.sizes import size_text

WIDTH, BLOCK = 96, 12  # characters and lines shown of what was asked
SELDOM = 2.0  # seconds between two lines of progress
COLOURS = {"PASS": "bold green", "FAIL": "bold red", "UNSURE": "bold yellow", "": "default"}
COLUMNS = {"points": "change", "same": "same", "score": "score"}  # what a bar of that kind judges


class _Console(Console):
    """One whose reader may leave: the work goes on, for the files that it writes."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the program, as `| head` would."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Printer:
    """Human output on one console; everything goes to stderr when stdout is for JSON."""

    def __init__(self, *, json: bool = False):
        """Args: json: keep stdout clean."""
        self.console = _Console(stderr=json, highlight=False, soft_wrap=True)
        self._status: Any = None
        self._told = 0.0
        self._begun = False
        self._kind = "points"

    def headline(self, name: str, bar: Any) -> None:
        """The first line, once."""
        if not self._begun:
            self.line(f"jaxquant decide: {name}; the bar: {bar}")
        self._begun = True

    def line(self, text: str = "", style: str = "") -> None:
        """One line or paragraph."""
        self.console.print(Text(text, style=style))

    def working(self, text: str) -> AbstractContextManager[Any]:
        """A spinner while something runs; a plain line where nobody watches."""
        self._status = self.console.status(Text(text)) if self.console.is_terminal else None
        return self._status or _Quiet()

    def announce(self, steps: int, seconds: float, seconds_per_step: float, compiling: float) -> None:
        """How long a training will take, before it starts."""
        self.line(
            f"training  {steps} steps, {duration(seconds)} from now (one step measured: {seconds_per_step:.2g} s; "
            f"compiling is done, it took {duration(compiling)}); Ctrl-C ends it early and keeps what it has learned"
        )

    def step(self, done: int, steps: int, loss: float, seconds_left: float) -> None:
        """How far a training is: all the time in a terminal, every tenth of it elsewhere unless that is at once."""
        text = f"training  step {done} of {steps}, loss {loss:.3g}, {duration(seconds_left)} left"
        tenth = done * 10 // steps > (done - 1) * 10 // steps
        if self._status is not None:
            self._status.update(Text(text))
        elif tenth and done < steps and time.monotonic() - self._told > SELDOM:
            self._told = time.monotonic()
            self.line(text)

    def head(self, bar: Any, told: str = "") -> None:
        """The ladder's header; before it what is `told` of float, where there is something."""
        self._kind = bar.kind
        if told:
            self.line(_filled(told) + "\n", "yellow")
        self.line(head_text(bar.kind), "bold")

    def row(self, row: Row) -> None:
        """One rung."""
        text = Text(row_text(row, self._kind))
        text.append(f"  {row.result}", COLOURS[row.result])
        if row.verdict and row.verdict.note:
            text.append(f" ({row.verdict.note})", "dim")
        self.console.print(text)

    def notes(self, rows: list[Row]) -> None:
        """Below the table what holds of several rows, once."""
        for told in dict.fromkeys(told for row in rows for told in row.told):
            names = ", ".join(row.scheme for row in rows if told in row.told)
            self.line(_filled(f"{told} ({names})"), "dim")

    def decision(self, sentence: str, more: str, below: list[str]) -> None:
        """The decision, set apart, and `more` in lines of its own; before it, below the table, words of caution."""
        for told in filter(None, below):
            self.line(_filled(told), "yellow")
        self.line()
        for line in decision_lines(sentence, more):
            self.line(line, "bold")
        self.line()

    def changed(self, rows: list[dict[str, Any]], counts: dict[str, int], scheme: str, led: str) -> None:
        """The worst few changed answers of one scheme, side by side; `led` says whose lead ordered them."""
        mine = [row for row in rows if row["scheme"] == scheme][:3]
        if not counts.get(scheme):
            self.line(f"No answer changed under {scheme}\n")
            return
        by = f"the lead of {led}" if led else "the score"
        order = f"worst first: lost, changed, won, each by how far {by} fell"
        self.line(f"Answers that changed under {scheme}: {counts[scheme]}, {order}")
        for row in mine:
            for text in change_lines(row):
                self.line(text)
            self.line()

    def speed(self, timings: list[Timing], sentence: str) -> None:
        """Speed as measured here."""
        self.line("Speed on this device, measured just now (median of a call)")
        width = max(len(t.what) for t in timings)
        for t in timings:
            self.line(
                f"  batch {t.batch:>4}  {t.what:<{width}} {t.milliseconds:9.2f} ms  {t.ratio:6.2f} x float's time"
            )
        self.line("  " + sentence)
        self.line()


def head_text(kind: str = "points") -> str:
    """The names of the columns, for a bar of that kind."""
    before = f"{'scheme':<34} {'size':>8} {'bits/w':>6} {'score':>6}"
    return f"{before}  {COLUMNS[kind] + ', 95 % interval':<22} {'lost':>4} {'won':>4} {'same':>6}  verdict"


def row_text(row: Row, kind: str = "points") -> str:
    """The columns of a row but the verdict."""
    inside = kind != "score" and 0 <= row.score <= 1
    score = f"{100 * row.score:.1f}" if inside else f"{row.score:.4g}"
    size = f"{row.scheme:<34} {size_text(row.bytes):>8} {row.bits_per_weight:>6.2f} {score:>6}"
    if row.verdict is None:
        own = interval_text(row.own, "same" if inside else "score").partition(" ")[2] + ", " if row.own else ""
        return f"{size}  {f'{own}n = {row.n}':<39}"
    lost, won = ("" if v is None else str(v) for v in (row.lost, row.won))
    interval = interval_text(row.verdict.interval, kind)
    same = f"{100 * row.same.estimate:.1f}%" if row.same else "—"
    return f"{size}  {interval:<22} {lost:>4} {won:>4} {same:>6}"


def decision_lines(sentence: str, more: str) -> list[str]:
    """`DECISION  Use ...` in lines of one indent; `more`, where there is some, begins a line."""
    told = filter(None, [sentence, more])
    lines = [line for text in told for line in textwrap.wrap(text, 100, break_long_words=False)]
    return [f"{'' if k else 'DECISION':<10}{line}" for k, line in enumerate(lines)]


def _filled(text: str) -> str:
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)


def duration(seconds: float) -> str:
    """`about 2.1 minutes`, `about 12 seconds`, `a moment`."""
    if seconds < 2:
        return "a moment"
    return f"about {seconds:.0f} seconds" if seconds < 59.5 else f"about {seconds / 60:.1f} minutes"


def interval_text(interval: Interval, kind: str = "points") -> str:
    """`-4.8 [-7.2, -2.6]` in points, `95.2 [93.1, 96.8]` in percent, or a score in its own unit."""
    times, form = {"points": (100, "+.1f"), "same": (100, ".1f"), "score": (1, ".4g")}[kind]
    middle, low, high = (format(times * value, form) for value in (interval.estimate, interval.low, interval.high))
    return f"{middle} [{low}, {high}]"


def change_lines(row: dict[str, Any], names: tuple[str, str] = ("float", "quantized")) -> list[str]:
    """A changed answer, side by side: the question, then what the two models of those names answered.

    A question of several lines, such as a picture, stays a block, as in the report.
    """
    asked = row["question"].splitlines()
    block = [line[:WIDTH] for line in asked[:BLOCK]] if len(asked) > 1 else [_cut(row["question"])]
    return [
        *(f"  {'' if k else 'asked':<9}  {line}" for k, line in enumerate(block)),
        f"  {names[0]:<9}  {_cut(row['float'])}  ({_worth(row['was_right'], row['score_was'])})",
        f"  {names[1]:<9}  {_cut(row['quantized'])}  ({_worth(row['is_right'], row['score_is'])})",
    ]


def _worth(right: bool | None, score: float) -> str:
    """What an answer is worth, where scores are right and wrong and where they are not."""
    return f"score {score:.3g}" if right is None else "right" if right else "wrong"


def _cut(text: str) -> str:
    return textwrap.shorten(text, WIDTH, placeholder=" …")


class _Quiet:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None
