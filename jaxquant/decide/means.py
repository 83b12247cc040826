"""Confidence intervals for means of real-valued scores, and of their paired differences (rule DEC-4).

Student's interval alone is useless where it matters: 600 equal answers have no spread, so it has no width, and a rare
disaster that 600 examples did not show is ruled out.  Two pseudo-observations at each end of the score's range mend
that.  With nothing lost in n examples of a score in [0, 1], the loss may still be about 3.9 / n; the exact bound for
0/1 scores is 3.7 / n.

Source: A. Agresti, B. A. Coull, The American Statistician 52 (1998) 119-126, whose "add two successes and two
failures" this carries over from shares to means of bounded values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from jaxquant.decide.intervals import (
    Interval,
    check_level,
    check_scores,
    count_pairs,
    is_binary,
    paired_interval,
    share_interval,
)

PSEUDO = 2  # pseudo-observations at each end of the span: about z**2 / 2 at 95 %


def student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) of Student's distribution with whole degrees of freedom, by its finite series (class bounded)."""
    theta, odd = math.atan2(t, math.sqrt(freedom)), freedom % 2
    cosine2 = math.cos(theta) ** 2
    k = np.arange(1, (freedom - odd) // 2)
    series = 1.0 + float(np.sum(np.cumprod((2 * k - 1 + odd) / (2 * k + odd) * cosine2)))
    if odd:
        tail = math.sin(theta) * math.cos(theta) * series if freedom > 1 else 0.0
        return 0.5 + (theta + tail) / math.pi
    return 0.5 + math.sin(theta) * series / 2


@lru_cache(maxsize=4096)
def student_quantile(chance: float, freedom: int) -> float:
    """The t with P(T <= t) = chance, for chance in [0.5, 1), by bisection."""
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < chance:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < chance else (low, middle)
    return high


@dataclass(frozen=True)
class Moments:
    """Mean of n values in [low, high], and the centre and standard error with the pseudo-observations (DEC-4)."""

    n: int
    mean: float
    variance: float
    centre: float
    error: float
    low: float
    high: float

    @property
    def freedom(self) -> int:
        """Degrees of freedom, the pseudo-observations counted; beyond 10,000 Student's distribution stands still."""
        return min(self.n + 2 * PSEUDO - 1, 10_000)

    def p_values(self, value: float) -> tuple[float, float]:
        """(p of "the true mean is `value` or more", p of "or less")."""
        below = student_cdf((self.centre - value) / self.error, self.freedom)
        return below, 1.0 - below


def moments(values: Any, *, low: float, high: float) -> Moments:
    """Moments of values known to lie in [low, high], with two pseudo-observations at each end (DEC-4).

    They stand for what n examples may not have shown: a rare answer that is as bad as can be.

    Args:
      values: shape (n,), finite.
      low: least possible value, -1 for paired differences of scores in [0, 1].
      high: most possible value, 1 for those.
    Returns:
      Moments.
    Raises:
      ValueError: not a vector, a value that is not finite, or one outside the span.
    """
    (array,) = check_scores("moments", values=values)
    if not low < high or np.any(array < low) or np.any(array > high):
        raise ValueError(f"moments: a value is outside [{low}, {high}], need every value in the stated span")
    return _padded(array.size, float(np.mean(array)), float(np.var(array)), low, high)


def flat_moments(n: int, value: float, *, low: float, high: float) -> Moments:
    """Moments of n values that are all `value`: the best that n examples can show."""
    return _padded(n, value, 0.0, low, high)


def _padded(n: int, mean: float, variance: float, low: float, high: float) -> Moments:
    total = n + 2 * PSEUDO
    centre = (n * mean + PSEUDO * (low + high)) / total
    squares = n * (variance + (mean - centre) ** 2) + PSEUDO * ((low - centre) ** 2 + (high - centre) ** 2)
    return Moments(n, mean, variance, centre, math.sqrt(squares / (total - 1) / total), float(low), float(high))


def mean_interval(found: Moments, *, level: float = 0.95) -> Interval:
    """Student's interval for a mean of real-valued scores or of paired differences.

    Caution: it is not exact.  With the pseudo-observations and a true span (a score in [0, 1]) it errs on the safe
    side at few examples: at most 1.9 % a side in simulations of n = 5..600 (rare disasters, skewed, normal).  Where
    the span is only what was seen (a loss without a ceiling), a rare outlier that no example showed is covered by no
    method, and below 100 examples the interval should be read with that in mind.

    Args:
      found: `moments(quantized_scores - float_scores, low=-span, high=span)`, or of the scores themselves.
      level: 0.95 for 2.5 % on each side.
    Returns:
      Interval inside [found.low, found.high].

    Spec: DEC-4 (specs/70-decide.md).  Class: bounded.
    Example:
      >>> found = mean_interval(moments(np.zeros(600), low=-1, high=1))
      >>> round(found.high, 4)
      0.0065
    """
    alpha = check_level("mean_interval", level)
    half = student_quantile(1 - alpha, found.freedom) * found.error
    low, high = max(found.centre - half, found.low), min(found.centre + half, found.high)
    return Interval(min(low, found.mean), max(high, found.mean), found.mean, level, "Student-t")


def span_of(seen: np.ndarray) -> tuple[float, float]:
    """[0, 1], or as far beyond it as the scores were seen: where nobody says what a score may be (DEC-4)."""
    return min(0.0, float(seen.min())), max(1.0, float(seen.max()))


def score_interval(scores: Any, *, level: float = 0.95) -> Interval:
    """The interval of one model's own mean score, right answers counted or not.

    Args:
      scores: shape (n,), finite.
      level: 0.95 for 2.5 % on each side.
    Returns:
      Clopper and Pearson's Interval of 0/1 scores, Student's of others.
    Raises:
      ValueError: not a vector, a score that is not finite, or level outside [0.5, 1).

    Spec: DEC-3, DEC-4 (specs/70-decide.md).  Class: bounded.
    Example:
      >>> found = score_interval([1] * 382 + [0] * 218)
      >>> found.method, round(found.low, 4), round(found.high, 4)
      ('Clopper-Pearson', 0.5968, 0.6752)
    """
    (array,) = check_scores("score_interval", scores=scores)
    if is_binary(array):
        return share_interval(int(array.sum()), array.size, level=level)
    low, high = span_of(array)
    return mean_interval(moments(array, low=low, high=high), level=level)


def change_interval(base: Any, ours: Any, *, level: float = 0.95) -> Interval:
    """The interval of the paired change of two models' scores on the same examples, without a bar.

    Args:
      base: shape (n,), finite, of the model that is compared with.
      ours: likewise, of the other one.
      level: 0.95 for 2.5 % on each side.

    Spec: DEC-2, DEC-4 (specs/70-decide.md).  Class: bounded.
    """
    first, second = check_scores("change_interval", base=base, ours=ours)
    if is_binary(first, second):
        return paired_interval(count_pairs(first, second), level=level)
    low, high = span_of(np.concatenate([first, second]))
    return mean_interval(moments(second - first, low=low - high, high=high - low), level=level)
