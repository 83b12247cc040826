"""How many examples would decide, and how many can decide at all (rule DEC-7)."""

from __future__ import annotations

import math
from statistics import NormalDist

from jaxquant.decide.bars import Bar
from jaxquant.decide.intervals import Interval
from jaxquant.decide.means import Moments, flat_moments, mean_interval

POWER = 0.8  # the chance that the stated number of examples decides, if the observed rates are the true ones
MOST = 1_000_000  # a longer test set is no advice


def examples_needed(
    estimate: float, threshold: float, *, variance: float, bar_variance: float, alpha: float
) -> int | None:
    """About how many examples decide, if the observed mean and variance are the true ones (4 times in 5).

    Args:
      estimate: observed mean.
      threshold: of the bar, in the same unit.
      variance: of one example, as observed.
      bar_variance: of one example, if the true mean were the bar.
      alpha: the error allowed on the deciding side, 0.025 for a 95 % interval.
    Returns:
      A number rounded up to two digits; None if the estimate sits on the bar or if more than a million are needed.

    Spec: DEC-7 (specs/70-decide.md).  Class: bounded.
    Example:
      >>> examples_needed(-0.0067, -0.02, variance=0.02, bar_variance=0.03, alpha=0.025)
      1200
    """
    gap, normal = abs(estimate - threshold), NormalDist()
    if gap <= 1e-12:
        return None
    spread = normal.inv_cdf(1 - alpha) * math.sqrt(bar_variance) + normal.inv_cdf(POWER) * math.sqrt(variance)
    number = (spread / gap) ** 2
    return round_up(number) if number <= MOST else None


def round_up(number: float) -> int:
    """The next whole number of at most two significant digits."""
    step = 10 ** max(len(str(math.ceil(number))) - 2, 0)
    return math.ceil(number / step) * step


def needed_to_decide(
    bar: Bar, interval: Interval, n: int, *, variances: tuple[float, float], least: int | None
) -> int | None:
    """DEC-7: never fewer than `least`, the number that can decide at all, and more than the n that did not."""
    if least is None:
        return None
    if variances[0] == 0:  # nothing observed to extrapolate from
        return max(n + 1, least)
    found = examples_needed(
        interval.estimate,
        bar.threshold,
        variance=variances[0],
        bar_variance=variances[1],
        alpha=(1 - interval.level) / 2,
    )
    return None if found is None else max(found, n + 1, least)


def fewest(perfect: float, alpha: float) -> int | None:
    """Fewest examples n with perfect**n <= alpha: what proves a share when no example speaks against it."""
    return None if perfect >= 1 else max(1, math.ceil(math.log(alpha) / math.log(perfect) - 1e-9))


def fewest_mean(best: Moments, threshold: float, level: float) -> int | None:
    """Fewest examples that prove a mean if each of them is as good as `best.mean`; None beyond a million."""

    def enough(n: int) -> bool:
        flat = flat_moments(n, best.mean, low=best.low, high=best.high)
        return mean_interval(flat, level=level).low >= threshold

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
        if low > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def unsure_note(needed: int | None, minimum_n: int | None, n: int, looks_good: bool) -> str:
    """What a reader of UNSURE is told (DEC-7)."""
    if looks_good and minimum_n is None:
        return "no number of examples proves this bar as long as nothing improves"
    parts = []
    if looks_good and n < minimum_n:
        parts.append(f"too few examples: {minimum_n:,} at least")
    if needed is None:
        parts.append("the estimate sits on the bar or too near it: no number of examples would decide")
    elif needed != minimum_n or not parts:
        parts.append(f"about {needed:,} examples would decide")
    return "; ".join(parts)
