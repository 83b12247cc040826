"""Codes, scales and patterns inside of a function that is differentiated: their values, no gradient through them."""

from __future__ import annotations

import numpy as np
import pytest
from bits import assert_same

jax = pytest.importorskip("jax")
import jaxquant  # noqa: E402
from jaxquant import _constants, _exact, bits  # noqa: E402
from refquant import affine as reference  # noqa: E402
from refquant import bits as reference_bits  # noqa: E402
from refquant import codec as reference_codec  # noqa: E402
from refquant import quantize_tensor  # noqa: E402
from refquant.formats import ALL  # noqa: E402
from refquant.spec import QuantSpec  # noqa: E402

jnp = jax.numpy
X = np.float32([[0.3, -0.7, 1e-40], [1.5, 2.5, -0.0]])
INT8, E4M3 = {"fmt": ALL["int8"]}, {"fmt": ALL["e4m3fn"]}
WHOLE = QuantSpec(ALL["int8"])
CODES = np.int8([[3, 4, -5]])

VALUES = {
    "quantize": (lambda x: jaxquant.quantize(x, 0.1, **INT8), lambda x: reference.quantize(x, 0.1, **INT8)),
    "scale": (lambda x: jaxquant.quantize_tensor(x, WHOLE).scale, lambda x: quantize_tensor(x, WHOLE).scale),
    "encode": (lambda x: jaxquant.encode(x, **E4M3), lambda x: reference_codec.encode(x, **E4M3)),
    "dequantize": (
        lambda x: jaxquant.dequantize(CODES, abs(x[1, 0]), **INT8),
        lambda x: reference.dequantize(CODES, abs(x[1, 0]), **INT8)),
    "flush": (bits.flush, reference_bits.flush),
    "scalb": (lambda x: bits.scalb(x, 3), lambda x: reference_bits.scalb(x, 3)),
}  # fmt: skip
WAYS = {
    "grad": lambda f: jax.grad(f, has_aux=True),
    "jit": lambda f: jax.jit(jax.grad(f, has_aux=True)),
    "remat": lambda f: jax.jit(jax.grad(jax.checkpoint(f), has_aux=True)),
    "a batch of one": lambda f: lambda x: jax.tree.map(lambda v: v[0], jax.vmap(jax.grad(f, has_aux=True))(x[None])),
    "a scan": lambda f: lambda x: jax.lax.scan(lambda c, _: (c, jax.grad(f, has_aux=True)(c)), x, None, 1)[1],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", VALUES)
def test_values_differential_inside_of_a_gradient(name, way):
    """STE-4."""
    made, want = VALUES[name]

    def loss(x):
        value = made(x)
        return jnp.sum(x) + jnp.sum(value.astype(jnp.float32)), value

    gradient, value = jax.tree.map(np.asarray, WAYS[way](loss)(jnp.asarray(X)))
    assert_same(value.reshape(np.shape(want(X))), want(X))
    assert_same(gradient.reshape(X.shape), np.ones_like(X))


@pytest.mark.parametrize("name", VALUES)
def test_values_differential_of_a_vjp_and_a_jvp(name):
    made, want = VALUES[name]
    x = jnp.asarray(X)
    assert_same(np.asarray(jax.vjp(made, x)[0]), want(X))
    assert_same(np.asarray(jax.jvp(made, (x,), (x,))[0]), want(X))
    assert_same(np.asarray(jax.linearize(made, x)[0]), want(X))


@pytest.mark.parametrize("barriers", [True, False])
def test_bitcast_property_has_no_tangent(barriers, monkeypatch):
    """Both steps of the guard, whichever this version of JAX is given."""
    monkeypatch.setattr(_constants, "BARRIERS_FUSE", barriers)
    pattern, backward = jax.vjp(lambda x: _exact.from_bits(_exact.bits(x)), jnp.asarray(X))
    assert_same(np.asarray(pattern), X)
    assert_same(np.asarray(backward(jnp.ones_like(X))[0]), np.zeros_like(X))
