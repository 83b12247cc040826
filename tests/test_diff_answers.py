"""`jaxquant diff` in the user's own model: the answers of A and B on the examples are those that decide saw (CMD-8)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("flax.nnx")

import small_models  # noqa: E402
from flax import nnx  # noqa: E402

import jaxquant  # noqa: E402
from jaxquant.cli import main  # noqa: E402
from jaxquant.store import load, save  # noqa: E402

MODEL, ON, LABELLED = "small_models:build_linen", "small_models:vectors", "small_models:labelled"
SCORE = ("--score", "small_models:score")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent))


@pytest.fixture
def run(capsys):
    def call(*arguments):
        capsys.readouterr()
        code = main(["diff", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def decided(scheme, scored=False):
    examples, score = (small_models.labelled(), small_models.score) if scored else (small_models.vectors(), None)
    return jaxquant.decide(
        small_models.build_linen(), examples, score, schemes=[scheme], bar="same>=1%", out="out", name="net"
    )


@pytest.mark.parametrize("scheme", ["int2:channel", "w=int8:channel,a=int3:tensor"])
@pytest.mark.parametrize("scored", [False, True])
def test_answers_are_those_of_decides_row_differential(scheme, scored, run):
    """With inputs too: the result beside the file says that its layers run on codes."""
    result = decided(scheme, scored)
    base, row = result["rows"]
    code, out, _ = run(
        MODEL, "out/model.safetensors", "--on", LABELLED if scored else ON, *(SCORE if scored else ()), "--json"
    )
    told = json.loads(out)["answers"]
    assert (code, told["n"]) == (1, 200)
    assert 0 < told["changed"] == result["changed_counts"][scheme]
    assert told["same"] == row["same"]
    assert (told["score_a"], told["own_a"]) == (base["score"], base["own"])
    assert told["score_b"] == row["score"]
    assert told["metric"] == ("score" if scored else f"agreement with {MODEL}")
    wanted = [{k: v for k, v in change.items() if k != "scheme"} for change in result["changed"]]
    assert told["worst"] == wanted[:12] and wanted
    if scored:
        assert told["change"]["estimate"] == pytest.approx((row["won"] - row["lost"]) / 200)
        assert told["change"]["method"] == "exact tails"


def test_a_file_whose_names_have_slashes_is_run_in_the_model_too(run):
    decided("int2:channel")
    save("float.safetensors", small_models.build_linen()[1]["params"])
    assert "Dense_0/kernel" in load("float.safetensors")
    options = ("--on", ON, "--json")
    one = json.loads(run(MODEL, "out/model.safetensors", *options)[1])
    two = json.loads(run("float.safetensors", "out/model.safetensors", "--answers", MODEL, *options)[1])
    assert two["only_a"] == two["only_b"] == []
    assert sorted(two["tensors"], key=str) == sorted(one["tensors"], key=str)  # equal ones stand in the order of A
    for told in (one, two):
        told["answers"] = {k: v for k, v in told["answers"].items() if k not in ("metric", "order")}
    assert two["answers"] == one["answers"]
    options = ("--on", LABELLED, *SCORE, "--json")
    assert json.loads(run("out", "float.safetensors", "--answers", MODEL, *options)[1])["answers"]["changed"] > 0


def test_files_of_one_model_have_common_names_with_dots_and_with_slashes(run):
    decided("int2:channel")
    save("float.safetensors", small_models.build_linen()[1]["params"])
    told = json.loads(run("float.safetensors", "out/model.safetensors", "--json")[1])
    assert told["only_a"] == told["only_b"] == [] and {row["name"] for row in told["tensors"]} > {"Dense_0.kernel"}
    save("other.safetensors", {"a": np.ones(2, np.float32), "b/c": np.ones(2, np.float32), "b.c": np.ones(2)})
    told = json.loads(run("other.safetensors", "out/model.safetensors", "--json")[1])
    assert told["only_a"] == ["a", "b.c", "b/c"]  # two would have one name: all stay as they are


def nnx_trained(x):
    model = small_models.build_norm()
    model.eval()
    before = model(x)
    model.norm.mean[...] += 1.5 * np.arange(8)
    return before, model(x), {"/".join(path): v[...] for path, v in nnx.to_flat_state(nnx.state(model))}


def linen_trained(x):
    module, variables = small_models.build_norm_linen()
    before = module.apply(variables, x)
    variables["batch_stats"]["BatchNorm_0"]["mean"] += 1.5 * np.arange(8, dtype=np.float32)
    return before, module.apply(variables, x), {**variables["params"], "batch_stats": variables["batch_stats"]}


@pytest.mark.parametrize(("name", "trained"), [("build_norm", nnx_trained), ("build_norm_linen", linen_trained)])
def test_the_statistics_of_a_trained_file_are_its_own(name, trained, run):
    """Training moves what a batch norm has seen; the file has it, whatever the model says."""
    before, after, tree = trained(np.stack(small_models.images()))
    save("trained.safetensors", tree)
    told = json.loads(run(f"small_models:{name}", "trained.safetensors", "--on", "small_models:images", "--json")[1])
    assert [row["name"].split(".")[-1] for row in told["tensors"] if not row["equal"]] == ["mean"]
    assert told["answers"]["changed"] == np.count_nonzero(np.argmax(after, -1) != np.argmax(before, -1)) > 0


def test_what_a_reader_sees(run):
    decided("int2:channel", scored=True)
    code, out, err = run(MODEL, "out/model.safetensors", "--on", LABELLED, *SCORE, "--top", 2)
    lines = out.splitlines()
    assert (code, err) == (1, "") and lines[0].startswith("DIFFERENT")
    own = r"[\d.]+ \[[\d.]+, [\d.]+\]"
    told = rf"score: {own} against {own}, change [+-][\d.]+ \[[+-].*\] \(95 %, n = 200\)"
    assert any(re.fullmatch(told, line) for line in lines)
    assert "worst first: lost, changed, won, each by how far the lead of small_models:build_linen's answer fell" in out
    assert [line[:13] for line in lines if line[:4] in ("  as", "  A ", "  B ")] == [
        "  asked      ",
        "  A          ",
        "  B          ",
    ] * 2
    save("float.safetensors", small_models.build_linen()[1]["params"])
    code, out, _ = run("float.safetensors", MODEL.replace(":", "_"), "--on", ON)
    assert code == 2
    code, out, _ = run(MODEL, "float.safetensors", "--on", ON)
    assert code == 0 and "answers: 0 of 200 changed; same 100.0 % [98.2, 100.0]" in out and "worst" not in out
    assert "agreement" not in out.splitlines()[1]
    assert run(MODEL, "float.safetensors")[:2] == (0, "equal: 4 of 4 common tensors have the same values\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((MODEL, "float.safetensors", "--answers", MODEL), "is a model and --answers names another"),
        ((MODEL, "float.safetensors", *SCORE), "--score is given without --on"),
        (("float.safetensors", "float.safetensors", "--on", ON), "--on or --score is given without a model"),
        (("float.safetensors", "float.safetensors", "--answers", MODEL), "is given without --on"),
        (("small_models:buidl_linen", "float.safetensors", "--on", ON), "nearest: build_linen"),
        (("small_models:build_linen", "other.safetensors", "--on", ON), "other.safetensors has nothing for 'Dense_0"),
        (("other.safetensors", "float.safetensors", "--answers", MODEL, "--on", ON), "is it another model's?"),
        ((MODEL, "float.safetensors", "--on", "small_models:labelled"), "need a score function"),
        ((MODEL, "float.safetensors", "--on", LABELLED, "--score", "small_models:broken"), "small_models.py:"),
    ],
)
def test_errors_are_one_line_under_the_verbs_name(arguments, told, run):
    save("float.safetensors", small_models.build_linen()[1]["params"])
    save("other.safetensors", {"w": np.ones((4, 4), np.float32)})
    code, out, err = run(*arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("jaxquant: diff: ") and told in err


def test_what_no_run_of_a_folder_reads_may_differ(run):
    from test_models_bert import tiny_tensors, write_folder

    rng, tensors = np.random.default_rng(0), tiny_tensors()
    Path("bert").mkdir()
    pooler = {"pooler.dense.weight": rng.standard_normal((8, 8)).astype(np.float32)}
    folder = write_folder(Path("bert"), tensors | pooler)
    save("b.safetensors", tensors | {"pooler.dense.weight": pooler["pooler.dense.weight"] + 1})
    Path("texts.py").write_text(
        "import numpy as np\n"
        "def examples():\n    return [(np.arange(1, 6, dtype=np.int32), np.ones(5, np.int32))] * 3\n"
    )
    code, out, err = run(folder, "b.safetensors", "--answers", folder, "--on", "texts:examples")
    assert (code, err) == (1, "") and "answers: 0 of 3 changed" in out
