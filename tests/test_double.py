"""Binary64 and fused quotients in jaxquant, which has no 64-bit arithmetic: where one rounding or two decide."""

from __future__ import annotations

import itertools

import exact_affine
import numpy as np
import pytest
import strategies as some
from bits import assert_same, bits_of

from refquant import affine as ref
from refquant.conventions import Affine
from refquant.formats import ALL, Format

jax = pytest.importorskip("jax")
jaxed, _double, _exact = (pytest.importorskip(f"jaxquant.{name}") for name in ("affine", "_double", "_exact"))

ONE = [Affine(op, "f64", zero) for op in ("div", "inv", "given") for zero in ("int", "add", "fma", "bias")]
QUOTIENTS = [Affine("div", prec, "fma", ties) for prec in ("f32", "f16") for ties in ("even", "trunc")]
CHOSEN = [*ONE, *QUOTIENTS, Affine("div", "f64", "int", "away", "wrap32"), Affine("inv", "f64", "add", "up", "magic"),
          Affine("div", "f64", "add", "trunc", "i64"), Affine("given", "f64", "fma", "down", "i32")]  # fmt: skip
NEAR_TIES = [Affine(prec="f64"), Affine("inv", "f64"), Affine("div", "f64", "add", "away"),
             Affine("div", "f64", "fma", "trunc"), Affine("inv", "f64", "fma"), Affine(zero="fma")]  # fmt: skip


def hard(power: int, seed: int, count: int = 24) -> tuple[np.ndarray, np.float32]:
    """(x, scale): x / scale lies near 2**power, a multiple of 1 / (2 scale) from a half integer, and no multiple of it.

    2 x = r mod scale for integers x and scale and a small r, so such quotients are as near a tie as quotients get.
    """
    draw = np.random.default_rng(seed)
    scale = int(draw.integers(2**23, 2**24)) | 1
    turn = pow(2 ** (power + 1), -1, scale)
    found = [r * turn % scale for r in range(1, 4000)] + [-r * turn % scale for r in range(1, 4000)]
    near = [x for r in range(3999) for x in (found[r], found[r + 3999]) if x > 2**22][:count]
    x = np.float32(near) * np.float32(2.0**power)
    return np.where(np.arange(len(x)) % 3 == 0, -x, x).astype(np.float32), np.float32(scale)


def check_hard_ties(package: object = jaxed) -> None:
    """AFF-2, AFF-3: against Fractions; each x with the zero point that brings its own code into the format."""
    seen = set()
    for power, seed in itertools.product((4, 20, 27, 29, 30), (1, 2)):
        x, scale = hard(power, seed)
        whole = np.rint(x.astype(np.float64) / scale)
        zero = np.clip(3 - whole, -(2**31), 2**31 - 1).astype(np.int32)
        scales = np.full(x.shape, scale)
        for convention in NEAR_TIES:
            options = {"fmt": ALL["int8"], "convention": convention}
            want = [exact_affine.quantize(int(b), int(bits_of(scale)), int(z), **options)
                    for b, z in zip(bits_of(x), zero, strict=True)]  # fmt: skip
            got = package.quantize(x, scales, zero, granularity=some.PerAxis(0), **options)
            seen.add((convention, power, tuple(want)))
            assert_same(np.asarray(got), np.int8(want), inputs={"x": x}, call=f"{convention} near 2**{power}")
    by_power = [len({want for _, p, want in seen if p == power}) for power in (29, 30)]
    assert min(by_power) > 2, "the conventions do not differ here, so nothing was tested"


@pytest.mark.parametrize("package", [ref, jaxed], ids=["refquant", "jaxquant"])
def test_hard_ties_differential(package):
    """AFF-2: x / s rounded to binary64 may be a tie that x / s is not; AFF-3: under "fma" it is none."""
    check_hard_ties(package)


@pytest.mark.parametrize("ulps", [0, 15, -15])
def test_long_division_differential(ulps, monkeypatch):
    """AFF-2: 95 bits of a quotient and whether a rest is left, whatever estimate a device gives."""
    reciprocal, count, draw = _exact.reciprocal, 4096, np.random.default_rng(0)
    monkeypatch.setattr(_exact, "reciprocal", lambda v: _exact.from_bits(_exact.bits(reciprocal(v)) + ulps))
    divisor = draw.integers(2**23, 2**24, count).astype(np.int32)
    divisor[:8] = [2**23, 2**24 - 1] * 4
    dividend = (divisor * draw.uniform(0, 1, count)).astype(np.int32)
    dividend[:8], dividend[8:64], dividend[64:128] = 0, 1, divisor[64:128] - 1
    found = [divmod(int(a) << 95, int(b)) for a, b in zip(dividend, divisor, strict=True)]
    for run in (lambda f: f, jax.jit):
        digits, rest = run(lambda a, b: _double._long_division(a, b))(dividend, divisor)
        got = [sum(int(d) << 19 * (4 - k) for k, d in enumerate(each)) for each in np.transpose(digits)]
        assert got == [quotient for quotient, _ in found] and np.array_equal(rest, [left > 0 for _, left in found])


def boundaries(scale: np.float32, fmt: Format, convention: Affine, zero: int, count: int, seed: int) -> np.ndarray:
    """Within 3 ulp of k and k + 1/2 steps, the clamp's ends and a little beyond; a quarter any bits."""
    draw = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        step = 1 / np.float64(scale) if convention.op == "given" else np.float64(scale)
        at = draw.integers(fmt.qmin - zero - 3, fmt.qmax - zero + 4, count) + draw.choice([0, 0.5], count)
        x = ((at * step).astype(np.float32).view(np.int32) + draw.integers(-3, 4, count, np.int32)).view(np.float32)
    return np.concatenate([some.SPECIAL, x[some.SPECIAL.size : -(count // 4)], some.random_bits(count // 4, seed)])


@pytest.mark.parametrize("convention", CHOSEN, ids=str)
def test_quantize_differential_many(convention):
    """AFF-2..AFF-5: 40,000 inputs a scale and a zero point, at scales far outside of what models have too."""
    fmt = ALL["uint8"]
    zeros = (np.float32(-0.37),) if convention.zero == "bias" else (np.int32(117), np.int32(-(2**30) + 1))
    for scale, zero in itertools.product((0.1, 1 / 3, 2.0**-100, 2.0**60, 1e-40, 3e38), zeros):
        held = np.float32(scale)
        x = boundaries(held, fmt, convention, 0 if convention.zero == "bias" else int(zero), 40_000, 7)
        options = {"fmt": fmt, "convention": convention}
        want = ref.quantize(x, held, zero, **options)
        got = jaxed.quantize(x, held, zero, **options)
        assert_same(got, want, inputs={"x": x}, call=f"{convention} {held!r} {zero!r}")


@pytest.mark.parametrize("convention", CHOSEN[::3], ids=str)
@pytest.mark.parametrize("mask", ["rounded", "ratio"])
def test_vjp_differential_many(convention, mask):
    """STE-2: both masks, zero points at the ends of int32 included; tiny ratios count as 0 under "ratio"."""
    fmt = ALL["int8"]
    zeros = (np.float32(-0.37),) if convention.zero == "bias" else np.int32([5, 2**31 - 1, -(2**31)])
    for scale, zero in itertools.product((0.1, 2.0**-100, 2.0**60), zeros):
        held = np.float32(scale)
        x = boundaries(held, fmt, convention, 0 if convention.zero == "bias" else int(zero), 20_000, 3)
        with np.errstate(over="ignore"):
            x = np.concatenate([x, some.powers() * held])
        options = {"fmt": fmt, "convention": convention, "mask": mask}
        want = ref.fake_quantize_vjp(x, held, zero, np.ones_like(x), **options)
        got = jaxed.fake_quantize_vjp(x, held, zero, np.ones_like(x), **options)
        assert_same(got, want, inputs={"x": x}, call=f"{convention} {held!r} {zero!r}")


@pytest.mark.parametrize("name", ["e4m3fn", "bfloat16", "e8m0fnu", "nf4"])
@pytest.mark.parametrize("op", ["div", "inv", "given"])
def test_real_codes_differential_many(name, op):
    """AFF-6: rounded to binary64, to binary32 and flushed; ratios beside 2**-126 decide the last of these."""
    fmt, draw = ALL[name], np.random.default_rng(4)
    for scale in (0.1, 1 / 3, 2.0**60, 1.1e-38):
        held = np.float32(scale)
        with np.errstate(all="ignore"):
            step = 1 / np.float64(held) if op == "given" else np.float64(held)
            edge = (2.0**-126 * step * np.float64([1, -1])).astype(np.float32)
        x = np.concatenate([some.SPECIAL, some.neighbours(edge, 40), some.random_bits(20_000, 5),
                            draw.standard_normal(20_000).astype(np.float32) * held])  # fmt: skip
        options = {"fmt": fmt, "convention": Affine(op, "f64")}
        want = ref.quantize(x, held, **options)
        assert_same(jaxed.quantize(x, held, **options), want, inputs={"x": x}, call=f"{op} {held!r}")


def test_double_property_of_a_batch_is_of_each():
    """GRA-3: scales a row, zero points a row, under vmap and scan."""
    options = {"fmt": ALL["int8"], "convention": Affine("div", "f64", "add", "away")}
    scales = np.float32([0.1, 1 / 3, 2.0**-20, 1e10])
    zeros = np.int32([3, -7, 100, -128])
    x = np.stack([some.thin(some.near(s, ALL["int8"]), 400)[:400] for s in scales])
    want = np.stack([ref.quantize(*row, **options) for row in zip(x, scales, zeros, strict=True)])
    run = lambda *row: jaxed.quantize(*row, **options)  # noqa: E731
    assert_same(jax.vmap(run)(x, scales, zeros), want)
    assert_same(jax.lax.scan(lambda c, row: (c, run(*row)), 0, (x, scales, zeros))[1], want)
