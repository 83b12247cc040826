"""PASS, FAIL or UNSURE of one quantized model against a bar (rule DEC-6).

Every bar says "value >= threshold".  PASS: the whole interval is there.  FAIL: none of it is.  Otherwise UNSURE, with
the number of examples that would decide.  Each side of a 95 % interval errs at most 2.5 %, so a row gets a wrong
verdict with at most 2.5 %, and at a true value exactly on the bar, where PASS and FAIL both count as wrong here, with
at most 5 %.  That is a share of all rows, not of those that pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxquant.decide.bars import Bar
from jaxquant.decide.intervals import (
    Interval,
    PairedCounts,
    check_level,
    check_scores,
    count_pairs,
    is_binary,
    loss_p_values,
    paired_interval,
    restricted_rate,
    share_interval,
    share_p_values,
)
from jaxquant.decide.means import Moments, flat_moments, mean_interval, moments, span_of
from jaxquant.decide.needed import fewest, fewest_mean, needed_to_decide, unsure_note

PASS, FAIL, UNSURE = "PASS", "FAIL", "UNSURE"
EXIT_CODES = {PASS: 0, FAIL: 1, UNSURE: 3}


@dataclass(frozen=True)
class Verdict:
    """What the data say about one row.

    Attributes:
      result: PASS, FAIL or UNSURE.
      bar: the bar, as text.
      interval: of the change against float (bar "lose"), of the score, or of the share of unchanged answers.
      n: examples.
      p_pass, p_fail: one-sided p-values of "not better than the bar" and "not worse than the bar".
      variance: of one example's value, as observed.
      bar_variance: the same if the true value were the bar.
      needed: about how many examples would decide; None if decided, or if no number would.
      minimum_n: fewest examples that can prove the bar when nothing changes; None if no number can.
      note: one sentence for the reader, "" if there is nothing to add.
    """

    result: str
    bar: Bar
    interval: Interval
    n: int
    p_pass: float
    p_fail: float
    variance: float
    bar_variance: float
    needed: int | None
    minimum_n: int | None
    note: str

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 unsure."""
        return EXIT_CODES[self.result]

    def as_dict(self) -> dict[str, Any]:
        """The fields as a JSON-friendly dict; `bar` as its text."""
        return vars(self) | {"bar": str(self.bar), "interval": self.interval.as_dict(), "exit_code": self.exit_code}


def compare(interval: Interval, threshold: float) -> str:
    """PASS, FAIL or UNSURE of an interval; the threshold itself is good.

    Spec: DEC-6 (specs/70-decide.md).  Class: exact.
    """
    if interval.low >= threshold:
        return PASS
    return FAIL if interval.high < threshold else UNSURE


def _judge(
    bar: Bar,
    interval: Interval,
    n: int,
    p_values: tuple[float, float],
    variances: tuple[float, float],
    minimum_n: int | None,
) -> Verdict:
    looks_good = interval.estimate >= bar.threshold
    result, needed, note = compare(interval, bar.threshold), None, ""
    if result == UNSURE:
        needed = needed_to_decide(bar, interval, n, variances=variances, least=minimum_n if looks_good else 10)
        note = unsure_note(needed, minimum_n, n, looks_good)
    return Verdict(result, bar, interval, n, *p_values, *variances, needed, minimum_n, note)


def judge_pairs(counts: PairedCounts, bar: Bar, *, level: float = 0.95) -> Verdict:
    """The verdict on 0/1 scores against a bar of kind "lose".

    Args:
      counts: lost and won answers of n.
      bar: Bar(points=...).
      level: of the interval.
    Returns:
      Verdict; its interval is of (won - lost) / n.
    Raises:
      ValueError: the bar is of another kind.

    Spec: DEC-2, DEC-6 (specs/70-decide.md).
    Example:
      >>> judge_pairs(PairedCounts(600, 39, 10), Bar()).result
      'FAIL'
    """
    _need_kind("judge_pairs", bar, "points")
    alpha = check_level("judge_pairs", level)
    interval = paired_interval(counts, level=level)
    loss = -bar.threshold
    variances = counts.variance, 2 * restricted_rate(counts, loss) + loss - loss**2
    return _judge(bar, interval, counts.n, loss_p_values(counts, loss), variances, fewest(1 + bar.threshold, alpha))


def judge_share(hits: int, n: int, bar: Bar, *, level: float = 0.95) -> Verdict:
    """The verdict on a share of n answers: unchanged ones ("same") or right ones ("score" of 0/1 scores).

    Raises:
      ValueError: the bar is of kind "lose", or a score bar is outside (0, 1].

    Spec: DEC-3, DEC-6 (specs/70-decide.md).
    """
    _need_kind("judge_share", bar, "same", "score")
    _need_reachable("judge_share", bar, 0.0, 1.0)
    alpha = check_level("judge_share", level)
    interval = share_interval(hits, n, level=level)
    share, edge = hits / n, bar.threshold
    p_values = share_p_values(hits, n, edge)[::-1]
    return _judge(bar, interval, n, p_values, (share * (1 - share), edge * (1 - edge)), fewest(edge, alpha))


def judge_mean(found: Moments, bar: Bar, *, level: float = 0.95) -> Verdict:
    """The verdict on real-valued scores: of their differences ("lose", span [-1, 1]) or of the scores ("score").

    Spec: DEC-4, DEC-6 (specs/70-decide.md).
    """
    _need_kind("judge_mean", bar, "points", "score")
    if bar.kind == "score":
        _need_reachable("judge_mean", bar, found.low, found.high)
    best = flat_moments(1, 0.0 if bar.kind == "points" else found.high, low=found.low, high=found.high)
    least = fewest_mean(best, bar.threshold, level)
    interval = mean_interval(found, level=level)
    variances = found.variance, found.error**2 * (found.freedom + 1)
    return _judge(bar, interval, found.n, found.p_values(bar.threshold)[::-1], variances, least)


def judge(
    bar: Bar,
    *,
    float_scores: Any = None,
    quantized_scores: Any = None,
    same: Any = None,
    span: tuple[float, float] | None = None,
    level: float = 0.95,
) -> Verdict:
    """The verdict on per-example data; 0/1 scores get the exact intervals, others Student's.

    Args:
      bar: the user's bar.
      float_scores: shape (n,), higher is better.
      quantized_scores: shape (n,), the same examples in the same order.
      same: shape (n,), whether the answer is unchanged; needed for a bar of kind "same" alone.
      span: least and most possible score, for a score bar on scores outside [0, 1]; default: as observed.
      level: of the interval.
    Returns:
      Verdict.
    Raises:
      ValueError: the bar has no meaning for these data (no scores, points of a score outside [0, 1], a bar that the
        score cannot miss or reach), shapes differ, a score is not finite.

    Spec: DEC-1..DEC-7 (specs/70-decide.md).
    """
    if bar.kind == "same":
        if same is None:
            raise ValueError(f"judge: bar is '{bar}', need `same`: per example, whether the answer is unchanged")
        (unchanged,) = check_scores("judge", same=same)
        if not is_binary(unchanged):
            raise ValueError("judge: same has a value that is neither 0 nor 1, need one yes or no per example")
        return judge_share(int(unchanged.sum()), unchanged.size, bar, level=level)
    if float_scores is None or quantized_scores is None:
        raise ValueError(f"judge: bar is '{bar}', need scores (without any, only a bar as same>=98% has a meaning)")
    base, ours = check_scores("judge", float_scores=float_scores, quantized_scores=quantized_scores)
    return _judge_scores(bar, base, ours, span, level)


def _judge_scores(bar: Bar, base: np.ndarray, ours: np.ndarray, span: tuple | None, level: float) -> Verdict:
    seen = np.concatenate([base, ours])
    if bar.kind == "points" and not (seen.min() >= 0 and seen.max() <= 1):
        outside = float(seen[(seen < 0) | (seen > 1)][0])
        raise ValueError(f"judge: bar is '{bar}' and a score is {outside}, need scores in [0, 1] (or a bar score>=...)")
    if is_binary(base, ours) and span is None:
        if bar.kind == "points":
            return judge_pairs(count_pairs(base, ours), bar, level=level)
        return judge_share(int(ours.sum()), ours.size, bar, level=level)
    if bar.kind == "points":
        return judge_mean(moments(ours - base, low=-1.0, high=1.0), bar, level=level)
    low, high = span or span_of(seen)
    return judge_mean(moments(ours, low=low, high=high), bar, level=level)


def _need_kind(where: str, bar: Bar, *kinds: str) -> None:
    if bar.kind not in kinds:
        raise ValueError(f"{where}: bar is '{bar}', need a bar on {' or '.join(kinds)} (that is what the data hold)")


def _need_reachable(where: str, bar: Bar, low: float, high: float) -> None:
    if not low < bar.threshold <= high:
        why = "the score cannot miss or cannot reach it"
        raise ValueError(f"{where}: bar is '{bar}', need a value in ({low:g}, {high:g}] ({why})")
