"""`jax_numpy_rank_promotion="raise"`: a user may forbid that ranks are broadcast; the packages broadcast none."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")
import jaxquant  # noqa: E402
from jaxquant import qat, scales  # noqa: E402
from jaxquant.qat import folding  # noqa: E402
from jaxquant.requantize import requantize  # noqa: E402
from refquant.conventions import RESCALES  # noqa: E402
from refquant.formats import ALL  # noqa: E402
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor, PerToken  # noqa: E402
from refquant.spec import QuantSpec, ScaleRule  # noqa: E402

RNG = np.random.default_rng(0)
X, W, K, BIAS = (RNG.standard_normal(n).astype(np.float32) for n in ((6, 64), (64, 8), (3, 64, 8), 8))
TOKEN, TENSOR = QuantSpec(ALL["int8"], PerToken()), QuantSpec(ALL["uint8"], PerTensor(), ScaleRule("int"))
GRAINS = (PerTensor(), PerAxis(0), PerAxis(1), PerGroup(1, 48), PerBlock((2, 32)))


@pytest.fixture(autouse=True)
def forbidden():
    with jax.numpy_rank_promotion("raise"):
        yield


def test_the_setting_is_seen():
    with pytest.raises(ValueError, match="rank_promotion"):
        jax.numpy.add(W, BIAS)


@pytest.mark.parametrize("granularity", GRAINS, ids=str)
@pytest.mark.parametrize("fmt", ["int4", "uint8", "e4m3fn", "nf4"])
def test_fake_quantize_and_its_gradient_in_ranks(fmt, granularity):
    rule = ScaleRule("int") if fmt == "uint8" else ScaleRule()
    q = jaxquant.quantize_tensor(X, QuantSpec(ALL[fmt], granularity, rule))
    low, high = scales.range_of(X, granularity=granularity)
    scale, zero = scales.choose_scale(low, high, fmt=ALL[fmt], rule=rule)

    def total(x):
        return jaxquant.fake_quantize(x, scale, zero, fmt=ALL[fmt], granularity=granularity).sum()

    assert jax.grad(total)(X).shape == jaxquant.dequantize_tensor(q).shape == X.shape


@pytest.mark.parametrize("inputs", [None, TOKEN, TENSOR], ids=["float", "token", "tensor"])
@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(1), PerGroup(0, 24)], ids=str)
def test_layers_with_a_bias_and_their_gradients_in_ranks(granularity, inputs):
    def trained(w):
        return qat.Trained(w, spec=QuantSpec(ALL["int8"], granularity))

    def total(x, w, bias):
        return qat.dense(x, trained(w), bias=bias, inputs=inputs).sum()

    assert [g.shape for g in jax.grad(total, (0, 1, 2))(X, W, BIAS)] == [X.shape, W.shape, BIAS.shape]


@pytest.mark.parametrize("inputs", [None, TENSOR], ids=["float", "tensor"])
@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(2)], ids=str)
def test_convolutions_with_a_bias_and_their_gradients_in_ranks(granularity, inputs):
    def total(x, kernel, bias):
        weight = qat.Trained(kernel, spec=QuantSpec(ALL["int8"], granularity))
        return qat.conv(x[None], weight, bias=bias, inputs=inputs).sum()

    assert [g.shape for g in jax.grad(total, (0, 1, 2))(X, K, BIAS)] == [X.shape, K.shape, BIAS.shape]


@pytest.mark.parametrize("name", RESCALES)
def test_requantize_of_channels_in_ranks(name):
    acc = np.arange(-20, 20, dtype=np.int32).reshape(5, 8)
    kind = np.float32 if RESCALES[name].point.multiplier == "f32" else np.float64
    multiplier, zero = np.linspace(0.1, 0.9, 8).astype(kind), np.arange(8, dtype=np.int32)
    got = requantize(acc, multiplier, zero, fmt=ALL["int8"], rescale=RESCALES[name].point)
    assert got.shape == acc.shape


def test_fold_and_its_gradient_in_ranks():
    numbers = [np.abs(BIAS) for _ in range(4)]
    loss = lambda k, *rest: sum(v.sum() for v in folding.fold(k, BIAS, *rest, epsilon=1e-3))  # noqa: E731
    assert jax.grad(loss)(K, *numbers).shape == K.shape
