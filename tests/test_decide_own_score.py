"""Float's own score stands with n and its own interval: in the table, the JSON and the report (DEC-3, DEC-4)."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("rich")
pytest.importorskip("jinja2")

import small_models  # noqa: E402

import jaxquant  # noqa: E402
from jaxquant.decide.means import mean_interval, moments, score_interval  # noqa: E402


def half(output, example) -> float:
    """A score between right and wrong."""
    return 0.5 + 0.5 * small_models.score(output, example)


def beyond(output, example) -> float:
    return 3 * half(output, example) - 1


def run(tmp_path, score, bar="lose<=9"):
    examples = small_models.labelled() if score else small_models.vectors()
    out = tmp_path / "out"
    model = small_models.build_linen()
    result = jaxquant.decide(model, examples, score, schemes=["int8:channel"], out=out, bar=bar)
    return result["rows"], (out / "report.html").read_text(encoding="utf-8")


def test_external_right_answers_have_clopper_and_pearsons(tmp_path, capsys):
    beta = pytest.importorskip("scipy.stats").beta
    (base, other), page = run(tmp_path, small_models.score)
    hits, n = round(base["score"] * base["n"]), base["n"]
    assert 0 < hits < n == 200
    want = [float(beta.ppf(0.025, hits, n - hits + 1)), float(beta.ppf(0.975, hits + 1, n - hits))]
    assert [base["own"]["low"], base["own"]["high"]] == pytest.approx(want, abs=1e-8)
    assert (base["own"]["estimate"], base["own"]["level"]) == (base["score"], 0.95)
    assert other["own"] is None  # what a quantized row has is the interval of its paired change
    low, high = (f"{100 * limit:.1f}" for limit in want)
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("float "))
    assert printed.rstrip().endswith(f"  [{low}, {high}], n = 200")
    assert f"<small>{low} to {high}</small>" in page  # in the ladder
    assert f"{low} to {high}, n = 200" in page  # beside the decision


@pytest.mark.parametrize(("score", "span", "bar"), [(half, (0, 1), "lose<=9"), (beyond, (0, 2), "score>=0.1")])
def test_other_scores_have_students(score, span, bar, tmp_path, capsys):
    rows, page = run(tmp_path, score, bar)
    values = np.full(200, score(np.eye(10)[0], (None, 1)))
    right = round((rows[0]["score"] - values[0]) / (score(np.eye(10)[0], (None, 0)) - values[0]) * 200)
    values[:right] = score(np.eye(10)[0], (None, 0))
    want = mean_interval(moments(values, low=span[0], high=span[1]))
    found = rows[0]["own"]
    assert [found["low"], found["high"]] == pytest.approx([want.low, want.high]) and found["method"] == "Student-t"
    form = (lambda v: f"{100 * v:.1f}") if span == (0, 1) else (lambda v: f"{v:.4g}")
    assert f"[{form(want.low)}, {form(want.high)}], n = 200" in capsys.readouterr().out
    assert "to " + (form(want.high) if span == (0, 1) else f"{want.high:.3f}") in page


def test_agreement_with_itself_has_none(tmp_path, capsys):
    (base, _), page = run(tmp_path, None)
    assert (base["score"], base["own"]) == (1.0, None)
    assert re.search(r"^float .* 100\.0  n = 200 *$", capsys.readouterr().out, re.MULTILINE)
    assert "float: 100.0, n = 200" in page


def test_score_interval_golden():
    found = score_interval(np.repeat([1.0, 0.0], [382, 218]))
    assert (round(found.low, 4), round(found.high, 4)) == (0.5968, 0.6752)
    assert score_interval([0.25] * 9).low < 0.25 < score_interval([0.25] * 9).high
    assert score_interval([-1.0, 1.5]).high == 1.5 and score_interval([-1.0, 1.5]).low == -1.0
    with pytest.raises(ValueError, match=r"score_interval: scores\[1\] is nan, need a finite score"):
        score_interval([1.0, np.nan])
