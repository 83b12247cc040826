"""`jaxquant.decide` as it is called: its signature, its bar, its output folder."""

from __future__ import annotations

import inspect
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("typer")
pytest.importorskip("flax.nnx")

import small_models  # noqa: E402
from bits import assert_same  # noqa: E402

import jaxquant  # noqa: E402
from jaxquant.cli import main  # noqa: E402
from jaxquant.decide import opening  # noqa: E402

FAST = {"schemes": "int8:channel", "bar": "same>=1%"}


def test_the_signature_is_the_functions():
    assert inspect.signature(jaxquant.decide) == inspect.signature(jaxquant.decide.decide)
    assert list(inspect.signature(jaxquant.decide).parameters)[:3] == ["model", "examples", "score"]


@pytest.mark.parametrize("bar", [2, 0.95, None, b"lose<=2", np.float32(2)])
def test_a_bar_that_is_no_text_is_told(bar):
    """A number alone does not say whether it may be lost or must be reached."""
    with pytest.raises(ValueError, match="bar is .*, need a text: lose<=2 .points., score>=0.8 or same>=95%"):
        jaxquant.decide(small_models.build_linen(), small_models.vectors(), bar=bar)


@pytest.mark.parametrize(("bar", "said"), [
    ("score>=60", "need a value in (0, 1] (scores are shares: score>=0.6 or score>=60%)"),
    ("score>=0", "need a value in (0, 1] (the score cannot miss or cannot reach it)"),
    ("score>=101", "need a value in (0, 1] (the score cannot miss or cannot reach it)"),
])  # fmt: skip
def test_a_bar_beyond_shares_is_told_before_the_work(bar, said, capsys, tmp_path, monkeypatch):
    """Without a score function from its text alone; of a function's scores once float's are known."""
    monkeypatch.chdir(tmp_path)
    told = f"decide: bar is '{bar}', {said}"
    examples = (pytest.fail("an example was made") for _ in range(1))
    with pytest.raises(ValueError, match=re.escape(told)):
        jaxquant.decide(small_models.build_linen(), examples, bar=bar)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "open_target", lambda *_: pytest.fail("something was opened"))
        assert main(["decide", "--bar", bar]) == 2
    assert capsys.readouterr() == ("", f"jaxquant: {told}\n")
    with pytest.raises(ValueError, match=re.escape(told)):
        jaxquant.decide(small_models.build_linen(), small_models.labelled(), small_models.score, bar=bar)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("score", [3, 0, "small_models:score", False])
def test_a_score_that_is_no_function_is_told_before_the_work(tmp_path, score):
    """No example is made, and no folder is left."""
    examples = (pytest.fail("an example was made") for _ in range(1))
    with pytest.raises(TypeError) as caught:
        jaxquant.decide(small_models.build_linen(), examples, score, out=tmp_path / "out")
    assert str(caught.value) == (
        f"decide: score is {score!r}, need a function (output, example) -> float, higher is better (None: agreement "
        "with the float model)"
    )
    assert list(tmp_path.iterdir()) == []


def unwritable(tmp_path):
    """Folders that cannot be made: below a file, of a name too long, at a link to nowhere, below a closed folder."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    found = [tmp_path / "file" / "out", tmp_path / "new" / ("x" * 300), tmp_path / "link"]
    if os.getuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        found += [tmp_path / "closed" / "out", tmp_path / "closed"]
    return found


def test_an_output_that_cannot_be_written_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    """Nothing is opened, and of what was tried nothing is left."""
    monkeypatch.setattr(opening, "target_of", lambda *_: pytest.fail("the model was opened"))
    outs = unwritable(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for out in outs:
        with pytest.raises(OSError, match="cannot be written .*, need another folder; nothing was computed"):
            jaxquant.decide(small_models.build_linen(), small_models.vectors(), out=out)
        assert main(["decide", "nowhere:build", "--on", "nowhere:examples", "--out", str(out)]) == 4
        seen = capsys.readouterr()
        assert seen.out == "" and seen.err.startswith(f"jaxquant: decide: output {out} cannot be written (")
        assert len(seen.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_default_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(OSError, match=r"output jaxquant-decide cannot be written \(Read-only file system\)"):
        jaxquant.decide(small_models.build_linen(), small_models.vectors())


def test_a_refusal_after_the_trial_leaves_no_folder(tmp_path, monkeypatch):
    """New folders on the way are taken away too; one that was there stays."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    for out in (None, "a/b/c", "there"):
        with pytest.raises(ValueError, match="examples is empty"):
            jaxquant.decide(small_models.build_linen(), [], out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_result_says_where_its_files_are(tmp_path, monkeypatch):
    """A second run goes to another folder, whose winner is this run's."""
    monkeypatch.chdir(tmp_path)
    first = jaxquant.decide(small_models.build_linen(), small_models.vectors(), **FAST)
    model = small_models.build_linen()
    model = model[0], {"params": _negative(model[1]["params"])}
    second = jaxquant.decide(model, small_models.vectors(), **FAST)
    assert [Path(r["folder"]).name for r in (first, second)] == ["jaxquant-decide", "jaxquant-decide-2"]
    monkeypatch.chdir(tmp_path.parent)
    for result in (first, second):
        assert json.loads((Path(result["folder"]) / "result.json").read_text())["folder"] == result["folder"]
        assert (Path(result["folder"]) / result["saved"]["path"]).stat().st_size == result["saved"]["bytes"]
    x = np.stack(small_models.vectors()[:4])
    one, two = (np.asarray(jaxquant.decide.winner(model, result["folder"])(x)) for result in (first, second))
    assert not np.array_equal(one, two)
    assert_same(two, np.asarray(jaxquant.decide.winner(model, tmp_path / "jaxquant-decide-2")(x)))


@pytest.mark.parametrize("out", [None, "."])
def test_a_folder_that_another_run_filled_in_the_meantime_costs_no_result(out, tmp_path, monkeypatch):
    taken = tmp_path / "jaxquant-decide"
    (here := taken if out else tmp_path).mkdir(exist_ok=True)
    monkeypatch.chdir(here)

    def score(output, example):
        taken.mkdir(exist_ok=True)
        if not any(taken.iterdir()):
            (taken / "result.json").write_text("another's")
        return small_models.score(output, example)

    result = jaxquant.decide(small_models.build_linen(), small_models.labelled(), score, out=out, **FAST)
    assert Path(result["folder"]).name == f"{taken.name}-2"
    assert (taken / "result.json").read_text() == "another's"
    assert [path.name for path in taken.iterdir()] == ["result.json"]
    assert (tmp_path / f"{taken.name}-2" / "report.html").exists()


def _negative(tree):
    import jax

    return jax.tree.map(lambda v: -v, tree)
