"""Damage does not read as zero error: NaN and infinities in `diff` and `look --errors` (CMD-9)."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("typer")

from jaxquant import store  # noqa: E402
from jaxquant.cli import main  # noqa: E402
from jaxquant.diff import compare  # noqa: E402
from jaxquant.distances import distance  # noqa: E402

NAN, INF = np.nan, np.inf


def changed(**at):
    """A tensor of 1,024 random values, with some of them replaced."""
    x = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    for place, value in at.items():
        x.reshape(-1)[int(place[1:])] = value
    return x


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    seen = capsys.readouterr()
    assert "Infinity" not in seen.out and "NaN," not in seen.out  # no JSON (CMD-3)
    return code, seen.out


@pytest.mark.parametrize(
    ("x", "y", "error", "worst", "count"),
    [
        ([3, 4], [3, NAN], NAN, NAN, 1),
        ([NAN, 4], [3, 4], NAN, NAN, 1),
        ([NAN, NAN], [3, 4], NAN, NAN, 2),
        ([3, 4], [3, -INF], INF, INF, 1),
        ([INF, 4], [-INF, 4], INF, INF, 1),
        ([INF, 4], [NAN, 4], NAN, NAN, 1),
        ([NAN, INF, -INF, 3, 4], [NAN, INF, -INF, 3, 5], 0.2, 1, 0),
        ([0, 0], [0, NAN], NAN, NAN, 1),
        ([0, 0], [0, 5], 1, 5, 0),
        ([0, 0], [0, 0], 0, 0, 0),
        ([], [], 0, 0, 0),
    ],
)
def test_distances_golden(x, y, error, worst, count):
    found = distance(np.float32(x), np.float32(y))
    assert found == {"error": pytest.approx(error, nan_ok=True), "worst": pytest.approx(worst, nan_ok=True),
                     "not_finite": count}  # fmt: skip


def test_diff_counts_what_is_not_finite_and_puts_it_first(capsys, tmp_path):
    a = {"near": changed(), "far": changed(), "one": changed(), "all": changed(), "both": changed(a7=NAN, a8=INF)}
    b = {"near": changed(a0=9), "far": -changed(), "one": changed(a3=NAN), "all": changed() * NAN, "both": a["both"]}
    for name, tensors in (("a.safetensors", a), ("b.safetensors", b)):
        store.save(tmp_path / name, tensors)
    code, out = run(capsys, "diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--json")
    rows = json.loads(out)["tensors"]
    assert code == 1 and [row["name"] for row in rows] == ["all", "one", "far", "near", "both"]
    assert [(row["error"], row["worst"], row["not_finite"]) for row in rows[:2]] == [
        ("nan", "nan", 1024),
        ("nan",) * 2 + (1,),
    ]
    assert [(row["equal"], row["error"], row["not_finite"]) for row in rows[2:]] == [
        (False, 2, 0), (False, pytest.approx(0.3, abs=0.1), 0), (True, 0, 0)]  # fmt: skip
    code, out = run(capsys, "diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--top", "2")
    assert "nan relative, worst nan, 1,024 of 1,024 (1,024 NaN or infinite)" in out
    assert "nan relative, worst nan, 1 of 1,024 (1 NaN or infinite)" in out


def test_diff_of_two_dtypes_takes_nan_beside_nan_as_equal():
    (row,) = compare({"w": np.float32([NAN, INF, 1])}, {"w": np.float16([NAN, INF, 1])})["tensors"]
    assert (row["equal"], row["differing"], row["error"], row["not_finite"]) == (True, 0, 0, 0)


@pytest.mark.parametrize("scheme", ["int4:g32", "int8:channel:asym", "e4m3fn:channel"])
def test_look_puts_what_is_not_finite_first(capsys, tmp_path, scheme):
    """One tensor more than --top shows; a format that has NaN gives it back, and that is no exact tensor either."""
    fine = {f"fine{k}": changed() for k in range(12)}
    path = tmp_path / "m.safetensors"
    store.save(path, fine | {"inf": changed(a5=-INF, a6=INF), "one": changed(a5=NAN), "all": changed() * NAN})
    code, out = run(capsys, "look", path, "--errors", scheme)
    shown = [line for line in out.splitlines() if " dB " in line]
    assert code == 0 and [line.split()[4] for line in shown[:3]] == ["all", "inf", "one"]
    assert all(line.split()[:2] == ["nan", "nan"] for line in shown[:3]) and "1,024 NaN or infinite" in shown[0]
    code, out = run(capsys, "look", path, "--errors", scheme, "--json")
    found = json.loads(out)
    assert [(row["error"], row["sqnr_db"], row["worst"], row["not_finite"]) for row in found["errors"][:3]] == [
        ("nan", "nan", "nan", count) for count in (1024, 2, 1)]  # fmt: skip
    assert sum(found["worst"]["counts"]) == 0  # its NaN are no zeros of a histogram
    assert all(row["not_finite"] == 0 and 0 < row["error"] < 1 for row in found["errors"][3:])
