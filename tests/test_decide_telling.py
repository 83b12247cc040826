"""What `decide` prints agrees with itself: the decision's words with the verdicts, notes once, the winner's speed."""

from __future__ import annotations

import html
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("rich")

import small_models  # noqa: E402

import jaxquant  # noqa: E402
from jaxquant.decide import decision, opening  # noqa: E402
from jaxquant.decide.bars import Bar, parse_bar  # noqa: E402
from jaxquant.decide.intervals import PairedCounts  # noqa: E402
from jaxquant.decide.job import Job  # noqa: E402
from jaxquant.decide.ladder import rungs  # noqa: E402
from jaxquant.decide.rows import Row, cancelled  # noqa: E402
from jaxquant.decide.run import Ladder  # noqa: E402
from jaxquant.decide.verdict import judge_pairs  # noqa: E402
from jaxquant.decide.workloads.examples import open_examples  # noqa: E402


def row(label, nbytes, lost, won):
    return decision.Candidate(label, nbytes, judge_pairs(PairedCounts(600, lost, won), Bar()))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("sure", 9, 3, 3), row("open", 10, 9, 2), row("lucky", 7, 5, 0)], "Smaller but not confirmed: lucky ("),
        ([row("sure", 9, 3, 3), row("open", 8, 9, 2)], "Smaller and undecided: open ("),
    ],
)
def test_a_row_that_passes_is_not_called_undecided(rows, words):
    """DEC-8: a PASS may be unconfirmed; "undecided" is what UNSURE means."""
    found = decision.decide(rows, Bar())
    assert found.winner == "sure" and words in found.sentence, found.sentence
    assert rows[-1].verdict.result == ("PASS" if "lucky" in words else "UNSURE")


class Odd(small_models.nnx.Module):
    """A layer of its own beside one of Flax's."""

    def __init__(self):
        rngs = small_models.nnx.Rngs(0)
        self.own = small_models.nnx.Param(np.eye(36, dtype=np.float32))
        self.head = small_models.nnx.Linear(36, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(x.reshape(x.shape[0], -1) @ self.own[...])


def test_what_holds_of_several_rows_is_said_once_below_the_table(tmp_path, capsys):
    schemes = ["w8a8:token", "w8a8:tensor", "int8:channel"]
    jaxquant.decide(Odd(), small_models.images(), schemes=schemes, bar="same>=1%", out=tmp_path / "out")
    out = capsys.readouterr().out
    table, _, below = out.partition(
        "1 layer keeps float inputs: 1 x parameters of a class that is not Flax's own layer"
    )
    assert "keeps float inputs" not in below and "(w8a8:token, w8a8:tensor)" in " ".join(below.splitlines()[:2])
    lines = [line for line in table.splitlines() if line.startswith(("w8a8", "int8"))]
    assert len(lines) == 3 and all(line.endswith("PASS") for line in lines) and "DECISION" in below


@pytest.mark.parametrize(
    ("winner", "ways"),
    [
        ("int8:channel", ["the winner, dequantized at each call", "int4, dequantized at each call",
                          "int8 inputs and weights"]),
        ("w=int8:channel,a=int8:tensor", ["the winner, on integers", "int4, dequantized at each call",
                                          "int8 inputs and weights"]),
        ("w8a8", ["the winner, on integers", "int4, dequantized at each call"]),
        ("w=int8:g8,e=int8", ["the winner, dequantized at each call", "int4, dequantized at each call",
                              "int8 inputs and weights"]),
        (None, ["int4, dequantized at each call", "int8 inputs and weights"]),
    ],
)  # fmt: skip
def test_the_winner_is_timed(winner, ways):
    """Once, as its file runs; what it reads a call are its own bytes."""
    work = open_examples(small_models.ids())
    ladder = Ladder(opening.target_of(small_models.build(), "net"), work, parse_bar("same>=1%"))
    job = Job(ladder, ladder.distinct(rungs((winner or "int2:channel",))))
    rows = list(job.climb())
    job.decide()
    job.found["decision"]["winner"] = winner
    found = job._ways()
    assert list(found) == ["float", *ways]
    (batch,) = work.batches(1)
    answers = [np.asarray(run(*batch)) for run, _ in found.values()]
    if winner:
        run, nbytes = found[ways[0]]
        exact = ladder.answers[winner].answers[: len(batch[0])]
        assert np.array_equal(np.argmax(answers[1], -1), exact) and not np.array_equal(answers[1], answers[2])
        assert 0 < nbytes < rows[1].bytes
    timings = job.speed()
    assert {t.what for t in timings} == {"float", *ways} and len(timings) == 2 * len(found)


def told_row(scheme, result, lost, won, same=0.9):
    judged = SimpleNamespace(result=result)
    return Row(scheme, "", 1, 8.0, 0.6, 600, lost, won, same and SimpleNamespace(estimate=same), judged)


def test_what_one_number_hides_is_told_golden():
    """Of the row in which most lost and won answers cancel out; of those that fail only where no other has both."""
    open_row, failed = told_row("int4", "UNSURE", 40, 16, 506 / 600), told_row("int3", "FAIL", 85, 34)
    assert cancelled([told_row("int8", "PASS", 6, 5), open_row, failed]) == (
        "int4: -4.0 points net is 40 lost and 16 won; 94 answers changed: one benchmark number hides that."
    )
    assert cancelled([told_row("int8", "PASS", 0, 5), failed]).startswith(
        "int3: -8.5 points net is 85 lost and 34 won;"
    )
    assert cancelled([told_row("int8", "PASS", 0, 5), told_row("x", "PASS", None, None)]) == ""
    assert cancelled([told_row("int8", "PASS", 3, 5, None)]) == ""


def test_the_decision_answers_for_4_bits_and_tells_what_one_number_hides(tmp_path, capsys):
    """In the terminal, the JSON and the report."""
    result = jaxquant.decide(
        small_models.build_linen(), small_models.labelled(), small_models.score, out=tmp_path / "out",
        schemes=["int8:channel", "uint4:channel:asym", "w=nf4:g64,e=int8", "e2m1fn:g32"],
    )  # fmt: skip
    words = [result["decision"]["four_bits"], result["cancelled"]]
    assert words[0].startswith("4-bit weights: none shown to pass; ") and " points net is " in words[1]
    printed = " ".join(capsys.readouterr().out.split())
    page = html.unescape((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    page = page.replace("−", "-").replace(" ", " ")
    assert all(told in printed and told in page for told in words)
    assert printed.index(words[1]) < printed.index("DECISION") < printed.index(words[0])
    result = jaxquant.decide(small_models.build_linen(), small_models.vectors(), schemes="int8", out=tmp_path / "two")
    assert (result["decision"]["four_bits"], result["cancelled"]) == ("", "")


def one_value(tmp_path, bar, score=lambda output, example: float(output[0] ** 2)):
    rows = [np.float32([k / 8, 0, 0, 0, 0, 0]) for k in range(1, 60)]
    module = small_models.linen.Dense(1)
    variables = module.init(small_models.jax.random.key(2), np.zeros((1, 6), np.float32))
    return jaxquant.decide((module, variables), rows, score, schemes="int4", out=tmp_path / "out", bar=bar)


def test_float_that_misses_the_bar_is_said_before_the_ladder_and_in_the_decision(tmp_path, capsys):
    result = one_value(tmp_path, "score>=0.9")
    before, _, after = " ".join(capsys.readouterr().out.split()).partition(" scheme ")
    told = result["decision"]["float_told"]
    assert told.startswith("Float itself scores 0.3272, 95 % interval 0.2594 to 0.417, below score>=0.9: no quantized")
    assert told in before and told in after.partition("DECISION")[2] and "keep float" not in after
    assert "No: float itself does not reach the bar" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_same_has_no_meaning_where_outputs_hold_no_choice(tmp_path, capsys):
    """It would compare floats for equality: refused as a bar, and blank in table, JSON and report."""
    with pytest.raises(ValueError, match="bar is 'same>=95%' and outputs hold no choice, need at least two values"):
        one_value(tmp_path, "same>=95%")
    assert capsys.readouterr().out == "" and not (tmp_path / "out").exists()
    assert one_value(tmp_path, "score>=0.1")["rows"][1]["same"] is None
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("int4 ")]
    assert re.search(r"\]  +—  PASS$", line)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'data-label="Same answers">(.*?)<small>', page) == ["", "–"]
