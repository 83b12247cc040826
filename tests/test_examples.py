"""The examples run as written, some of them in their small setting; what they claim is in their output."""

from __future__ import annotations

import dataclasses
import doctest
import functools
import itertools
import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")

FOLDER = Path(__file__).resolve().parent.parent / "examples"
EXAMPLES = {
    # name                       its arguments        what it needs
    "check_a_kernel.py":           ("",               ()),
    "decide_on_your_own_model.py": ("",               ("flax.nnx", "sklearn", "optax")),
    "digits_qat_linen.py":         ("1 2",            ("flax.linen", "sklearn", "optax", "scipy")),
    "digits_qat_nnx.py":           ("1 2",            ("flax.nnx", "sklearn", "optax", "scipy")),
    "lora.py":                     ("",               ("flax.nnx", "sklearn", "optax", "scipy")),
    "quantize_in_five_lines.py":   ("",               ()),
    "text_qat.py":                 ("30 20 3",        ("flax.nnx", "optax", "scipy", "orbax.checkpoint")),
}  # fmt: skip


def test_every_example_is_here():
    assert set(EXAMPLES) == {path.name for path in FOLDER.glob("[!_]*.py")}


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """The output of an example in an empty folder."""

    def run(name: str) -> str:
        arguments, needed = EXAMPLES[name]
        for module in needed:
            pytest.importorskip(module)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(os.fspath(FOLDER))
        monkeypatch.setattr(sys, "argv", [name, *arguments.split()])
        runpy.run_path(os.fspath(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_a_matrix_has_the_same_bits_in_both_packages(run):
    assert "131,072 codes and 4,096 scales: 0 differ" in run("quantize_in_five_lines.py")


def test_kernels_are_told_apart(run):
    out = run("check_a_kernel.py")
    assert "kernel: follows " in out
    assert "half_up: nearest is the point 'div f32 int up sat qmin': 1 of 2^32 inputs differ at scale 0.0123, " in out
    assert "half_away: follows no preset, but the point 'div f32 int away sat qmin' on every probe" in out
    assert "vectorized: depends on the position: the last n % 8 elements of n differ from the rest; x = " in out
    assert "long arrays follow torch_fake_tensor, torchao; single elements no preset, but the point 'div f32 int" in out
    assert "requantize: follows onnxruntime, xnnpack on every probe" in out
    assert "shifted: follows no preset, but the point 'q31 unnormalized floor' on every probe" in out


def test_the_inputs_of_a_difference_are_listed_as_the_docstring_says(monkeypatch):
    monkeypatch.syspath_prepend(os.fspath(FOLDER))
    import check_a_kernel

    with np.errstate(all="ignore"):
        found = doctest.testmod(check_a_kernel)
    assert found.attempted > 5 and not found.failed


def _rounded(x, scale, zero_point):
    return np.rint(np.nan_to_num(x / scale, posinf=0, neginf=0)).astype(np.int64) + zero_point


def _onnx(x, scale, zero_point, low=-128, high=127):
    codes = np.rint(x / scale) + zero_point
    return np.clip(np.where(np.isnan(codes), low, codes), low, high).astype(np.int8)


def _noisy(x, scale, zero_point, calls=itertools.count()):  # noqa: B008
    codes = _onnx(x, scale, zero_point)
    return np.where((x > 1) & (next(calls) % 2 == 0), 77, codes).astype(np.int8)


def _in_place(x, scale, zero_point):
    np.divide(x, scale, out=x)
    return _onnx(x, np.float32(1), zero_point)


def _middle(x, scale, zero_point):
    codes = _onnx(x, scale, zero_point)
    codes[3:4] = 0
    return codes


def _half_up(ratio):
    down = np.floor(ratio)
    return down + (ratio - down >= 0.5)


FOUR = "onnx, onnxruntime, gptq, tensorrt on every probe"
DIVIDE = "onnx, onnxruntime, gptq, qwix_symmetric, tensorrt"
IN_RANGE = f"{DIVIDE}, onnx_reference wherever in range; outside, nearest is"
HALF_UP = "the point 'div f32 int up sat "
ADDED = "compressed_tensors, stablehlo, tensorrt (to "
KERNELS = {
    "right": (_onnx, f"follows {FOUR}"),
    "in place": (_in_place, f"follows {FOUR}"),
    "narrow": (
        lambda x, s, z: _onnx(x, s, z, -127),
        f"follows, if its format is int8_narrow, {FOUR}",
    ),
    "no zero point": (
        lambda x, s, z: _onnx(x, s, 0),
        "follows, if it ignores the zero point, onnx, onnxruntime, gptq, " + ADDED + "int8 the same as the point 'div",
    ),
    "symmetric": (
        lambda x, s, z: _onnx(x, s, 0, -127),
        "follows, if its format is int8_narrow and it ignores the zero point, onnx, onnxruntime, gptq, " + ADDED,
    ),
    "second case": (
        lambda x, s, z: np.where((s == np.float32(0.1)) & (x > 3), 5, _onnx(x, s, z)).astype(np.int8),
        "nearest is onnx: 1,061,158,912 of 2^32 inputs differ at scale 0.1, zero point 2 (218,942,668 in range, "
        "842,216,243 with |x / scale| of 2^31 and more, 1 infinite); first x = 0x40400001 "
        "(3.000000238418579): kernel 5, onnx 32",
    ),
    "first case": (  # alone it would be 'div f32 int trunc sat qmin'
        lambda x, s, z: _onnx(np.trunc(x / s), np.float32(1), z) if s < np.float32(0.1) else _onnx(x, s, z),
        "nearest is onnx: 71,638,161 of 2^32 inputs differ at scale 0.0123, zero point 7 (71,638,161 in range); "
        "first x = ",
    ),
    "noisy": (_noisy, "gives other codes when it is called again: "),
    "short arrays": (
        lambda x, s, z: _onnx(x, s, z if x.size > 40 else 0),
        "depends on the length: arrays of 33 elements and fewer differ from long ones; x = ",
    ),
    "one place": (_middle, "depends on the position: [] of 1 elements, [3] of 7 elements, [3] of 8 elements, "),
    "wraps": (
        lambda x, s, z: _rounded(x, s, z).astype(np.int8),
        "does not saturate, or jumps about: at x = 1.4821501 the code goes from 127 to -128 (scale",
    ),
    "length": (lambda x, s, z: np.int8([1]), "gives int8 of shape (1,) for 3 numbers, need int8 of shape (3,) (int8)"),
    "dtype": (lambda x, s, z: list(x), "gives float32 of shape (3,) for 3 numbers, need int8 of shape (3,) (int8)"),
    "nan": (
        lambda x, s, z: np.where(np.isnan(x), -5, np.clip(np.rint(x / s) + z, -128, 127)).astype(np.int8),
        f"follows {DIVIDE} but for NaN: 16,777,214 of 2^32 inputs differ at scale 0.0123, zero point 7 "
        "(16,777,214 NaN); as x = 0x7f800001 (nan): kernel -5, onnx -128",
    ),
    "infinite": (
        lambda x, s, z: np.where(np.isinf(x), 0, _onnx(x, s, z)).astype(np.int8),
        f"follows {IN_RANGE} onnx: 2 of 2^32 inputs differ at scale 0.0123, zero point 7 (2 infinite); first x = ",
    ),
    "a point, NaN": (
        lambda x, s, z: np.where(np.isnan(x), -5, np.clip(_half_up(x / s) + z, -128, 127)).astype(np.int8),
        f"follows {HALF_UP}qmin' but for NaN: 16,777,214 of 2^32 inputs differ at scale 0.0123, zero point 7 "
        "(16,777,214 NaN); as x = 0x7f800001 (nan): kernel -5, 'div f32 int up sat qmin' -128",
    ),
    "a point, far": (
        lambda x, s, z: np.clip(np.where(abs(x / s) < 2**31, _half_up(x / s), -(2**31)) + z, -128, 127).astype(np.int8),
        f"follows {HALF_UP}qmin' wherever in range: 867,596,817 of 2^32 inputs differ at scale 0.0123, zero point 7 (",
    ),
    "cast": (  # of lrintf: beyond int32 the smallest integer
        lambda x, s, z: np.clip(np.where(np.abs(x / s) < 2**31, np.rint(x / s), -(2**31)) + z, -128, 127).astype(
            np.int8
        ),
        f"follows {IN_RANGE} onnx_reference: 1,652,555,776 of 2^32 inputs differ at scale 0.75, zero point -127 "
        "(1,635,778,560 with |x / scale| of 2^31 and more, 2 infinite, 16,777,214 NaN); first x = ",
    ),
    "half up, NaN": (
        lambda x, s, z: np.clip(np.floor(np.abs(x) / s + np.float32(0.5)) * np.sign(x) + z, -128, 127).astype(np.int8),
        " of 2^32 inputs differ at scale 0.0123, zero point 7 (2 in range, 16,777,214 NaN); first x = 0x3bc985ef",
    ),
    "below": (
        lambda x, s, z: np.where(np.rint(x / s) < -100, 9, np.clip(np.rint(x / s) + z, -128, 127)).astype(np.int8),
        " first x = 0xbf9e3a2a (-1.23615",
    ),
    "far": (
        lambda x, s, z: np.where(x > 5e5 * s, 0, np.clip(np.rint(x / s) + z, -128, 127)).astype(np.int8),
        " first x = 0x45c03001 (6150.0004",
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_wrong_kernels_are_told_what_is_wrong(monkeypatch, name):
    monkeypatch.syspath_prepend(os.fspath(FOLDER))
    from check_a_kernel import ALL, report

    kernel, told = KERNELS[name]
    with np.errstate(all="ignore"):
        assert told in report(kernel, ALL["int8"])


def _codes(whole, zero_point):
    return np.clip(whole + zero_point, -128, 127).astype(np.int8)


def _q31(acc, multiplier):
    """The product that a C kernel shifts right by 31."""
    assert 0 < multiplier < 1, "q would not fit int32"
    return acc.astype(np.int64) * round(multiplier * 2**31)


NOBODY = "follows no preset, but the point "
ACCUMULATORS = {
    "binary64": (lambda acc, m, z: _codes(np.rint(acc * m), z), f"{NOBODY}'f64 single even sat' on every probe"),
    "truncates": (lambda acc, m, z: _codes(np.trunc(acc * m), z), f"{NOBODY}'f64 trunc' on every probe"),
    "casts": (
        lambda acc, m, z: _codes((np.float32(acc) * np.float32(m)).astype(np.int64), z),
        f"{NOBODY}'f32 trunc' on every probe",
    ),
    "floors": (lambda acc, m, z: _codes(np.floor(acc * m), z), f"{NOBODY}'f64 floor' on every probe"),
    "shifts": (lambda acc, m, z: _codes(_q31(acc, m) >> 31, z), f"{NOBODY}'q31 unnormalized floor' on every probe"),
    "adds half and shifts": (
        lambda acc, m, z: _codes(_q31(acc, m) + 2**30 >> 31, z),
        f"{NOBODY}'q31 unnormalized up' on every probe",
    ),
    "divides": (
        lambda acc, m, z: _codes(np.trunc(_q31(acc, m) / 2**31), z),
        f"{NOBODY}'q31 unnormalized trunc' on every probe",
    ),
    "truncates the multiplier": (
        lambda acc, m, z: _codes(acc.astype(np.int64) * int(m * 2**31) + 2**30 >> 31, z),
        "nearest is the point 'q31 unnormalized up': ",
    ),
    "wraps": (
        lambda acc, m, z: (np.rint(acc * m) + z).astype(np.int64).astype(np.int8),
        "does not saturate, or jumps about: at x = -361991 the code goes from -94 to -93",
    ),
}


@pytest.mark.parametrize("name", ACCUMULATORS)
def test_kernels_of_accumulators_are_told_what_they_follow(monkeypatch, name):
    monkeypatch.syspath_prepend(os.fspath(FOLDER))
    from check_a_kernel import ALL, REQUANTIZE, report

    kernel, told = ACCUMULATORS[name]
    assert told in report(kernel, ALL["int8"], REQUANTIZE)


def test_every_preset_of_accumulators_is_recognized(monkeypatch):
    monkeypatch.syspath_prepend(os.fspath(FOLDER))
    from check_a_kernel import ALL, REQUANTIZE, report

    from refquant.conventions import RESCALES
    from refquant.requantize import requantize

    def kernel(acc, multiplier, zero_point, rescale):
        held = np.float32(multiplier) if rescale.multiplier == "f32" else multiplier
        return requantize(acc, held, np.int32(zero_point), fmt=ALL["int8"], rescale=rescale)

    for name, row in RESCALES.items():
        told = report(functools.partial(kernel, rescale=row.point), ALL["int8"], REQUANTIZE)
        follows = told.removeprefix("follows ").removesuffix(" on every probe").partition(" (")[0].split(", ")
        assert set(follows) == {other for other, one in RESCALES.items() if one.point == row.point}, (name, told)


@pytest.mark.parametrize("fmt", ["int8", "uint8"])
def test_every_pair_of_candidates_for_accumulators_is_told_apart(monkeypatch, fmt):
    """But for twins in overflow, which are one function of every multiplier below 1: no product leaves int32."""
    monkeypatch.syspath_prepend(os.fspath(FOLDER))
    from check_a_kernel import ALL, REQUANTIZE, Reading

    from refquant.conventions import Rescale
    from refquant.thresholds import distance

    def function(point):
        return dataclasses.replace(point, overflow="sat") if isinstance(point, Rescale) else point

    cases, points = REQUANTIZE.cases(ALL[fmt]), REQUANTIZE.points()
    assert all(0 < multiplier < 1 for multiplier, _ in cases)
    tables = {name: [Reading(ALL[fmt]).tables(REQUANTIZE, case)[name] for case in cases] for name in points}
    for one, two in itertools.combinations(points, 2):
        apart = [distance(a, b) for a, b in zip(tables[one], tables[two], strict=True)]
        assert any(apart) == (function(points[one]) != function(points[two])), (one, two, apart)


def test_every_point_of_accumulators_is_a_candidate(monkeypatch):
    """By hand: five ways to hold a multiplier, one with two steps, and the ties that each has."""
    monkeypatch.syspath_prepend(os.fspath(FOLDER))
    from check_a_kernel import REQUANTIZE

    from refquant.conventions import Rescale

    points = {" ".join(str(p).split()[:3]) for p in REQUANTIZE.points().values() if isinstance(p, Rescale)}
    floats = {f"{held} single {ties}" for held in ("f32", "f64") for ties in ("even", "away", "up")}
    fixed = {
        f"{held} {ties}" for held in ("q31 double", "q31 single", "q15 single", "q8 single") for ties in ("away", "up")
    }
    assert points == floats | fixed


@pytest.mark.parametrize("fmt", ["int2", "uint2", "int4", "uint4", "ternary", "int8_narrow"])
def test_every_format_has_cases(monkeypatch, fmt):
    monkeypatch.syspath_prepend(os.fspath(FOLDER))
    from check_a_kernel import ALL, QUANTIZE, report

    from refquant.affine import quantize

    def kernel(x, scale, zero_point):
        return quantize(x, scale, np.int32(zero_point), fmt=ALL[fmt])

    assert all(ALL[fmt].qmin <= zero_point <= ALL[fmt].qmax for _, zero_point in QUANTIZE.cases(ALL[fmt]))
    assert "follows onnx, onnxruntime, " in report(kernel, ALL[fmt])


def test_a_model_of_ones_own_is_decided(run, tmp_path):
    assert "DECISION  Use " in run("decide_on_your_own_model.py")
    assert (tmp_path / "jaxquant-decide" / "report.html").exists()


@pytest.mark.parametrize("api", ["nnx", "linen"])
def test_two_bits_on_digits_are_lost_by_rounding_and_won_back_by_training(run, tmp_path, api):
    out = run(f"digits_qat_{api}.py")
    (line,) = re.findall(r"^int2 .*$", out, re.MULTILINE)
    by_range, _, trained = (float(found) for found in re.findall(r"([\d.]+) \[", line)[:3])
    (plain,) = re.findall(r"^float +([\d.]+)", out, re.MULTILINE)
    assert by_range < 60 < 90 < trained <= 100
    assert float(plain) - trained < 5
    assert "in NumPy from the file: 0 of 7,970 outputs differ" in out
    assert (tmp_path / f"digits-{api}-int2.safetensors").stat().st_size < 8000


def test_both_digits_examples_have_the_same_bits(monkeypatch):
    """Differential: prepared and converted, in NNX, in Linen and in NumPy, by one and by many."""
    for module in ("flax.nnx", "sklearn", "optax", "scipy"):
        pytest.importorskip(module)
    monkeypatch.syspath_prepend(os.fspath(FOLDER))
    import _digits as digits
    import digits_qat_linen as linen
    import digits_qat_nnx as nnx
    from flax.traverse_util import flatten_dict

    x, recipe, params = digits.images[:6], digits.recipes(3)["mean"], digits.start(7)
    model = nnx.Net(nnx.nnx.Rngs(0))
    nnx.nnx.update(model, params)
    prepared, _ = nnx.nnx_api.prepare(model, recipe, x)
    qmodel = linen.linen_api.Quantized(linen.Net(), recipe)
    qparams, _ = linen.linen_api.prepare(qmodel, params, x)
    iparams = linen.linen_api.convert(qmodel, qparams)
    outputs = (
        linen.run(qmodel, qparams, x),
        linen.run(qmodel, iparams, x),
        nnx.run(prepared, x),
        nnx.run(nnx.nnx_api.convert(prepared), x),
        np.concatenate([linen.run(qmodel, iparams, x[i : i + 1]) for i in range(len(x))]),
        digits.numpy_net(flatten_dict(iparams, sep="/"), x),
    )
    assert digits.differing(*outputs) == (0, 60)


def test_adapters_learn_and_the_base_keeps_its_bytes(run):
    out = run("lora.py")
    base, adapted = re.findall(r"([\d.]+) %", out)
    first, last = re.search(r"loss of \d+ steps: ([\d.]+) to ([\d.]+)", out).groups()
    before, after = re.search(r"sha256 (\w+) before, (\w+) after", out).groups()
    knows, have = re.search(r"knows ([\d,]+) numbers, the adapters have ([\d,]+)", out).groups()
    assert float(base) < 60 < 90 < float(adapted)
    assert float(last) < float(first) / 10
    assert before == after
    assert knows == have == "3,664"


def test_a_transformer_trained_at_three_bits_beats_a_rounded_one_and_resumes_to_the_same_bits(run):
    out = run("text_qat.py")
    found = dict(re.findall(r"^(float|int3, rounded|int3, trained)[\w\s,()]*? +(\d\.\d{3}) ", out, re.MULTILINE))
    assert float(found["int3, trained"]) < float(found["int3, rounded"])
    assert 2 < float(found["float"]) < 5
    assert re.search(r"resumed, 0 of \d{3} arrays differ", out)
    assert len(re.findall(r"attention/(?:query|key|value|out) +LinearGeneral +int3", out)) == 8
