"""What decide is given: models, examples and functions that cannot be judged are refused before a word is printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("rich")

import jax.numpy as jnp  # noqa: E402
import small_models  # noqa: E402
from flax import linen, nnx  # noqa: E402

import jaxquant  # noqa: E402
from jaxquant.decide.ladder import rungs  # noqa: E402


def refused(capsys, out, told, *args, **kwargs):
    """decide raises one line that says so; nothing is printed or written."""
    with pytest.raises((ValueError, TypeError, OSError), match=told) as caught:
        jaxquant.decide(*args, out=out, **{"schemes": ("int8:channel",), **kwargs})
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
    assert not out.exists()


class Fragile(nnx.Module):
    """The root of x0 + x1 / 5 - 1 / 10: NaN for x = (0, 1) once the weight 1 / 5 is rounded to zero."""

    def __init__(self):
        self.inner = nnx.Linear(2, 1, use_bias=False, rngs=nnx.Rngs(0))
        self.inner.kernel[...] = jnp.float32([[1.0], [0.2]])

    def __call__(self, x):
        root = jnp.sqrt(self.inner(x) - 0.1)
        return jnp.concatenate([root, -root], -1)


class Passing(linen.Module):
    """A dense layer; the last two inputs are added to the outputs as they are."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(x[:, :4]).at[:, 1:].add(x[:, 4:])


def passing(last):
    """A model and eight examples; the fourth ends in `last`."""
    module = Passing()
    rows = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    rows[3, 4:] = last
    return (module, module.init(small_models.jax.random.key(0), rows[:1])), list(rows)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_differential(value, capsys, tmp_path):
    """DEC-15, in both kinds of model: the first bad tensor is named."""
    model = small_models.build()
    model.inner.kernel[...] = model.inner.kernel[...].at[2, 5].set(value)
    refused(capsys, tmp_path / "out", r"inner\.kernel\[2, 5\] is (nan|inf) .*finite", model, small_models.ids())
    module, variables = small_models.build_linen()
    variables["params"]["Dense_1"]["bias"] = jnp.full(10, value)
    told = r"Dense_1\.bias\[0\] is (nan|inf) \(10 of 10 there are not finite\), need finite weights, or nothing can be"
    refused(capsys, tmp_path / "out", told, (module, variables), small_models.vectors())


@pytest.mark.parametrize("last", [[np.nan, 0.0], [0.0, np.nan], [np.inf, -np.inf]])
def test_float_outputs_that_are_not_finite_are_refused(last, capsys, tmp_path):
    model, rows = passing(last)
    if not np.isnan(last).any():
        model, rows = passing([0.0, 0.0])
        rows[3][:] = np.inf  # inf - inf somewhere, or nothing finite
    told = r"output of example 3 has a NaN or nothing finite \(as 1 of 8 have\), need finite outputs"
    refused(capsys, tmp_path / "out", told, model, rows)
    refused(capsys, tmp_path / "out", told, model, rows, lambda output, example: 0.5)


def test_a_mask_of_minus_infinity_is_allowed(tmp_path):
    model, rows = passing([0.0, -np.inf])
    result = jaxquant.decide(model, rows, bar="same>=1%", schemes=("int8:channel",), out=tmp_path / "out")
    assert result["rows"][1]["same"]["estimate"] == 1.0
    json.loads((tmp_path / "out" / "result.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("scored", [False, True])
def test_an_argmax_over_nan_is_never_the_same_answer(scored, capsys, tmp_path):
    """Each output's largest is its first, and so is numpy's argmax of NaN: 8 of 20 examples have no answer."""
    rows = [np.float32([0, 1])] * 8 + [np.float32([1, 0])] * 12
    score = (lambda output, example: float(np.argmax(output) == 0)) if scored else None
    result = jaxquant.decide(Fragile(), rows, score, schemes=("int2:channel",), bar="lose<=2", out=tmp_path / "out")
    _, row = result["rows"]
    assert (row["lost"], row["won"], row["same"]["estimate"]) == (8, 0, 0.6)
    assert row["score"] == 0.6
    assert "NaN or nothing finite in 8 of 20 outputs" in row["verdict"]["note"]
    assert "in 8 of 20 outputs" in capsys.readouterr().out
    assert {change["quantized"] for change in result["changed"]} == {"no answer (not a number)"}
    json.loads((tmp_path / "out" / "result.json").read_text(), parse_constant=pytest.fail)


def test_an_output_without_answer_scores_as_the_worst_of_float(tmp_path):
    rows = [np.float32([0, 1])] * 8 + [np.float32([k, 0]) for k in range(1, 13)]
    result = jaxquant.decide(
        Fragile(), rows, lambda output, example: 3.0 - output[0], schemes=("int2:channel",), bar="score>=1",
        out=tmp_path / "out",
    )  # fmt: skip
    found = [3 - np.sqrt(np.float32(k - 0.1)) for k in range(1, 13)]
    assert min(found) < 0
    assert result["rows"][1]["score"] == pytest.approx((sum(found) + 8 * min(found)) / 20, rel=1e-5)


class Weighted(nnx.Module):
    """x0 + x1 / 5, and x0 alone once the weight 1 / 5 is rounded to zero."""

    def __init__(self):
        self.inner = nnx.Linear(2, 1, use_bias=False, rngs=nnx.Rngs(0))
        self.inner.kernel[...] = jnp.float32([[1.0], [0.2]])

    def __call__(self, x):
        return self.inner(x)


@pytest.mark.parametrize("bar", ["lose<=2", "score>=0.1"])
def test_a_late_score_without_points_counts_as_the_nearer_end(bar, capsys, tmp_path):
    """DEC-5: 0.9 became 1.1, 0.1, 0.2 became -0.1, -0.3: the row before is not lost; a bar on scores cuts none."""
    rows = [np.float32(x) for x in [[0.5, 0.0]] * 17 + [[1.1, -1.0], [-0.1, 1.0], [-0.3, 2.5]]]
    found = jaxquant.decide(
        Weighted(), rows, lambda output, example: float(output[0]),
        schemes=("int8:channel", "int2:channel"), bar=bar, out=tmp_path / "out",
    )  # fmt: skip
    told = "3 of 20 scores outside [0, 1], as far as -0.3, count as the nearer end"
    row, notes = found["rows"][2], [row["verdict"]["note"] for row in found["rows"][1:]]
    ends = [1.0, 0.0, 0.0] if bar == "lose<=2" else [1.1, -0.1, -0.3]
    assert row["score"] == pytest.approx((17 * 0.5 + sum(ends)) / 20, rel=1e-6)
    assert [told in note for note in notes] == [False, bar == "lose<=2"]
    assert (told in " ".join(capsys.readouterr().out.split())) == (bar == "lose<=2")
    assert found["rows"][1]["verdict"]["result"] == ("UNSURE" if bar == "lose<=2" else "PASS")


def lines(path):
    """The user's own module: functions that raise, and examples that fit nothing."""
    (path / "mymodel.py").write_text(
        "import sys\nimport numpy as np\nimport small_models\n\n"
        "def build():\n    raise RuntimeError('no weights here\\nand a second line')\n\n"
        "def leave():\n    sys.exit(1)\n\n"
        "def absent():\n    return np.load('weights.npz')\n\n"
        "def examples():\n    yield from small_models.vectors()\n    raise KeyError('label')\n\n"
        "def good():\n    return small_models.vectors()\n\n"
        "def wide():\n    return [*good()[:17], np.zeros(13, np.float32)]\n\n"
        "def dicts():\n    return [{'ids': x, 'mask': x} for x in good()]\n\n"
        "def vector_score(output, example):\n    return output > 0\n\n"
        "def high_score(output, example):\n    return 100.0 * float(output[0] > 0)\n\n"
        "def bad_score(output, example):\n    return float(output[0].missing)\n"
    )
    (path / "mistake.py").write_text("import small_models\n\nvalue = small_models.nothing\n")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `jaxquant decide` beside mymodel.py: exit code and its one line on stderr."""
    from jaxquant.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    lines(tmp_path)

    def run(text):
        before = sorted(p.name for p in tmp_path.iterdir())
        code = main(["decide", *text.split()])
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1
        after = sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__")
        assert after == [name for name in before if name != "__pycache__"]
        return code, err

    yield run
    for name in ("mymodel", "mistake"):
        sys.modules.pop(name, None)


LINEN = "small_models:build_linen"


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("mymodel:build --on mymodel:good", 2, "mymodel:build raised RuntimeError: no weights here (at mymodel.py:6)"),
        ("mymodel:leave --on mymodel:good", 2, "mymodel:leave raised SystemExit: 1 (at mymodel.py:9)"),
        ("mymodel:absent --on mymodel:good", 4, "'weights.npz' (at mymodel.py:12)"),
        ("mistake:build --on mymodel:good", 2, "importing mistake raised AttributeError: module 'small_models'"),
        (f"{LINEN} --on mymodel:examples", 2, "mymodel:examples raised KeyError: 'label' (at mymodel.py:16)"),
        (f"{LINEN} --on mymodel:good --score mymodel:bad_score", 2,
         "the score function bad_score, on example 0, raised AttributeError: "),
    ],
)  # fmt: skip
def test_what_the_users_code_raises_is_one_line_with_its_place(text, code, told, command):
    """Exit code 1 is FAIL alone (CMD-1)."""
    got, err = command(text)
    assert (got, told in err) == (code, True), err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("--on mymodel:dicts", "example 0 is a dict with keys 'ids', 'mask', need an array, or a tuple of arrays"),
        ("--on mymodel:wide", "the model, on example 17, float32[13], raised "),
        ("--on mymodel:wide", "need what the model takes, without a batch axis"),
        ("--on mymodel:goot", "module 'mymodel' has no 'goot' (from 'mymodel:goot'); nearest: good"),
        ("--on mymodle:good", "no module 'mymodle' here or among the installed ones (from 'mymodle:good'); nearest:"),
        ("--on mymodel:good --score mymodel:vector_score", "score gave an array of shape (10,) for example 0, need"),
        ("--on mymodel:good --score mymodel:high_score", "and the score of example "),
        ("--on mymodel:good --score mymodel:high_score", "is 100.0, need scores in [0, 1]"),
        ("--on mymodel:good --bar score>=1.5", "bar is 'score>=1.5'"),
        ("--on mymodel:good --scheme int8:channel --scheme integer", "nearest: "),
    ],
)  # fmt: skip
def test_examples_and_scores_are_tried_before_a_word_is_printed(text, told, command):
    got, err = command(f"{LINEN} {text}")
    assert (got, told in err) == (2, True), err


class Several(linen.Module):
    """A model that returns what `decide` cannot read."""

    how: str

    @linen.compact
    def __call__(self, x):
        y = linen.Dense(10)(x)
        return {"dict": {"logits": y, "hidden": x}, "sum": y.sum(), "text": (y, y)}[self.how]


@pytest.mark.parametrize(
    ("how", "told"),
    [("dict", r"returns a dict, need one array"), ("text", "returns a tuple"), ("sum", r"returns float32\[\] for a ")],
)
def test_outputs_that_are_no_rows_of_one_array_are_told(how, told, capsys, tmp_path):
    module = Several(how)
    variables = module.init(small_models.jax.random.key(0), np.zeros((1, 12), np.float32))
    refused(capsys, tmp_path / "out", told, (module, variables), small_models.vectors())


@pytest.mark.parametrize(
    ("examples", "told"),
    [
        (["text"], "example 0 is a str"),
        ([np.ones(12, np.float32), None], "example 1 is a NoneType"),
        ([(np.ones(12, np.float32), "label")], r"example 0 is a tuple of .*str.*need an array"),
        ([[[1.0], [2.0, 3.0]]], "example 0 is a list"),
        ([()], "example 0 is an empty tuple"),
    ],
)
def test_examples_that_are_no_arrays_are_told(examples, told, capsys, tmp_path):
    refused(capsys, tmp_path / "out", told, small_models.build_linen(), examples)


def test_a_single_scheme_may_be_a_text():
    assert rungs("int8") == rungs(("int8",))
