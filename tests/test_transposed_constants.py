"""Constants that are transposed before a function gets them: the same bits as of arrays that are arguments.

XLA folds a bit cast of such a constant, and where a call or a loop lies between it took the elements in the order of
memory.  It is a constant that shows as one only when XLA has looked, or it would be transposed before.
"""

from __future__ import annotations

import numpy as np
import pytest
from bits import assert_same

jax = pytest.importorskip("jax")
import jaxquant  # noqa: E402
from jaxquant import _constants, _exact, bits, codec, qat  # noqa: E402
from jaxquant._constants import bitcast  # noqa: E402
from refquant import affine as reference  # noqa: E402
from refquant import bits as reference_bits  # noqa: E402
from refquant import codec as reference_codec  # noqa: E402
from refquant import qat as reference_qat  # noqa: E402
from refquant import quantize_tensor  # noqa: E402
from refquant.formats import ALL  # noqa: E402
from refquant.granularity import PerAxis, PerGroup, PerToken  # noqa: E402
from refquant.spec import QuantSpec  # noqa: E402

jnp, lax = jax.numpy, jax.lax
RNG = np.random.default_rng(0)
W = RNG.standard_normal((12, 8)).astype(np.float32)
HALF = np.asarray(jnp.asarray(W).astype(jnp.float16))
BRAIN = np.asarray(jnp.asarray(W).astype(jnp.bfloat16))
KEYS = RNG.integers(-(2**30), 2**30, (12, 8), np.int32)
CODES = RNG.integers(-8, 8, (12, 8)).astype(np.int8)
X, TIMES = RNG.standard_normal((3, 8)).astype(np.float32), np.arange(2.0, dtype=np.float32)
CHANNEL, TOKEN = QuantSpec(ALL["int8"], PerAxis(1)), QuantSpec(ALL["int8"], PerToken())
GROUP = QuantSpec(ALL["int8"], PerGroup(1, 4))
STEP = {"fmt": ALL["int4"]}
EACH = {"fmt": ALL["int8"], "granularity": PerGroup(1, 1)}

CONTEXTS = {
    "selected": lambda f, w: jax.jit(lambda: f(jnp.where(np.ones(w.shape, bool), w, 0).astype(w.dtype).T))(),
    "in a scan": lambda f, w: jax.jit(lambda s: lax.scan(lambda c, _: (c, f(jnp.asarray(w).T)), 0, s)[1])(TIMES)[0],
    "in a call in a map": lambda f, w: jax.jit(lambda s: lax.map(lambda _: jax.jit(f)(jnp.asarray(w).T), s))(TIMES)[1],
    "negated": lambda f, w: jax.jit(lambda s: lax.map(lambda _: f((-jnp.asarray(-w)).T), s))(TIMES)[0],
    "rolled": lambda f, w: jax.jit(lambda: f(jnp.roll(jnp.asarray(w)[None], 1, 0).swapaxes(-1, -2)[0]))(),
    "gathered": lambda f, w: jax.jit(lambda: f(jnp.asarray(w)[None][jnp.array([0])].swapaxes(-1, -2)[0]))(),
    "one of a gathered batch": lambda f, w: jax.jit(
        lambda: jax.vmap(f)(jnp.asarray(w)[None][jnp.array([0])].swapaxes(-1, -2))
    )()[0],
    "in a vmap": lambda f, w: jax.jit(lambda: jax.vmap(f)(_selected(np.stack([w, w])).swapaxes(1, 2)))()[1],
    "in a cond": lambda f, w: jax.jit(
        lambda n: lax.cond(n > 0, lambda: f(_selected(w).T), lambda: f(_selected(np.zeros_like(w)).T))
    )(1),
}
OPERATIONS = {
    "quantize": (lambda w: jaxquant.quantize(w, 0.1, **STEP), lambda w: reference.quantize(w, 0.1, **STEP), W),
    "fake_quantize of float16": (
        lambda w: jaxquant.fake_quantize(w, 0.1, **STEP), lambda w: reference.fake_quantize(w, 0.1, **STEP), HALF),
    "fake_quantize of bfloat16": (
        lambda w: jaxquant.fake_quantize(w, 0.1, **STEP), lambda w: reference.fake_quantize(w, 0.1, **STEP), BRAIN),
    "a scale an element": (
        lambda w: jaxquant.quantize(w, jnp.abs(w) + np.float32(0.1), **EACH),
        lambda w: reference.quantize(w, np.abs(w) + np.float32(0.1), **EACH), W),
    "gradient": (
        lambda w: jax.grad(lambda v: jnp.sum(w * jaxquant.fake_quantize(v, 0.1, **STEP)))(w),
        lambda w: reference.fake_quantize_vjp(w, np.float32(0.1), None, w, **STEP), W),
    "dequantize": (
        lambda c: jaxquant.dequantize(c, 0.1, **STEP), lambda c: reference.dequantize(c, 0.1, **STEP), CODES),
    "encode": (
        lambda w: codec.encode(w, fmt=ALL["e2m1fn"]), lambda w: reference_codec.encode(w, fmt=ALL["e2m1fn"]), W),
    "ordered_key": (bits.ordered_key, reference_bits.ordered_key, W),
    "from_key": (bits.from_key, reference_bits.from_key, KEYS),
    "scalb": (lambda w: bits.scalb(w, 3), lambda w: reference_bits.scalb(w, 3), W),
    "div": (lambda w: _exact.div(w, jnp.float32(0.3)), lambda w: w / np.float32(0.3), W),
    "add": (lambda w: _exact.add(_exact.rounded(w), jnp.float32(0.3)), lambda w: w + np.float32(0.3), W),
    "small_integer": (lambda w: _exact.small_integer(w), lambda w: np.rint(w).astype(np.int32), W),
    "tree_sum": (lambda w: _exact.tree_sum(w, 0), lambda w: _adjacent(w), W),
    "codes of channels": (
        lambda w: jaxquant.quantize_tensor(w, CHANNEL).codes, lambda w: quantize_tensor(w, CHANNEL).codes, W),
    "codes of groups": (
        lambda w: jaxquant.quantize_tensor(w, GROUP).codes, lambda w: quantize_tensor(w, GROUP).codes, W),
    "dense": (
        lambda w: qat.dense(X, qat.Trained(w, spec=CHANNEL), inputs=TOKEN),
        lambda w: reference_qat.dense(X, reference_qat.Trained(w, spec=CHANNEL), inputs=TOKEN), W),
}  # fmt: skip


def _adjacent(w: np.ndarray) -> np.ndarray:
    """The sum of columns of 8 numbers in the order of SUM-1."""
    while len(w) > 1:
        w = w[::2] + w[1::2]
    return w[0]


def _selected(w: np.ndarray) -> jax.Array:
    return jnp.where(np.ones(w.shape, bool), w, 0).astype(w.dtype)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_transposed_constant_differential(operation, context):
    function, want, w = OPERATIONS[operation]
    assert_same(np.asarray(CONTEXTS[context](function, w)), want(np.ascontiguousarray(w.T)))


@pytest.mark.parametrize("operation", ["quantize", "fake_quantize of float16", "encode", "ordered_key", "scalb"])
def test_rows_of_a_transposed_constant_differential(operation):
    """A vmap has axes that a function of rows, or of numbers, does not see."""
    function, want, w = OPERATIONS[operation]
    rows, columns = (jax.jit(lambda n=n: jax.vmap(function, n, n)(_selected(w).T))() for n in (0, 1))
    numbers = jax.jit(lambda: jax.vmap(jax.vmap(function))(_selected(w).T))()
    for got in (rows, columns, numbers):
        assert_same(np.asarray(got), want(np.ascontiguousarray(w.T)))


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(
    ("w", "whole"), [(W, np.int32), (HALF, np.int16), (BRAIN, np.uint16)], ids=["float32", "float16", "bfloat16"]
)
@pytest.mark.parametrize("barriers", [True, False])
def test_bitcast_differential(barriers, w, whole, context, monkeypatch):
    """The witness of `bitcast`; without its step the bits of other elements come out, in "selected" for one.

    Both steps, whichever this version of JAX is given.
    """
    monkeypatch.setattr(_constants, "BARRIERS_FUSE", barriers)
    function = jax.jit(lambda v: bitcast(v, whole) | 0)
    assert_same(np.asarray(CONTEXTS[context](function, w)), np.ascontiguousarray(w.T).view(whole))


def test_bitcast_property_keeps_every_pattern_of_16_bits():
    patterns = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    for dtype in (jnp.float16, jnp.bfloat16):
        values = patterns.view(dtype)
        assert_same(np.asarray(jax.jit(lambda v: bitcast(v, jnp.uint16))(values)), patterns)


def test_bitcast_property_keeps_special_patterns_of_32_bits():
    special = [0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF]
    patterns = np.uint32([*special, *(v | 1 << 31 for v in special)]).reshape(2, -1)
    assert_same(np.asarray(jax.jit(lambda v: bitcast(v, jnp.uint32))(patterns.view(np.float32))), patterns)


def test_a_transposed_layer_closed_over_differential():
    """The weight of a transposed convolution is transposed before it is quantized."""
    nnx = pytest.importorskip("flax.nnx")
    from jaxquant.flax import Recipe, Rule, nnx_api

    x = RNG.standard_normal((2, 6, 3)).astype(np.float32)
    layer = nnx.ConvTranspose(3, 4, (1,), transpose_kernel=True, rngs=nnx.Rngs(0))
    model, _ = nnx_api.prepare(layer, Recipe(Rule("**", weights="int8", inputs="int8")), x)
    want = np.asarray(nnx_api.convert(model)(x))
    assert_same(np.asarray(jax.jit(lambda x: model(x))(x)), want)
