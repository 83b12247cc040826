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
from jaxquant.store import load  # noqa: E402


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
