"""`refquant vectors`: list, show, check, and files that cannot be read (specs/80-commands.md, CMD-6)."""

import json
import re
import shlex

import numpy as np
import pytest
from cli_support import runner, write_answers, write_vectors

from refquant import encode
from refquant.cli import vector_files
from refquant.conventions import Cast
from refquant.formats import ALL


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


@pytest.fixture
def vectors(tmp_path):
    return write_vectors(tmp_path / "vectors")


@pytest.mark.parametrize("line", ["vectors list", "vectors check answers.jsonl --function encode"])
def test_vectors_golden_are_found_in_the_working_directory(run, line, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(vector_files.refquant, "__file__", str(tmp_path / "a" / "b" / "__init__.py"))
    (tmp_path / "specs").mkdir()
    write_vectors(tmp_path / "specs" / "vectors")
    write_answers(tmp_path / "answers.jsonl", {"id": "enc-1", "codes": [0, 2]}, {"id": "enc-2", "codes": [126]})
    monkeypatch.chdir(tmp_path)
    assert run(line)[0] == 0
    monkeypatch.chdir(tmp_path.parent)
    assert run("vectors list")[0] == 4


def test_vectors_golden_list_and_show(run, vectors):
    code, out, _ = run(f"vectors list --from {vectors}")
    assert code == 0 and "10-formats/encode" in out and "2 files, 5 cases" in out
    assert json.loads(run(f"vectors list --from {vectors} --json")[1])["files"][0]["cases"] == 3
    for name in ("encode", "codec.encode", "10-formats/encode", "enc-1"):
        out = run(f"vectors show {name} --from {vectors}")[1]
        assert "3f000000=0.5" in out and "int8[2]" in out
    assert "1 of 3 cases" in run(f"vectors show encode --limit 1 --from {vectors}")[1]
    assert "3ff0000000000000=1" in run(f"vectors show deq-1 --from {vectors}")[1]
    assert "bfloat16[1]  3f80=1" in run(f"vectors show two-1 --from {vectors}")[1]
    assert run(f"vectors show enconde --from {vectors}")[0] == 2
    assert run(f"vectors show --from {vectors}")[0] == 2


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([{"id": "enc-1", "codes": [0, 2]}, {"id": "enc-2", "codes": 126}], 0),
        ([{"id": "enc-1", "codes": [0, 2]}, {"id": "enc-2", "bits": ["0x7e"]}], 0),
        ([{"id": "enc-1", "codes": [0, 2]}], 3),
        ([], 3),
        ([{"id": "enc-1", "codes": [1, 3]}, {"id": "enc-2", "codes": [126]}], 1),
        ([{"id": "enc-1", "codes": [0]}, {"id": "enc-2", "codes": [126]}], 1),
        ([{"id": "enc-1"}, {"id": "enc-2", "codes": [126]}], 1),
        ([{"id": "enc-1", "codes": [0, 2.0]}, {"id": "enc-2", "codes": [126]}], 1),
        ([{"id": "enc-1", "codes": [False, 2]}, {"id": "enc-2", "codes": [126]}], 1),
        ([{"id": "enc-1", "codes": [0, 2]}, {"id": "enc-2", "codes": 126}, {"id": "nobody", "codes": 1}], 2),
        ([{"id": "enc-1", "codes": [0, 2]}, {"id": "enc-2", "codes": 126}, {"id": "deq-1", "bits": [9, 9]}], 0),
        ([{"id": "enc-1", "codes": [0, 2]}, {"id": "enc-2", "codes": 126}, {"id": "enc-3", "codes": 99}], 0),
    ],
)
def test_vectors_golden_check(run, vectors, rows, code):
    line = f"vectors check {write_answers(vectors.parent / 'answers.jsonl', *rows)} --function encode --from {vectors}"
    assert run(line)[0] == code
    assert json.loads(run(line + " --json")[1])["exit_code"] == code


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"id": "deq-1", "bits": ["00000001", "7fc00001"]}, 0),
        ({"id": "deq-1", "bits": ["0x00000000", "nan"]}, 0),
        ({"id": "deq-1", "bits": [0, 0xFFC00000]}, 0),
        ({"id": "deq-1", "results": {"values": {"bits": [1, "nan"]}}}, 0),
        ({"id": "deq-1", "bits": ["00000002", "nan"]}, 1),
        ({"id": "deq-1", "bits": ["00000001", "7f800000"]}, 1),
        ({"id": "deq-1", "bits": ["zz", "nan"]}, 1),
        ({"id": "two-1", "results": {"low": [1], "high": ["3f80"]}}, 0),
        ({"id": "two-1", "results": {"low": [1]}}, 1),
        ({"id": "two-1", "results": {"low": [1], "high": ["3f81"]}}, 1),
        ({"id": "two-1", "codes": [1]}, 1),
    ],
)
def test_vectors_golden_check_of_floats(run, vectors, row, code):
    found = json.loads(
        run(f"vectors check {write_answers(vectors.parent / 'answers.jsonl', row)} --from {vectors} --json")[1]
    )
    assert (found["exit_code"], found["differ"]) == (code or 3, code) and found["unanswered"] == 1


def test_vectors_golden_long_arrays_are_cut_and_json_is_whole(run, tmp_path):
    bits = [0] * 20
    case = {"id": "long", "fn": "f.g", "args": {"n": 3, "x": {"dtype": "int8", "shape": [20], "bits": bits}}}
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "g.jsonl").write_text(
        json.dumps(case | {"expect": {"y": {"dtype": "int8", "bits": bits}}}) + "\n\n"
    )
    assert "... 4 more" in " ".join(run(f"vectors show g --from {tmp_path / 'v'}")[1].split())
    assert (
        len(json.loads(run(f"vectors show g --json --from {tmp_path / 'v'}")[1])["cases"][0]["args"]["x"]["bits"]) == 20
    )
    (tmp_path / "v" / "h.jsonl").write_text('{"schema": 1}\n{"schema": 1}')
    assert "line 2: the case has no 'id'" in run(f"vectors list --from {tmp_path / 'v'}")[2]


def test_vectors_golden_check_limits_what_it_prints(run, vectors):
    rows = [{"id": "enc-1", "codes": [1, 3]}, {"id": "enc-2", "codes": [1]}]
    path = write_answers(vectors.parent / "answers.jsonl", *rows)
    assert "and 1 more" in run(f"vectors check {path} --limit 1 --from {vectors}")[1]
    assert run(f"vectors check {path} {path} --from {vectors}")[0] == 2


def test_vectors_golden_check_names_cases_and_suspects(run, vectors):
    path = write_answers(
        vectors.parent / "answers.jsonl", {"id": "enc-1", "codes": [1, 3]}, {"id": "enc-2", "codes": [126]}
    )
    out = run(f"vectors check {path} --from {vectors}")[1]
    assert "DIFFERENT: 1 of 2" in out and "enc-1 (ENC-1): element 0: expected 0, got 1" in out
    assert re.search(r"half-away +1 of 1 +rounds ties away", out)


def test_vectors_golden_check_leads_with_an_unknown_id(run, vectors):
    """CMD-6: the answers are of other vectors, which is no verdict on the kernel."""
    path = write_answers(vectors.parent / "answers.jsonl", {"id": "enk\x1b-2", "codes": [126]})
    code, out, _ = run(f"vectors check {path} --from {vectors}")
    assert (code, out.splitlines()) == (2, ["UNKNOWN ID: there is no case enk\\x1b-2; nearest: enc-2"])
    rows = [{"id": "enc-1", "codes": [1, 3]}, {"id": "enc-2", "codes": [126]}, {"id": "x"}, {"id": "y"}]
    path = write_answers(vectors.parent / "answers.jsonl", *rows)
    code, out, _ = run(f"vectors check {path} --limit 1 --from {vectors}")
    told = out.splitlines()
    assert (code, told[0]) == (2, "UNKNOWN ID: there is no case x")
    assert "1 more unknown ids" in told[1] and told[2].startswith("DIFFERENT: 1 of 2 ")


def test_vectors_property_what_a_file_says_does_not_steer_the_terminal(run, tmp_path):
    """CMD-2: every text of a file of cases is printed in one line, without control characters; JSON keeps it."""
    evil = "a\x1b[31mRED\nb\r"
    folder = tmp_path / evil.replace("\n", "")
    folder.mkdir()
    array = {"dtype": evil, "shape": [evil], "bits": [evil, 1]}
    case = {
        "id": evil, "fn": evil, "rule": evil, "options": {evil: evil, "o": [evil]}, "args": {evil: array},
        "expect": {evil: {"dtype": "int8", "bits": [1, 3]}}, "flags": [evil],
    }  # fmt: skip
    open_case = case | {"id": "open", "expect": {"unspecified": evil}}
    header = {"function": evil, "rules": evil, "flags": {evil: evil}}
    rows = (header, case, open_case, case | {"id": "right"})
    (folder / f"{evil}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answers = tmp_path / "answers.jsonl"
    answers.write_text("\n".join(json.dumps({"id": key, "codes": [1, 2]}) for key in (evil, "open", "open2")))
    for line in (["list"], ["show", evil], ["show", "open"], ["check", str(answers)]):
        _, out, err = run(shlex.join(["vectors", *line, "--from", str(folder)]))
        assert out and not err and all(c.isprintable() or c == "\n" for c in out), line
        assert "\\x1b[31mRED\\n" in out
    assert (
        json.loads(run(shlex.join(["vectors", "show", evil, "--json", "--from", str(folder)]))[1])["cases"][0]["id"]
        == evil
    )


def test_vectors_golden_check_of_answers_that_all_differ_names_no_suspects(run, vectors):
    """Every flag would have all of its cases wrong, which says nothing of the kernel."""
    rows = [{"id": "enc-1", "codes": ["1e", "3x"]}, {"id": "enc-2", "codes": ["0.5"]}]
    path = write_answers(vectors.parent / "answers.jsonl", *rows)
    code, out, _ = run(f"vectors check {path} --from {vectors}")
    assert code == 1 and "DIFFERENT: 0 of 2" in out and "Suspects" not in out
    assert "All cases differ: look at the format of the answers first" in out
    assert "specs/25-conventions.md" in out and "examples/check_a_kernel.py" in out
    assert json.loads(run(f"vectors check {path} --json --from {vectors}")[1])["suspects"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("vectors list --from {0}/none", "no folder"),
        ("vectors check {0}/none --from {0}/vectors", "No such file"),
        ("vectors check {0}/bad --from {0}/vectors", "line 2: no JSON"),
        ("vectors check {0}/list --from {0}/vectors", "line 1: list"),
        ("vectors check {0}/noid --from {0}/vectors", "line 1: no id"),
        ("vectors check {0}/twice --from {0}/vectors", "second time"),
        ("vectors check {0} --from {0}/vectors", "directory"),
        ("vectors list --from {0}/empty", "holds no .jsonl"),
        ("vectors list --from {0}/broken", "line 1: the case has no 'expect'"),
    ],
)
def test_unreadable_golden_exit_4(run, vectors, line, told):
    root = vectors.parent
    for name, text in {
        "bad": '{"id": "enc-1", "codes": 1}\n{',
        "list": "[1]",
        "noid": "{}",
        "twice": '{"id": "a"}\n{"id": "a"}',
    }.items():
        (root / name).write_text(text)
    (root / "empty").mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "a.jsonl").write_text('{"id": "x"}')
    code, out, err = run(line.format(root))
    assert (code, out) == (4, "") and told in err


def encoded(case, spoil):
    x = np.array([int(word, 16) for word in case["args"]["x"]["bits"]], np.uint32).view(np.float32)
    fmt = ALL[case["options"]["fmt"]]
    codes = encode(x, fmt=fmt, cast=Cast(**case["options"].get("cast", {}))).astype(int)
    away = np.where(np.abs(x) == 0.5, np.copysign(1, x), codes).astype(int)  # a tie away from zero
    return {"id": case["id"], "codes": (away if spoil and fmt.name == "int8" else codes).tolist()}


@pytest.mark.parametrize("spoil", [False, True])
def test_vectors_golden_of_this_checkout_judge_encode(run, tmp_path, spoil):
    """The files of specs/vectors in the form they have: right answers are EQUAL, a planted bug is named."""
    files = vector_files.about(vector_files.read_all(vector_files.folder(None)), "codec.encode")
    cases = [case for file in files for case in file.cases if case["args"]["x"]["dtype"] == "float32"]
    path = write_answers(tmp_path / "answers.jsonl", *(encoded(case, spoil) for case in cases))
    found = json.loads(run(f"vectors check {path} --json")[1])
    assert found["checked"] == len(cases) > 50 and found["unknown"] == []
    assert {one["id"] for one in found["differences"]} == {
        c["id"] for c in cases if spoil and encoded(c, True) != encoded(c, False)
    }
    assert found["exit_code"] == (1 if spoil else 3 if found["unanswered"] else 0)
    assert bool(found["differences"]) == spoil
