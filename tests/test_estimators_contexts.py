"""Estimators of jaxquant in every context: values and gradients have refquant's bits; and autodiff agrees with them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bits import assert_same

from refquant import qat as ref
from refquant.estimators import Lsq, LsqPlus, Pact
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerTensor
from specs.vector_cases import estimators as some
from specs.vector_cases.inputs import Ints

jax = pytest.importorskip("jax")
jnp, lax = jax.numpy, jax.lax
qat = pytest.importorskip("jaxquant.qat")

SHAPE = (8, 40)


def arrays(seed: int, fmt: object, grain: object, shape: tuple = SHAPE) -> tuple[np.ndarray, ...]:
    """x, scale, offset, cotangent as NumPy arrays; x next to where something turns."""
    draw = Ints(seed)
    scale = some.tiled(shape, grain, draw)
    offset = some.tiled(shape, grain, draw, (0xBE99999A, 0x3F333333, 0xBFA00000))
    x = some.elements(draw, shape, grain, scale, fmt)
    return tuple(a.numpy() for a in (x, scale, offset, some.flowing(draw, shape, True)))


#: name: (function, its vjp, format, how many arrays it differentiates)
KINDS = {
    "lsq": ("lsq", "lsq_vjp", ALL["int4"], 2),
    "lsq_plus": ("lsq_plus", "lsq_plus_vjp", ALL["uint8"], 3),
    "pact": ("pact", "pact_vjp", ALL["uint4"], 2),
}


def both(name: str, grain: object) -> tuple:
    """(f, operands, cotangent, refquant's value, refquant's gradients)."""
    fn, vjp, fmt, count = KINDS[name]
    *found, cotangent = arrays(len(name), fmt, grain)
    options = {"fmt": fmt, "granularity": grain}
    operands = found[:count]
    f = functools.partial(getattr(qat, fn), **options)
    want = getattr(ref, vjp)(*operands, cotangent, **options)
    return f, operands, cotangent, getattr(ref, fn)(*operands, **options), want


def pulled(f, operands, cotangent):
    """Value and gradients by jax.vjp."""
    y, pull = jax.vjp(f, *operands)
    return y, pull(cotangent)


def through_grad(f, operands, cotangent):
    """A loss that gives this cotangent, exactly: its product with y sums to something, whatever that is."""

    def loss(*operands):
        y = f(*operands)
        return (y * cotangent).sum(), y

    (_, y), found = jax.value_and_grad(loss, argnums=tuple(range(len(operands))), has_aux=True)(*operands)
    return y, found


def product_scale(f, operands, cotangent):
    """The scale is a product in the same program (GEN-3)."""

    def run(x, half, *rest):
        return f(x, half * jnp.float32(2.0), *rest)

    x, scale, *rest = operands
    y, found = pulled(run, (x, scale / 2, *rest), cotangent)
    return y, (found[0], found[1] / 2, *found[2:])


CONTEXTS = {
    "vjp": pulled,
    "jit": lambda *a: jax.jit(functools.partial(pulled, a[0]))(*a[1:]),
    "value_and_grad": lambda f, o, c: jax.jit(lambda o, c: through_grad(f, o, c))(o, c),
    "constants": lambda f, o, c: jax.jit(lambda c: pulled(f, tuple(map(jnp.asarray, o)), c))(c),
    "constant cotangent": lambda f, o, c: jax.jit(lambda *o: pulled(f, o, jnp.asarray(c)))(*o),
    "remat": lambda f, o, c: jax.jit(lambda o, c: pulled(jax.checkpoint(f), o, c))(o, c),
    "product scale": lambda f, o, c: jax.jit(lambda o, c: product_scale(f, o, c))(o, c),
    "scan": lambda f, o, c: lax.scan(lambda _, c: (0, pulled(f, o, c)), 0, c[None])[1],
}


@pytest.mark.parametrize("context", list(CONTEXTS))
@pytest.mark.parametrize("name", list(KINDS))
def test_contexts_differential(name, context):
    """EST-1..EST-6, LSQ-1, LSQ-2, LSP-1, LSP-2, PCT-1..PCT-3: one value, one gradient, wherever the call stands."""
    f, operands, cotangent, value, want = both(name, PerAxis(1))
    y, found = CONTEXTS[context](f, operands, cotangent)
    strip = (lambda v: np.asarray(v)[0]) if context == "scan" else np.asarray
    assert_same(strip(y), value)
    for ours, theirs in zip(found, want, strict=True):
        assert_same(strip(ours), theirs)


@pytest.mark.parametrize("name", list(KINDS))
def test_vmap_differential(name):
    """The gradient scale is that of one call; the sums stay inside each."""
    fn, vjp, fmt, count = KINDS[name]
    rows = [arrays(seed, fmt, PerTensor(), (6, 9)) for seed in range(5)]
    *stacked, cotangent = (np.stack(part) for part in zip(*rows, strict=True))
    f = functools.partial(getattr(qat, fn), fmt=fmt)
    y, found = jax.jit(jax.vmap(lambda *a: pulled(f, a[:-1], a[-1])))(*stacked[:count], cotangent)
    for i, row in enumerate(rows):
        assert_same(np.asarray(y)[i], getattr(ref, fn)(*row[:count], fmt=fmt))
        for ours, theirs in zip(found, getattr(ref, vjp)(*row[:count], row[-1], fmt=fmt), strict=True):
            assert_same(np.asarray(ours)[i], theirs)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_inputs_differential(dtype):
    """EST-4, EST-6: x and cotangent widen; gradients of x keep the dtype, of the scale are binary32."""
    pytest.importorskip("ml_dtypes")
    x, scale, offset, cotangent = arrays(3, ALL["int4"], PerAxis(1))
    with np.errstate(all="ignore"):
        x, cotangent = x.astype(np.dtype(dtype)), cotangent.astype(np.dtype(dtype))
    options = {"fmt": ALL["int4"], "granularity": PerAxis(1)}
    for fn, operands in (("lsq", (x, scale)), ("lsq_plus", (x, scale, offset))):
        y, found = jax.jit(functools.partial(pulled, functools.partial(getattr(qat, fn), **options)))(
            operands, cotangent
        )
        assert_same(np.asarray(y), getattr(ref, fn)(*operands, **options))
        for ours, theirs in zip(found, getattr(ref, f"{fn}_vjp")(*operands, cotangent, **options), strict=True):
            assert_same(np.asarray(ours), theirs)


def test_stochastic_gradient_differential():
    """SRD-2: the value by the bits, the gradient without them."""
    fmt, grain = ALL["int4"], PerAxis(1)
    x, scale, _, cotangent = arrays(7, fmt, grain)
    scale = np.abs(scale)
    bits = np.array(Ints(7).words(x.size), np.uint32).reshape(x.shape)
    options = {"fmt": fmt, "granularity": grain}
    _, (dx,) = jax.jit(
        lambda x, b, c: pulled(lambda x: qat.stochastic_fake_quantize(x, scale, None, b, **options), (x,), c)
    )(x, bits, cotangent)
    assert_same(np.asarray(dx), ref.stochastic_fake_quantize_vjp(x, scale, None, bits, cotangent, **options))
    got = jax.jit(jax.vmap(lambda x, b: qat.stochastic_fake_quantize(x, np.float32(0.1), None, b, fmt=fmt)))(x, bits)
    assert_same(np.asarray(got), ref.stochastic_fake_quantize(x, np.float32(0.1), None, bits, fmt=fmt))


def straight(rounded, x):
    """Rounding whose derivative is 1."""
    return x + lax.stop_gradient(rounded(x) - x)


def within(x, low, high):
    """A clip that passes the gradient at its ends."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def textbook(name: str, fmt: object, mask: str):
    """The papers' formulas."""
    low, high = float(fmt.qmin), float(fmt.qmax)
    snap = functools.partial(straight, jnp.round)

    def clipped(r, low, high):
        return within(snap(r), low, high) if mask == "rounded" else snap(within(r, low, high))

    def layer(x, s, b):
        z = snap(within(-b / s, low, high))
        return clipped(x / s, low - z, high - z) * s

    return {
        "lsq": lambda x, s: clipped(x / s, low, high) * s,
        "lsq_plus": lambda x, s, b: clipped((x - b) / s, low, high) * s + b,
        "layer": layer,
        "pact": lambda x, a: jnp.where(x >= a, a, jnp.where(x < 0, 0.0, x)),
    }[name]


@pytest.mark.parametrize("mask", ["ratio", "rounded"])
@pytest.mark.parametrize("name", ["lsq", "lsq_plus", "layer", "pact"])
def test_autodiff_of_the_textbook_property(name, mask):
    """LSQ-2, LSP-2, LSP-4, PCT-3: where every step is exact, autodiff of the formula has the same bits."""
    rng = np.random.default_rng(1)
    fmt = ALL["int4"] if name != "pact" else ALL["uint4"]
    x = (rng.integers(-200, 200, (5, 64)) / 32).astype(np.float32)
    cotangent = rng.integers(-8, 9, x.shape).astype(np.float32)
    for scale, offset in ((0.25, -0.625), (0.5, 0.0), (0.125, 1.25), (0.25, 9.0)):
        kind = {"lsq": Lsq, "pact": Pact}.get(name, LsqPlus)
        estimator = Pact() if kind is Pact else kind("none", mask)
        learned = (np.float32(scale * (1 if kind is not Pact else 16)),)
        learned += (np.float32(offset),) if kind is LsqPlus else ()
        if name == "lsq_plus":
            dx, *found = ref.lsq_plus_vjp(x, *learned, cotangent, fmt=fmt, estimator=estimator)
        else:
            dx, found = ref.learned_vjp(estimator, x, learned, cotangent, fmt=fmt)
        _, want = pulled(textbook(name, fmt, mask), tuple(map(jnp.asarray, (x, *learned))), cotangent)
        for ours, theirs in zip((dx, *found), want, strict=True):
            np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_forward_mode_is_refused():
    """By JAX's own error."""
    for f in (lambda x: qat.lsq(x, 0.1, fmt=ALL["int4"]), lambda x: qat.pact(x, 6.0, fmt=ALL["uint4"])):
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(f, (jnp.ones(3),), (jnp.ones(3),))


def test_what_is_kept_for_the_backward_pass():
    """x and the learned numbers, nothing else."""
    x, scale = jnp.ones((64, 64)), jnp.float32(0.1)
    _, pull = jax.vjp(lambda x, s: qat.lsq(x, s, fmt=ALL["int4"]), x, scale)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pull)) <= x.nbytes + 64


@pytest.mark.parametrize("promotion", ["strict", "standard"])
def test_strict_promotion_and_one_compilation(promotion):
    """Nothing relies on promotion, and a second step compiles nothing."""
    with jax.numpy_dtype_promotion(promotion):
        step = jax.jit(jax.grad(lambda x, s: qat.lsq(x, s, fmt=ALL["int4"]).sum(), (0, 1)))
        for k in range(3):
            step(jnp.full((4, 5), float(k)), jnp.float32(0.1 + k))
        assert step._cache_size() == 1
        qat.learned_vjp(
            LsqPlus(), jnp.ones((2, 3)), (jnp.float32(1), jnp.float32(0)), jnp.ones((2, 3)), fmt=ALL["int4"]
        )
        qat.lsq_plus_init(jnp.ones((2, 3)), fmt=ALL["int4"])
        qat.stochastic_quantize(jnp.ones(3), 1.0, 1, jnp.zeros(3, jnp.uint32), fmt=ALL["int4"])
        qat.pact(jnp.ones(3), 1.0, fmt=ALL["uint4"])


def wide() -> None:
    """Run where JAX has 64-bit numbers."""
    for name in KINDS:
        f, operands, cotangent, value, want = both(name, PerAxis(1))
        y, found = jax.jit(functools.partial(pulled, f))(operands, cotangent)
        assert_same(np.asarray(y), value)
        for ours, theirs in zip(found, want, strict=True):
            assert_same(np.asarray(ours), theirs)
    x, fmt = arrays(1, ALL["int4"], PerAxis(1))[0], ALL["int4"]
    args = (LsqPlus(), x, (np.float32(0.1), np.float32(-0.3)), x)
    for ours, theirs in zip(*(p.learned_vjp(*args, fmt=fmt)[1] for p in (qat, ref)), strict=True):
        assert_same(np.asarray(ours), theirs)
    for ours, theirs in zip(*(p.lsq_plus_init(np.clip(x, -9, 9), fmt=fmt) for p in (qat, ref)), strict=True):
        assert_same(np.asarray(ours), theirs)
    bits = np.full(x.shape, 2**31, np.uint32)
    got = qat.stochastic_quantize(x, np.float32(0.1), np.int32(3), bits, fmt=fmt)
    assert_same(np.asarray(got), ref.stochastic_quantize(x, np.float32(0.1), np.int32(3), bits, fmt=fmt))


def test_where_jax_has_64_bits_differential():
    """GEN-1: jax_enable_x64 changes no bit."""
    code = "import sys; sys.path[:0] = ['tests', '.']; import test_estimators_contexts as t; t.wide()"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
