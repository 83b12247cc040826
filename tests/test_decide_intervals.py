"""Intervals of `jaxquant decide` (specs/70-decide.md, DEC-1..DEC-4)."""

import importlib.util
import math
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from jaxquant.decide import intervals
from jaxquant.decide.intervals import PairedCounts, count_pairs, loss_p_values, paired_interval, share_interval, tails
from jaxquant.decide.means import mean_interval, moments, student_cdf, student_quantile

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("verdict_simulation", ROOT / "benchmarks" / "verdict_simulation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exact_tails(n, up, down, total):
    """Third opinion: the sum over all outcomes in exact fractions."""
    up, down = Fraction(up), Fraction(down)
    at_most = at_least = Fraction(0)
    for lost in range(n + 1):
        for won in range(n + 1 - lost):
            rest = n - lost - won
            ways = math.comb(n, lost) * math.comb(n - lost, won)
            chance = ways * up**lost * down**won * (1 - up - down) ** rest
            at_most += chance * (lost - won <= total)
            at_least += chance * (lost - won >= total)
    return float(at_most), float(at_least)


# --- DEC-1..DEC-4: intervals ------------------------------------------------------------------------------------------


def test_count_pairs_golden():
    assert count_pairs([1, 1, 0, 0, 1], [1, 0, 1, 0, 0]) == PairedCounts(5, 2, 1)
    assert count_pairs(np.array([True, False]), np.array([False, False])).difference == -0.5


@pytest.mark.parametrize(
    "n, up, down", [(1, 0.25, 0.5), (5, 0.25, 0.125), (12, 0.0625, 0.0), (12, 0.5, 0.5), (9, 0, 0)]
)
def test_tails_exhaustive_against_fractions(n, up, down):
    for total in range(-n - 1, n + 2):
        assert tails(n, up, down, total) == pytest.approx(exact_tails(n, up, down, total), abs=1e-13)


def test_restricted_rate_property_is_the_maximum():
    for n, lost, won, loss in [
        (50, 5, 2, 0.02),
        (50, 2, 5, 0.02),
        (50, 5, 2, -0.04),
        (600, 39, 10, 0.02),
        (20, 0, 3, 0.1),
    ]:
        counts = PairedCounts(n, lost, won)
        rate = intervals.restricted_rate(counts, loss)

        def likelihood(r, n=n, lost=lost, won=won, loss=loss):
            a, b = (r + loss, r) if loss >= 0 else (r, r - loss)
            return (
                lost * math.log(max(a, 1e-300))
                + won * math.log(max(b, 1e-300))
                + (n - lost - won) * math.log(1 - a - b)
            )

        assert all(likelihood(rate) >= likelihood(rate * f) - 1e-12 for f in (0.9, 0.99, 1.01, 1.1))


@pytest.mark.parametrize("n", [1, 2, 5, 11])
def test_paired_interval_exhaustive_small_counts(n):
    for lost, won in product(range(n + 1), repeat=2):
        if lost + won > n:
            continue
        found, mirror = paired_interval(PairedCounts(n, lost, won)), paired_interval(PairedCounts(n, won, lost))
        assert -1 <= found.low <= found.estimate == (won - lost) / n <= found.high <= 1
        assert (found.low, found.high) == pytest.approx((-mirror.high, -mirror.low), abs=1e-8)
        wider = paired_interval(PairedCounts(n, lost, won), level=0.99)
        assert wider.low <= found.low and found.high <= wider.high
        assert found.high - found.low > 1 / n  # never without width, also at 0 lost and 0 won


def test_paired_interval_property_limits_are_where_the_p_value_is_alpha():
    for counts in [
        PairedCounts(600, 39, 10),
        PairedCounts(40, 3, 1),
        PairedCounts(1000, 0, 7),
        PairedCounts(30, 30, 0),
    ]:
        found = paired_interval(counts)
        if found.low > -1:
            assert loss_p_values(counts, -found.low)[0] == pytest.approx(0.025, abs=1e-6)
        if found.high < 1:
            assert loss_p_values(counts, -found.high)[1] == pytest.approx(0.025, abs=1e-6)


def test_paired_interval_golden():
    found = paired_interval(PairedCounts(600, 39, 10))
    assert (round(found.low, 5), round(found.high, 5)) == (-0.07321, -0.02557)
    nothing = paired_interval(PairedCounts(600, 0, 0))
    assert nothing.high == pytest.approx(1 - 0.025 ** (1 / 600), abs=1e-8) == pytest.approx(-nothing.low, abs=1e-8)
    assert paired_interval(PairedCounts(200_000, 3000, 2000)).low == pytest.approx(-0.0057, abs=1e-4)


@pytest.mark.parametrize("n, won", [(20, 0.0), (60, 0.005), (150, 0.0), (150, 0.03)])
@pytest.mark.parametrize("loss", [0.01, 0.02, 0.05])
def test_paired_interval_exhaustive_error_is_honest(simulation, n, won, loss):
    wrong_pass, wrong_fail = simulation.exact_errors("exact tails", n, loss, won)
    assert wrong_pass <= 0.025 and wrong_fail <= 0.025


def test_other_intervals_golden_are_not_honest(simulation):
    """Why not the usual ones; also a witness that the measure above can see a bad interval."""
    assert simulation.exact_errors("Wald", 60, 0.02, 0.0)[0] > 0.25
    assert simulation.exact_errors("Agresti-Min", 150, 0.02, 0.0)[0] > 0.04
    assert simulation.exact_errors("Tango", 150, 0.02, 0.005)[1] > 0.04


def test_paired_interval_differential_narrower_than_unpaired(simulation):
    ours, unpaired = paired_interval(PairedCounts(600, 12, 8)), simulation.unpaired_limits(600, 12, 8)
    assert ours.high - ours.low < 0.45 * (unpaired[1] - unpaired[0])


def test_share_interval_external_scipy():
    stats = pytest.importorskip("scipy.stats")
    for hits, n in [(0, 1), (1, 1), (3, 10), (600, 600), (588, 600), (0, 50), (4999, 10000)]:
        ours, theirs = share_interval(hits, n), stats.binomtest(hits, n).proportion_ci(method="exact")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-8)


def test_student_external_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 4, 5, 24, 103, 603, 5000):
        assert student_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
        for t in (-3.5, -0.2, 0.0, 1.0, 4.0):
            assert student_cdf(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-12)


def test_mean_interval_golden_never_without_width():
    for n in (1, 20, 183, 600):
        found = mean_interval(moments(np.zeros(n), low=-1, high=1))
        assert found.estimate == 0 and found.high >= 1 - 0.025 ** (1 / n) and found.low == -found.high
    ones = mean_interval(moments(np.ones(50), low=0, high=1))
    assert ones.high == 1 and ones.low < 0.975 and ones.estimate == 1


@pytest.mark.parametrize("n", [20, 200, 600])
def test_mean_interval_property_error_is_honest(n):
    rng = np.random.Generator(np.random.Philox(key=7))
    draws = {
        "rare disaster": -1.0 * (rng.random((4000, n)) < 0.02),
        "half": -0.5 * (rng.random((4000, n)) < 0.04),
        "mixed": np.where(rng.random((4000, n)) < 0.1, np.where(rng.random((4000, n)) < 0.5, -0.6, 0.2), 0.0),
    }
    for name, values in draws.items():
        found = [mean_interval(moments(row, low=-1, high=1)) for row in values[:1500]]
        wrong = [np.mean([f.low >= -0.02 for f in found]), np.mean([f.high < -0.02 for f in found])]
        assert max(wrong) <= 0.033, (name, wrong)  # 0.025 and two standard errors
