"""The files of the golden vectors: schema, ids, coverage, and the command that keeps them fresh."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from vectors_support import CASES, TABLES, alternatives, cases, rows

import refquant
from refquant.conventions.steps import key_bits
from specs import vectors
from specs.vector_cases import arithmetic, arrays, build


def test_golden_ids_are_unique_and_flags_explained() -> None:
    ids = [row["id"] for path in CASES for row in rows(path)[1:]]
    ids += [t["id"] for path in TABLES for t in json.loads((vectors.AT / path).read_text("utf-8"))["tables"]]
    assert len(ids) == len(set(ids))
    for path in CASES:
        used = {flag for case in cases(path) for flag in case["flags"]}
        assert used == set(rows(path)[0]["flags"]), path
        assert all(case["flags"] or "unspecified" in case["expect"] for case in cases(path)), path


def test_golden_files_are_small_and_lines_end() -> None:
    for path in (*CASES, *TABLES):
        data = (vectors.AT / path).read_bytes()
        assert len(data) <= vectors.LIMIT and data.endswith(b"\n") and b"\r" not in data, path


def thinned(value: object) -> object:
    """Lists of bits cut to their ends: the schema says the same of every element, and `full_bits` looks at all."""
    if isinstance(value, dict):
        return {
            k: v[:2] + v[-1:] if k in ("bits", "starts", "codes") and len(v) > 3 else thinned(v)
            for k, v in value.items()
        }
    return [thinned(v) for v in value] if isinstance(value, list) else value


def full_bits(found: dict) -> bool:
    """Every element of an array, and their number."""
    if found["dtype"] in arrays.WIDTH:
        width = arrays.WIDTH[found["dtype"]] // 4
        right = all(isinstance(w, str) and re.fullmatch(f"[0-9a-f]{{{width}}}|nan", w) for w in found["bits"])
    else:
        info = np.iinfo(found["dtype"])
        right = all(type(v) is int and info.min <= v <= info.max for v in found["bits"])
    return right and len(found["bits"]) == int(np.prod(found["shape"]))


def test_golden_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((vectors.AT / "schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    header, case, tables = (
        jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]})
        for name in ("header", "case", "tables")
    )
    for path in CASES:
        header.validate(rows(path)[0])
        for row in cases(path):
            case.validate(thinned(row))
            results = [] if "unspecified" in row["expect"] else alternatives(row["expect"])
            assert all(full_bits(a) for some in (row["args"], *results) for a in some.values()), row["id"]
    for path in TABLES:
        tables.validate(thinned(json.loads((vectors.AT / path).read_text("utf-8"))))
    odd = {**cases(CASES[0])[0], "surprise": 1}
    assert not case.is_valid(odd)


def test_golden_every_exact_function_has_vectors() -> None:
    """Public functions whose docstring says "Class: exact"; a reason beside each that has none of its own."""
    without = {
        "affine_steps": "steps of affine.quantize",
        "blocks": "layout in memory; GRA rules are in every granular case",
        "floats": "steps of codec",
        "fused": "a step of affine.quantize",
        "thresholds": "the tables of 25-conventions",
        "conventions": "data, in the tables and fixed_point",
    }
    have = {case["fn"] for path in CASES for case in cases(path)}
    have |= {f"{fn}.{step}" for fn in have for step in ("init", "update", "merge", "finalize")}
    missing = []
    for info in pkgutil.walk_packages(refquant.__path__, "refquant."):
        short = info.name.removeprefix("refquant.")
        if short.split(".")[0] in (*without, "cli", "files", "__main__", "formats") or short.rsplit(".")[-1].startswith(
            "_"
        ):
            continue
        for name, found in inspect.getmembers(importlib.import_module(info.name), inspect.isfunction):
            exact = (
                found.__module__ == info.name and not name.startswith("_") and "Class: exact" in (found.__doc__ or "")
            )
            home = "qat" if short.startswith("qat.") else short
            if exact and f"{home}.{name}" not in have:
                missing.append(f"{home}.{name}")
    assert missing == [], missing


@pytest.fixture(scope="module")
def built() -> dict[str, str]:
    pytest.importorskip("ml_dtypes")
    return build.build(build.case_files())


def test_golden_check_is_green(built: dict[str, str]) -> None:
    assert vectors.stale(built, vectors.AT) == []


def test_golden_check_turns_red(
    built: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    copy = tmp_path / "vectors"
    shutil.copytree(vectors.AT, copy)
    monkeypatch.setattr(build, "build", lambda files: built)
    monkeypatch.setattr(build, "case_files", list)
    assert vectors.main(["check", "--at", str(copy)]) == 0
    target = copy / "20-affine" / "quantize.jsonl"
    data = bytearray(target.read_bytes())
    at = data.rindex(b'"bits":[') + 9
    data[at] ^= 1
    target.write_bytes(data)
    (copy / "20-affine" / "dequantize.jsonl").unlink()
    (copy / "20-affine" / "other.jsonl").write_text("{}\n")
    assert vectors.main(["check", "--at", str(copy)]) == 1
    said = capsys.readouterr().out
    assert "python specs/vectors.py write" in said and "dequantize.jsonl: missing" in said
    assert "other.jsonl: not made by any case" in said
    line = data.count(b"\n")
    assert f"quantize.jsonl: line {line} differs" in said


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list:
    """One small file in place of all."""
    files = arithmetic.files()[:1]
    monkeypatch.setattr(build, "case_files", lambda: files)
    monkeypatch.setattr(build.tables, "files", lambda: iter(()))
    return files


def test_golden_write_refuses_what_the_third_opinion_does_not_accept(
    few: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    right = build.expected

    def planted(case: object) -> dict:
        found = right(case)
        bits = list(found["result"].bits)
        bits[3] ^= 1
        return (
            {"result": dataclasses.replace(found["result"], bits=tuple(bits))} if case.id.endswith("-even") else found
        )

    monkeypatch.setattr(build, "expected", planted)
    assert vectors.main(["write", "--at", str(tmp_path)]) == 1
    assert "round_to_integer.jsonl: round_to_integer-even: result[3]" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.jsonl"))


def test_golden_write_keeps_released_cases(few: list, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert vectors.main(["write", "--at", str(tmp_path)]) == 0
    assert vectors.main(["write", "--at", str(tmp_path)]) == 0
    few[0] = dataclasses.replace(few[0], cases=few[0].cases[1:])
    capsys.readouterr()
    assert vectors.main(["write", "--at", str(tmp_path)]) == 1
    assert f"{few[0].path}: round_to_integer-even would go" in capsys.readouterr().out
    assert vectors.main(["write", "--at", str(tmp_path), "--unreleased"]) == 0


def test_golden_withdrawn_ids_stay(few: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vectors.main(["write", "--at", str(tmp_path)]) == 0
    monkeypatch.setitem(build.WITHDRAWN, few[0].path, {"round_to_integer-even": "a test"})
    assert vectors.main(["write", "--at", str(tmp_path)]) == 0
    last = json.loads((tmp_path / few[0].path).read_text().splitlines()[-1])
    assert last == {"id": "round_to_integer-even", "withdrawn": "a test"}


def test_golden_unspecified_keys_are_those_of_a_cast_out_of_range() -> None:
    """CNV-8: of runtimes that cast before they clamp, and of no other, as counted in binary64."""
    have = {}
    for path in TABLES:
        for table in json.loads((vectors.AT / path).read_text("utf-8"))["tables"]:
            if path.startswith("25-conventions/rescale_"):
                assert "unspecified" not in table
            else:
                have[table["id"]] = table
    casts = {name for name, table in have.items() if {"i32", "i64", "wrap32"} & set(table["point"].split())}
    assert casts == {name for name, table in have.items() if "unspecified" in table} and len(casts) >= 14
    for name in casts:
        table = have[name]
        (a, first), (last, b) = table["unspecified"]["keys"]
        assert (a, b) == (-(2**31), 2**31 - 1)
        ends = [key_bits(key) for key in (first, first + 1, last - 1, last)]
        x = np.array(ends, np.uint32).view(np.float32).astype(np.float64)
        scale, top = np.uint32(0x3DCCCCCD).view(np.float32), 2.0 ** (63 if "i64" in table["point"] else 31)
        op, prec, place, ties, overflow, _ = table["point"].split()
        dtype, zero = np.float64 if prec == "f64" else np.float32, table["zero_point"]
        factor = {"inv": float(np.float32(1) / scale), "given": float(scale)}.get(op)
        ratio = x / float(scale) if factor is None else x * factor
        ratio = (ratio if place == "fma" else ratio.astype(dtype)) + (zero if place in ("add", "fma") else 0)
        ratio = ratio.astype(dtype).astype(np.float64)
        whole = np.rint(ratio) if ties == "even" else np.trunc(ratio + np.copysign(0.5, ratio))
        moved = whole + (zero if overflow == "wrap32" else 0)
        outside = (whole < -top) | (whole >= top) | (moved < -top) | (moved >= top)
        assert outside.tolist() == [True, False, False, True], name


def test_golden_flags_of_conventions_show() -> None:
    """A flag of these cases was given because the mistake changes a code; the commonest mistakes are all there."""
    shown = {flag for case in cases("20-affine/quantize_conventions.jsonl") for flag in case["flags"]}
    assert {
        "reciprocal",
        "half-away",
        "fma",
        "zero-point-before-rounding",
        "cast-before-clip",
        "nan",
        "precision",
    } <= shown
