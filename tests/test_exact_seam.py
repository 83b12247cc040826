"""Witnesses of the guards in jaxquant/_exact.py and _fused.py: each in every context in which XLA might undo it.

Expectations are plain NumPy.  A case is a function of arrays that share a leading axis and of scalars.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
import jax
import jax.numpy as jnp
import ml_dtypes
from jax import lax
from seam_contexts import BF16, check, f32, wrong

from jaxquant import _exact, _fused
from jaxquant._constants import at_least, at_most, constant

N = 4096
RNG = np.random.default_rng(7)
NEAR = RNG.integers(-2, 3, N).astype(np.int32)


def near(values: np.ndarray) -> np.ndarray:
    """Each value moved by at most 2 ulp."""
    moved = (f32(values).view(np.int32) + NEAR[: values.size]).view(np.float32)
    return np.where(values == 0, np.float32(0), moved)


SCALE = np.float32(0.0371)
HALVES = near(f32(RNG.integers(-128, 128, N) + 0.5) * SCALE)
ANY = RNG.integers(0, 2**32, N, dtype=np.uint32).view(np.float32)
SPECIAL = f32([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.1754942e-38, -1.1754942e-38, 1.1754944e-38])
ANY[: SPECIAL.size * 8] = np.tile(SPECIAL, 8)
NORMAL, POSITIVE = f32(RNG.normal(size=N)), f32(RNG.uniform(1, 2, N))
BYTES = np.arange(N).astype(np.uint8)
CODES = RNG.integers(-128, 128, N).astype(np.int8)
HALF = NORMAL.astype(BF16)
OTHER = (f32(RNG.normal(size=N)) * np.float32(3)).astype(BF16)
ROWS = f32(RNG.normal(size=(64, 13)))
POWERS = RNG.integers(-300, 300, N).astype(np.int32)


# --- cases ----------------------------------------------------------------------------------------------------------

with np.errstate(all="ignore"):
    QUOTIENT = f32(NORMAL / POSITIVE)
    BF16_SUM = (f32(HALF) + f32(OTHER)).astype(BF16)
    DIV = {
        "by a scalar": (lambda x, s: _exact.div(x, s), (HALVES, SCALE), HALVES / SCALE),
        "by a row": (lambda x, s: _exact.div(x, s), (HALVES, np.full(N, SCALE)), HALVES / SCALE),
        "by a constant": (lambda x: _exact.div(x, jnp.float32(127)), (HALVES,), HALVES / np.float32(127)),
        "by a quotient": (
            lambda x, a, b: _exact.div(x, _exact.div(a, b)),
            (HALVES, NORMAL, POSITIVE),
            HALVES / QUOTIENT,
        ),
        "of a product with a constant": (
            lambda x, s: _exact.div(x * jnp.float32(1.1), s),
            (HALVES, SCALE),
            (HALVES * np.float32(1.1)) / SCALE,
        ),
        "of bytes": (lambda u, s: _exact.div(u.astype(jnp.float32), s), (BYTES, SCALE), f32(BYTES) / SCALE),
        "then a sum": (lambda x, s: _exact.div(x, s) + x, (HALVES, SCALE), HALVES / SCALE + HALVES),
        "of groups": (
            lambda x, s: _exact.div(x, s[..., None]),
            (HALVES.reshape(-1, 8), np.full(N // 8, SCALE)),
            HALVES.reshape(-1, 8) / SCALE,
        ),
        "one by a square root": (
            lambda v: _exact.reciprocal(jnp.sqrt(v)),
            (POSITIVE,),
            np.float32(1) / np.sqrt(POSITIVE),
        ),
    }
    PRODUCT = {
        "and x": (lambda x, s: _exact.rounded(x * s) + x, (HALVES, SCALE), HALVES * SCALE + HALVES),
        "and a row": (
            lambda x, y, z: _exact.rounded(x * y) + z,
            (NORMAL, POSITIVE, HALVES),
            NORMAL * POSITIVE + HALVES,
        ),
        "from what it was subtracted": (
            lambda x, y, z: z - _exact.rounded(x * y),
            (NORMAL, POSITIVE, HALVES),
            HALVES - NORMAL * POSITIVE,
        ),
        "of codes and a constant": (
            lambda c, y: _exact.rounded(c.astype(jnp.float32) * jnp.float32(SCALE)) + y,
            (CODES, NORMAL),
            f32(CODES) * SCALE + NORMAL,
        ),
        "of codes and a scale": (
            lambda c, y, s: _exact.rounded(c.astype(jnp.float32) * s) + y,
            (CODES, NORMAL, SCALE),
            f32(CODES) * SCALE + NORMAL,
        ),
        "of bytes and a scale": (
            lambda c, y, s: _exact.rounded(c.astype(jnp.float32) * s) + y,
            (BYTES, NORMAL, SCALE),
            f32(BYTES) * SCALE + NORMAL,
        ),
        "with two constants": (
            lambda x: _exact.rounded(x * jnp.float32(1.1)) * jnp.float32(1.3),
            (NORMAL,),
            NORMAL * np.float32(1.1) * np.float32(1.3),
        ),
    }


def _tree(rows: np.ndarray) -> np.ndarray:
    size = 1 << (rows.shape[-1] - 1).bit_length()
    rows = np.pad(rows, ((0, 0), (0, size - rows.shape[-1])), constant_values=-0.0)
    while rows.shape[-1] > 1:
        rows = rows[:, ::2] + rows[:, 1::2]
    return rows[:, 0] + np.float32(0)


def _scaled(x: np.ndarray, k: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.ldexp(x.astype(np.float64), np.clip(k, -600, 600)).astype(np.float32)


@pytest.mark.parametrize("case", DIV)
def test_div_differential(case: str) -> None:
    check(*DIV[case])


SPLATS = {
    "one number": (lambda v, r, s: _exact.div(jnp.full((3, 5), v), s), lambda v, r, s: np.full((3, 5), v / s)),
    "rows": (lambda v, r, s: _exact.div(jnp.broadcast_to(r, (6, 5)), s), lambda v, r, s: np.tile(r / s, (6, 1))),
    "columns": (
        lambda v, r, s: _exact.div(jnp.broadcast_to(r[:, None], (5, 6)), jnp.broadcast_to(s, (5, 1))),
        lambda v, r, s: np.repeat((r / s)[:, None], 6, 1),
    ),
    "vmap": (
        lambda v, r, s: jax.vmap(jax.vmap(lambda x: _exact.div(x, s)))(jnp.full((6, 5), v)),
        lambda v, r, s: np.full((6, 5), v / s),
    ),
    "vmap of divisors": (
        lambda v, r, s: jax.vmap(lambda d: _exact.div(r, d))(jnp.full(6, s)),
        lambda v, r, s: np.tile(r / s, (6, 1)),
    ),
}


@pytest.mark.parametrize("name", SPLATS)
def test_div_of_broadcasts_differential(name: str) -> None:
    """A dividend that is a broadcast leaves a divisor that depends on it one too."""
    function, want = SPLATS[name]
    row = np.float32([0.3, -1.7, 2.25, 0.77, 5.1])
    found = [(jax.jit(function)(v, row, s), want(v, row, s)) for s in np.float32([7, 15, 127, 0.3]) for v in row]
    assert [wrong(got, right) for got, right in found] == [0] * len(found)


def test_div_of_a_quotient_differential() -> None:
    """(a / b) / s is not a / (b * s); with a constant b the inner quotient is not ours to keep."""
    want = QUOTIENT / SCALE
    done = jax.jit(lambda a, b, s: _exact.div(a / b, s))(NORMAL, POSITIVE, SCALE)
    rows = [v.reshape(8, -1) for v in (NORMAL, POSITIVE)]
    mapped = jax.jit(jax.vmap(lambda a, b, s: _exact.div(a / b, s), (0, 0, None)))(*rows, SCALE)
    constant = jax.jit(lambda a, b: _exact.div(a / b, SCALE))(NORMAL, POSITIVE)
    assert [wrong(v, want) for v in (done, jnp.ravel(mapped), constant)] == [0, 0, 0]


@pytest.mark.parametrize("case", PRODUCT)
def test_rounded_differential(case: str) -> None:
    check(*PRODUCT[case])


@pytest.mark.parametrize("case", ["sum", "product", "cast"])
def test_widen_differential(case: str) -> None:
    """A bfloat16 producer is rounded before it is widened."""
    if case == "cast":
        check(lambda a: _exact.widen(a.astype(jnp.bfloat16)), (NORMAL,), f32(NORMAL.astype(BF16)))
        check(lambda a: _exact.widen(a.astype(jnp.float16)), (NORMAL,), f32(NORMAL.astype(np.float16)))
        return
    produce = jnp.add if case == "sum" else jnp.multiply
    made = BF16_SUM if case == "sum" else (f32(HALF) * f32(OTHER)).astype(BF16)
    check(lambda a, b: _exact.widen(produce(a, b)), (HALF, OTHER), f32(made))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_widen_exhaustive(dtype: str) -> None:
    values = np.arange(65536, dtype=np.uint16).view(BF16 if dtype == "bfloat16" else np.float16)
    assert wrong(jax.jit(_exact.widen)(values), f32(values)) == 0
    assert wrong(_exact.widen(jnp.asarray(values)), f32(values)) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_differential(dtype: str) -> None:
    """The rounding stays where the caller widens again, and subnormals are rounded, not flushed."""
    target = BF16 if dtype == "bfloat16" else np.float16
    with np.errstate(all="ignore"):
        check(lambda x: _exact.narrow(x, dtype), (ANY,), ANY.astype(target))
        again = f32((HALVES * SCALE).astype(target))
    check(lambda x, s: _exact.narrow(x * s, dtype).astype(jnp.float32), (HALVES, SCALE), again)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_cast_differential(dtype: str) -> None:
    target = BF16 if dtype == "bfloat16" else np.dtype(dtype)
    with np.errstate(all="ignore"):
        check(lambda x: _exact.cast(x, dtype), (ANY,), ANY.astype(target))
    check(lambda x, s, r: _exact.cast(_exact.rounded(x * s), dtype).astype(jnp.float32) + r,
          (HALVES, SCALE, np.float32(-1)), f32((HALVES * SCALE).astype(target)) + np.float32(-1))  # fmt: skip


def test_flush_differential() -> None:
    tiny = (ANY.view(np.uint32) & 0x7FFFFFFF) < 0x00800000
    check(lambda x: _exact.flush(x), (ANY,), np.where(tiny, np.copysign(np.float32(0), ANY), ANY))


def _flushed(x: np.ndarray) -> np.ndarray:
    return np.where((x.view(np.uint32) & 0x7FFFFFFF) < 0x00800000, np.copysign(np.float32(0), x), x)


def test_select_differential() -> None:
    """Beside an array and beside one number, by the bits: a comparison of floats would flush its operands."""
    above = ANY.view(np.int32) > 0
    check(lambda x: _exact.select(_exact.bits(x) > 0, x, -x), (ANY,), np.where(above, ANY, -ANY))
    check(
        lambda x: _exact.select(_exact.bits(x) > 0, x, jnp.float32(-0.0)),
        (ANY,),
        np.where(above, ANY, np.float32(-0.0)),
    )


def test_add_differential() -> None:
    """Zeros of both signs, sums that cancel into the subnormals, and a zero that is a constant."""
    edge = np.uint32([0, 0x80000000, 0x03800000, 0x83800000, 0x3F800000, 0xBF800000, 0x7F800000]).view(np.float32)
    b = np.concatenate([edge, np.uint32([1, 0x80000001, 0x807FFFFF, 0x03800001, 0x83800001]).view(np.float32)])
    a, b = np.repeat(edge, 16), np.resize(b, (7, 16)).ravel()
    with np.errstate(all="ignore"):
        check(lambda a, b: _exact.add(a, b), (a, b), _flushed(a + _flushed(b)))
        for b, of in ((HALVES, HALVES), (CODES, f32(CODES))):  # a product of integers is never subnormal
            check(lambda a, b, s: _exact.add(a, b.astype(jnp.float32) * s), (NORMAL, b, SCALE), NORMAL + of * SCALE)
        for zero in np.float32([0.0, -0.0, 1e-40]):
            check(lambda a, b=zero: _exact.add(a, b), (a,), _flushed(a + _flushed(zero)), eager=False)


def test_is_nan_differential() -> None:
    check(lambda x: _exact.is_nan(x).astype(jnp.int8), (ANY,), np.isnan(ANY).astype(np.int8))


def test_bits_differential() -> None:
    """The bits are those of the rounded value, in and out."""
    with np.errstate(all="ignore"):
        want = (HALVES * SCALE).view(np.int32) + 1
    check(lambda x, s: _exact.bits(x * s) + 1, (HALVES, SCALE), want)
    check(lambda x: _exact.from_bits(_exact.bits(x) ^ 1), (ANY,), (ANY.view(np.int32) ^ 1).view(np.float32))


def test_tree_sum_differential() -> None:
    check(lambda x: _exact.tree_sum(x, -1), (ROWS,), _tree(ROWS))
    check(lambda x, s: _exact.tree_sum(x * s, -1), (ROWS, SCALE), _tree(ROWS * SCALE), eager=False)
    for shape in ((8, 4), (8, 1), (8, 0)):
        assert wrong(_exact.tree_sum(jnp.full(shape, -0.0), -1), np.zeros(8, np.float32)) == 0
    wide = f32(RNG.normal(size=(3, 1500)))
    assert wrong(jax.jit(lambda x: _exact.tree_sum(x, 1))(wide), _tree(wide)) == 0
    signs = RNG.choice(f32([0, -0.0, 1, -1]), (64, 3))
    for parts in (*(tuple(ROWS.T[:count]) for count in (1, 2, 3, 5)), tuple(signs.T)):
        rows = np.stack(parts, -1)
        check(lambda *parts: _exact.tree_sum_of(list(parts)), parts, _tree(rows))
        scaled = lambda s, *parts: _exact.tree_sum_of([part * s for part in parts])  # noqa: E731
        check(scaled, (SCALE, *parts), _tree(rows * SCALE), eager=False)


def test_scalb_differential() -> None:
    check(lambda x, k: _exact.scalb(x, k), (ANY, POWERS), _scaled(ANY, POWERS), eager=False)
    near_one = f32(np.exp2(RNG.uniform(-3, 3, N)))
    down = RNG.integers(-152, -120, N).astype(np.int32)
    assert wrong(jax.jit(_exact.scalb)(near_one, down), _scaled(near_one, down)) == 0


def test_small_integer_differential() -> None:
    halves = near(f32(RNG.integers(-(2**17), 2**17, N) / 2))
    check(lambda x: _exact.small_integer(x), (halves,), np.rint(halves).astype(np.int32))
    products = HALVES * np.float32(1 / SCALE)
    check(lambda x, r: _exact.small_integer(x * r), (HALVES, np.float32(1 / SCALE)), np.rint(products).astype(np.int32))
    for most in (np.float32(0), np.float32(100.5)):
        below = np.rint(np.minimum(products, most)).astype(np.int32)
        check(lambda x, r, m=most: _exact.small_integer(x * r, m), (HALVES, np.float32(1 / SCALE)), below)


def test_clamps_differential() -> None:
    """Beside one number and beside a row; where x is NaN the answer is the end (subnormals may count as zeros)."""
    x = np.where(_flushed(ANY) == 0, np.float32(0), ANY)
    for end in (np.float32(-3), near(np.full(N, SCALE))):
        check(lambda x, e: at_least(x, e), (x, end), np.where(x > end, x, end))
        check(lambda x, e: at_most(x, e), (x, end), np.where(x < end, x, end))
    check(lambda x: at_most(at_least(x, -3.0), 7.0), (x,), np.where(np.isnan(x), -3, np.clip(x, -3, 7)))


@pytest.mark.parametrize("ulps", [0, 7, -7])
def test_square_root_differential(ulps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """LSP-5: correctly rounded next to squares, on powers of two and on any bits, whatever estimate a device gives."""
    estimate = jnp.sqrt
    monkeypatch.setattr(jnp, "sqrt", lambda v: lax.bitcast_convert_type(_exact.bits(estimate(v)) + ulps, jnp.float32))
    squares = f32(np.arange(1, 2049) ** 2)
    edges = f32([*np.ldexp(1.0, np.arange(-149, 128)), 0, np.inf, np.nan])
    drawn = np.random.default_rng(0).integers(0, 0x7F800000, 8192, dtype=np.uint32).view(np.float32)
    below, above = np.nextafter(squares, f32(0)), np.nextafter(squares, f32(np.inf))
    x = np.concatenate([squares, below, above, edges, drawn])
    root = lambda v: _exact.square_root(v)  # noqa: E731 - its own, or jit knows it with another estimate
    assert wrong(jax.jit(root)(x), np.sqrt(x)) == 0
    few = np.concatenate([squares[-512:], below[-512:], edges[-3:], drawn[:3069]])
    check(root, (few,), np.sqrt(few), eager=False)


def test_fma_differential() -> None:
    """Against Fractions: products near an integer or a half, with cancellation."""
    count = 512
    c = f32(RNG.integers(-300, 300, count))
    b = f32(np.exp2(RNG.uniform(-8, 8, count)))
    a = near(f32((RNG.integers(-600, 600, count) / 2 - c) / b))
    want = f32(
        [
            _nearest(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)))
            for x, y, z in zip(a, b, c, strict=True)
        ]
    )
    check(lambda a, b, c: _fused.fma(a, b, c), (a, b, c), want, eager=False)


def _nearest(value: Fraction) -> float:
    """The binary32 number nearest to a normal value, ties to even."""
    if value == 0:
        return 0.0
    exponent = abs(value).numerator.bit_length() - abs(value).denominator.bit_length() - 25
    while abs(value) / Fraction(2) ** exponent >= 2**24:
        exponent += 1
    return float(round(value / Fraction(2) ** exponent) * Fraction(2) ** exponent)


def test_constant_differential() -> None:
    """The values of its function in every context, and no scan loses them to the outside when it is differentiated."""
    x = f32([[-1, 2, np.nan], [0, -0.0, np.inf]])
    for call in (lambda f: f(x), lambda f: jax.jit(f)(x), lambda f: jax.vmap(f)(x), lambda f: jax.vmap(f, 1, 1)(x)):
        got = call(lambda v: constant(jnp.full, v, 3, np.dtype("int32")))
        np.testing.assert_array_equal(got, np.full(x.shape, 3, np.int32))
    assert _constants_outside_of_a_scan(lambda v: jnp.where(v > 0, v, jnp.float32(3)))
    assert not _constants_outside_of_a_scan(lambda v: _exact.select(v > 0, v, 3))


def _constants_outside_of_a_scan(step: Callable) -> bool:
    """Whether a part of the step that depends on nothing is a function of its own in the gradient of a scan."""

    @jax.jit
    def marked(v: jax.Array) -> jax.Array:
        return step(v)

    through = jax.custom_vjp(marked)
    through.defvjp(lambda v: (marked(v), v), lambda v, flowing: (flowing * marked(v),))

    def loss(v: jax.Array) -> jax.Array:
        return lax.scan(lambda carry, _: (carry + through(carry), None), v, length=3)[0].sum()

    return "@marked()" in jax.jit(jax.grad(loss)).lower(jnp.ones(4)).as_text()


OWN = {n: f for m in (_exact, _fused) for n, f in vars(m).items() if getattr(f, "__module__", "") == m.__name__}


@pytest.mark.parametrize("name", [n for n in OWN if n[0] != "_"])
def test_every_guard_names_its_witness(name: str) -> None:
    """By property of the file: the docstring's witness exists here."""
    if name == "significand_of":
        return
    witness = (inspect.getdoc(OWN[name]) or "").split("Witness: ")
    assert len(witness) == 2, f"{name} names no witness"
    assert witness[1].split(".")[0].strip() in globals()


def test_hazard_is_real() -> None:
    """Without the guards the same cases differ here; a compiler that never errs makes this file vacuous."""
    plain = {"div": lambda x, s: x / s, "sum": lambda x, s: x * s + x}
    want = {"div": HALVES / SCALE, "sum": HALVES * SCALE + HALVES}
    seen = {k: wrong(jax.jit(f)(HALVES, SCALE), want[k]) for k, f in plain.items()}
    if not any(seen.values()):
        pytest.skip(f"this device shows none of the hazards: {seen}")


# --- eight devices --------------------------------------------------------------------------------------------------


def sharded() -> None:
    """Every case with its arrays split over eight devices; run in a process of its own."""
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    over, everywhere = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*p)) for p in (("rows",), ()))
    cases = {**{f"div {k}": v for k, v in DIV.items()}, **{f"rounded {k}": v for k, v in PRODUCT.items()}}
    cases["tree_sum of rows"] = (lambda x: _exact.tree_sum(x, -1), (ROWS,), _tree(ROWS))
    cases["tree_sum of columns"] = (lambda x: _exact.tree_sum(x, 0), (ROWS,), _tree(np.ascontiguousarray(ROWS.T)))
    cases["widen"] = (lambda a, b: _exact.widen(a + b), (HALF, OTHER), f32(BF16_SUM))
    cases["scalb"] = (lambda x, k: _exact.scalb(x, k), (ANY, POWERS), _scaled(ANY, POWERS))
    for name, (f, args, want) in cases.items():
        placed = [jax.device_put(a, over if np.ndim(a) else everywhere) for a in args]
        assert wrong(jax.jit(f)(*placed), want) == 0, name


def _in_a_process(function: str, **env: str) -> None:
    root = Path(__file__).parent.parent
    code = f"import sys; sys.path[:0] = ['tests', '.']; import test_exact_seam; test_exact_seam.{function}()"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **env}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_sharded_differential() -> None:
    _in_a_process("sharded", XLA_FLAGS="--xla_force_host_platform_device_count=8")


def x64() -> None:
    """The library where JAX makes Python ints and floats 64 bits wide."""
    import jaxquant
    import refquant
    from jaxquant import PerGroup, QuantSpec
    from refquant.conventions import Affine
    from refquant.formats import ALL

    int8, scale = ALL["int8"], np.full((8, 4), SCALE)
    x = HALVES.reshape(8, -1)
    codes = np.clip(np.rint(x / SCALE), -128, 127).astype(np.int8)
    spec = {"fmt": int8, "granularity": PerGroup(1, 128)}
    assert wrong(jaxquant.quantize(x, scale, **spec), codes) == 0
    assert wrong(jaxquant.dequantize(codes, scale, **spec), codes * SCALE) == 0
    inside = np.abs(np.rint(x / SCALE) + 0.5) < 128
    assert wrong(jaxquant.fake_quantize_vjp(x, scale, None, x, **spec), np.where(inside, x, np.float32(0))) == 0
    for name in ("e4m3fn", "e8m0fnu", "nf4", "dynamic8", "int3"):
        tensor = jaxquant.quantize_tensor(x, QuantSpec(ALL[name], PerGroup(1, 100)))
        packed = jaxquant.pack(tensor.codes, fmt=ALL[name])
        assert wrong(jaxquant.unpack(packed, x.shape, fmt=ALL[name]), np.asarray(tensor.codes)) == 0
        assert jaxquant.dequantize_tensor(tensor).dtype == np.float32
    with np.errstate(all="ignore"):
        low = HALVES[np.abs(HALVES) < 400]
        assert wrong(jaxquant.encode(low, fmt=ALL["e4m3fn"]), low.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)) == 0
    assert wrong(_exact.scalb(ANY, POWERS), _scaled(ANY, POWERS)) == 0
    assert wrong(_exact.tree_sum(jnp.asarray(ROWS), 1), _tree(ROWS)) == 0
    for convention in (Affine(prec="f64", overflow="wrap32"), Affine("inv", "f64", "add"), Affine(zero="fma")):
        options = {"fmt": int8, "convention": convention}
        codes = refquant.quantize(x, SCALE, np.int32(5), **options)
        assert wrong(jaxquant.quantize(x, SCALE, np.int32(5), **options), codes) == 0


def test_x64_differential() -> None:
    _in_a_process("x64", JAX_ENABLE_X64="1")
