"""Changed answers in their order, the user's own numbers and scores, and when a caution stands (DEC-16, DEC-17)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("rich")

import small_models  # noqa: E402
from flax import linen  # noqa: E402

import jaxquant  # noqa: E402
from jaxquant.decide import job as job_module  # noqa: E402
from jaxquant.decide.bars import parse_bar  # noqa: E402
from jaxquant.decide.caution import caution  # noqa: E402
from jaxquant.decide.console import Printer  # noqa: E402
from jaxquant.decide.job import Job  # noqa: E402
from jaxquant.decide.ladder import rungs  # noqa: E402
from jaxquant.decide.opening import target_of  # noqa: E402
from jaxquant.decide.run import Ladder  # noqa: E402
from jaxquant.decide.workloads import Answers  # noqa: E402
from jaxquant.decide.workloads.examples import open_examples  # noqa: E402
from jaxquant.store import load  # noqa: E402


def change_order(result):
    kinds = {(True, False): 0, (False, False): 1, (True, True): 1, (False, True): 2}
    return [(kinds[c["was_right"], c["is_right"]], -c["drop"]) for c in result["changed"]]


@pytest.mark.parametrize("scored", [True, False])
def test_changed_answers_are_lost_changed_won_each_by_the_lead_of_floats_answer(scored, capsys, tmp_path):
    """DEC-16; the drop is computed here from the outputs of the model and of the saved row's values."""
    module, variables = small_models.build_linen()
    examples = small_models.labelled() if scored else small_models.vectors()
    out = tmp_path / "out"
    result = jaxquant.decide(
        (module, variables), examples, small_models.score if scored else None, schemes=["int2:channel"],
        bar="same>=1%", out=out,
    )  # fmt: skip
    order = change_order(result)
    assert order == sorted(order)
    assert {kind for kind, _ in order} == ({0, 1, 2} if scored else {0})
    assert all(drop < 0 for _, drop in order)  # an answer that is not given any more leads no more
    codes = load(out / "model.safetensors")
    values = {
        name: np.asarray(jaxquant.dequantize_tensor(v) if hasattr(v, "codes") else v) for name, v in codes.items()
    }
    rounded = {"params": {f"Dense_{k}": {n: values[f"Dense_{k}.{n}"] for n in ("kernel", "bias")} for k in (0, 1)}}
    vectors = np.stack(small_models.vectors())
    first, second = (np.asarray(module.apply(v, vectors)) for v in (variables, rounded))
    for change in result["changed"]:
        i = change["example"]
        own = int(np.argmax(first[i]))
        leads = [row[i][own] - np.delete(row[i], own).max() for row in (first, second)]
        assert change["drop"] == pytest.approx(leads[0] - leads[1], rel=1e-3, abs=1e-4)
    assert result["changed_by"] == "the float model's answer"
    assert "each by how far the lead of the float model's answer fell" in capsys.readouterr().out
    assert "by which the float model&#39;s answer leads the next one" in (out / "report.html").read_text()


def test_the_worst_of_each_kind_are_kept_and_all_are_counted(monkeypatch):
    """DEC-16: of a row that lost most answers the worst are all lost, but a reader asks for the won ones, too."""
    monkeypatch.setattr(job_module, "CHANGED", 4)
    monkeypatch.setattr(job_module, "LEAST", 4)
    work = open_examples(small_models.labelled(), small_models.score)
    ladder = Ladder(target_of(small_models.build_linen(), "net"), work, parse_bar("same>=1%"))
    job = Job(ladder, ladder.distinct(rungs("int2:channel")))
    list(job.climb())
    order, kinds = change_order({"changed": job.changed()}), job.found["changed_kinds"]["int2:channel"]
    kept = {name: sum(kind == k for kind, _ in order) for k, name in enumerate(("lost", "changed", "won"))}
    assert kept == {"lost": 4, "changed": 4, "won": 4} and min(kinds.values()) > 4
    row = job.rows[1]
    assert (kinds["lost"], kinds["won"]) == (row.lost, row.won)
    assert sum(kinds.values()) == job.found["changed_counts"]["int2:channel"] > sum(kept.values())


def test_outputs_without_a_choice_are_ordered_by_their_score(capsys, tmp_path):
    rows = [np.float32([k / 8, 0, 0, 0, 0, 0]) for k in range(1, 9)]
    module, out = linen.Dense(1), tmp_path / "out"
    variables = module.init(small_models.jax.random.key(2), np.zeros((1, 6), np.float32))
    result = jaxquant.decide(
        (module, variables), rows, lambda output, example: float(output[0] ** 2), schemes=["int2:channel"], out=out,
        bar="score>=0.001",
    )  # fmt: skip
    scores = [c["drop"] for c in result["changed"]]
    assert len(scores) > 1 and scores == sorted(scores, reverse=True)
    assert result["changed_by"] == "" and "by how far the score fell" in capsys.readouterr().out


def test_an_example_keeps_the_users_own_number_beside_a_training():
    """With QAT every third example is not judged, and the others keep their places in the user's list."""
    work, material = open_examples(small_models.vectors()).split()
    ladder = Ladder(target_of(small_models.build_linen(), "net"), work, parse_bar("same>=1%"), material)
    job = Job(ladder, ladder.distinct(rungs("int2:channel")))
    list(job.climb())
    changed = job.changed()
    assert changed and not any(change["example"] % 3 == 2 for change in changed)
    assert max(change["example"] for change in changed) > work.n
    assert all(change["question"].startswith(f"example {change['example']}:") for change in changed)


@pytest.mark.parametrize("text", ["int8 + QTA", "int8 + ", "int8+qta", "int8 + QAT + QAT"])
def test_a_mistyped_qat_is_told(text):
    with pytest.raises(ValueError, match=r"need '\+ QAT' once or nothing; nearest: int8 \+ QAT$"):
        rungs(text)


def test_where_no_answer_changed_it_says_so(capsys):
    Printer().changed([], {}, "int8", "the right answer")
    assert capsys.readouterr().out.strip() == "No answer changed under int8"


def test_a_score_that_is_no_right_or_wrong_is_printed(capsys, tmp_path):
    """The same model, judged by a share: no answer is called right for a score above 0."""
    module, variables = small_models.build_linen()

    def share(output, example):
        return 0.25 + 0.5 * small_models.score(output, example)

    result = jaxquant.decide(
        (module, variables), small_models.labelled(), share, schemes=["int2:channel"], out=tmp_path / "out"
    )
    assert {(c["was_right"], c["is_right"]) for c in result["changed"]} == {(None, None)}
    assert {c["score_was"] for c in result["changed"]} <= {0.25, 0.75}
    printed = capsys.readouterr().out
    assert "(score 0.25)" in printed and "(right)" not in printed and "(wrong)" not in printed


def answered(right, n, kinds, led="the right answer"):
    scores = np.float64(np.arange(n) < right)
    return Answers(np.arange(n) % kinds, scores, scores, np.zeros(n, bool), led)


def test_a_caution_stands_where_float_may_be_guessing_golden():
    """100 answers of 10 kinds: 16 right has a lower limit of 9.4 %, 18 right one of 11.0 %."""
    assert "10.0 % (95 % interval 4.9 to 17.6)" in caution(answered(10, 100, 10))
    assert "a guess among the 10 answers that it gives (10.0 %)" in caution(answered(16, 100, 10))
    assert caution(answered(18, 100, 10)) == ""
    assert "not shown" in caution(answered(2, 3, 2))
    assert "one and the same answer to all 100" in caution(answered(60, 100, 1))
    assert caution(answered(10, 100, 10, led="")) == caution(answered(2, 2, 2)) == ""
    assert caution(replace(answered(10, 100, 10), score=np.full(100, 0.5))) == ""


def test_an_untrained_model_passes_with_a_caution(capsys, tmp_path):
    labels = np.random.default_rng(8).integers(0, 10, 200)
    examples = list(zip(small_models.vectors(), map(int, labels), strict=True))
    result = jaxquant.decide(
        small_models.build_linen(), examples, small_models.score, schemes="int8", bar="lose<=9", out=tmp_path / "out"
    )
    assert result["decision"]["result"] == "PASS"
    assert "is not shown to be better than a guess" in result["caution"]
    assert "\nCaution: float's own score" in capsys.readouterr().out
    assert "Caution: float" in (tmp_path / "out" / "report.html").read_text()


def test_a_score_may_be_negative_everywhere(tmp_path):
    """Minus a distance, say: 0 is its best, and the bar lies between the worst and that."""
    result = jaxquant.decide(
        small_models.build_linen(), small_models.vectors(), lambda output, example: -1.0 - float(np.abs(output).max()),
        schemes="int8", bar="score>=-4", out=tmp_path / "out",
    )  # fmt: skip
    assert result["rows"][0]["score"] < -1 and result["decision"]["exit_code"] == 0
