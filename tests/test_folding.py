"""Folded batch norms (LAY-14): both packages on bits, and against the textbook formula."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")

from bits import assert_same  # noqa: E402

from jaxquant.qat import folding  # noqa: E402
from refquant.qat import folding as reference  # noqa: E402


def arrays(seed, channels=7, dtype=np.float32):
    r = np.random.default_rng(seed)
    kernel = r.standard_normal((3, 3, 4, channels)).astype(dtype)
    bias, mean, scale, offset = (r.standard_normal(channels).astype(dtype) for _ in range(4))
    var = np.abs(r.standard_normal(channels)).astype(dtype)
    var[0], scale[1], mean[2] = 0, 0, 1e-39 if dtype == np.float32 else 0
    return kernel, bias, mean, var, scale, offset


@pytest.mark.parametrize(("without", "epsilon"), [((), 1e-5), ((1,), 0.0), ((4,), 1e-3), ((1, 4, 5), 1e-5)])
def test_fold_differential(without, epsilon):
    """LAY-14."""
    jitted = jax.jit(lambda *a: folding.fold(*a, epsilon=epsilon))
    for seed in range(6):
        given = [None if i in without else v for i, v in enumerate(arrays(seed))]
        got = folding.fold(*given, epsilon=epsilon)
        for a, b, c in zip(got, jitted(*given), reference.fold(*given, epsilon=epsilon), strict=True):
            assert_same(a, c)
            assert_same(b, c)


def test_fold_property_is_the_formula():
    kernel, bias, mean, var, scale, offset = (v.astype(np.float64) for v in arrays(3))
    var[0] = 1.0
    factor = scale / np.sqrt(var + 1e-3)
    got = folding.fold(*(v.astype(np.float32) for v in (kernel, bias, mean, var, scale, offset)), epsilon=1e-3)
    np.testing.assert_allclose(got[0], kernel * factor, rtol=1e-6)
    np.testing.assert_allclose(got[1], (bias - mean) * factor + offset, rtol=1e-4, atol=1e-6)


def test_fold_differential_gradient_is_that_of_the_formula():
    given = [jax.numpy.asarray(v) for v in arrays(5)]

    def loss(function):
        return lambda *a: sum((v**2).sum() for v in function(*a))

    def formula(kernel, bias, mean, var, scale, offset):
        factor = scale / jax.numpy.sqrt(var + 1e-3)
        return kernel * factor, (bias - mean) * factor + offset

    got = jax.grad(loss(lambda *a: folding.fold(*a, epsilon=1e-3)), range(6))(*given)
    want = jax.grad(loss(formula), range(6))(*given)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_fold_refuses_other_dtypes():
    with pytest.raises(TypeError, match="fold: kernel has dtype int32"):
        folding.fold(np.zeros((2, 2), np.int32), None, np.zeros(2), np.zeros(2), epsilon=0.0)
