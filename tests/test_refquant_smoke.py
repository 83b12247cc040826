"""refquant alone: doctests of its core modules, ml_dtypes on every 16-bit input, packing, fused steps, arguments."""

import doctest
import importlib
import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest

import refquant
from refquant import fused, sums
from refquant.conventions import DEFAULT, Affine, Cast
from refquant.formats import ALL, FloatFormat, IntFormat
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor, PerToken

MODULES = [
    "affine",
    "affine_steps",
    "arguments",
    "bits",
    "blocks",
    "codec",
    "floats",
    "fused",
    "packing",
    "qtensor",
    "rounding",
    "scales",
    "sums",
]
FLOATS = [fmt for fmt in ALL.values() if isinstance(fmt, FloatFormat)]
LIKE_ML_DTYPES = Cast(overflow="special", nan="signed")
PATTERNS = np.arange(1 << 16, dtype=np.uint16)
PRECISIONS = [(np.float16, 11, -24), (np.float32, 24, -149), (np.float64, 53, -1074)]


def ml_dtype(fmt: FloatFormat) -> np.dtype:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    width = 8 if fmt.bits == 8 else fmt.bits
    name = fmt.name if fmt.bits == 16 else f"float{width}_{fmt.name}"
    return np.dtype(np.float16) if name == "float16" else np.dtype(getattr(ml_dtypes, name))


def all_inputs(name: str) -> np.ndarray:
    return PATTERNS.view(np.float16 if name == "float16" else ml_dtype(ALL["bfloat16"]))


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    found = doctest.testmod(importlib.import_module(f"refquant.{name}"))
    assert found.failed == 0


@pytest.mark.parametrize("fmt", FLOATS, ids=lambda fmt: fmt.name)
def test_decode_external_exhaustive(fmt):
    codes = np.arange(1 << fmt.bits).astype(fmt.storage)
    with np.errstate(all="ignore"):
        want = codes.view(ml_dtype(fmt)).astype(np.float32)
    got = refquant.decode(codes, fmt=fmt)
    nan = np.isnan(want)
    assert (got.view(np.uint32) == want.view(np.uint32))[~nan].all()
    assert (got.view(np.uint32)[nan] == 0x7FC00000).all()  # DCD-1


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("fmt", FLOATS, ids=lambda fmt: fmt.name)
def test_encode_external_exhaustive(fmt, name):
    x = all_inputs(name)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float32)
        want = wide.astype(ml_dtype(fmt)).view(fmt.storage)
    got = refquant.encode(x, fmt=fmt, cast=LIKE_ML_DTYPES)
    compared = np.ones(x.shape, bool)
    if fmt.nan_code is None or fmt.name == "float16":
        compared &= ~np.isnan(wide)  # ml_dtypes: -0 where a format has no NaN; NumPy keeps binary16 payloads
    if fmt.name == "e8m0fnu":
        compared &= ~((wide > 0) & (wide < 2.0**-126))  # ml_dtypes rounds some subnormals up instead of to nearest
    assert compared.sum() > 60_000
    assert (got == want)[compared].all()
    small = [refquant.encode(part, fmt=fmt, cast=LIKE_ML_DTYPES) for part in np.array_split(x, 16)]
    assert (np.concatenate(small) == got).all()  # the table and the rules agree


@pytest.mark.parametrize("fmt", ALL.values(), ids=lambda fmt: fmt.name)
def test_pack_exhaustive(fmt):
    codes = np.arange(1 << fmt.bits)
    if isinstance(fmt, IntFormat) and fmt.signed:
        codes -= 1 << (fmt.bits - 1)
    codes = codes.astype(fmt.storage)
    for part in (codes, codes[: len(codes) - 1], codes[::-1], codes[:0], codes[1].reshape(())):
        packed = refquant.pack(part, fmt=fmt)
        stream = sum((int(c) & ((1 << fmt.bits) - 1)) << (fmt.bits * i) for i, c in enumerate(part.ravel()[:300]))
        size = -(-part.size * fmt.bits // 8)
        assert packed.shape == (size,)
        if part.size <= 300:
            assert packed.tobytes() == stream.to_bytes(size, "little")  # PCK-1
        back = refquant.unpack(packed, part.shape, fmt=fmt)
        assert back.dtype == part.dtype
        assert np.array_equal(back, part)  # PCK-3


def rounded(value: Fraction, digits: int, lowest: int) -> Fraction:
    """To nearest, ties to even, in binary floating point without a largest exponent."""
    if not value:
        return value
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > abs(value)
    unit = Fraction(2) ** max(exponent - digits + 1, lowest)
    return round(value / unit) * unit


@pytest.mark.parametrize(("dtype", "digits", "lowest"), PRECISIONS)
@pytest.mark.parametrize("step", ["multiply_add", "divide_add"])
def test_fused_differential(step, dtype, digits, lowest):
    random = np.random.default_rng(7)
    x = (random.integers(1, 1 << 24, 600) * 2.0 ** random.integers(-30, -10, 600)).astype(np.float32)
    factor = random.choice(np.float32([0.1, 3.0, 1 / 3, 7.7, -0.3, 1.0, 2**-20]), 600)
    if step == "multiply_add":
        factor = 1 / factor.astype(np.float64)
    near = -np.clip(np.rint(x * factor if step == "multiply_add" else x / factor), -(2.0**30), 2.0**30)
    addend = np.where(random.random(600) < 0.5, near, random.integers(-300, 300, 600)).astype(np.int32)
    got = getattr(fused, step)(x, factor, addend, dtype)
    for a, b, c, value in zip(x.tolist(), factor.tolist(), addend.tolist(), got.tolist(), strict=True):
        product = Fraction(a) * Fraction(b) if step == "multiply_add" else Fraction(a) / Fraction(b)
        want = rounded(product + c, digits, lowest)
        if abs(want) < 65504 or dtype is not np.float16:
            assert Fraction(value) == want, (a, b, c, value)


def test_large_zero_points_exact():
    x = np.float32([-1e10, -3.0, 0.0, 2.0**31, 3e9, np.inf, -np.inf, np.nan])
    for zero in (2**31 - 1, -(2**31), 2**24 + 1, -(2**24) - 1):
        got = refquant.quantize(x, 1.0, np.int32(zero), fmt=ALL["int8"])
        want = [max(-128, min(127, int(v) + zero)) for v in x[:5].tolist()] + [127, -128, -128]
        assert got.tolist() == want


SHAPES = [
    ((), PerTensor()),
    ((0,), PerTensor()),
    ((0, 3), PerAxis(1)),
    ((3, 0), PerGroup(1, 4)),
    ((5, 7), PerAxis(-1)),
    ((5, 7), PerToken()),
    ((5, 7), PerGroup(1, 4)),
    ((5, 7), PerBlock((2, 3))),
    ((2, 5, 7), PerAxis((0, 2))),
]


@pytest.mark.parametrize(("shape", "granularity"), SHAPES, ids=str)
def test_granularity_elementwise_property(shape, granularity):
    random = np.random.default_rng(1)
    x = random.standard_normal(shape[::-1]).astype(np.float32).T * 4  # not contiguous
    x = x.reshape(()) if shape == () else x
    scale = random.uniform(0.01, 0.1, granularity.scale_shape(shape)).astype(np.float32)
    zero = np.full(scale.shape, 3, np.int32)
    fmt = ALL["int8"]
    codes = refquant.quantize(x, scale, zero, fmt=fmt, granularity=granularity)
    values = refquant.dequantize(codes, scale, zero, fmt=fmt, granularity=granularity)
    passed = refquant.fake_quantize_vjp(x, scale, zero, x, fmt=fmt, granularity=granularity)
    assert codes.shape == values.shape == passed.shape == shape
    tile = granularity.tile(shape)
    for index in np.ndindex(shape):
        at = () if granularity == PerTensor() else tuple(i // t for i, t in zip(index, tile, strict=True))
        assert codes[index] == np.clip(np.rint(x[index] / scale[at]) + 3, -128, 127)
        assert values[index] == np.float32(int(codes[index]) - 3) * scale[at]
    whole = refquant.quantize_tensor(x, refquant.QuantSpec(fmt, granularity))
    assert refquant.dequantize_tensor(whole).shape == whole.shape == shape


def test_chunks_change_nothing_property():
    x = np.random.default_rng(0).standard_normal((3, 2, 50_000)).astype(np.float32)
    for granularity in (PerTensor(), PerAxis(0), PerAxis(2), PerToken(), PerGroup(2, 128), PerBlock((3, 7))):
        scale = np.random.default_rng(1).uniform(0.01, 1, granularity.scale_shape(x.shape)).astype(np.float32)
        wide = scale
        if granularity != PerTensor():
            for axis, (t, n) in enumerate(zip(granularity.tile(x.shape), x.shape, strict=True)):
                wide = np.take(np.repeat(wide, t, axis), range(n), axis)
        got = refquant.quantize(x, scale, fmt=ALL["int8"], granularity=granularity)
        assert np.array_equal(got, np.clip(np.rint(x / wide), -128, 127))


def test_tree_sum_property():
    for n in range(20):
        x = np.random.default_rng(n).standard_normal((3, n)).astype(np.float32)
        padded = np.full((3, 32), np.float32(-0.0))
        padded[:, :n] = x
        while padded.shape[1] > 1:
            padded = padded[:, ::2] + padded[:, 1::2]
        assert sums.tree_sum(x, -1).tobytes() == (padded[:, 0] + np.float32(0)).tobytes()


def test_values_never_warn_nor_mutate():
    x = np.float32([np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, 3e38, -3e38])
    before = x.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scale in np.float32([0, -1, np.inf, np.nan, 1e-45, 1]):
            for fmt in (ALL["int8"], ALL["e4m3fn"], ALL["nf4"], ALL["e8m0fnu"]):
                for convention in (DEFAULT, Affine("inv", "f16", "fma"), Affine("div", "f64", "add", "away", "magic")):
                    codes = refquant.quantize(x, scale, fmt=fmt, convention=convention)
                    for dtype in ("float32", "float16"):
                        refquant.dequantize(codes, scale, fmt=fmt, dtype=dtype)
                    for mask in ("rounded", "ratio"):
                        refquant.fake_quantize_vjp(x, scale, None, x, fmt=fmt, convention=convention, mask=mask)
        refquant.quantize_tensor(x, refquant.QuantSpec(ALL["uint8"], scale=refquant.ScaleRule(zero="int")))
        refquant.quantize(1e300, 1e-300, fmt=ALL["int8"])
    assert x.tobytes() == before


def test_errors():
    x, int8 = np.ones((2, 3), np.float32), ALL["int8"]
    with pytest.raises(TypeError, match="quantize: x has dtype float64, need float32, float16 or bfloat16"):
        refquant.quantize(x.astype(np.float64), 1.0, fmt=int8)
    with pytest.raises(TypeError, match="quantize: scale has dtype float64, need float32"):
        refquant.quantize(x, np.float64(1), fmt=int8)
    with pytest.raises(ValueError, match=r"quantize: scale has shape \(3,\), need \(2, 1\): PerAxis"):
        refquant.quantize(x, np.ones(3, np.float32), fmt=int8, granularity=PerAxis(0))
    with pytest.raises(ValueError, match="zero_point given for e4m3fn"):
        refquant.quantize(x, 1.0, 0, fmt=ALL["e4m3fn"])
    with pytest.raises(TypeError, match="dequantize: codes have dtype int16, need int8"):
        refquant.dequantize(np.int16([1]), 1.0, fmt=int8)
    with pytest.raises(TypeError, match="dequantize: dtype is int8"):
        refquant.dequantize(np.int8([1]), 1.0, fmt=int8, dtype=np.int8)
    with pytest.raises(ValueError, match=r"unpack: packed has shape \(2,\), need \(3,\)"):
        refquant.unpack(np.zeros(2, np.uint8), (3,), fmt=int8)
    with pytest.raises(TypeError, match="quantize: fmt is 'int8', need a format such as formats.ALL"):
        refquant.quantize(x, 1.0, fmt="int8")
    with pytest.raises(ValueError, match="quantize: zero_point is 2147483648, need -2"):
        refquant.quantize(x, 1.0, 2**31, fmt=int8)
    with pytest.raises(ValueError, match="tree_sum: axis is 2"):
        sums.tree_sum(x, 2)


def test_import_needs_numpy_alone():
    code = "import sys, refquant; print(sorted(m for m in ('jax', 'ml_dtypes', 'flax', 'scipy') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
