"""The jaxquant command: verbs, help with examples that run, exit codes, errors of one line."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("typer")
pytest.importorskip("flax.nnx")

from jaxquant import cli  # noqa: E402
from jaxquant.cli import main  # noqa: E402
from jaxquant.decide import opening  # noqa: E402
from refquant.files import Writer, read_header, read_tensor, sha256_file  # noqa: E402
from refquant.files.quantized import Stored  # noqa: E402

VERBS = ("decide", "look", "quantize", "diff", "doctor")
HERE = Path(__file__).resolve().parent


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.Generator(np.random.PCG64(5))
    shapes = {"a.weight": (24, 64), "tok_embeddings.weight": (50, 16), "norm.weight": (24,)}
    with Writer("model.safetensors", [Stored(n, "F32", s) for n, s in shapes.items()], {}) as writer:
        for name, shape in shapes.items():
            writer.append(name, random.normal(size=shape).astype(np.float32))
    return tmp_path / "model.safetensors"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_a_sentence_two_examples_few_options_and_the_exit_codes(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    text = " ".join(out.split())
    assert code == 0
    assert text.count(f"jaxquant {verb}") >= 3  # usage and two examples
    assert "Exit codes: 0" in text
    assert 1 <= len(set(re.findall(r"--[a-z]+", text)) - {"--help"}) <= 8 + 3


def test_version_golden(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0 and re.fullmatch(r"jaxquant \d+\.\d+\.\d+, JAX \S+, NumPy \S+, Python \S+\n", out)


def test_help_loads_no_jax():
    code = "import sys; from jaxquant.cli import main; main(['decide', '--help']); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("verb", ["show", "encode", "decode", "vectors"])
def test_the_other_commands_verbs_are_answered(capsys, verb):
    code, _, err = run(capsys, verb, "e4m3fn")
    assert code == 2
    assert f"refquant {verb} e4m3fn" in err


def test_look_from_the_header(capsys, model):
    code, out, _ = run(capsys, "look", model, "--json")
    assert code == 0
    sizes = {row["scheme"]: row for row in json.loads(out)["sizes"]}
    assert sizes["as it is"]["total"] == model.stat().st_size
    assert sizes["int4:g128:sf16"]["classes"]["linear"] == 24 * 64 // 2 + 24 * 2
    code, out, _ = run(capsys, "look", model)
    assert "int4:g128:sf16" in out


def test_look_sizes_schemes_of_the_users_own(capsys, model):
    """A row each, once, with exactly the bytes that `quantize` writes (FIL-4); the heading says what was read."""
    _, out, _ = run(capsys, "look", model, "--json")
    known = [row["scheme"] for row in json.loads(out)["sizes"]]
    own = ("--errors", "w=int5:g16:sf16", "--scheme", "w8a8", "--scheme", "int4:g128:sf16", "--scheme", "int5:g16:sf16")
    code, out, _ = run(capsys, "look", model, *own, "--json")
    sizes = {row["scheme"]: row["total"] for row in json.loads(out)["sizes"]}
    assert (code, list(sizes)) == (0, [*known, "int5:g16:sf16", "w=int8:channel,a=int8:token"])
    for scheme in list(sizes)[-2:]:
        run(capsys, "quantize", model, "own.safetensors", "--weights", scheme, "--overwrite")
        assert sizes[scheme] == os.stat("own.safetensors").st_size
    first, *lines = run(capsys, "look", model, *own)[1].splitlines()
    assert first.endswith(", sizes from the header, errors from the data")
    assert any(line.startswith("int5:g16:sf16 ") for line in lines)
    first, *lines = run(capsys, "look", model, "--scheme", "int5:g16:sf16")[1].splitlines()
    assert first.endswith(", from the header alone") and any(line.startswith("int5:g16:sf16 ") for line in lines)
    assert run(capsys, "look", model, "--scheme", "int44")[0] == 2


def test_look_at_a_quantized_file(capsys, model):
    """FIL-3: what it is, not what its codes and scales would weigh if they were weights."""
    run(capsys, "quantize", model, "small.safetensors", "--weights", "int4:g32:sf16")
    code, out, _ = run(capsys, "look", "small.safetensors", "--json")
    told = json.loads(out)
    (size,) = told["sizes"]
    assert (code, told["quantized"], size["total"]) == (0, {"int4:g32:sf16": 1}, os.stat("small.safetensors").st_size)
    assert size["classes"]["linear"] == 24 * 64 // 2 + 24 * 2 * 2
    assert size["bits_per_weight"] == 8 * size["total"] / (24 * 64 + 50 * 16 + 24)
    code, out, _ = run(capsys, "look", "small.safetensors")
    assert "quantized already: 1 as int4:g32:sf16; other schemes need the float source" in out
    code, _, err = run(capsys, "look", "small.safetensors", "--errors", "int4")
    assert (code, "need the float source for --errors" in err) == (2, True)
    code, _, err = run(capsys, "look", "small.safetensors", "--scheme", "int4")
    assert (code, "need the float source for --scheme" in err) == (2, True)


def test_look_at_errors_worst_first_with_a_picture(capsys, model):
    code, out, _ = run(capsys, "look", model, "--errors", "w=int4:g32,e=int2:channel", "--picture", "p.png")
    assert code == 0
    assert out.index("tok_embeddings.weight (50, 16)") < out.index("a.weight (24, 64)")
    assert Path("p.png").read_bytes()[:4] == b"\x89PNG"
    code, _, err = run(capsys, "look", model, "--errors", "int4", "--picture", "p.png")
    assert code == 2
    assert "p.png exists, need a new name; nothing was written" in err  # look has no --overwrite


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no file, root's too")
def test_a_picture_that_cannot_be_written_is_told_before_the_data_are_read(capsys, model, monkeypatch):
    monkeypatch.setattr("jaxquant.look.tensor_errors", None)
    code, out, err = run(capsys, "look", model, "--errors", "int4", "--picture", "/proc/p.png")
    told = "cannot be written (No such file or directory), need another folder; nothing was written"
    assert (code, out, err) == (4, "", f"jaxquant: look: output /proc/p.png {told}\n")


def test_the_legend_of_a_picture_covers_nothing(capsys, model, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(pyplot, "close", drawn.append)
        assert run(capsys, "look", model, "--errors", "int4:channel", "--picture", "p.png")[0] == 0
    (figure,) = drawn
    (axes,) = figure.axes
    (legend,) = [*figure.legends, *filter(None, [axes.get_legend()])]
    assert [text.get_text() for text in legend.get_texts()] == ["grid", "values"]
    assert not legend.get_window_extent().overlaps(axes.get_tightbbox())
    pyplot.close(figure)


def test_quantize_then_diff(capsys, model):
    before = sha256_file(model)
    assert run(capsys, "quantize", model, "small.safetensors", "--weights", "int4:g32:sf16")[0] == 0
    code, out, _ = run(capsys, "diff", model, "small.safetensors")
    assert (code, "a.weight" in out) == (1, True)
    assert run(capsys, "diff", model, model)[0] == 0
    assert sha256_file(model) == before
    code, out, _ = run(capsys, "quantize", model, "other.safetensors", "--json", "--embeddings", "int8:channel")
    told = json.loads(out)
    code, _, err = run(capsys, "quantize", "small.safetensors", "again.safetensors")
    assert (code, "quantized already" in err, Path("again.safetensors").exists()) == (2, True, False)
    assert told["bytes_after"] == Path("other.safetensors").stat().st_size
    assert {t["name"]: t["scheme"] for t in told["tensors"]}["norm.weight"] == "float"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_quantize_tells_of_what_is_not_finite(capsys, model, dtype):
    """CMD-7: of quantized and of copied tensors; the exit code stays."""
    import ml_dtypes

    numpy_dtype = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[dtype]
    bad = np.ones((16, 64), numpy_dtype)
    bad[3, 5], bad[3, 6], bad[15, 63] = np.nan, np.inf, -np.inf
    vector = np.array([np.nan, 1], numpy_dtype)
    values = {"a\nb.weight": bad, "norm.weight": vector, "fine.weight": np.ones((8, 64), numpy_dtype)}
    with Writer("bad.safetensors", [Stored(n, dtype, v.shape) for n, v in values.items()], {}) as writer:
        for name, value in values.items():
            writer.append(name, value.view(np.uint16) if dtype == "BF16" else value)
    code, out, err = run(capsys, "quantize", "bad.safetensors", "out.safetensors")
    assert code == 0 and "NaN or infinite: 4 elements in 2 tensors: a\\nb.weight (3), norm.weight (1)\n" in out, err
    code, out, _ = run(capsys, "quantize", "bad.safetensors", "again.safetensors", "--json")
    assert (code, json.loads(out)["not_finite"]) == (0, {"a\nb.weight": 3, "norm.weight": 1})
    code, out, _ = run(capsys, "quantize", model, "fine.safetensors")
    assert (code, "infinite" in out) == (0, False)


def test_a_folder_of_shards_is_quantized_to_one_file(capsys, model):
    """FIL-5; `diff` reads the folder too."""
    folder = Path("checkpoint")
    folder.mkdir()
    header = read_header(model)
    for info in header.tensors:
        with Writer(folder / f"{info.name}.safetensors", [Stored(info.name, info.dtype, info.shape)], {}) as writer:
            writer.append(info.name, read_tensor(header, info.name))
    code, out, _ = run(capsys, "quantize", folder, "small.safetensors")
    before = sum(path.stat().st_size for path in folder.iterdir())
    assert (code, f"from {before / 1000:.2f} kB; 1 of 3 tensors" in out) == (0, True)
    assert run(capsys, "diff", folder, model)[0] == 0
    assert run(capsys, "diff", folder, "small.safetensors")[0] == 1


def test_names_do_not_steer_the_terminal(capsys, model):
    """Properties of every printed name: one line, no escapes; a picture of a name with dollar signs is drawn."""
    name = "a\x1b[31mRED\n[bold]$x^$.weight"
    files = {"bad.safetensors": (name, 24), "wide.safetensors": (name, 32), "b.safetensors": ("b", 2)}
    for path, (stored, rows) in files.items():
        with Writer(path, [Stored(stored, "F32", (rows, 64))], {}) as writer:
            writer.append(stored, np.ones((rows, 64), np.float32))
    Path("cut.safetensors").write_bytes(Path("bad.safetensors").read_bytes()[:-4])
    told = "a\\x1b[31mRED\\n[bold]$x^$.weight"
    for arguments, code in (
        (("look", "bad.safetensors", "--errors", "int4", "--picture", "p.png"), 0),
        (("diff", "bad.safetensors", "wide.safetensors"), 1),
        (("diff", "bad.safetensors", "b.safetensors"), 1),
        (("look", "cut.safetensors"), 4),
    ):
        got, out, err = run(capsys, *arguments)
        assert (got, "\x1b" in out + err) == (code, False)
        assert code == 4 or told in out
        assert code != 4 or len(err.splitlines()) == 1
    code, out, err = run(capsys, "quantize", "bad.safetensors", "o.safetensors")
    assert (code, "RED" in out + err and "\x1b[31mRED" in out + err) == (0, False)


def test_small_files_have_small_units(capsys, model):
    out = run(capsys, "look", model)[1]
    row = next(line for line in out.splitlines() if line.startswith("as it is"))
    assert row.split()[3:11] == ["6.14", "kB", "3.20", "kB", "96", "bytes", "9.67", "kB"]
    out = run(capsys, "quantize", model, "small.safetensors")[1]
    assert "0.00 MB" not in out and " kB from 9.67 kB; 1 of 3 tensors" in out


def test_doctor_finds_the_hazards_and_the_guards_hold(capsys):
    code, out, _ = run(capsys, "doctor", "--json", "--size", "65536")
    told = json.loads(out)
    assert code == 0
    assert told["healthy"]
    assert all(row["guarded"] == 0 for row in told["hazards"])
    assert sum(row["plain"] > 0 for row in told["hazards"]) >= 4


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("look", "absent.safetensors"), 4, "absent.safetensors"),
        (("look", "model.safetensors", "--errors", "int44"), 2, "nearest: int4"),
        (("look", "model.safetensors", "--picture", "x.png"), 2, "without --errors"),
        (("quantize", "model.safetensors", "model.safetensors"), 2, "model.safetensors"),
        (("quantize", "model.safetensors", "o.safetensors", "--weights", "int4:g0"), 2, "'g0' is neither"),
        (("quantize", "model.safetensors"), 2, "output"),
        (("decide", "model.safetensors"), 2, "jaxquant look"),
        (("decide", "nowhere:build", "--on", "nowhere:examples"), 2, "no module 'nowhere'"),
        (("decide", "json:nothing", "--on", "json:loads"), 2, "has no 'nothing'"),
        (("decide", "--bar", "lose<=-1"), 2, "-1"),
        (("decide", "--bar", "better"), 2, "lose<=2"),
        (("decide", "--scheme", "w8a8:g32"), 2, "inputs have grain"),
        (("decide", "--on", "x:y"), 2, "without a model"),
        (("decide", "--out", "."), 2, "exists"),
        (("doctor", "--size", "4"), 2, "at least 512"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_bad_input_is_one_clear_line(capsys, model, arguments, code, told):
    got, out, err = run(capsys, *arguments)
    assert got == code
    assert told.lower() in err.lower()
    assert "Traceback" not in err
    assert sorted(p.name for p in Path().iterdir()) == ["model.safetensors"]


def test_decide_on_ones_own_model(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    code, out, err = run(
        capsys, "decide", "small_models:build_linen", "--on", "small_models:labelled", "--score", "small_models:score",
        "--scheme", "int8:channel", "--json", "--bar", "same>=90%",
    )  # fmt: skip
    told = json.loads(out)
    assert code == told["decision"]["exit_code"] == 0
    assert "DECISION" in err
    assert (tmp_path / "jaxquant-decide" / "model.safetensors").exists()
    code, _, err = run(
        capsys,
        "decide",
        "small_models:build_linen",
        "--on",
        "small_models:labelled",
        "--score",
        "small_models:bad_score",
    )
    assert (code, "for example 0, need one finite number" in err) == (2, True)
    code, _, err = run(
        capsys, "decide", "small_models:build_linen", "--on", "small_models:labelled", "--score", "small_models:broken"
    )
    assert (code, "IndexError" in err, "small_models.py:" in err) == (2, True, True)
    code, _, err = run(
        capsys, "decide", "small_models:build_linen", "--on", "small_models:labelled", "--score", "small_models:never"
    )
    assert (code, "scores 0 on all 200" in err) == (2, True)


def test_a_missing_package_of_the_command_is_told_how_to_get(capsys, monkeypatch, tmp_path):
    """The names are those of the extra `decide`, as they are imported; any other module is none of the command's."""
    monkeypatch.chdir(tmp_path)
    extra = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]["decide"]
    imported = {"scikit-learn": "sklearn"}
    assert sorted(cli.EXTRA) == sorted(imported.get(name, name) for name in (re.split(">=", text)[0] for text in extra))
    for name in ("tokenizers", "sklearn", "optax"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            patch.setattr(opening, "open_target", lambda *_, name=name: importlib.import_module(f"{name}.part"))
            code, out, err = run(capsys, "decide", "some:model")
        assert (code, out) == (2, "")
        need = "need the command's packages: pip install 'refquant[decide]'"
        assert re.fullmatch(rf"jaxquant: no module named '{name}(.part)?', {re.escape(need)}\n", err), err
    monkeypatch.setattr(opening, "open_target", lambda *_: importlib.import_module("not_there"))
    assert run(capsys, "decide", "some:model")[2] == "jaxquant: No module named 'not_there'\n"


def test_a_config_that_is_no_json_is_unreadable_input(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("bert").mkdir()
    Path("bert/config.json").write_text("{")
    code, out, err = run(capsys, "decide", "bert")
    assert (code, out, "config.json is no JSON" in err) == (4, "", True)


def test_an_interrupt_is_told_and_leaves_nothing(tmp_path):
    code = (
        "import sys\nfrom jaxquant.decide import opening\nfrom jaxquant.cli import main\n"
        "def stop(*a): raise KeyboardInterrupt\nopening.open_target = stop\nsys.exit(main(['decide']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ), check=False
    )
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert list(tmp_path.iterdir()) == []
