"""The command `refquant`: its examples, its pages, its exit codes, its bad inputs (specs/80-commands.md, CMD rules)."""

import io
import json
import re
import sys

import numpy as np
import pytest
from cli_support import runner, write_answers, write_vectors

from refquant import decode, encode, quantize
from refquant.cli import reach
from refquant.cli.numbers import parse_code, pattern, short
from refquant.cli.verbs import EXIT_CODES, JAXQUANT, VERBS
from refquant.conventions.presets import PRESETS
from refquant.formats import ALL, FloatFormat, IntFormat

EXAMPLES = [text for verb in VERBS.values() for text in verb.examples]


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_golden_run(run, line, tmp_path, monkeypatch):
    vectors = write_vectors(tmp_path / "vectors")
    monkeypatch.setattr("refquant.cli.vectors.folder", lambda given: vectors)
    monkeypatch.chdir(tmp_path)
    write_answers(tmp_path / "answers.jsonl", {"id": "enc-1", "codes": [0, 2]}, {"id": "enc-2", "codes": [126]})
    words = line.removeprefix("refquant ")
    code, out, err = run(words)
    assert code == 0 and out and not err
    assert all(len(text) <= 80 for text in out.splitlines() if str(tmp_path) not in text)
    code, out, _ = run(words + " --json")
    assert code == 0 and json.loads(out)


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_help_golden_sentence_examples_options_exit_codes(run, verb):
    """CMD-3."""
    code, out, err = run(f"{verb.name} --help")
    flat = " ".join(out.split())
    assert code == 0 and not err
    assert verb.sentence.count(".") == 1 and " ".join(verb.sentence.split()) in flat
    assert all(example in flat for example in verb.examples) and EXIT_CODES in flat
    assert sum(option.names[0].startswith("-") for option in verb.options) <= 8


def test_overview_golden_names_every_verb(run):
    code, out, _ = run("--help")
    assert code == 0 and all(f"  {name} " in out for name in VERBS) and "jaxquant" in out
    assert run("")[0] == 2
    assert run("--version")[1].startswith("refquant ")


@pytest.mark.parametrize("verb", JAXQUANT)
def test_verbs_of_jaxquant_golden_name_the_right_line(run, verb):
    code, out, err = run(f"{verb} model --on x:y")
    assert (code, out) == (2, "") and f"use: jaxquant {verb} model --on x:y" in err


def test_unknown_verb_golden_names_the_nearest(run):
    assert "did you mean refquant encode?" in run("encod 1")[2]
    assert "did you mean jaxquant decide?" in run("decidee")[2]
    assert run("xyzzy")[0] == 2


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_show_exhaustive_every_format_fits(run, name, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = run(f"show {name}")
    assert code == 0
    assert columns == 40 or all(len(line) <= columns for line in out.splitlines())


@pytest.mark.parametrize("fmt", [fmt for fmt in ALL.values() if fmt.bits <= 8], ids=lambda fmt: fmt.name)
def test_show_exhaustive_json_has_every_code(run, fmt):
    found = json.loads(run(f"show {fmt.name} --json")[1])
    codes = np.array([row["code"] for row in found["codes"]], fmt.storage)
    assert len(codes) == (
        fmt.qmax - fmt.qmin + 1 if isinstance(fmt, IntFormat) else len(getattr(fmt, "values", ())) or 1 << fmt.bits
    )
    bits = np.array([int(row["value_bits"], 16) for row in found["codes"]], np.uint32)
    assert np.array_equal(bits, decode(codes, fmt=fmt).view(np.uint32))
    assert [pattern(code, fmt) for code in codes.tolist()] == [row["hex"] for row in found["codes"]]


@pytest.mark.parametrize("name", ["e4m3fn", "int8_narrow", "nf4", "e8m0fnu", "dynamic8_unsigned"])
def test_show_exhaustive_all_has_a_line_for_every_code(run, name):
    fmt = ALL[name]
    out = run(f"show {name} --all")[1]
    shown = [line.split() for line in out[out.index("\n  code ") + 1 :].splitlines()[1:]]
    codes = [parse_code(line[0], fmt) for line in shown]
    values = decode(np.array(codes, fmt.storage), fmt=fmt)
    told = [line[2 if not isinstance(fmt, FloatFormat) else 2 + fmt.signed + (fmt.mantissa_bits > 0)] for line in shown]
    assert told == [short(value) for value in values]


def test_show_golden_limits_of_e4m3fn(run):
    found = json.loads(run("show e4m3fn --json")[1])
    picked = {key: found[key]["value"] for key in ("max", "min", "min_normal", "min_positive")}
    assert picked == {"max": 448.0, "min": -448.0, "min_normal": 2.0**-6, "min_positive": 2.0**-9}
    assert (found["inf_codes"], found["nan_codes"], found["negative_zero_code"]) == ([], [127, 255], 128)


def test_show_golden_sixteen_bits_are_summarised(run):
    out = run("show float16")[1]
    assert "65,536 codes" in out and len(out.splitlines()) < 40
    assert "codes" not in json.loads(run("show float16 --json")[1])


def test_show_golden_lists_every_format_and_convention(run):
    out = run("show")[1]
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in ALL)
    assert len(json.loads(run("show --json")[1])["formats"]) == len(ALL)
    out = run("show conventions")[1]
    assert all(re.search(rf"^{name} ", out, re.MULTILINE) for name in PRESETS)
    assert [row["name"] for row in json.loads(run("show conventions --json")[1])["conventions"]] == list(PRESETS)
    for name in PRESETS:
        assert run(f"show {name}")[0] == 0
        assert json.loads(run(f"show {name} --json")[1])["name"] == name


def test_show_golden_unknown_names_the_nearest(run):
    assert "nearest: e4m3fn" in run("show e4m3fnn")[2]
    assert "nearest: e4m3" in run("show float8_e4m3")[2]
    assert "nearest: e4m3fn" in run("show FLOAT8E4M3FN")[2]
    assert "mxfp4 is e2m1fn in groups of 32 with e8m0fnu scales" in run("show MXFP4")[2]
    for name in ("mxfp4", "mxfp6", "mxfp8"):
        assert "; but not with OCP's scales: here max / (the format's largest) is rounded up" in run(f"show {name}")[2]
    assert "(of a group with max 3.9: 1 here, 0.5 by OCP)" in run("show mxfp4")[2]
    assert "fp8 is e4m3fn or e5m2" in run("show fp8")[2]
    assert run("show zzzzzz")[0] == 2


def entries(out):
    return [(row["code"], row["x_bits"]) for row in json.loads(out)["results"]]


def test_encode_golden(run):
    code, out, _ = run("encode 0.3 1e9 nan -0 --fmt e4m3fn --json")
    assert code == 0
    assert entries(out) == [(0x2A, "0x3e99999a"), (0x7E, "0x4e6e6b28"), (0x7F, "0x7fc00000"), (0x80, "0x80000000")]
    assert json.loads(out)["results"][0]["first"] == "0x3e980000"  # 0.296875, the tie that goes to the even code
    assert [c for c, _ in entries(run("encode 1e9 -inf --fmt e4m3fn --overflow special --json")[1])] == [0x7F, 0x7F]
    assert [c for c, _ in entries(run("encode -1e-9 --fmt e4m3fn --convention zero=positive --json")[1])] == [0]
    assert [c for c, _ in entries(run("encode 2.5 nan --fmt int8 --ties away --nan max --json")[1])] == [3, 127]


def test_encode_golden_says_where_a_number_falls(run):
    out = run("encode 0.3 --fmt e4m3fn")[1]
    assert "0x29 0.28125 " in out and " 0.3125 0x2A" in out and "from 0.296875 on it is 0x2A" in out
    assert "448 is the largest value" in run("encode 1e9 --fmt e4m3fn")[1]
    assert "exact" in run("encode 0.5 --fmt e4m3fn")[1]


@pytest.mark.parametrize("name", PRESETS)
def test_encode_golden_with_every_convention(run, name):
    code, out, _ = run(
        f"encode -- 0.3 -1.7 1e9 nan inf --fmt int8 --scale 0.25 --convention {name} --json".replace("-- ", "")
    )
    assert code == 0 and len(entries(out)) == 5
    assert run(f"encode 0.3 -1.7 1e9 nan --fmt int8 --convention {name}")[0] == 0


def test_encode_differential_is_quantize(run):
    line = "encode 0.3 0x3f800000 -1e30 --fmt int8 --scale 0.1 --zero-point 3 --convention torch_per_tensor --json"
    x = np.array([0.3, 1, -1e30], np.float32)
    want = quantize(x, 0.1, 3, fmt=ALL["int8"], convention=PRESETS["torch_per_tensor"].affine)
    assert [code for code, _ in entries(run(line)[1])] == want.tolist()
    assert entries(run("encode 2.5 --fmt int8 --scale 1 --convention onnx,ties=away --json")[1])[0][0] == 3
    assert entries(run("encode 0.5 --fmt int8 --scale 10 --convention hqq --json")[1])[0][0] == 5
    assert json.loads(run("encode 0.5 --fmt int8 --scale 10 --convention hqq --json")[1])["results"][0]["value"] == 0.5


@pytest.mark.parametrize("fmt", [fmt for fmt in ALL.values() if fmt.bits <= 8], ids=lambda fmt: fmt.name)
def test_reach_exhaustive_partitions_the_numbers(fmt):
    codes = np.arange(fmt.qmin, fmt.qmax + 1) if isinstance(fmt, IntFormat) else np.arange(1 << fmt.bits)
    values = decode(codes.astype(fmt.storage), fmt=fmt)
    values = np.unique(values[np.isfinite(values)])
    first, last = reach.reach(values, lambda x: encode(x, fmt=fmt))
    for edge, side in ((first, -1), (last, 1)):
        past = reach.beyond(edge, side)
        stays = encode(past, fmt=fmt) == encode(edge, fmt=fmt)
        assert np.array_equal(encode(edge, fmt=fmt), encode(values, fmt=fmt)) and np.array_equal(stays, np.isinf(edge))


def test_numbers_from_stdin(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("1 2.5,\n-3e0\n"))
    assert [code for code, _ in entries(run("encode - --fmt int8 --json")[1])] == [1, 2, -3]
    monkeypatch.setattr(sys, "stdin", io.StringIO("0x7e 255"))
    assert [row["value"] for row in json.loads(run("decode - --fmt e4m3fn --json")[1])["results"]] == [448.0, "nan"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run("encode - --fmt int8")[0] == 2


def test_colour_golden_in_this_process(run, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\033[" in run("show conventions")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033[" not in run("show conventions")[1]


def test_interrupted_golden_exit_130(run, monkeypatch):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("refquant.cli.run.run", interrupted)
    assert run("show")[0] == 130


def test_stdin_that_is_no_text_golden_exit_4(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\xff"), encoding="utf-8"))
    code, _, err = run("encode - --fmt int8")
    assert code == 4 and "no text" in err


def test_encode_golden_words_for_the_edges(run):
    out = run("encode inf -inf 1e9 nan 0.25 -- --fmt e5m2 --overflow special".replace("-- ", ""))[1]
    assert "kept" in out and "overflows" in out
    assert "becomes NaN" in run("encode 1e9 --fmt e4m3fn --overflow special")[1]
    assert "NaN has no code here" in run("encode nan --fmt int8")[1]
    assert "saturates" in run("encode inf --fmt int8")[1]
    assert "0x7 = 1 takes x from" not in run("encode 1 --fmt nf4")[1]


@pytest.mark.parametrize(
    ("scale", "told"),
    [
        ("0", "a scale of 0 is no error, but no code gives its number back (AFF-8)"),
        ("1e-50", "a scale of 0 is"),
        ("nan", "a scale of NaN is"),
        ("1e39", "a scale of inf is"),
        ("-0.5", "a scale of -0.5 is no error, but codes fall where x rises (AFF-8)"),
    ],
)
def test_scales_golden_that_are_legal_and_strange_have_a_note(run, scale, told):
    """AFF-8 is a rule for programs; a person who types such a scale is told once, and JSON stays as it is."""
    for line in (f"encode 2.5 --fmt int8 --scale={scale}", f"decode 3 --fmt int8 --scale={scale}"):
        code, out, _ = run(line)
        assert code == 0 and [row for row in out.splitlines() if row.startswith(f"note: {told}")], out
        assert out.count("note: ") == 1 and "note: " not in run(line + " --json")[1]
    assert "note: " not in run("encode 2.5 --fmt int8 --scale 1e-45")[1] + run("encode 2.5 --fmt e4m3fn")[1]


def test_zero_points_golden_outside_the_format_have_a_note(run):
    """AFF-9, told as AFF-8 is."""
    told = "a zero point of 300 is no error, but outside -128..127: no code gives 0 back (AFF-9)"
    for verb in ("encode", "decode"):
        line = f"{verb} 1 --fmt int8 --zero-point 300"
        code, out, _ = run(line)
        assert code == 0 and f"note: {told}" in " ".join(out.split())
        assert "note: " not in run(line + " --json")[1]
    zero = json.loads(run("encode 0 --fmt int8 --zero-point 300 --json")[1])["results"][0]
    assert (zero["code"], zero["value"]) == (127, -173)
    both = " ".join(run("encode 1 --fmt int8 --scale 0 --zero-point 300")[1].split())
    assert f"note: a scale of 0 is no error, but no code gives its number back (AFF-8); {told}" in both
    for fmt, zero_point in (("int8", -128), ("int8", 127), ("uint8", 255)):
        assert "note: " not in run(f"encode 1 --fmt {fmt} --scale 1 --zero-point={zero_point}")[1]
    assert "note: " not in run("decode 1 --fmt uint8 --scale 0.5 --zero-point -1.5")[1]


def test_decode_golden_scaled(run):
    assert "(code - 128) * 0.5" in run("decode 130 --fmt uint8 --scale 0.5 --zero-point 128")[1]
    assert "(code - -8) * 0.5 + -1.5" in run("decode 1 --fmt int4 --scale 0.5 --zero-point -1.5")[1]
    assert "code * 3" in run("decode 1 --fmt e2m1fn --scale 3")[1]
    assert "beyond" not in run("decode 255 --fmt dynamic8")[1]


def test_decode_golden(run):
    found = json.loads(run("decode 0x7e 0b11111111 3 --fmt e4m3fn --json")[1])["results"]
    assert [row["value"] for row in found] == [448.0, "nan", 3 * 2.0**-9]
    assert [row["note"] for row in found] == ["max", "", "subnormal"]
    assert [row["code"] for row in json.loads(run("decode 0x80 -1 --fmt int8 --json")[1])["results"]] == [-128, -1]
    assert "outside -127..127" in run("decode -128 --fmt int8_narrow")[1]
    assert (
        json.loads(run("decode 130 --fmt uint8 --scale 0.5 --zero-point -1.5 --json")[1])["results"][0]["value"] == 63.5
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("encode 1 --fmt e4m3f", "nearest: e4m3"),
        ("encode 1 --fmt bf16", "bf16 is bfloat16"),
        ("encode x --fmt int8", "'x' is no number"),
        ("encode 0x3f80 --fmt int8", "0x + 8 digits"),
        ("encode 1_0 --fmt int8", "no number"),
        ("encode 1/3 --fmt int8", "no number"),
        ("encode 1", "--fmt"),
        ("encode --fmt int8", "numbers"),
        ("decode 300 --fmt e4m3fn", "need 0..255"),
        ("decode 1.5 --fmt int8", "no code"),
        ("decode -1 --fmt uint8", "need 0..255"),
        ("encode 1 --fmt int8 --overflow special", "no meaning for int8"),
        ("encode 1 --fmt int8 --scale 1 --overflow special", "need one of sat, i32, i64, wrap32, magic"),
        ("encode 1 --fmt nf4 --zero-point 1", "only integer formats"),
        ("encode 1 --fmt int8 --zero-point x", "need an integer"),
        ("encode 1 --fmt int8 --zero-point 9999999999", "int32"),
        ("encode 1 --fmt int8 --scale a", "no number"),
        ("encode 1 --fmt int8 --convention tourch", "nearest: torch"),
        ("encode 1 --fmt int8 --convention op=inv", "need one"),
        ("encode 1 --fmt int8 --scale 1 --convention a=b", "there is no 'a'"),
        ("encode 1 --fmt int8 --convention ''", "convention is ''"),
        ("encode 1 --fmt int8 --convention litert_builtin,ties=up", "depends on the position"),
        ("encode 1 --fmt int8 --nosuch", "unrecognized"),
        ("vectors burn", "invalid choice"),
        ("vectors list --limit 0", "--limit"),
        ("show e4m3fn e5m2", "unrecognized"),
    ],
)
def test_bad_input_golden_one_line_and_exit_2(run, line, told):
    """CMD-1, CMD-2."""
    code, out, err = run(line)
    assert (code, out) == (2, "") and told in err and len(err.splitlines()) == 1
