"""jaxquant's bits do not depend on where a call stands: jit, vmap, scan, while, remat, grad, constants, bait graphs."""

import functools

import numpy as np
import pytest
import strategies as some
from bits import assert_same

import refquant
import refquant.qat
from refquant.conventions import Affine
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerToken
from refquant.spec import QuantSpec

jax = pytest.importorskip("jax")
jnp, lax = jax.numpy, jax.lax
jaxquant = pytest.importorskip("jaxquant")
affine = pytest.importorskip("jaxquant.affine")
ref = pytest.importorskip("refquant.affine")

ROWS, COLUMNS = 8, 256
OPTIONS = [
    pytest.param({"fmt": ALL["int8"]}, id="int8"),
    pytest.param({"fmt": ALL["uint4"], "convention": Affine(op="inv", zero="add")}, id="inv-add"),
    pytest.param({"fmt": ALL["uint4"], "convention": Affine(prec="f64", zero="add", ties="away")}, id="binary64"),
    pytest.param({"fmt": ALL["int8"], "convention": Affine(zero="fma")}, id="fused-quotient"),
    pytest.param({"fmt": ALL["e4m3fn"]}, id="e4m3fn"),
    pytest.param({"fmt": ALL["nf4"]}, id="nf4"),
]
SCALE = np.float32(1 / 3)


def near_boundary(fmt: object, scale: float = 1 / 3) -> np.ndarray:
    return np.resize(some.thin(some.near(scale, fmt), ROWS * COLUMNS - some.SPECIAL.size), (ROWS, COLUMNS))


def in_while(f, x, s):
    def body(carry):
        i, total = carry
        return i + 1, total.at[i].set(f(x[i], s))

    start = jnp.zeros(x.shape, jax.eval_shape(f, x[0], s).dtype)
    return lax.while_loop(lambda carry: carry[0] < x.shape[0], body, (0, start))[1]


def vmap_scale(f, x, s):
    return jax.jit(jax.vmap(f, (None, 0)))(x, jnp.full(3, s))[1]


CONTEXTS = {
    "eager": lambda f, x, s: run_eager(f, x, s),
    "jit": lambda f, x, s: jax.jit(f)(x, s),
    "vmap x": lambda f, x, s: jax.jit(jax.vmap(f, (0, None)))(x, s),
    "vmap scale": vmap_scale,
    "vmap both": lambda f, x, s: jax.vmap(f)(x, jnp.full(x.shape[0], s)),
    "scan": lambda f, x, s: lax.scan(lambda c, row: (c, f(row, s)), 0, x)[1],
    "while": lambda f, x, s: jax.jit(functools.partial(in_while, f))(x, s),
    "cond": lambda f, x, s: jax.jit(lambda x, s: lax.cond(s > 0, f, f, x, s))(x, s),
    "remat": lambda f, x, s: jax.jit(jax.checkpoint(f))(x, s),
    "constant x": lambda f, x, s: jax.jit(lambda s: f(x, s))(s),
    "constant scale": lambda f, x, s: jax.jit(lambda x: f(x, s))(x),
    "constant both": lambda f, x, s: jax.jit(lambda: f(x, s))(),
    "donated": lambda f, x, s: jax.jit(f, donate_argnums=0)(jnp.array(x), s),
}


def run_eager(f, x, s):
    with jax.disable_jit():
        return f(jnp.asarray(x), jnp.asarray(s))


def check_context(context: str, options: dict) -> None:
    x = near_boundary(options["fmt"])
    for name in ("quantize", "fake_quantize"):
        f = functools.partial(getattr(affine, name), **options)
        got = CONTEXTS[context](lambda v, s, f=f: f(v, s), x, SCALE)
        want = getattr(ref, name)(x, SCALE, **options)
        assert_same(np.asarray(got), want, inputs={"x": x}, call=f"{name} under {context}: {options}")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("context", list(CONTEXTS))
def test_context_differential(context, options):
    """GEN-2, GEN-3, AFF-2, AFF-6, FQ-1."""
    check_context(context, options)


@pytest.mark.parametrize("options", OPTIONS)
def test_grad_differential(options):
    """STE-1..STE-4: jax.vjp of fake_quantize is the stated vjp, in jit, vmap and scan."""
    x = near_boundary(options["fmt"])
    g = np.resize(some.SPECIAL, x.shape)
    want = ref.fake_quantize_vjp(x, SCALE, None, g, **options)

    def pull(x, g):
        return jax.vjp(lambda v: affine.fake_quantize(v, SCALE, **options), x)[1](g)[0]

    for run in (pull, jax.jit(pull), jax.vmap(pull), lambda x, g: lax.scan(lambda c, xg: (c, pull(*xg)), 0, (x, g))[1]):
        assert_same(np.asarray(run(x, g)), want, inputs={"x": x, "g": g}, call=f"vjp {options}")


def test_bait_fma_after_dequantize():
    """GEN-3, DEQ-1: a sum behind dequantize and fake_quantize does not swallow the product."""
    fmt, x = ALL["int8"], near_boundary(ALL["int8"])
    finite = np.where(np.isfinite(x), x, np.float32(1))
    b = np.resize(np.float32([0.1, -0.37, 3.3, 1e-3]), x.shape)
    codes = ref.quantize(finite, SCALE, fmt=fmt)
    for want, run in [
        (ref.dequantize(codes, SCALE, fmt=fmt) + b, lambda c, s, b: affine.dequantize(c, s, fmt=fmt) + b),
        (b - ref.dequantize(codes, SCALE, fmt=fmt), lambda c, s, b: b - affine.dequantize(c, s, fmt=fmt)),
    ]:
        assert_same(np.asarray(jax.jit(run)(codes, SCALE, b)), want)
        assert_same(np.asarray(jax.jit(lambda c, b, run=run: run(c, SCALE, b))(codes, b)), want)
    offset = np.float32(-0.7)
    want = ref.dequantize(codes, SCALE, offset, fmt=fmt) + b
    got = jax.jit(lambda c, s, z, b: affine.dequantize(c, s, z, fmt=fmt) + b)(codes, SCALE, offset, b)
    assert_same(np.asarray(got), want)


def layers():
    """(name, layer of x by a package and its qat module): integer layers whose last step is a product or a sum."""
    rng = np.random.default_rng(5)
    w, bias = rng.standard_normal((24, 40)).astype(np.float32), rng.standard_normal(40).astype(np.float32)
    kernel = rng.standard_normal((3, 8, 40)).astype(np.float32)
    whole, by_row, by_channel = (
        QuantSpec(ALL["int8"]),
        QuantSpec(ALL["int8"], PerToken()),
        QuantSpec(ALL["int4"], PerAxis(-1)),
    )
    yield "dense", lambda p, qat, x: qat.dense(x, p.quantize_tensor(w, by_channel), inputs=by_row)
    yield "dense, bias", lambda p, qat, x: qat.dense(x, p.quantize_tensor(w, by_channel), bias, inputs=by_row)
    yield "einsum", lambda p, qat, x: qat.einsum("ab,bc->ac", x, p.quantize_tensor(w, by_channel), inputs=by_row)
    yield "conv", lambda p, qat, x: qat.conv(x.reshape(-1, 3, 8), p.quantize_tensor(kernel, by_channel), inputs=whole)


@pytest.mark.parametrize(("name", "layer"), [*layers()], ids=lambda v: v if isinstance(v, str) else "")
def test_bait_fma_after_a_layer(name, layer):
    """GEN-3, LAY-1: a sum behind an integer layer does not swallow its last product."""
    x = np.random.default_rng(6).standard_normal((48, 24)).astype(np.float32)
    want = layer(refquant, refquant.qat, x)
    c = np.random.default_rng(7).standard_normal(want.shape).astype(np.float32)
    for own, run in ((want + c, lambda y, c: y + c), (c - want, lambda y, c: c - y)):
        got = jax.jit(lambda x, c, run=run: run(layer(jaxquant, jaxquant.qat, x), c))(x, c)
        assert_same(np.asarray(got), own, call=name)


def test_bait_fma_before_quantize():
    """GEN-3, AFF-2: x is the rounded product, also where a real offset is subtracted next."""
    fmt = ALL["uint8"]
    a = near_boundary(fmt)
    a = np.where(np.abs(a) < 1e30, a, np.float32(1))
    b = np.resize(np.float32([1 / 3, 0.7, 1.1]), a.shape)
    convention = Affine(zero="bias")
    want = ref.quantize(a * b, SCALE, np.float32(0.13), fmt=fmt, convention=convention)
    got = jax.jit(lambda a, b, s, z: affine.quantize(a * b, s, z, fmt=fmt, convention=convention))(
        a, b, SCALE, np.float32(0.13)
    )
    normal = np.abs(a * b) > 1e-30  # GEN-9: outside the library a device flushes a subnormal product
    assert_same(np.asarray(got)[normal], want[normal], inputs={})


def test_bait_division_by_a_row_of_scales():
    """GEN-2: one scale a row, as an argument and as a constant."""
    fmt, x = ALL["int8"], near_boundary(ALL["int8"], 0.7)
    scale = np.full((ROWS, 1), 0.7, np.float32)
    options = {"fmt": fmt, "granularity": PerAxis(0)}
    want = ref.quantize(x, scale, **options)
    assert_same(np.asarray(jax.jit(lambda x, s: affine.quantize(x, s, **options))(x, scale)), want)
    assert_same(np.asarray(jax.jit(lambda x: affine.quantize(x, scale, **options))(x)), want)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_bait_elided_rounding_of_the_producer(dtype):
    """GEN-1: the sum in half precision is rounded before it is widened."""
    pytest.importorskip("ml_dtypes")
    a = np.arange(4096, dtype=np.float32).astype(dtype) / np.asarray(64, dtype)
    b = np.resize(np.float32([1 / 3, 0.1, 7 / 9]), a.shape).astype(dtype)
    fmt = ALL["int8"]
    want = ref.quantize(a + b, SCALE, fmt=fmt)
    assert_same(np.asarray(jax.jit(lambda a, b: affine.quantize(a + b, SCALE, fmt=fmt))(a, b)), want)
    want = ref.fake_quantize(a * b, SCALE, fmt=fmt)
    got = jax.jit(lambda a, b: affine.fake_quantize(a * b, SCALE, fmt=fmt))(a, b)
    assert_same(np.asarray(got), want)


def test_one_compilation_for_every_kind_of_scale():
    """GEN-1: a Python float, np.float32 and jnp.float32 share one compilation."""
    x = np.ones((3, 17), np.float32)
    fmt = ALL["int6"]
    affine.quantize(x, 0.25, fmt=fmt)
    scales = (0.5, np.float32(0.5), jnp.float32(0.5))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    for scale in scales:
        affine.quantize(x, scale, fmt=fmt)
    assert compiled.count("/jax/core/compile/backend_compile_duration") == 0
