"""The decision of a ladder: the smallest file that passes and still does after choosing among many (rule DEC-8).

Each row alone errs at most 2.5 % a side, but the smallest of 16 passing rows is a lucky one more often than that
("winner's curse"): with every true loss on the bar the smallest PASS was wrong in 18 % of simulated ladders.  A row is
*confirmed*, and may be recommended, in one of two ways, each with at most 2.5 % error for the whole ladder:

  chain  it passes and so does every row listed before it (a fixed sequence of tests, stopped at the first that fails);
  Holm   its p-value survives Holm's correction over all rows of the ladder.

Together: at most 5 % for a wrong recommendation, whatever the true losses are and however the rows depend on each
other.  The chain costs an ordinary ladder nothing; Holm rescues rows behind a broken one.  The condition: the order of
the rows is fixed before their scores are seen (the ladder's own order, safest first; never sorted by score).

Sources: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70; W. Maurer, L. A. Hothorn, W. Lehmacher, in
Biometrie in der chemisch-pharmazeutischen Industrie 6 (1995) 3-18 (fixed sequence).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from jaxquant.decide.bars import Bar
from jaxquant.decide.intervals import Interval
from jaxquant.decide.needed import examples_needed
from jaxquant.decide.verdict import EXIT_CODES, FAIL, PASS, UNSURE, Verdict, compare
from jaxquant.sizes import size_text


@dataclass(frozen=True)
class Candidate:
    """What is chosen among: a `rows.Row` that was judged.

    Attributes:
      label: its scheme.
      nbytes: of its file.
      verdict: against the bar.
      shared: whether its inputs have one range for a whole batch, so that an answer depends on its neighbours.
      weight_bits: of a weight's code; None: weights stay in float.
    """

    label: str
    nbytes: int
    verdict: Verdict
    shared: bool = False
    weight_bits: int | None = None


@dataclass(frozen=True)
class Decision:
    """What to do.

    Attributes:
      winner: label of the recommended row; None if none is confirmed.
      sentence: the decision in words.
      result: PASS, FAIL (every row fails) or UNSURE.
      confirmed: labels of all rows that may be recommended.
      needed: about how many examples would settle what is open; None if nothing is, or if no number would.
      four_bits: whether 4-bit weights are good enough, in words; "" where no such row was run, or float itself fails.
      float_told: that float itself misses the bar, or may, in words; "" where it does not, or has no score.
    """

    winner: str | None
    sentence: str
    result: str
    confirmed: tuple[str, ...]
    needed: int | None
    four_bits: str = ""
    float_told: str = ""

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 unsure."""
        return EXIT_CODES[self.result]

    def as_dict(self) -> dict[str, Any]:
        """The fields as a JSON-friendly dict."""
        return vars(self) | {"confirmed": list(self.confirmed), "exit_code": self.exit_code}


def confirmed_rows(rows: Sequence[Candidate]) -> list[Candidate]:
    """The rows that may be recommended: passing, by the chain or by Holm (see the module's text).

    Spec: DEC-8 (specs/70-decide.md).  Class: exact, given the verdicts.
    """
    chain = list(takewhile(lambda row: row.verdict.result == PASS, rows))
    by_p = sorted(rows, key=lambda row: row.verdict.p_pass)
    limits = [_alpha(rows) / (len(rows) - rank) for rank in range(len(rows))]
    holm = [row for row, _ in takewhile(lambda pair: pair[0].verdict.p_pass <= pair[1], zip(by_p, limits, strict=True))]
    return [row for row in rows if row.verdict.result == PASS and (row in chain or row in holm)]


def decide(rows: Sequence[Candidate], bar: Bar, own: Interval | None = None) -> Decision:
    """The smallest confirmed row, or what is missing for one.

    Args:
      rows: in the order of the ladder, which was fixed before any score was seen.
      bar: the bar that every verdict was given against.
      own: of the float model's score; None where it has none.
    Returns:
      Decision: exit code 0 with a winner, 1 if every row fails, else 3.
    Raises:
      ValueError: no rows, a label twice, a verdict against another bar, level or number of examples.

    Spec: DEC-8, DEC-9 (specs/70-decide.md).  Class: exact, given the verdicts.
    """
    _check_rows(rows, bar)
    good = confirmed_rows(rows)
    lost = _of_float(bar, own) == FAIL  # then no row's verdict says anything of its bits
    words = {"four_bits": "" if lost else _four_bits(rows, good), "float_told": float_told(bar, own)}
    if good:
        winner = min(good, key=_preference)
        sentence, needed = _winner_sentence(rows, winner, bar)
        return Decision(winner.label, sentence, PASS, tuple(row.label for row in good), needed, **words)
    if all(row.verdict.result == FAIL for row in rows):
        return Decision(None, _fail_sentence(rows, bar, words["float_told"]), FAIL, (), None, **words)
    sentence, needed = _unsure_sentence(rows, bar, words["float_told"])
    return Decision(None, sentence, UNSURE, (), needed, **words)


def float_told(bar: Bar, own: Interval | None) -> str:
    """That the float model is not shown to reach a bar on the score, which no quantized one can then be judged by.

    Args:
      bar: of any kind; only one on the score can be missed by float.
      own: of the float model's score; None where it has none.

    Spec: DEC-9 (specs/70-decide.md).
    """
    if own is None or (result := _of_float(bar, own)) == PASS:
        return ""
    scores = f"Float itself scores {_numbers(own, bar.kind)}"
    if result == FAIL:
        return f"{scores}, below {bar}: no quantized file can be judged by that."
    return f"{scores}, and is not shown to reach {bar} either."


def _of_float(bar: Bar, own: Interval | None) -> str:
    return compare(own, bar.threshold) if own and bar.kind == "score" else PASS


def _check_rows(rows: Sequence[Candidate], bar: Bar) -> None:
    if not rows:
        raise ValueError("decide: rows is empty, need at least one row (there is nothing to choose from)")
    labels = [row.label for row in rows]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ValueError(f"decide: label {twice!r} stands twice, need one label a row (the decision names it)")
    first = rows[0].verdict
    for row in rows:
        if row.verdict.bar != bar:
            raise ValueError(f"decide: row {row.label!r} was judged against '{row.verdict.bar}', need '{bar}'")
        if (row.verdict.n, row.verdict.interval.level) != (first.n, first.interval.level):
            raise ValueError(f"decide: row {row.label!r} has another n or level, need the same examples for every row")


def _alpha(rows: Sequence[Candidate]) -> float:
    return (1 - rows[0].verdict.interval.level) / 2


def _more(row: Candidate, rows: Sequence[Candidate]) -> int | None:
    """About how many examples would settle a row: decide it, or confirm it if it passes alone."""
    verdict = row.verdict
    if verdict.result == UNSURE:
        return verdict.needed
    found = examples_needed(
        verdict.interval.estimate,
        verdict.bar.threshold,
        variance=verdict.variance,
        bar_variance=verdict.bar_variance,
        alpha=_alpha(rows) / len(rows),
    )
    return None if found is None else max(found, verdict.n + 1)


def _winner_sentence(rows: Sequence[Candidate], winner: Candidate, bar: Bar) -> tuple[str, int | None]:
    text = f"Use {_told(winner)}: the smallest file shown to pass {bar} ({len(rows)} tried)."
    smaller = [row for row in rows if row.nbytes < winner.nbytes and row.verdict.result != FAIL]
    if not smaller:
        return text, None
    target, needed = _nearest(smaller, rows)
    word = "but not confirmed" if target.verdict.result == PASS else "and undecided"
    return f"{text} Smaller {word}: {_open(target, needed)}.", needed


def _fail_sentence(rows: Sequence[Candidate], bar: Bar, told: str) -> str:
    failed = "it fails" if len(rows) == 1 else f"all {len(rows)} fail"
    mildest = f"The mildest is {_told(_mildest(rows))}."
    return f"No file passes {bar}: {failed}{f'. {told}' if told else '; keep float.'} {mildest}"


def _unsure_sentence(rows: Sequence[Candidate], bar: Bar, told: str) -> tuple[str, int | None]:
    still = [row for row in rows if row.verdict.result != FAIL]
    target, needed = _nearest(still, rows)
    alone = sum(row.verdict.result == PASS for row in rows)
    passing = f"{alone} pass alone but not as the pick of {len(rows)}, " if alone else ""
    until = f"{told} Nearest: " if told else "Keep float until then: "
    return (
        f"No file is shown to pass {bar}: {passing}{len(still) - alone} undecided, {len(rows) - len(still)} fail. "
        f"{until}{_open(target, needed)}."
    ), needed


def _four_bits(rows: Sequence[Candidate], good: Sequence[Candidate]) -> str:
    """The answer to "is 4-bit good enough?": the smallest confirmed such row, else the nearest, else the mildest."""
    mine = [row for row in rows if row.weight_bits == 4]
    if not mine:
        return ""
    if confirmed := [row for row in mine if row in good]:
        return f"4-bit weights: yes, {min(confirmed, key=_preference).label} passes."
    if not (still := [row for row in mine if row.verdict.result != FAIL]):
        best = _mildest(mine)
        failed = "" if len(mine) == 1 else f"all {len(mine)} such rows fail; the mildest is "
        return f"4-bit weights: no, {failed}{best.label}{'' if failed else ' fails'}, {_value(best)}."
    target, needed = _nearest(still, rows)
    passes = "passes alone, but as the pick of many it may be luck" if target.verdict.result == PASS else "is nearest"
    count = "no number of examples would settle it" if needed is None else f"about {needed:,} examples would settle it"
    return f"4-bit weights: none shown to pass; {target.label} {passes}, {count}."


def _nearest(some: Sequence[Candidate], rows: Sequence[Candidate]) -> tuple[Candidate, int | None]:
    """The open row worth more examples: one that looks good before one that does not, fewest examples first."""
    found = [(row, _more(row, rows)) for row in some]
    return min(found, key=lambda pair: (not _looks_good(pair[0]), pair[1] is None, pair[1] or 0, pair[0].nbytes))


def _looks_good(row: Candidate) -> bool:
    return row.verdict.interval.estimate >= row.verdict.bar.threshold


def _open(row: Candidate, needed: int | None) -> str:
    why = "passes alone, but as the pick of many it may be luck" if row.verdict.result == PASS else "is open"
    if needed is None:
        return f"{_told(row)} {why}, and no number of examples would settle it"
    return f"{_told(row)} {why}; about {needed:,} examples would settle it (here {row.verdict.n:,})"


def _preference(row: Candidate) -> tuple[int, bool, float]:
    """Smallest first; of equal files that whose answers do not depend on neighbours, then the better estimate."""
    return row.nbytes, row.shared, -row.verdict.interval.estimate


def _mildest(rows: Sequence[Candidate]) -> Candidate:
    return max(rows, key=lambda row: row.verdict.interval.estimate)


def _told(row: Candidate) -> str:
    """The row with size, value and interval, as in 'int8 (23.1 MB, change -0.3 points, 95 % interval -1.1 to +0.5)'."""
    return f"{row.label} ({size_text(row.nbytes)}, {_value(row)})"


def _value(row: Candidate) -> str:
    """What the bar judges of a row, as in 'change -0.3 points, 95 % interval -1.1 to +0.5'."""
    kind = row.verdict.bar.kind
    name = {"points": "change", "same": "same answers", "score": "score"}[kind]
    return f"{name} {_numbers(row.verdict.interval, kind)}"


def _numbers(found: Interval, kind: str) -> str:
    times, form, unit = {"points": (100, "+.1f", " points"), "same": (100, ".1f", " %"), "score": (1, ".4g", "")}[kind]
    middle, low, high = (format(times * value, form) for value in (found.estimate, found.low, found.high))
    return f"{middle}{unit}, {100 * found.level:.3g} % interval {low} to {high}"
