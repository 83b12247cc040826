"""Bars and verdicts of `jaxquant decide` (specs/70-decide.md, DEC-5..DEC-7)."""

import json
import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from jaxquant.decide import intervals, verdict
from jaxquant.decide.bars import Bar, parse_bar
from jaxquant.decide.intervals import PairedCounts, count_pairs, paired_interval, share_interval
from jaxquant.decide.means import moments
from jaxquant.decide.needed import examples_needed, round_up
from jaxquant.decide.verdict import FAIL, PASS, UNSURE, judge, judge_pairs, judge_share

ROOT = Path(__file__).resolve().parents[1]


# --- DEC-5: bars ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, bar",
    [
        ("lose<=2", Bar()),
        ("lose <= 0.5 points", Bar(points=0.5)),
        ("lose<=0", Bar(points=0)),
        ("score>=0.8", Bar(score=0.8)),
        ("score>=80%", Bar(score=0.8)),
        ("score>=-1.5", Bar(score=-1.5)),
        (" same >= 95 % ", Bar(same=0.95)),
        ("same>=99.9%", Bar(same=0.999)),
    ],
)
def test_parse_bar_golden(text, bar):
    assert parse_bar(text) == bar and parse_bar(str(bar)) == bar


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "need lose<=2"),
        ("two points", "need lose<=2"),
        ("gain<=2", "is about 'gain'"),
        ("lose>=2", "need lose<=..."),
        ("lose<2", "need lose<=..."),
        ("score<=0.8", "need score>=..."),
        ("lose<=-1", "need 0 <= points < 100"),
        ("lose<=100", "need 0 <= points < 100"),
        ("lose<=250", "need 0 <= points < 100"),
        ("lose<=nan", "need a finite number"),
        ("score>=inf", "need a finite number"),
        ("lose<=2%", "need points of the score"),
        ("lose<=2.2.2", "need a number"),
        ("same>=0.95", "need a %"),
        ("same>=101%", "need 0 < same <= 1"),
        ("same>=0%", "need 0 < same <= 1"),
        ("score>=3 points", "is in points"),
    ],
)
def test_parse_bar_golden_errors(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_bar(text)


def test_bar_golden_errors():
    with pytest.raises(ValueError, match="points and same are given"):
        Bar(points=2, same=0.9)
    with pytest.raises(ValueError, match="need a finite number"):
        Bar(points=True)


# --- DEC-6, DEC-7: verdicts -------------------------------------------------------------------------------------------


def test_compare_golden_the_edge_is_good():
    def at(low, high):
        return verdict.compare(intervals.Interval(low, high, (low + high) / 2, 0.95, "x"), -0.02)

    assert [at(-0.02, 0.1), at(np.nextafter(-0.02, -1), 0.1), at(-0.1, -0.02)] == [PASS, UNSURE, UNSURE]
    assert [at(-0.1, np.nextafter(-0.02, -1)), at(-0.02, -0.02)] == [FAIL, PASS]


@pytest.mark.parametrize("n, result", [(10, UNSURE), (182, UNSURE), (183, PASS), (600, PASS)])
def test_judge_pairs_golden_too_few_examples(n, result):
    found = judge_pairs(PairedCounts(n, 0, 0), Bar())
    assert (found.result, found.minimum_n) == (result, 183)
    assert ("too few examples: 183" in found.note) == (result == UNSURE)
    assert found.needed == (183 if result == UNSURE else None)


@pytest.mark.parametrize(
    "counts, result, needed",
    [
        ((600, 39, 10), FAIL, None),
        ((600, 5, 6), PASS, None),
        ((600, 8, 4), UNSURE, 1200),
        ((600, 15, 9), UNSURE, 3400),
        ((600, 12, 0), UNSURE, None),  # exactly on the bar
        ((50, 5, 0), UNSURE, 110),
        ((1, 1, 0), UNSURE, 10),
        ((20, 20, 0), FAIL, None),
        ((20, 0, 20), PASS, None),
    ],
)
def test_judge_pairs_golden(counts, result, needed):
    found = judge_pairs(PairedCounts(*counts), Bar())
    assert (found.result, found.needed, found.exit_code) == (result, needed, {PASS: 0, FAIL: 1, UNSURE: 3}[result])
    assert (found.note == "") == (result != UNSURE)
    json.dumps(found.as_dict(), allow_nan=False)


def test_judge_pairs_golden_on_the_bar_says_that_no_number_would():
    assert "no number of examples would decide" in judge_pairs(PairedCounts(600, 12, 0), Bar()).note
    assert "no number of examples proves" in judge_pairs(PairedCounts(600, 0, 0), Bar(points=0)).note
    assert "no number of examples proves" in judge_share(600, 600, Bar(same=1.0)).note
    assert judge_share(599, 600, Bar(same=1.0)).result == FAIL


@pytest.mark.parametrize("n", [5, 30, 183, 300])
def test_judge_pairs_exhaustive_interval_and_p_values_agree(n):
    """Both say the same; more lost never helps, more won never hurts."""
    rank, bar = {FAIL: 0, UNSURE: 1, PASS: 2}, Bar(points=3)
    seen = {}
    for lost, won in product(range(0, min(n, 24), 2), range(0, min(n, 9), 2)):
        if lost + won <= n:
            found = judge_pairs(PairedCounts(n, lost, won), bar)
            assert (found.result == PASS) == (found.p_pass <= 0.025)
            assert (found.result == FAIL) == (found.p_fail <= 0.025)
            seen[lost, won] = rank[found.result]
    assert all(value >= seen.get((lost + 2, won), 0) for (lost, won), value in seen.items())
    assert all(value <= seen.get((lost, won + 2), 2) for (lost, won), value in seen.items())


def test_judge_golden_routes():
    right, wrong = np.ones(400), np.ones(400)
    wrong[:60] = 0
    assert judge(Bar(), float_scores=right, quantized_scores=wrong).result == FAIL
    assert judge(Bar(score=0.8), float_scores=right, quantized_scores=wrong).interval.method == "Clopper-Pearson"
    assert judge(Bar(score=0.8), float_scores=right, quantized_scores=wrong).result == PASS
    assert judge(Bar(score=0.9), float_scores=right, quantized_scores=wrong).result == FAIL
    assert judge(Bar(same=0.98), same=np.ones(400, bool)).result == PASS
    assert judge(Bar(same=0.98), same=np.ones(100, bool)).minimum_n == 183
    real = judge(Bar(), float_scores=0.9 * right, quantized_scores=0.9 * right)
    assert (real.result, real.interval.method) == (PASS, "Student-t")
    few = judge(Bar(), float_scores=0.9 * right[:50], quantized_scores=0.9 * right[:50])
    assert few.result == UNSURE and few.needed == few.minimum_n and 183 <= few.minimum_n <= 220
    below = judge(Bar(score=-3.0), float_scores=-right, quantized_scores=-2 * right, span=(-10, 0))
    assert below.result == PASS


@pytest.mark.parametrize(
    "bar, data, said",
    [
        (Bar(), {}, "need scores"),
        (Bar(score=0.5), {"same": [1, 1]}, "need scores"),
        (Bar(same=0.9), {"float_scores": [1], "quantized_scores": [1]}, "need `same`"),
        (Bar(same=0.9), {"same": [1, 0.5]}, "neither 0 nor 1"),
        (Bar(), {"float_scores": [-3.0, 0], "quantized_scores": [-2.0, 0]}, "need scores in [0, 1]"),
        (Bar(), {"float_scores": [1, 0], "quantized_scores": [1]}, "need (2,)"),
        (Bar(), {"float_scores": [], "quantized_scores": []}, "has shape (0,)"),
        (Bar(), {"float_scores": [[1]], "quantized_scores": [1]}, "has shape (1, 1)"),
        (Bar(), {"float_scores": [1.0, 0], "quantized_scores": [math.nan, 1]}, "quantized_scores[0] is nan"),
        (Bar(score=1.5), {"float_scores": [1], "quantized_scores": [1]}, "cannot miss or cannot reach"),
        (Bar(score=0.0), {"float_scores": [1], "quantized_scores": [1]}, "cannot miss or cannot reach"),
        (Bar(score=9.0), {"float_scores": [3.5], "quantized_scores": [1.5]}, "cannot miss or cannot reach"),
    ],
)
def test_judge_golden_errors(bar, data, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        judge(bar, **data)


def test_other_golden_errors():
    for call in (
        lambda: PairedCounts(3, 2, 2),
        lambda: count_pairs([0.5], [1]),
        lambda: share_interval(3, 2),
        lambda: paired_interval(PairedCounts(3, 0, 0), level=95),
        lambda: judge_pairs(PairedCounts(3, 0, 0), Bar(same=0.9)),
        lambda: moments([2.0], low=0, high=1),
    ):
        with pytest.raises(ValueError, match=r"need"):
            call()


@pytest.mark.parametrize("lost, won, bar", [(8, 4, 2.0), (30, 12, 2.0), (3, 0, 2.0)])
def test_examples_needed_property_decides_four_times_in_five(lost, won, bar):
    first = judge_pairs(PairedCounts(600 if lost > 3 else 100, lost, won), Bar(points=bar))
    assert first.result == UNSURE
    rng, n = np.random.Generator(np.random.Philox(key=3)), first.needed
    drawn = rng.multinomial(n, [lost / first.n, won / first.n, 1 - (lost + won) / first.n], size=300)
    decided = np.mean(
        [judge_pairs(PairedCounts(n, int(a), int(b)), Bar(points=bar)).result != UNSURE for a, b, _ in drawn]
    )
    assert 0.7 <= decided <= 0.95  # 0.8, less two standard errors and the lattice of small counts


def test_examples_needed_golden():
    assert examples_needed(-0.02, -0.02, variance=0.05, bar_variance=0.05, alpha=0.025) is None
    assert (
        examples_needed(-0.0200001, -0.02, variance=0.05, bar_variance=0.05, alpha=0.025) is None
    )  # more than a million
    assert [round_up(x) for x in (7, 99, 100.1, 1234, 999, 5.2)] == [7, 99, 110, 1300, 1000, 6]


@pytest.mark.parametrize("hits", [300, 280, 276, 270, 255])
def test_other_routes_property_interval_and_p_values_agree(hits):
    share = judge_share(hits, 300, Bar(same=0.92))
    mean = judge(Bar(score=0.46), float_scores=np.full(300, 0.5), quantized_scores=0.5 * (np.arange(300) < hits))
    change = judge(Bar(points=5), float_scores=np.full(300, 0.5), quantized_scores=0.5 * (np.arange(300) < hits))
    for found in (share, mean, change):
        assert (found.result == PASS) == (found.p_pass <= 0.025) and (found.result == FAIL) == (found.p_fail <= 0.025)
    assert share.result == {300: PASS, 255: FAIL}.get(hits, share.result)
