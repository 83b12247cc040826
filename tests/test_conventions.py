"""The tables of conventions: names, uniqueness, and that running an oracle identifies exactly one point."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from refquant.affine import quantize
from refquant.conventions import CASTS, DEFAULT, DEQUANTS, PRESETS, RESCALES, Affine, Cast, Dequant, Lanes, Rescale
from refquant.formats import ALL
from refquant.requantize import requantize
from refquant.thresholds import apply, probes, thresholds

SPACE = [
    Affine(op, "f32", zero, ties, overflow, nan)
    for op, zero, ties, overflow, nan in itertools.product(
        ("div", "inv"), ("int", "add", "fma"), ("even", "away", "up"), ("sat", "i32", "i64"), ("qmin", "qmax", "zero")
    )
]
UINT8 = ALL["uint8"]
#: Without a signed format a negative sum is below qmin, and its ties "away" and "up" are one function under zero "add".
CASES = ((UINT8, 0.0123, 7), (UINT8, 0.1, 130), (ALL["int8"], 0.1, -3))


@pytest.mark.parametrize("rows", [PRESETS, CASTS, RESCALES, DEQUANTS])
def test_tables_property_every_row_says_who_and_which_version(rows):
    for name, row in rows.items():
        assert row.name == name and row.source and row.version
        assert name == name.lower() and " " not in name


def test_tables_property_points_are_hashable_and_read_as_words():
    """CNV-1, CNV-7."""
    points = [row.affine for row in PRESETS.values()] + [row.point for row in (*CASTS.values(), *RESCALES.values())]
    assert len({hash(p) for p in points}) > 20
    assert str(DEFAULT) == "div f32 int even sat qmin"
    assert str(Rescale()) == "f32 single even sat" and str(Dequant()) == "sub_mul f32 float32"
    assert isinstance(CASTS["ml_dtypes"].point, Cast)


def test_presets_golden_the_library_default_is_the_onnx_formula():
    assert PRESETS["onnx"].affine == PRESETS["onnxruntime"].affine == DEFAULT


def test_lanes_golden_body_and_tail():
    """CNV-6."""
    lanes = PRESETS["litert_builtin"].affine
    assert isinstance(lanes, Lanes) and lanes.n == 8
    assert [lanes.body_size(n) for n in (0, 7, 8, 17)] == [0, 0, 8, 16]
    assert lanes.at(15, 17) == lanes.body and lanes.at(16, 17) == lanes.tail
    assert [lanes.at(n, 11) == lanes.body for n in range(11)] == [True] * 8 + [False] * 3


@pytest.fixture(scope="module")
def tables() -> dict:
    return {(p, case): thresholds(p, *case) for p in SPACE for case in CASES}


IDENTIFIABLE = sorted({str(r.affine): r.affine for r in PRESETS.values() if r.affine in SPACE}.items())


@pytest.mark.parametrize("point", [p for _, p in IDENTIFIABLE], ids=[n.replace(" ", "-") for n, _ in IDENTIFIABLE])
def test_presets_property_running_one_names_its_point_alone(tables, point):
    """CNV-5: on the probes of all candidates every other point of the space differs somewhere."""
    alive = set(SPACE)
    for case in CASES:
        fmt, scale, zero = case
        x = probes(*(tables[p, case] for p in SPACE))
        got = quantize(x, np.float32(scale), np.int32(zero), fmt=fmt, convention=point)
        alive = {p for p in alive if np.array_equal(apply(tables[p, case], x), got)}
    assert alive == {point}


def test_space_property_every_point_is_a_function_of_its_own(tables):
    """CNV-4, for the row that somebody adds: no other point can stand for it on all of CASES."""
    points = {tuple(tables[p, case] for case in CASES): p for p in SPACE}
    assert sorted(map(str, points.values())) == sorted(map(str, SPACE))


def test_rescales_property_points_differ_on_their_probes():
    points = sorted({r.point for r in RESCALES.values()}, key=str)
    apart = set()
    for multiplier in (0.013, 0.25, 1.37):
        tables = {p: thresholds(p, ALL["int8"], multiplier, 3) for p in points}
        acc = probes(*tables.values())
        held = {p: np.float32(multiplier) if p.multiplier == "f32" else multiplier for p in points}
        codes = {p: requantize(acc, held[p], 3, fmt=ALL["int8"], rescale=p).tobytes() for p in points}
        apart |= {(a, b) for a, b in itertools.combinations(points, 2) if codes[a] != codes[b]}
    assert apart == set(itertools.combinations(points, 2))


GOLDEN = [
    ("onnxruntime", [1, 3, 3, 1, 1, 255, 0]), ("torch_per_tensor", [2, 2, 4, 0, 2, 255, 255]),
    ("torch_per_channel", [2, 2, 4, 0, 2, 255, 0]), ("torch_fake_tensor", [1, 3, 3, 1, 1, 255, 0]),
    ("litert_xnnpack", [1, 3, 3, 1, 1, 255, 255]), ("litert_reference", [2, 3, 4, 0, 1, 0, 0]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "want"), GOLDEN)
def test_presets_golden_same_input_different_codes(name, want):
    x = np.float32([0.5, 1.5, 2.5, -0.5, 0.49999997, 3e9, np.nan])
    got = quantize(x, np.float32(1), np.int32(1), fmt=UINT8, convention=PRESETS[name].affine)
    assert got.tolist() == want
