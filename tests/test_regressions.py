"""Breaks that were found by hand, each kept as the input that showed it."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bits import assert_same

import refquant as rq
from refquant import bits as ref_bits
from refquant import qat as ref_qat
from refquant import requantize as ref_requantize
from refquant.conventions import RESCALES, Affine
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup, PerToken
from refquant.spec import QuantSpec, ScaleRule

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import jaxquant as jq  # noqa: E402
from jaxquant import bits as jax_bits  # noqa: E402
from jaxquant import qat as jax_qat  # noqa: E402
from jaxquant import requantize as jax_requantize  # noqa: E402
from jaxquant.qat.integer import matmul  # noqa: E402

UINT16, UINT8, INT8 = ALL["uint16"], ALL["uint8"], ALL["int8"]


@pytest.mark.parametrize("depth", [6241, 7281, 8321])
def test_pieces_of_a_long_sum_differential(depth: int) -> None:
    """SUM-2: equal pieces could be longer than what is exact in binary32."""
    spec = QuantSpec(ALL["int8_narrow"])
    codes = np.full((depth, 1), 127, np.int8)
    codes[1041:2082], codes[2081], codes[2082:] = -127, -126, 0
    x = np.full((1, depth), 127, np.float32)
    results = [
        layers.dense(x, kind(codes, np.float32(1), None, spec), inputs=spec, input_scale=np.float32(1))
        for layers, kind in ((ref_qat, rq.QTensor), (jax_qat, jq.QTensor))
    ]
    assert_same(results[1], results[0])


@pytest.mark.parametrize(("depth", "largest"), [(6241, 127), (7281, 127), (8321, 127), (1258, 200), (2, 4096), (9, 1)])
def test_every_long_sum_differential(depth: int, largest: int) -> None:
    """SUM-2: an odd sum beyond 2**24 shows a piece that is one product too long."""
    a, b = np.full((1, depth), largest, np.uint16), np.full((depth, 1), largest, np.uint16)
    a[0, 0], b[1, 0] = largest - 1, max(largest - 2, 0)
    got = matmul(jnp.asarray(a), jnp.asarray(b), max_a=largest, max_b=largest)
    assert int(got[0, 0]) == int((a.astype(np.int64) @ b.astype(np.int64))[0, 0])


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


LAYERS = {
    "dense": (_normal(3, 8), (8, 512), lambda layers, *args, **kw: layers.dense(*args, **kw)),
    "conv": (_normal(2, 9, 4), (2, 4, 512), lambda layers, *args, **kw: layers.conv(*args, **kw)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("static", [None, np.float32(0.0123)])
def test_bias_made_by_a_product_differential(name: str, static: np.float32 | None) -> None:
    """GEN-3: a product in the same program as the bias must not fuse with the sum."""
    x, shape, layer = LAYERS[name]
    spec, w = QuantSpec(INT8), _normal(*shape, seed=1)
    g, h = _normal(shape[-1], seed=2), _normal(shape[-1], seed=3)
    kw = {"inputs": spec, "input_scale": static}
    want = layer(ref_qat, x, rq.quantize_tensor(w, spec), g * h, **kw)
    weight = jq.quantize_tensor(w, spec)
    assert_same(jax.jit(lambda x, g, h: layer(jax_qat, x, weight, g * h, **kw))(x, g, h), want)


@pytest.mark.parametrize("op", ["div", "inv", "given"])
def test_offset_made_by_a_product_differential(op: str) -> None:
    """GEN-3, AFF-7, DEQ-2: likewise for a real offset."""
    x, p, q = 3 * _normal(4096), _normal(4096, seed=1), _normal(4096, seed=2)
    scale = np.abs(_normal(4096, seed=3)) + np.float32(0.01)
    kw = {"fmt": UINT16, "granularity": PerAxis(0), "convention": Affine(zero="bias", op=op)}
    codes = rq.quantize(x, scale, p * q, **kw)
    assert_same(jax.jit(lambda x, s, p, q: jq.quantize(x, s, p * q, **kw))(x, scale, p, q), codes)
    del kw["convention"]
    want = rq.dequantize(codes, scale, p * q, **kw)
    assert_same(jax.jit(lambda c, s, p, q: jq.dequantize(c, s, p * q, **kw))(codes, scale, p, q), want)


@pytest.mark.parametrize("fmt", ["int8", "e4m3fn", "nf4"])
@pytest.mark.parametrize("factor", [0.1, 0.3, 1 / 3])
def test_scale_made_by_a_product_differential(fmt: str, factor: float) -> None:
    """GEN-3: (scale * constant) * constant code is not scale * (constant * constant)."""
    scale, factor = np.float32(0.7), np.float32(factor)
    for code in (3, 5, 7, 11):
        codes = np.full(5, code, ALL[fmt].storage)
        want = rq.dequantize(codes, scale * factor, fmt=ALL[fmt])
        assert_same(jax.jit(lambda s, c=codes: jq.dequantize(c, s * factor, fmt=ALL[fmt]))(scale), want)


@pytest.mark.parametrize("factor", [0.1, 0.3, 1 / 3])
def test_multiplier_made_by_a_product_differential(factor: float) -> None:
    """GEN-3, RSC-2: likewise for requantize."""
    scales, factor = np.float32((np.arange(4096) + 0.5) / (33333 * factor)), np.float32(factor)  # next to ties
    kw = {"fmt": ALL["int16"], "rescale": RESCALES["onnxruntime"].point}
    acc = np.full(4096, 33333, np.int32)
    want = ref_requantize.requantize(acc, scales * factor, **kw)
    got = jax.jit(lambda s: jax_requantize.requantize(jnp.full(4096, 33333, jnp.int32), s * factor, **kw))(scales)
    assert_same(got, want)


def test_scales_of_a_bias_made_by_a_product_differential() -> None:
    """GEN-3, LAY-11: likewise for integer_bias."""
    bias, scale = _normal(4096, seed=1), np.abs(_normal(4096)) * np.float32(0.001) + np.float32(1e-4)
    want = ref_qat.integer_bias(bias, scale * np.float32(0.1), np.float32(0.3))
    got = jax.jit(lambda s: jax_qat.integer_bias(bias, s * np.float32(0.1), np.float32(0.3)))(scale)
    assert_same(got, want)


def test_scale_of_a_layer_made_by_a_product_differential() -> None:
    """GEN-3, LAY-1: s_w and s_x as products beside constant codes."""
    spec, x, codes = QuantSpec(INT8), np.full((1, 3), 0.5, np.float32), np.full((3, 1), 7, np.int8)
    tenth, s = np.float32(0.1), np.float32(0.7)
    want = ref_qat.dense(x, rq.QTensor(codes, s * tenth, None, spec), inputs=spec, input_scale=s * tenth)
    got = jax.jit(
        lambda s: jax_qat.dense(x, jq.QTensor(codes, s * tenth, None, spec), inputs=spec, input_scale=s * tenth)
    )(s)
    assert_same(got, want)


@pytest.mark.parametrize("offset", [None, 0.0, -0.0, 1e-40, -1e-40])
def test_sum_with_a_constant_zero_differential(offset: float | None) -> None:
    """AFF-7, DEQ-2: -0 + 0 is +0 and is not simplified to -0; a subnormal offset is a zero."""
    offset = None if offset is None else np.float32(offset)
    codes = np.uint8([0, 0, 1])
    for scale in (-0.5, 0.5):
        if offset is not None:
            want = rq.dequantize(codes, scale, offset, fmt=UINT8)
            got = jax.jit(lambda c, s=scale: jq.dequantize(c, s, offset, fmt=UINT8))(codes)
            assert_same(got, want)
            assert_same(jq.dequantize(codes, scale, offset, fmt=UINT8), want)
        kw = {"fmt": UINT8, "convention": Affine(zero="bias")}
        x = np.float32([0, -0.0, 1e-40, -1e-40])
        want = rq.fake_quantize(x, scale, offset, **kw)
        assert_same(jq.fake_quantize(x, scale, offset, **kw), want)
        assert_same(jax.jit(lambda x, s=scale, kw=kw: jq.fake_quantize(x, s, offset, **kw))(x), want)


@pytest.mark.parametrize("bias", [0.0, -0.0, 1e-40, -1e-40, 2.0**-99 * (1 + 2.0**-23)])
def test_bias_of_zero_or_next_to_the_sum_differential(bias: float) -> None:
    """LAY-1: the zero of a sum, a subnormal bias, and a sum that cancels into the subnormals."""
    spec, scale = QuantSpec(INT8), np.float32(2.0**-50)
    x, codes, bias = np.float32([[1], [-1], [0]]) * scale, np.int8([[-2, 0, 2]]), np.full(3, bias, np.float32)
    results = [
        layers.dense(x, kind(codes, scale, None, spec), bias, inputs=spec, input_scale=scale)
        for layers, kind in ((ref_qat, rq.QTensor), (jax_qat, jq.QTensor))
    ]
    assert_same(results[1], results[0])
    weight = jq.QTensor(codes, scale, None, spec)
    got = jax.jit(lambda x: jax_qat.dense(x, weight, bias, inputs=spec, input_scale=scale))(x)
    assert_same(got, results[0])


def test_subnormal_range_differential() -> None:
    """SCL-8: a subnormal offset is flushed where it is made."""
    spec = QuantSpec(UINT8, scale=ScaleRule("float"))
    x = np.float32([-1e-40, 1e-40, 0])
    ours, theirs = rq.quantize_tensor(x, spec), jq.quantize_tensor(x, spec)
    assert_same(theirs.zero_point, ours.zero_point)
    assert not np.abs(ours.zero_point)
    assert_same(jq.dequantize_tensor(theirs), rq.dequantize_tensor(ours))


WIDE_IDS = [
    np.int64([2**32, 2**32 + 1, -(2**32), 1, -1]),
    np.uint64([2**63, 2**32, 1]),
    np.uint32([2**32 - 1, 2**31, 3]),
    np.int8([-4, -5, 3, 4, -128]),
    2**40,
]


@pytest.mark.parametrize("ids", WIDE_IDS, ids=str)
def test_ids_beyond_int32_differential(ids: object) -> None:
    """LAY-6: 64-bit ids outside the table are NaN, not another row."""
    spec, table = QuantSpec(INT8, PerAxis(0)), np.arange(12, dtype=np.float32).reshape(4, 3)
    want = ref_qat.embed(ids, rq.quantize_tensor(table, spec))
    assert_same(jax_qat.embed(ids, jq.quantize_tensor(table, spec)), want)


POWERS = [2**31, -(2**31), 2**40, 2**70, np.uint32(5), np.uint32(2**31), np.int8([[3], [-7]]), [1, 2, 3, 2**40]]


@pytest.mark.parametrize("k", POWERS, ids=str)
def test_powers_beyond_int32_differential(k: object) -> None:
    """BIT-2: a large power does not wrap, and x and k broadcast against each other."""
    x = np.float32([1.5, -2.0, 0.0, np.inf])
    assert_same(jax_bits.scalb(x, k), ref_bits.scalb(x, k))
    if isinstance(k, np.generic | np.ndarray):
        assert_same(jax_bits.scalb(x, jnp.asarray(k)), ref_bits.scalb(x, k))


def _refusal(call: Callable[[], object]) -> tuple[type, str]:
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    return caught.type, str(caught.value)


WORDS, GEMMLOWP = np.int32([5, -7]), {"fmt": INT8, "rescale": RESCALES["gemmlowp"].point}
X, BYTES = np.float32([1.5, -2.0]), np.int8([1, 2])
REFUSED = [
    ("requantize", "requantize_fixed", (WORDS, 1.5, 0), GEMMLOWP),
    ("requantize", "requantize_fixed", (WORDS, 2**31, 0), GEMMLOWP),
    ("requantize", "requantize_fixed", (WORDS, np.int64(2**32 + 5), 0), GEMMLOWP),
    ("requantize", "requantize_fixed", (WORDS, 2**30, np.float32(1)), GEMMLOWP),
    ("requantize", "requantize_fixed", (WORDS, [2**30, 5], 0), GEMMLOWP),
    ("requantize", "requantize", (WORDS, [0.5]), {"fmt": INT8}),
    ("requantize", "requantize", (WORDS, np.float32(1), 2**31), {"fmt": INT8}),
    ("bits", "ordered_key", (np.float64([1e300]),), {}),
    ("bits", "ordered_key", (np.array([1], ">f4"),), {}),
    ("bits", "scalb", (np.int32([1]), 1), {}),
    ("bits", "flush", ([1.0],), {}),
    ("affine", "quantize", (X, 0.5, 2**31), {"fmt": INT8}),
    ("affine", "quantize", (X, 0.5, 1.0), {"fmt": INT8}),
    ("affine", "quantize", (X, X, np.int8(1)), {"fmt": INT8}),
    ("affine", "quantize", (X, X[:1], 1), {"fmt": ALL["e4m3fn"]}),
    ("affine", "dequantize", (BYTES, 0.5, -(2**31) - 1), {"fmt": INT8}),
    ("affine", "dequantize", (np.int16([1]), 1.0), {"fmt": INT8, "dtype": "float64"}),
    ("affine", "fake_quantize_vjp", (X, 0.5, 2**70, X), {"fmt": INT8}),
    ("qtensor", "quantize_tensor", (np.float64([1]), QuantSpec(INT8)), {}),
    ("packing", "unpack", ([1, 2], (2,)), {"fmt": INT8}),
    ("packing", "unpack", (np.uint8(7), ()), {"fmt": INT8}),
    ("rounding", "round_stochastic", (X, [1, 2]), {}),
    ("rounding", "round_stochastic", (X, 5), {}),
]


@pytest.mark.parametrize(("module", "function", "arguments", "options"), REFUSED, ids=[r[1] for r in REFUSED])
def test_refusals_differential(module: str, function: str, arguments: tuple, options: dict) -> None:
    """GEN-5: the same type and text from both packages, and the first of two errors."""
    ours, theirs = (
        _refusal(lambda at=package: getattr(importlib.import_module(f"{at}.{module}"), function)(*arguments, **options))
        for package in ("refquant", "jaxquant")
    )
    assert theirs == ours
    assert ours[1].startswith(f"{function}: ")


def wide() -> None:
    """Both packages, where JAX makes Python ints 64 bits wide."""
    x = np.float32([[1.5, -2, 3e9, 0.1], [np.nan, -np.inf, 1e-40, 0]])
    calls = [
        ("affine", "quantize", (x, 0.5, 3), {"fmt": INT8, "convention": Affine(op="inv", zero="fma")}),
        ("affine", "quantize", (x, 0.5, 3), {"fmt": INT8, "convention": Affine(overflow="magic")}),
        ("affine", "fake_quantize", (x, 0.5, 3), {"fmt": INT8, "convention": Affine(prec="f16", zero="add")}),
        ("affine", "fake_quantize", (x, 0.5, 3.0), {"fmt": INT8, "convention": Affine(zero="bias")}),
        *(("codec", "encode", (x,), {"fmt": ALL[name]}) for name in ("e4m3fn", "nf4", "int4")),
        ("codec", "decode", (np.arange(256, dtype=np.uint8),), {"fmt": ALL["e4m3fn"]}),
        *(("requantize", "requantize", (np.int32([33333, -7]), np.float32(0.3)), {"fmt": INT8, "rescale": preset.point})
          for preset in RESCALES.values()),
        ("rounding", "round_stochastic", (x, np.zeros(x.shape, np.uint32)), {}),
        ("bits", "scalb", (x, 3), {}),
        ("bits", "ordered_key", (x,), {}),
    ]  # fmt: skip
    for module, function, arguments, options in calls:
        want, got = (
            getattr(importlib.import_module(f"{at}.{module}"), function)(*arguments, **options)
            for at in ("refquant", "jaxquant")
        )
        assert_same(got, want, call=f"{module}.{function} {options}")
    _wide_layers()
    _wide_calibration(x)


def _wide_layers() -> None:
    x, w = _normal(2, 8), _normal(8, 3, seed=1)
    for spec in (QuantSpec(ALL["int16"]), QuantSpec(INT8, PerGroup(0, 3), ScaleRule("int"))):
        kw = {"inputs": QuantSpec(INT8, PerToken(), ScaleRule("int"))}
        want = ref_qat.dense(x, rq.quantize_tensor(w, spec), **kw)
        assert_same(jax_qat.dense(x, jq.quantize_tensor(w, spec), **kw), want)
    ids = np.int64([1, -1, 9, 2**32])
    assert_same(
        jax_qat.embed(ids, jq.quantize_tensor(w, spec)), ref_qat.embed(ids, rq.quantize_tensor(w, spec)), call="embed"
    )


def _wide_calibration(x: np.ndarray) -> None:
    for name, options in (("minmax", {}), ("ema", {}), ("percentile", {"millionths": 990000})):
        results = []
        for at in ("refquant", "jaxquant"):
            home = importlib.import_module(f"{at}.calibration.{name}")
            state = importlib.import_module(f"{at}.calibration.{'histogram' if name == 'percentile' else name}")
            seen = state.merge(state.update(state.init(), x), state.update(state.init(), x * np.float32(2)))
            results.append(home.finalize(seen, **options))
        for got, want in zip(results[1], results[0], strict=True):
            assert_same(got, want, call=name)


def test_where_jax_has_64_bits_differential() -> None:
    """GEN-1: jax_enable_x64 changes no bit."""
    code = "import sys; sys.path[:0] = ['tests', '.']; import test_regressions; test_regressions.wide()"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_strict_promotion_of_requantize_differential() -> None:
    """jax_numpy_dtype_promotion "strict" has no sum of a bool and an integer."""
    kw = {"fmt": INT8, "rescale": RESCALES["gemmlowp"].point}
    acc = np.int32([5, -7, 2**31 - 1, -(2**31)])
    with jax.numpy_dtype_promotion("strict"):
        got = jax_requantize.requantize(acc, 0.3, **kw)
    assert_same(got, ref_requantize.requantize(acc, 0.3, **kw))
