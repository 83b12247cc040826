"""`jaxquant quantize`: whole schemes, as decide prints them; one line or none on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("typer")
pytest.importorskip("flax.nnx")

from jaxquant import qtensor, store  # noqa: E402
from jaxquant.cli import main  # noqa: E402
from jaxquant.decide.ladder import LADDER  # noqa: E402
from refquant.schemes import parse  # noqa: E402


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Quantizes m.safetensors to o.safetensors: exit code, stdout, stderr of at most one line, none of them blank."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    tensors = {"a.weight": (24, 64), "embed.weight": (50, 64), "norm": (24,)}
    store.save("m.safetensors", {n: random.normal(size=s).astype(np.float32) for n, s in tensors.items()})

    def call(*options, source="m.safetensors", output="o.safetensors"):
        code = main(["quantize", source, output, *options])
        seen = capsys.readouterr()
        assert len(seen.err.splitlines()) == (code != 0) and (code == 0 or seen.err.strip()), seen.err
        return code, seen.out, seen.err

    return call


@pytest.mark.parametrize("text", [rung.scheme for rung in LADDER if "int8" in rung.scheme])
def test_what_decide_recommends_can_be_pasted(run, text):
    """Without a word about inputs where there are none."""
    code, out, _ = run("--weights", text, "--json")
    told, scheme = json.loads(out), parse(text)
    names = {row["name"]: row["scheme"] for row in told["tensors"]}
    assert code == 0 and told["inputs"] == (str(scheme.inputs) if scheme.inputs else None)
    assert names == {
        "a.weight": str(scheme.weights),
        "embed.weight": str(scheme.embeddings or "float"),
        "norm": "float",
    }
    _, out, _ = run("--weights", text, "--overwrite")
    assert (f"a={scheme.inputs} is in no file" in out) == bool(scheme.inputs)


def test_inputs_change_nothing_of_the_file(run):
    assert run("--weights", "int8:channel")[0] == run("--weights", "w8a8", output="p.safetensors")[0] == 0
    assert Path("o.safetensors").read_bytes() == Path("p.safetensors").read_bytes()


def test_embeddings_beside_a_whole_scheme(run):
    """Given once they are the scheme's."""
    assert run("--weights", "w=int8:channel", "--embeddings", "int4:g32")[0] == 0
    assert run("--weights", "w=int8,e=int4:g32", output="p.safetensors")[0] == 0
    assert Path("o.safetensors").read_bytes() == Path("p.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--weights", "w=int4,e=int8", "--embeddings", "int8"), "--embeddings is given beside e=int8:channel"),
        (("--weights", "int4:channel + QAT"), "need a scheme without '+ QAT'"),
        (("--embeddings", "w8a8"), "scheme 'w8a8' is a whole one, need the part of one tensor, as in 'int4:g32'"),
        (("--embeddings", "e=int8"), "scheme 'e=int8' is a whole one"),
        (("--weights", "w=int8,w=int4"), "at most once each"),
        (("--weights", "a=int8:token"), "fits no tensor of m.safetensors"),
        (("--weights", "int44"), "nearest: int4"),
    ],
)
def test_bad_schemes_are_one_line(run, options, told):
    code, out, err = run(*options)
    assert (code, out, told in err, Path("o.safetensors").exists()) == (2, "", True, False), err


def test_a_file_without_tensors_says_so(run):
    Path("none.safetensors").write_bytes(b"\x08" + bytes(7) + b"{}      ")
    code, _, err = run(source="none.safetensors")
    assert (code, err) == (2, "jaxquant: quantize: none.safetensors has no tensors, need at least one\n")


def test_an_existing_output_names_the_option(run):
    run()
    code, _, err = run()
    assert (code, "o.safetensors exists, need a new name (or --overwrite); nothing was written" in err) == (2, True)
    assert run("--overwrite")[0] == 0
    assert "is the same file as input" in run(output="m.safetensors")[2]


@pytest.fixture
def stopped(run, monkeypatch):
    """Ctrl-C once the first tensor is written."""
    quantize, real = qtensor.quantize_tensor, []

    def second_time(*args):
        real.append(args)
        if len(real) > 1:
            raise KeyboardInterrupt
        return quantize(*args)

    def call(*options):
        real.clear()
        monkeypatch.setattr(qtensor, "quantize_tensor", second_time)
        try:
            return run("--embeddings", "int8", *options)
        finally:
            monkeypatch.setattr(qtensor, "quantize_tensor", quantize)

    return call


def test_an_interrupt_says_what_stays_and_the_next_run_that_it_goes_on(run, stopped):
    code, out, err = stopped()
    stays = "o.safetensors.partial stays, and the same command goes on with it"
    assert (code, out, err) == (130, "", f"jaxquant: interrupted; {stays}\n")
    code, out, _ = run("--embeddings", "int8")
    told = "o.safetensors: goes on with an interrupted run, 2 of 5 parts of it are written"
    assert (code, out.splitlines()[0]) == (0, told)
    stopped("--overwrite")
    told = json.loads(run("--embeddings", "int8", "--overwrite", "--json")[1])
    assert (told["state"], told["reason"]) == ("resumed", "")
    told = json.loads(run("--overwrite", "--json")[1])
    assert (told["state"], told["reason"]) == ("new", "")
    assert "run" not in run("--overwrite")[1]


def test_another_job_starts_over_and_says_so(run, stopped):
    stopped()
    why = "the output's tensors or metadata changed"
    out = run("--weights", "int4")[1]
    assert out.splitlines()[0] == f"o.safetensors: starts over, the interrupted run does not fit: {why}"
    stopped("--overwrite")
    told = json.loads(run("--weights", "int4", "--overwrite", "--json")[1])
    assert (told["state"], told["reason"]) == ("restarted", why)


def test_what_does_not_go_on_is_not_promised(stopped):
    code, _, err = stopped("--restart")
    told = "jaxquant: interrupted; originals are untouched and no output was left half written\n"
    assert (code, err, sorted(path.name for path in Path().iterdir())) == (130, told, ["m.safetensors"])


def test_an_interrupt_tells_of_an_earlier_runs_partial_file(run, stopped, monkeypatch):
    """Whether this run would not have gone on with it, or had not come to it yet; it stays as it was."""
    assert stopped()[0] == 130
    before = Path("o.safetensors.partial").read_bytes()
    stays = "originals are untouched; o.safetensors.partial, of an earlier run, stays as it was"
    assert stopped("--restart")[2] == f"jaxquant: interrupted; {stays}\n"

    def early(*args, **options):
        raise KeyboardInterrupt

    for options in (("--restart",), ()):
        with monkeypatch.context() as patch:
            patch.setattr(store, "quantize_file", early)
            assert run(*options) == (130, "", f"jaxquant: interrupted; {stays}\n")
    assert Path("o.safetensors.partial").read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no file, root's too")
@pytest.mark.parametrize("option", [(), ("--restart",)])
def test_an_output_that_cannot_be_written_is_told_by_its_name(run, option):
    code, out, err = run(*option, output="/proc/o.safetensors")
    told = "cannot be written (No such file or directory), need another folder; nothing was written"
    assert (code, out, err) == (4, "", f"jaxquant: quantize: output /proc/o.safetensors {told}\n")
