"""`refquant show` of what runtimes do: names, tables, the page of one, its distance from the default (CMD-3)."""

import json
import re
from dataclasses import fields
from typing import get_args, get_type_hints

import numpy as np
import pytest
from cli_support import runner

from refquant import quantize
from refquant.cli import presets
from refquant.conventions import CASTS, DEQUANTS, PRESETS, RESCALES, Affine
from refquant.formats import ALL
from refquant.requantize import requantize

TABLES = {"conventions": PRESETS, "casts": CASTS, "rescales": RESCALES, "dequants": DEQUANTS}


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


def test_words_exhaustive_every_value_of_every_field():
    """A new value of a field has its words, and no word is of a value that is gone."""
    for kind in presets.KINDS:
        hints = get_type_hints(type(kind.default[0]))
        for field in fields(kind.default[0]):
            values = {word or "own" for part in get_args(hints[field.name]) for word in get_args(part) or (part,)}
            values = {"own" if value is type(None) else value for value in values}
            assert set(kind.words[field.name]) == values, (kind.name, field.name)


def test_show_golden_lists_the_names_of_every_table(run):
    out, rows = run("show")[1], json.loads(run("show --json")[1])
    assert len(rows["formats"]) == len(ALL)
    for name, table in TABLES.items():
        told = out[out.index(f"\n{name}: ") :].split("\n\n")[0]
        assert set(table) <= set(re.findall(r"[a-z0-9_]+", told.split("\n", 1)[1]))
        assert [row["name"] for row in rows[name]] == list(table)
        assert json.loads(run(f"show {name} --json")[1]) == {name: rows[name]}
        assert all(re.search(rf"^{row} ", run(f"show {name}")[1], re.MULTILINE) for row in table)


@pytest.mark.parametrize("name", presets.known())
def test_show_property_every_page_says_point_source_and_twins(run, name, monkeypatch):
    found = json.loads(run(f"show {name} --json")[1])
    for width in (40, 80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        code, out, _ = run(f"show {name}")
        assert code == 0 and (width == 40 or all(len(line) <= width for line in out.splitlines()))
    flat = " ".join(out.split())
    for kind, row in presets.named(name):
        assert f"a {kind.one}: {kind.does}" in flat and row.version in flat and " ".join(row.note.split()) in flat
        assert ("known from a run of it" if row.source == "measured" else f"known from {row.source}") in flat
        assert found[kind.one]["run"] == (row.source == "measured") != row.source.startswith("read, not run: ")
        twins = [other for other in kind.rows if other != name and str(presets.point_of(kind.rows[other])) ==
                 str(presets.point_of(row))]  # fmt: skip
        assert found[kind.one]["same"] == twins and ", ".join(twins) in flat
        for point in presets.parts_of(row).values():
            assert " ".join(presets.values_of(point).values()) in flat


@pytest.mark.parametrize("name", PRESETS)
def test_show_differential_the_example_of_a_convention_is_quantize(run, name):
    """The first input that differs has these codes, its neighbour toward zero differs no more."""
    for label, part in json.loads(run(f"show {name} --json")[1])["convention"]["parts"].items():
        at, affine = part["distance"], presets.parts_of(PRESETS[name])[label]
        assert (at["differ"] == 0) == (at["first"] is None) == (not part["differs"])
        if at["first"] is None:
            continue
        x = np.uint32(int(at["first"]["x_bits"], 16)).view(np.float32)
        zero = np.float32(at["zero_point"]) if affine.zero == "bias" else np.int32(at["zero_point"])
        toward = np.float32(0.25) if np.isnan(x) else np.nextafter(x, np.float32(0))  # at 0.25 all say the same
        for by, same in ((x, False), (toward, True)):
            mine = quantize(by, np.float32(at["scale"]), zero, fmt=ALL["int8"], convention=affine)
            usual = quantize(by, np.float32(0.1), np.int32(3), fmt=ALL["int8"])
            assert (mine == usual) == same
            assert same or (int(mine), int(usual)) == (at["first"]["code"], at["first"]["default"])


def test_show_golden_distances(run):
    found = json.loads(run("show torch_per_tensor --json")[1])["convention"]["parts"]["point"]
    assert set(found["differs"]) == {"op", "zero", "nan"} and found["differs"]["op"] == {"is": "inv", "default": "div"}
    assert found["distance"]["nans"] == 2 * (2**23 - 1) and found["distance"]["of"] == 2**32
    assert "32 of the 2^32 inputs get another code to int8 with scale 0.1 and zero point 3; 1.55 gives 19, not 18" in (
        " ".join(run("show torchao")[1].split()))  # fmt: skip
    assert "in nothing: it is the default (onnxruntime's)" in run("show tensorrt")[1]
    assert "read, not run: TensorRT documentation" in run("show tensorrt")[1]
    read = {row.name for kind in presets.KINDS for row in kind.rows.values() if not presets.is_run(row)}
    assert read >= {"onnx", "tensorrt", "cmsis_nn_single"}  # and whichever somebody adds
    assert json.loads(run("show torch --json")[1])["dequant"]["parts"] == {"point": {"differs": {}}}


def test_show_differential_the_distance_of_a_rescale_is_counted(run):
    """q31 with a shift at 0.0123 differs from binary32 where all 2^20 accumulators around zero say so."""
    at = json.loads(run("show gemmlowp --json")[1])["rescale"]["parts"]["point"]["distance"]
    acc = np.arange(-(2**19), 2**19, dtype=np.int32)  # beyond them both saturate
    mine = requantize(acc, 0.0123, 3, fmt=ALL["int8"], rescale=RESCALES["gemmlowp"].point)
    usual = requantize(acc, np.float32(0.0123), 3, fmt=ALL["int8"])
    apart = np.flatnonzero(mine != usual)
    assert at["differ"] == apart.size > 100
    nearest = apart[np.argmin(np.abs(acc[apart]))]
    assert at["first"] == {"x": int(acc[nearest]), "code": int(mine[nearest]), "default": int(usual[nearest])}


def test_show_golden_lanes_and_real_offsets(run):
    out = run("show litert_builtin")[1]
    assert "whole ones of 8 elements" in out and "  body " in out and "  tail " in out
    distance = json.loads(run("show mlx --json")[1])["convention"]["parts"]["point"]["distance"]
    assert distance["zero_point"] == float(np.float32(-13.1)) and 0 < distance["differ"] < 2000
    assert presets.example_of(Affine("given"), presets.KINDS[0])[1] == 10
