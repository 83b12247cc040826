"""What a Flax model becomes: everything a run needs is saved, and kernels are told from what only looks like one."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("rich")

import jax  # noqa: E402
import small_models  # noqa: E402
from flax import linen, nnx, traverse_util  # noqa: E402

import jaxquant  # noqa: E402
import refquant  # noqa: E402
from jaxquant.decide import opening  # noqa: E402
from jaxquant.decide.bars import parse_bar  # noqa: E402
from jaxquant.decide.ladder import rungs  # noqa: E402
from jaxquant.decide.run import Ladder  # noqa: E402
from jaxquant.store import load  # noqa: E402
from refquant.granularity import PerAxis  # noqa: E402
from refquant.schemes import parse  # noqa: E402


class LinenNormNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=True)(linen.Conv(8, (3, 3))(x))
        return linen.Dense(10)(linen.relu(x).mean((1, 2)))


def nnx_norm_net():
    model = small_models.ConvNet(nnx.Rngs(0, dropout=1), True)
    model.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(3))  # its random state is no weight
    model.norm.mean[...] = np.linspace(-1, 1, 8, dtype=np.float32)
    model.norm.var[...] = np.linspace(0.5, 2, 8, dtype=np.float32)
    return model


def linen_norm_net():
    variables = LinenNormNet().init(jax.random.key(0), np.zeros((1, 6, 6, 1), np.float32))
    stats = jax.tree.map(lambda v: v + np.float32(0.25), variables["batch_stats"])
    return LinenNormNet(), {**variables, "batch_stats": stats, "cache": {"seen": np.zeros(3, np.float32)}}


def wanted(model):
    if isinstance(model, tuple):
        params = traverse_util.flatten_dict(model[1]["params"], sep=".")
        stats = traverse_util.flatten_dict(model[1]["batch_stats"], sep=".")
        return params | {f"batch_stats.{name}": value for name, value in stats.items()}
    kept = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {".".join(map(str, path)): value[...] for path, value in kept}


@pytest.mark.parametrize("make", [nnx_norm_net, linen_norm_net], ids=["nnx", "linen"])
def test_the_saved_file_has_batch_statistics_differential(make, tmp_path):
    """Every array that a run needs comes back, statistics in their own bits; random state and caches do not."""
    model = make()
    out = tmp_path / "out"
    result = jaxquant.decide(model, small_models.images(), bar="same>=1%", schemes=["int8:channel"], out=out)
    loaded, want = load(out / "model.safetensors"), wanted(model)
    assert set(loaded) == set(want)
    for name in [name for name in want if name.endswith((".mean", ".var", ".bias", ".scale"))]:
        assert np.array_equal(np.asarray(loaded[name]), np.asarray(want[name]))
    assert result["saved"]["bytes"] == result["saved"]["predicted"]
    assert result["model"]["weights"] == sum(int(np.size(value)) for value in want.values())


class AttentionNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 16, (3, 3), strides=2, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(4, 16, decode=False, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)
        self.own = nnx.Param(np.ones((16, 16), np.float32))
        self.bias = nnx.Param(np.zeros((9, 16), np.float32))

    def __call__(self, x):
        x = self.conv(x).reshape(x.shape[0], -1, 16) @ self.own[...] + self.bias[...]
        return self.head((x + self.attn(x)).mean(1))


class LinenAttentionNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(16, (3, 3), strides=2, name="conv")(x).reshape(x.shape[0], -1, 16)
        own = self.param("own", linen.initializers.ones, (16, 16))
        x = x @ own + self.param("bias", linen.initializers.zeros, (9, 16))
        x = linen.MultiHeadDotProductAttention(4, name="attn")(x)
        return linen.Dense(10, name="head")(x.mean(1))


def attention_models():
    variables = LinenAttentionNet().init(jax.random.key(0), np.zeros((1, 6, 6, 1), np.float32))
    return {"nnx": AttentionNet(nnx.Rngs(0)), "linen": (LinenAttentionNet(), variables)}


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_kernels_have_the_axes_of_their_modules_golden(kind):
    """No bias is a matrix, an attention's kernel is no convolution, and `channel` is what it is in jaxquant.flax."""
    target = opening.target_of(attention_models()[kind], "net")
    ladder = Ladder(target, opening._examples("small_models:images", None), parse_bar("same>=1%"))
    plans = {p.info.name: p for p in ladder.plans(parse("w8a8:token")) if p.scheme}
    own = {"own": ("linear", PerAxis(0))}  # of the model itself: by name and shape
    project = {f"attn.{name}.kernel": ("linear", PerAxis((1, 2))) for name in ("query", "key", "value")}
    layers = {"attn.out.kernel": ("linear", PerAxis(2)), "conv.kernel": ("conv", PerAxis(3))}
    want = own | project | layers | {"head.kernel": ("linear", PerAxis(1))}
    assert {name: (p.kind, p.spec.granularity) for name, p in plans.items()} == want
    row = list(ladder.climb(rungs(("w8a8:token",))))[1]
    assert (row.float_inputs, row.differing) == (1, 0)
    assert row.float_told == "1 layer keeps float inputs: 1 x parameters of a class that is not Flax's own layer"


def test_the_saved_kernel_of_an_attention_comes_back_differential(tmp_path):
    model, out = attention_models()["nnx"], tmp_path / "out"
    jaxquant.decide(model, small_models.images(), bar="same>=1%", schemes=["int8:channel"], out=out)
    found = load(out / "model.safetensors")
    for name in ("query", "out"):
        kernel, got = np.asarray(getattr(model.attn, name).kernel[...]), found[f"attn.{name}.kernel"]
        want = refquant.quantize_tensor(kernel, got.spec)
        assert np.array_equal(np.asarray(got.codes), want.codes)
        assert np.array_equal(np.asarray(got.scale), want.scale)
    assert np.array_equal(found["attn.query.bias"], np.asarray(model.attn.query.bias[...]))


@pytest.mark.parametrize("build", [small_models.build_linen, small_models.build], ids=["linen", "nnx"])
def test_labels_without_a_score_function_are_told(build, tmp_path):
    with pytest.raises(ValueError, match=r"examples \(inputs, label\) need a score function, --score module:function"):
        jaxquant.decide(build(), small_models.labelled(), out=tmp_path / "out")


def test_an_example_is_shown_with_its_label_golden():
    work = opening._examples("small_models:labelled", "small_models:score")
    label = small_models.labelled()[3][1]
    assert work.show(3)["question"] == f"example 3: float32[12], {label}"
