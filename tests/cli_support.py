"""What the tests of the command `refquant` share: a small folder of vectors, answers to them, and a runner."""

import json
import shlex

from refquant.cli import main

HEADER = {"schema": 1, "function": "codec.encode", "rules": "ENC-1..ENC-8", "flags": {"half-away": "rounds ties away"}}


def array(dtype, *bits):
    return {"dtype": dtype, "shape": [len(bits)], "bits": list(bits)}


CASES = [
    {
        "id": "enc-1",
        "fn": "codec.encode",
        "options": {"fmt": "int4"},
        "args": {"x": array("float32", "3f000000", "40200000")},
        "expect": {"codes": array("int8", 0, 2)},
        "rule": "ENC-1",
        "flags": ["half-away"],
    },
    {
        "id": "enc-2",
        "fn": "codec.encode",
        "options": {"fmt": "e4m3fn"},
        "args": {"x": array("float32", "4e6e6b28")},
        "expect": {"codes": array("uint8", 126)},
        "rule": "ENC-3",
        "flags": [],
    },
    {
        "id": "enc-3",
        "fn": "codec.encode",
        "options": {},
        "args": {},
        "expect": {"unspecified": "ENC-4"},
        "rule": "ENC-4",
        "flags": [],
    },
]
OTHER = [
    {
        "id": "deq-1",
        "fn": "affine.dequantize",
        "args": {"scale": array("float64", "3ff0000000000000")},
        "expect": {
            "any_of": [{"values": array("float32", "00000001", "nan")}, {"values": array("float32", "00000000", "nan")}]
        },
        "rule": "DEQ-3",
        "flags": ["nan"],
    },
    {
        "id": "two-1",
        "fn": "affine.dequantize",
        "expect": {"low": array("int32", 1), "high": array("bfloat16", "3f80")},
        "rule": "X",
    },
]


def write_vectors(folder):
    """A folder of vectors in the form of specs/vectors."""
    for name, head, cases in (("10-formats/encode", [HEADER], CASES), ("20-affine/dequantize", [], OTHER)):
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(json.dumps(row) for row in [*head, *cases]) + "\n")
    return folder


def write_answers(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


class Runner:
    """Calls the command in this process: exit code, stdout, stderr."""

    def __init__(self, capsys):
        self.capsys = capsys

    def __call__(self, line):
        code = main(shlex.split(line))
        out, err = self.capsys.readouterr()
        assert "Traceback" not in err and len(err.splitlines()) <= 1
        return code, out, err


def runner(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return Runner(capsys)
