"""What `decide` prints agrees with itself: the decision's words with the verdicts, notes once, the winner's speed."""

from __future__ import annotations

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
