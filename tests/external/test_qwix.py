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


def kernel(x: np.ndarray, scale: float, zero: int | None, jit: bool) -> np.ndarray:
    qarray = pytest.importorskip("qwix._src.core.qarray")

    def codes(x, scale, zero):
        return qarray.quantize_with_scale_zero_point(x, jnp.int8, scale, zero).qvalue

    zeros = None if zero is None else jnp.full((1, 1), zero, jnp.int32)
    run = jax.jit(codes) if jit else codes
    return np.asarray(run(jnp.asarray(x)[None], jnp.full((1, 1), scale, jnp.float32), zeros))[0]


@pytest.mark.parametrize("jit", [False, True])
def test_qwix_symmetric_external_follows_the_preset(jit):
    cases = [(scale, 0) for scale, _ in cases_of(ALL["int8"], (0.1, 0.0123, 0.75))]
    assert_follows(lambda x, s, z: kernel(x, s, None, jit), "qwix_symmetric_xla", "int8", cases=cases)


@pytest.mark.parametrize(("jit", "preset"), [(False, "qwix_asymmetric_eager"), (True, "qwix_asymmetric_jit")])
def test_qwix_asymmetric_external_follows_the_preset(jit, preset):
    cases = cases_of(ALL["int8"], (0.1, 0.0123, 0.75))
    assert_follows(lambda x, s, z: kernel(x, s, z, jit), preset, "int8", cases=cases, keep=not_nan)


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
