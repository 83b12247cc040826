"""Confidence intervals for a quantized model against float on the same examples (rules DEC-1..DEC-3).

NumPy and the standard library only; nothing here draws random numbers, so equal input gives equal output.

Why these intervals, with numbers.  For 0/1 scores the error of each side was summed exactly over all outcomes, with
the true loss on the bar (n = 20..300, losses 1..5 points, won rates 0..3 %); the promise is 2.5 % a side:

    interval                   wrong PASS    wrong FAIL    worst sum
    Wald (McNemar)             81.8 %        2.3 %         81.8 %
    Wald + 2 (Agresti-Min)      6.0 %        2.1 %          6.4 %
    score (Tango)               2.4 %        4.4 %          6.4 %
    exact tails (this file)     2.0 %        2.1 %          4.0 %

Tango's score interval is the usual advice and is too bold where we work: few changed answers, nearly all of them
lost.  With no answer won, exact tails give Clopper and Pearson's limit of the loss.
`python benchmarks/verdict_simulation.py --exact` prints the table.

Sources: T. Tango, Statistics in Medicine 17 (1998) 891-908 (restricted estimate of the discordance);
C. J. Lloyd, Biometrics 64 (2008) 716-723 (p-values at the estimated nuisance, "E");
C. J. Clopper, E. S. Pearson, Biometrika 26 (1934) 404-413.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval, in the unit of `estimate` (a fraction, not points).

    Attributes:
      low, high: the limits; a side that no data can exclude is the end of the possible range.
      estimate: the observed value, always in [low, high].
      level: 0.95 means at most 2.5 % error on each side.
      method: "exact tails", "Clopper-Pearson" or "Student-t" (means.py).
    """

    low: float
    high: float
    estimate: float
    level: float
    method: str

    def as_dict(self) -> dict[str, Any]:
        """The fields as a JSON-friendly dict."""
        return asdict(self)


@dataclass(frozen=True)
class PairedCounts:
    """0/1 scores of two models on the same n examples: lost = float right, quantized wrong; won = the reverse."""

    n: int
    lost: int
    won: int

    def __post_init__(self) -> None:
        if self.n < 1 or min(self.lost, self.won) < 0 or self.lost + self.won > self.n:
            raise ValueError(
                f"PairedCounts: n, lost, won are {self.n}, {self.lost}, {self.won}, need n >= 1 and "
                "lost + won <= n, none negative (every example is lost, won or neither)"
            )

    @property
    def difference(self) -> float:
        """(won - lost) / n: the change of the score against float."""
        return (self.won - self.lost) / self.n

    @property
    def variance(self) -> float:
        """Variance of one example's change, in score squared."""
        return (self.lost + self.won) / self.n - self.difference**2

    def as_dict(self) -> dict[str, int]:
        """The fields as a JSON-friendly dict."""
        return asdict(self)


def is_binary(*scores: np.ndarray) -> bool:
    """Whether every score is 0 or 1, so that the exact intervals apply."""
    return all(bool(np.all((s == 0) | (s == 1))) for s in scores)


def check_scores(where: str, **scores: Any) -> list[np.ndarray]:
    """The arguments as float64 vectors of one length >= 1, or a ValueError that names the bad one."""
    arrays = {name: np.asarray(value, np.float64) for name, value in scores.items()}
    n = max((a.shape[0] for a in arrays.values() if a.ndim == 1), default=0)
    for name, array in arrays.items():
        if array.ndim != 1 or array.shape[0] != n or n == 0:
            raise ValueError(f"{where}: {name} has shape {array.shape}, need ({n or 'n'},): one score per example")
        if not np.all(np.isfinite(array)):
            bad = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(f"{where}: {name}[{bad}] is {array[bad]}, need a finite score (it cannot be averaged)")
    return list(arrays.values())


def count_pairs(float_scores: Any, quantized_scores: Any) -> PairedCounts:
    """Counts lost and won of two vectors of 0/1 scores on the same examples.

    Args:
      float_scores: shape (n,), each 0 or 1 (or bool).
      quantized_scores: shape (n,), the same examples in the same order.
    Returns:
      PairedCounts.
    Raises:
      ValueError: shapes differ, n is 0, or a score is neither 0 nor 1.

    Spec: DEC-1 (specs/70-decide.md).  Class: exact.
    """
    base, ours = check_scores("count_pairs", float_scores=float_scores, quantized_scores=quantized_scores)
    if not is_binary(base, ours):
        raise ValueError("count_pairs: a score is neither 0 nor 1, need 0/1 scores (see means.py for others)")
    return PairedCounts(base.size, int(np.sum((base == 1) & (ours == 0))), int(np.sum((base == 0) & (ours == 1))))


def tails(n: int, up: float, down: float, total: int) -> tuple[float, float]:
    """(P(S <= total), P(S >= total)) for S = sum of n steps: +1 with chance `up`, -1 with `down`, else 0.

    The n-th power of the characteristic function, inverted by one FFT; absolute error below 1e-10 for n <= 1e6.
    The window of 12 standard deviations + 40 keeps what wraps around below 1e-15.

    Spec: DEC-2.  Class: bounded.
    """
    centre = round(n * (up - down))
    half = min(2 * n, math.ceil(12 * math.sqrt(n * max(up + down - (up - down) ** 2, 0.0)))) + 40
    if abs(total - centre) > half:
        return (1.0, 0.0) if total > centre else (0.0, 1.0)
    size = 1 << (2 * half).bit_length()
    turn = np.exp(-2j * np.pi / size * np.arange(size // 2 + 1))
    transform = (1.0 - up - down + up * turn + down * turn.conj()) ** n * turn ** (half - centre)
    mass = np.fft.irfft(transform, size)
    at = total - centre + half
    return _clip(float(np.sum(mass[: at + 1]))), _clip(float(np.sum(mass[at:])))


def _clip(chance: float) -> float:
    return min(max(chance, 0.0), 1.0)


def restricted_rate(counts: PairedCounts, loss: float) -> float:
    """Likeliest rate of the rarer side, given that lost rate - won rate = `loss` (won if loss >= 0, else lost)."""
    n, common, rare, gap = counts.n, counts.lost, counts.won, loss
    if loss < 0:
        common, rare, gap = counts.won, counts.lost, -loss
    linear = (common + rare) * (1 - gap) - 2 * gap * (n - common)
    rate = (linear + math.sqrt(linear * linear + 8 * n * rare * gap * (1 - gap))) / (4 * n)
    return min(max(rate, 0.0), (1 - gap) / 2)


def loss_p_values(counts: PairedCounts, loss: float) -> tuple[float, float]:
    """(p of "the true loss is `loss` or more", p of "it is `loss` or less"), each one-sided.

    Args:
      counts: the observed answers.
      loss: the loss to test, (lost - won) / n in [-1, 1].
    Returns:
      Small first value: the data show that less is lost.  Small second value: that more is lost.

    Spec: DEC-2 (specs/70-decide.md).  Class: bounded.
    """
    rate = restricted_rate(counts, loss)
    up, down = (rate + loss, rate) if loss >= 0 else (rate, rate - loss)
    return tails(counts.n, up, down, counts.lost - counts.won)


def share_p_values(hits: int, n: int, share: float) -> tuple[float, float]:
    """(p of "the true share is `share` or more", p of "or less") for hits of n, both exact.  Spec: DEC-3."""
    return tails(n, share, 0.0, hits)


def _limit(p_value: Callable[[float], float], inside: float, outside: float, alpha: float) -> float:
    """The end of the values that are not rejected, between `inside` and `outside`, rounded outwards by < 1e-9."""
    if p_value(outside) > alpha:
        return outside
    while abs(outside - inside) > 1e-9:
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if p_value(middle) > alpha else (inside, middle)
    return outside


def check_level(where: str, level: float) -> float:
    """The error allowed on each side, (1 - level) / 2."""
    if not 0.5 <= level < 1:
        raise ValueError(f"{where}: level is {level}, need 0.5 <= level < 1 (0.95 is usual)")
    return (1 - level) / 2


@lru_cache(maxsize=65536)
def paired_interval(counts: PairedCounts, *, level: float = 0.95) -> Interval:
    """Interval for the change of a 0/1 score, (won - lost) / n, on the same examples.

    Holds at the extremes: nothing lost and won, everything lost, n = 1 (see the table at the top of this file).

    Args:
      counts: lost and won answers of n.
      level: 0.95 for 2.5 % on each side.
    Returns:
      Interval in [-1, 1]; negative is worse than float.
    Raises:
      ValueError: level outside [0.5, 1).

    Spec: DEC-2 (specs/70-decide.md).  Class: bounded (limits within 1e-8).
    Example:
      >>> found = paired_interval(PairedCounts(600, 39, 10))
      >>> round(100 * found.low, 2), round(100 * found.high, 2)
      (-7.32, -2.56)
    """
    alpha = check_level("paired_interval", level)
    loss = -counts.difference
    most = _limit(lambda x: loss_p_values(counts, x)[0], loss, 1.0, alpha)
    least = _limit(lambda x: loss_p_values(counts, x)[1], loss, -1.0, alpha)
    return Interval(-most, -least, -loss, level, "exact tails")


@lru_cache(maxsize=65536)
def share_interval(hits: int, n: int, *, level: float = 0.95) -> Interval:
    """Clopper and Pearson's interval for a share (unchanged answers, right answers): never more error than stated.

    Args:
      hits: examples that count, 0 <= hits <= n.
      n: examples, at least 1.
      level: 0.95 for 2.5 % on each side.
    Returns:
      Interval in [0, 1].
    Raises:
      ValueError: hits or n do not fit; level outside [0.5, 1).

    Spec: DEC-3 (specs/70-decide.md).  Class: bounded (limits within 1e-8).
    Example:
      >>> round(share_interval(600, 600).low, 4)
      0.9939
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"share_interval: hits, n are {hits}, {n}, need n >= 1 and 0 <= hits <= n")
    alpha = check_level("share_interval", level)
    high = _limit(lambda x: share_p_values(hits, n, x)[0], hits / n, 1.0, alpha)
    low = _limit(lambda x: share_p_values(hits, n, x)[1], hits / n, 0.0, alpha)
    return Interval(low, high, hits / n, level, "Clopper-Pearson")
