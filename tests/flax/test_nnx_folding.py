"""Batch norms folded into NNX layers: equal in evaluation mode, bit for bit, and trained with batch statistics."""

import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant.flax import Lsq, Recipe, Rule, Schedule, nnx_api
from refquant import qat
from refquant.qat.folding import fold
from refquant.qtensor import quantize_tensor
from tests.flax.nnx_models import Normed, inputs, near_boundary

X = inputs(3, 5, 5, 2)
PLAIN = {"weights": "int8", "inputs": "int8:token"}


def recipe(*, schedule=None, **options):
    return Recipe(
        Rule("conv", fold="bn", **(options or PLAIN)), Rule("dense", fold="a_norm", **(options or PLAIN)),
        schedule=schedule,
    )  # fmt: skip


def model_of(**options):
    model = near_boundary(Normed(**options))
    for norm in (model.bn, model.a_norm):
        norm.mean[...] = jnp.asarray(inputs(norm.num_features, seed=1))
        norm.var[...] = jnp.abs(jnp.asarray(inputs(norm.num_features, seed=2))) + 0.1
    return model


@pytest.mark.parametrize("options", [{"use_bias": True}, {"affine": False}, {"dtype": jnp.bfloat16}], ids=str)
def test_folded_converted_is_trained(options):
    model = model_of(**options)
    qmodel, report = nnx_api.prepare(model, recipe(), X)
    imodel = nnx_api.convert(qmodel)
    want = nnx.jit(lambda m, x: m(x))(qmodel, X)
    assert_same(nnx.jit(lambda m, x: m(x))(imodel, X), want)
    assert_same(imodel(X), want)
    assert_same(qmodel(X), want)
    error = np.linalg.norm(np.float32(want) - np.float32(model(X))) / np.linalg.norm(np.float32(model(X)))
    assert error < 0.05, error
    rows = {row.path: row.why for row in report}
    assert rows.get("bn", "folded into 'conv'") == "folded into 'conv'"


def test_folded_differential_is_the_reference_layer():
    """The converted convolution is refquant's own, with the folded kernel and bias (LAY-14)."""
    model = model_of(use_bias=True)
    qmodel, _ = nnx_api.prepare(model, recipe(), X)
    conv, bn = model.conv, model.bn
    arrays = [np.asarray(v[...]) for v in (conv.kernel, conv.bias, bn.mean, bn.var, bn.scale, bn.bias)]
    kernel, bias = fold(*arrays, epsilon=bn.epsilon)
    site = qmodel.conv.site
    want = qat.conv(X, quantize_tensor(kernel, site.weights), bias, inputs=site.inputs_for(4, (1, 2, 3)))
    assert_same(qmodel.bn(qmodel.conv(X)), want)


def test_training_uses_the_batch_and_trains_every_leaf():
    learned = {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()}
    model = model_of(use_bias=True)
    qmodel, _ = nnx_api.prepare(model, recipe(schedule=Schedule(freeze_batch_norm=1), **learned), X)
    nnx_api.observe(qmodel, X)
    nnx_api.calibrate(qmodel)
    for one in (model, qmodel):
        one.bn.use_running_average = one.a_norm.use_running_average = False
    traced = []

    @nnx.jit
    def step(model, x):
        traced.append(1)
        grads = nnx.grad(lambda m: jnp.sum(m(x) ** 3))(model)
        nnx_api.advance(model)
        return grads

    model(X)
    grads = step(qmodel, X)
    found = {"/".join(map(str, p)): np.asarray(v[...]) for p, v in nnx.to_flat_state(grads)}
    assert all(np.isfinite(v).all() for v in found.values())
    assert all(
        found[name].any() for name in ("conv/kernel", "conv/kernel_scale", "bn/scale", "bn/bias", "dense/kernel")
    )
    np.testing.assert_allclose(qmodel.bn.mean[...], model.bn.mean[...], rtol=0.1, atol=0.1)
    before = np.asarray(qmodel.bn.mean[...])
    step(qmodel, X)
    assert_same(qmodel.bn.mean[...], before)
    assert len(traced) == 1


def test_explain_measures_the_folded_layer():
    qmodel, _ = nnx_api.prepare(model_of(), recipe(weights="int4"), X)
    rows = nnx_api.explain(qmodel, X)
    assert [row.path for row in rows] == ["conv", "dense"] and all(0 < row.error < 1 for row in rows)


class Apart(Normed):
    def __call__(self, x):
        return self.bn(self.conv(x) * 1)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="fold='norm' is not there"):
        nnx_api.prepare(model_of(), Recipe(Rule("conv", fold="norm", **PLAIN)))
    with pytest.raises(ValueError, match="fold='dense' is Linear"):
        nnx_api.prepare(model_of(), Recipe(Rule("conv", fold="dense", **PLAIN)))
    with pytest.raises(ValueError, match="and 3 features, need axis -1 and 6"):
        nnx_api.prepare(model_of(), Recipe(Rule("conv", fold="a_norm", **PLAIN)))
    with pytest.raises(ValueError, match="not that layer's own output"):
        nnx_api.prepare(Apart(), Recipe(Rule("conv", fold="bn", **PLAIN)), X)
    imodel = nnx_api.convert(nnx_api.prepare(model_of(), recipe(), X)[0])
    imodel.bn.use_running_average = False
    with pytest.raises(ValueError, match="its statistics are constants"):
        imodel(X)


def test_folding_runs_inside_other_transforms():
    qmodel, _ = nnx_api.prepare(model_of(), recipe(), X)
    remat = nnx.jit(nnx.remat(lambda m, x: m(x)))
    assert_same(remat(qmodel, X), nnx.jit(lambda m, x: m(x))(qmodel, X))
