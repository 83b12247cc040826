"""qwix and AQT on XLA:CPU: which arithmetic runs, eager and jit."""

from __future__ import annotations

import numpy as np
import pytest
from external.peers import affine_probes, assert_follows, cases_of, not_nan

from refquant.affine import quantize
from refquant.conventions import PRESETS
from refquant.formats import ALL

jax = pytest.importorskip("jax")
jnp = jax.numpy
pytestmark = pytest.mark.filterwarnings("ignore")


def kernel(x: np.ndarray, scale: float, zero: int | None, jit: bool, whole: bool = False) -> np.ndarray:
    """whole: a scale for each element, so that nothing is broadcast."""
    qarray = pytest.importorskip("qwix._src.core.qarray")

    def codes(x, scale, zero):
        return qarray.quantize_with_scale_zero_point(x, jnp.int8, scale, zero).qvalue

    shape = (1, len(x) if whole else 1)
    zeros = None if zero is None else jnp.full(shape, zero, jnp.int32)
    run = jax.jit(codes) if jit else codes
    return np.asarray(run(jnp.asarray(x)[None], jnp.full(shape, scale, jnp.float32), zeros))[0]


@pytest.mark.parametrize("jit", [False, True])
def test_qwix_symmetric_external_follows_the_preset(jit):
    cases = [(scale, 0) for scale, _ in cases_of(ALL["int8"], (0.1, 0.0123, 0.75))]
    assert_follows(lambda x, s, z: kernel(x, s, None, jit), "qwix_symmetric_xla", "int8", cases=cases)


@pytest.mark.parametrize(("jit", "preset"), [(False, "qwix_asymmetric_eager"), (True, "qwix_asymmetric_jit")])
def test_qwix_asymmetric_external_follows_the_preset(jit, preset):
    cases = cases_of(ALL["int8"], (0.1, 0.0123, 0.75))
    assert_follows(lambda x, s, z: kernel(x, s, z, jit), preset, "int8", cases=cases, keep=not_nan)


@pytest.mark.parametrize("jit", [False, True])
def test_qwix_external_runs_as_written_where_the_scale_is_not_broadcast(jit):
    """Its division stays one: XLA makes a product of a division by a broadcast scale only."""
    cases = cases_of(ALL["int8"], (0.1, 0.0123, 0.75))
    symmetric = [(scale, 0) for scale, _ in cases]
    assert_follows(lambda x, s, z: kernel(x, s, None, jit, whole=True), "qwix_symmetric", "int8", cases=symmetric)
    whole = lambda x, s, z: kernel(x, s, z, jit, whole=True)  # noqa: E731
    assert_follows(whole, "qwix_asymmetric", "int8", cases=cases, keep=not_nan)
    assert [int(whole(np.float32([np.nan]), 0.5, z)[0]) for z in (-128, 0, 5)] == [0, 0, 0]


@pytest.mark.parametrize("of_codes", [False, True])
def test_qwix_external_takes_the_gradient_at_the_unrounded_operands_unless_told(of_codes):
    """LAY-13 is its use_original_residuals=False; by default the weights' gradient is of another function."""
    qwix = pytest.importorskip("qwix")
    nn = pytest.importorskip("flax.linen")
    random = np.random.default_rng(0)
    x, w, g = (random.normal(size=shape).astype(np.float32) for shape in ((4, 8), (8, 3), (4, 3)))
    x[:, 0] = w[0] = 4  # the largest of each, positive: 127.5 is code 127 however it is rounded
    options = {"use_original_residuals": False} if of_codes else None
    rule = qwix.QtRule(module_path=".*", weight_qtype="int8", act_qtype="int8", additional_qt_config=options)
    model = qwix.quantize_model(nn.Dense(3, use_bias=False), qwix.QtProvider([rule]))
    dx, dw = jax.grad(lambda x, w: jnp.sum(model.apply({"params": {"kernel": w}}, x) * g), (0, 1))(x, w)
    rows, columns = np.abs(x).max(1, keepdims=True) / 127.5, np.abs(w).max(0, keepdims=True) / 127.5
    rounded = np.clip(np.rint(x / rows), -128, 127) * rows, np.clip(np.rint(w / columns), -128, 127) * columns
    left, right = rounded if of_codes else (x, w)
    for got, want in ((dx, g @ right.T), (dw, left.T @ g)):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert np.abs(rounded[0].T @ g - x.T @ g).max() > 1e-3  # so the bounds above can tell


def test_aqt_external_follows_the_preset():
    quantizer = pytest.importorskip("aqt.jax.v2.aqt_quantizer").quantizer_make(8)
    random = np.random.default_rng(0)
    for amax in random.uniform(0.1, 10, 8).astype(np.float32):
        x = affine_probes("int8", float(amax / np.float32(127.5)), 0)
        x = np.append(x[np.abs(x) <= amax][::2][:400], amax).astype(np.float32)  # one length: compiled once
        found, _ = quantizer.quant(jnp.asarray(x)[None], calibration_axes=-1)
        scale = np.float32(np.asarray(found.scale[0]).ravel()[0])
        want = quantize(x, scale, np.int32(0), fmt=ALL["int8_narrow"], convention=PRESETS["aqt"].affine)
        assert np.array_equal(np.asarray(found.qvalue)[0], want)
