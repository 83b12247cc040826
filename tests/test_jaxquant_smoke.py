"""A few sanity checks of jaxquant against NumPy expressions written here; the full suites compare with refquant."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax")
import jax
import jax.numpy as jnp
import ml_dtypes
from jax import lax

import jaxquant
from jaxquant import PerAxis, PerGroup, PerTensor, QuantSpec, ScaleRule
from refquant.formats import ALL

RNG = np.random.default_rng(3)
SCALE = np.float32(0.03)
STEPS = (RNG.integers(-300, 300, (8, 256)) / 2).astype(np.float32)
X = (STEPS * SCALE).astype(np.float32)
X = (X.view(np.int32) + RNG.integers(-2, 3, X.shape).astype(np.int32) * (X != 0)).view(np.float32)
INT8 = ALL["int8"]


def codes_of(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x / scale), -128, 127).astype(np.int8)


def same(got: object, want: np.ndarray) -> None:
    got = np.asarray(got)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert got.tobytes() == want.tobytes(), f"{int((got != want).sum())} of {want.size} differ"


def test_quantize_differential() -> None:
    same(jaxquant.quantize(X, SCALE, fmt=INT8), codes_of(X, SCALE))


@pytest.mark.parametrize("size", [128, 100])
def test_quantize_groups_differential(size: int) -> None:
    scale = RNG.uniform(0.01, 0.05, (8, -(-256 // size))).astype(np.float32)
    wide = np.repeat(scale, size, axis=1)[:, :256]
    got = jaxquant.quantize(X, scale, fmt=INT8, granularity=PerGroup(1, size))
    same(got, codes_of(X, wide))
    same(jaxquant.dequantize(got, scale, fmt=INT8, granularity=PerGroup(1, size)), np.asarray(got) * wide)


def test_fake_quantize_differential() -> None:
    """In float32 and, rounded once more, in the dtype of x."""
    same(jaxquant.fake_quantize(X, SCALE, fmt=INT8), codes_of(X, SCALE) * SCALE)
    half = X.astype(ml_dtypes.bfloat16)
    want = (codes_of(half.astype(np.float32), SCALE) * SCALE).astype(ml_dtypes.bfloat16)
    same(jaxquant.fake_quantize(half, SCALE, fmt=INT8), want)


def test_gradient_differential() -> None:
    """The clip-STE gradient, under jit and grad, none for the scale and zero point."""

    def loss(x: jax.Array, scale: jax.Array, zero_point: jax.Array) -> jax.Array:
        return jnp.vdot(jaxquant.fake_quantize(x, scale, zero_point, fmt=INT8), jnp.asarray(STEPS))

    by_x, by_scale = jax.jit(jax.grad(loss, (0, 1)))(X, SCALE, jnp.int32(3))
    whole = np.rint(X / SCALE) + 3
    want = np.where((whole >= -128) & (whole <= 127), STEPS, np.float32(0))
    same(by_x, want)
    same(by_scale, np.zeros((), np.float32))
    same(jaxquant.fake_quantize_vjp(X, SCALE, jnp.int32(3), STEPS, fmt=INT8), want)


def test_transforms_differential() -> None:
    """Inside vmap, scan and checkpoint the codes are the same."""
    want = codes_of(X, SCALE)
    quantize = lambda x, s: jaxquant.quantize(x, s, fmt=INT8)  # noqa: E731
    same(jax.jit(jax.vmap(quantize, (0, None)))(X, SCALE), want)
    same(jax.vmap(quantize)(X, np.full(8, SCALE)), want)
    same(lax.scan(lambda s, x: (s, quantize(x, s)), jnp.asarray(SCALE), jnp.asarray(X))[1], want)
    same(jax.jit(jax.checkpoint(quantize))(X, SCALE), want)


def test_bait_differential() -> None:
    """A sum after fake_quantize is not fused into it; a bfloat16 result stays rounded."""
    want = codes_of(X, SCALE) * SCALE
    same(jax.jit(lambda x, s: jaxquant.fake_quantize(x, s, fmt=INT8) + x)(X, SCALE), want + X)
    codes = codes_of(X, SCALE)
    same(jax.jit(lambda c, y: jaxquant.dequantize(c, SCALE, fmt=INT8) + y)(codes, X), want + X)
    low = jax.jit(lambda c, s: jaxquant.dequantize(c, s, fmt=INT8, dtype="bfloat16").astype(jnp.float32) * 3)
    same(low(codes, SCALE), want.astype(ml_dtypes.bfloat16).astype(np.float32) * np.float32(3))


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e2m1fn", "e2m3fn", "e3m2fn", "e8m0fnu", "bfloat16"])
def test_codec_exhaustive(name: str) -> None:
    """Every code, decoded as ml_dtypes does and encoded back."""
    fmt = ALL[name]
    prefix = {2: "float4_", 3: "float6_", 4: "float8_", 5: "float8_", 8: "float8_"}.get(fmt.exponent_bits, "")
    prefix = {"e3m2fn": "float6_", "e2m3fn": "float6_", "bfloat16": ""}.get(name, prefix)
    codes = np.arange(1 << fmt.bits, dtype=fmt.storage)
    want = codes.view(getattr(ml_dtypes, prefix + name)).astype(np.float32)
    got = np.asarray(jaxquant.decode(codes, fmt=fmt))
    finite = np.isfinite(want)
    same(got[finite], want[finite])
    assert np.array_equal(np.isnan(got), np.isnan(want))
    same(np.asarray(jaxquant.encode(want, fmt=fmt))[finite], codes[finite])


def test_codebook_exhaustive() -> None:
    """Each value is its own nearest; nf4's first positive threshold is halfway."""
    for name in ("nf4", "af4", "fp4_bnb", "dynamic8"):
        values = np.float32(ALL[name].values)
        codes = np.asarray(jaxquant.encode(values, fmt=ALL[name]))
        same(np.asarray(jaxquant.decode(codes, fmt=ALL[name])), values + np.float32(0))


@pytest.mark.parametrize("name", sorted(ALL))
def test_packing_property(name: str) -> None:
    fmt = ALL[name]
    low = getattr(fmt, "qmin", 0)
    codes = RNG.integers(low, low + (1 << fmt.bits) - 1, (5, 7)).astype(fmt.storage)
    packed = jaxquant.pack(codes, fmt=fmt)
    assert packed.shape == (-(-35 * fmt.bits // 8),)
    same(jaxquant.unpack(packed, (5, 7), fmt=fmt), codes)


def test_quantize_tensor_differential() -> None:
    """Symmetric: absmax / 127 per channel; a QTensor is a pytree that crosses jit."""
    scale = np.abs(X).max(axis=1, keepdims=True) / np.float32(127)
    q = jax.jit(jaxquant.quantize_tensor, static_argnums=1)(X, QuantSpec(INT8, PerAxis(0)))
    same(q.scale, scale)
    same(q.codes, codes_of(X, scale))
    same(jax.jit(jaxquant.dequantize_tensor)(q), codes_of(X, scale) * scale)


def test_asymmetric_differential() -> None:
    low, high = np.minimum(X.min(), np.float32(0)), X.max()
    scale = (high - low) / np.float32(15)
    zero = np.clip(0 - np.rint(low / scale), 0, 15).astype(np.int32)
    q = jaxquant.quantize_tensor(X, QuantSpec(ALL["uint4"], PerTensor(), ScaleRule(zero="int")))
    same(q.scale, np.asarray(scale))
    same(q.zero_point, np.asarray(zero))
    same(q.codes, (np.clip(np.rint(X / scale), 0 - zero, 15 - zero) + zero).astype(np.uint8))


def test_one_compilation_property() -> None:
    """A Python float, np.float32, a strong and a weak JAX scalar share one compilation, and so do two equal axes."""
    x = np.ones((3, 5, 7), np.float32)
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    scales = (0.25, 1, np.float32(2), np.asarray(2, np.float32), jnp.float32(3), jnp.asarray(0.5))
    jaxquant.quantize(x, 0.5, fmt=INT8)
    before = len(compiled)
    for scale in scales:
        jaxquant.quantize(x, scale, fmt=INT8).block_until_ready()
    assert before > 0
    assert len(compiled) - before <= 1, "only the conversion of a weak scalar may compile"


def test_errors_golden() -> None:
    with pytest.raises(TypeError, match="quantize: x has dtype float64, need float32"):
        jaxquant.quantize(X.astype(np.float64), 1.0, fmt=INT8)
    with pytest.raises(TypeError, match="quantize: scale has dtype float64, need float32"):
        jaxquant.quantize(X, np.float64(1), fmt=INT8)
    with pytest.raises(ValueError, match=r"quantize: scale has shape \(4,\), need \(8, 1\): PerAxis"):
        jaxquant.quantize(X, np.ones(4, np.float32), fmt=INT8, granularity=PerAxis(0))
