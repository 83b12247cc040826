"""A symmetric scale of the own range: jaxquant has shortcuts to it and its mask, refquant none (SCL, STE-2, LAY-13)."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bits import assert_same

from refquant import affine, scales
from refquant.conventions import DEFAULT
from refquant.formats import ALL, IntFormat
from refquant.granularity import PerAxis, PerGroup, PerTensor, PerToken
from refquant.spec import ScaleRule, scale_limits

jax = pytest.importorskip("jax", reason="the shortcuts are jaxquant's")
FLT_MAX = np.finfo(np.float32).max
FORMATS = [ALL[name] for name in ("int2", "int4", "int8", "int8_narrow", "int16", "ternary")]
FORMATS.append(IntFormat("lopsided", 8, -5, 100, "a scale of its own range leaves much below the format"))
STORAGES = ["float32", "pow2", "float16"]


def rows(fmt: IntFormat) -> np.ndarray:
    """Rows of 40 elements: usual ones, around each limit of the scale, the ends of binary32, and what no range sees."""
    rng = np.random.default_rng(0)
    usual = rng.standard_normal((4, 40)) * [[1.0], [1e-20], [1e20], [2.0**-130]]
    smallest, largest = scale_limits(fmt)
    limits = [smallest * fmt.qmax, largest * fmt.qmin, largest * (fmt.qmax + 0.5), largest * (fmt.qmin - 0.5)]
    around = [np.float32(v) for v in limits]
    near = [np.nextafter(v, np.float32(end)) for v in around for end in (-np.inf, np.inf)]
    ends = [0.0, -0.0, 2.0**-149, 2.0**-126, -(2.0**-126), FLT_MAX, -FLT_MAX]
    edges = np.array([*around, *near, *ends], np.float32)
    lines = [np.resize(edges[i:], 40) for i in range(len(edges))] + [np.full(40, v) for v in edges]
    special = np.where(rng.random((8, 40)) < 0.2, rng.choice([np.nan, np.inf, -np.inf], (8, 40)), 1.0)
    return np.concatenate([usual, lines, special, np.full((1, 40), np.nan)]).astype(np.float32)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_scale_and_mask_differential(fmt: IntFormat, storage: str) -> None:
    from jaxquant import affine as jax_affine
    from jaxquant import scales as jax_scales

    x, rule, one = rows(fmt), ScaleRule(storage=storage), np.float32(1)
    for grain, values in ((PerAxis(0), x), (PerAxis(1), x.T.copy()), (PerGroup(1, 16), x), (PerTensor(), x[:4])):
        options = {"fmt": fmt, "granularity": grain, "convention": DEFAULT}
        scale, _ = scales.choose_scale(*scales.range_of(values, granularity=grain), fmt=fmt, rule=rule)
        got, _ = jax_scales.scale_of(values, fmt=fmt, granularity=grain, rule=rule)
        assert_same(np.asarray(got), scale)
        inside = jax_affine.judge(values, got, None, **options, mask="rounded", own=rule)
        want = affine.fake_quantize_vjp(values, scale, None, np.full_like(values, one), **options)
        assert_same(np.asarray(jax_affine.masked(np.full_like(values, one), inside)), want, inputs={"x": values})


def test_scale_of_one_number_everywhere_differential() -> None:
    """Tiles of one element, all the same number: a divisor behind them must be no broadcast to XLA (JAX 0.12)."""
    from jaxquant import scales as jax_scales

    for name in ("int4", "int5", "int8"):
        for rule in (ScaleRule(), ScaleRule(zero="int")):
            options = {"fmt": ALL[name], "rule": rule}
            program = jax.jit(
                lambda v, options=options: jax_scales.scale_of(
                    jax.numpy.full((5, 4, 1), v), granularity=PerToken(), **options
                )[0]
            )
            for v in np.linspace(1, 2, 40, dtype=np.float32):
                x = np.full((5, 4, 1), v)
                want, _ = scales.choose_scale(*scales.range_of(x, granularity=PerToken()), **options)
                assert_same(np.asarray(program(v)), want, inputs={"v": v})


#: What else may be true of a scale or a convention, so that codes do not tell: the byte mask stays.
NOT_TOLD = {
    "two ends": (ALL["int8_narrow"], ScaleRule(), DEFAULT, "rounded"),
    "lopsided": (FORMATS[-1], ScaleRule(), DEFAULT, "rounded"),
    "a float format": (ALL["e4m3fn"], ScaleRule(), DEFAULT, "rounded"),
    "half a range": (ALL["int8"], ScaleRule(denominator="half_range"), DEFAULT, "rounded"),
    "a rounded scale": (ALL["int8"], ScaleRule(storage="float16"), DEFAULT, "rounded"),
    "a zero point": (ALL["uint8"], ScaleRule(zero="int"), DEFAULT, "rounded"),
    "NaN elsewhere": (ALL["int8"], ScaleRule(), replace(DEFAULT, nan="zero"), "rounded"),
    "ratio": (ALL["int8"], ScaleRule(), DEFAULT, "ratio"),
}


@pytest.mark.parametrize("storage", ["float32", "pow2"])
@pytest.mark.parametrize("name", ["int2", "int4", "int8", "int16"])
def test_codes_tell_the_mask_differential(name: str, storage: str) -> None:
    """LAY-13: STE-2's mask, but where the scale is the largest that there is: nothing at an end is inside there."""
    from jaxquant import _own_range

    fmt, rule = ALL[name], ScaleRule(storage=storage)
    assert _own_range.told_by_codes(rule, fmt, DEFAULT, "rounded")
    x = rows(fmt)
    for grain, values in ((PerAxis(0), x), (PerGroup(1, 16), x), (PerTensor(), x[:4])):
        options = {"fmt": fmt, "granularity": grain}
        scale, _ = scales.choose_scale(*scales.range_of(values, granularity=grain), fmt=fmt, rule=rule)
        codes = affine.quantize(values, scale, **options)
        inside = affine.fake_quantize_vjp(values, scale, None, np.ones_like(values), **options) != 0
        largest = affine.dequantize(np.ones_like(codes), scale, **options) >= np.float32(scale_limits(fmt)[1])
        assert largest.any() == (grain != PerTensor()), "rows() has largest scales"
        assert not (inside & (codes == fmt.qmin) & ~largest).any()
        want = inside & ~(largest & ((codes == fmt.qmin) | (codes == fmt.qmax)))
        assert_same(np.asarray(_own_range.judge(codes, scale, **options)) == -1, want, inputs={"x": values})


@pytest.mark.parametrize("case", NOT_TOLD)
def test_codes_do_not_tell_property(case: str) -> None:
    from jaxquant import _own_range

    fmt, rule, convention, mask = NOT_TOLD[case]
    assert not _own_range.told_by_codes(rule, fmt, convention, mask)


def test_ranges_of_one_row_a_device_differential() -> None:
    """Over one element XLA drops a reduction with its initial value; only the partitioner knows which axes have one."""
    script = Path(__file__).with_name("sharded_ranges.py")
    paths = os.pathsep.join([str(script.parent), str(script.parent.parent)])
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert done.stdout == "same bits\n", done.stderr[-2000:]
