"""tree_sum (specs/00-conventions.md, SUM-1): one order, everywhere."""

import subprocess
import sys

import exact
import numpy as np
import pytest
import strategies as some
from bits import assert_same, bits_of

SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 16, 33, 100, 257)


def in_order(x: np.ndarray) -> np.ndarray:
    """SUM-1 over the last axis with NumPy's binary32 additions."""
    while x.shape[-1] > 1:
        if x.shape[-1] % 2:
            x = np.concatenate([x, np.full((*x.shape[:-1], 1), -0.0, np.float32)], -1)
        x = x[..., ::2] + x[..., 1::2]
    return x[..., 0] + np.float32(0) if x.shape[-1] else np.zeros(x.shape[:-1], np.float32)


def terms(count: int, rows: int = 5) -> np.ndarray:
    """Values of very different size, where every order has a result of its own."""
    rng = np.random.default_rng(count)
    return (rng.standard_normal((rows, count)) * np.exp2(rng.integers(-12, 12, (rows, count)))).astype(np.float32)


def check_tree_sum(sums: object) -> None:
    for count in SIZES:
        x = terms(count)
        assert_same(np.asarray(sums.tree_sum(x, axis=1)), in_order(x), call=f"tree_sum, {count} terms")


def test_tree_sum_differential(backend):
    """SUM-1."""
    check_tree_sum(backend.sums)


def test_tree_sum_differential_exact():
    """SUM-1: the third opinion has the same order."""
    for count in (1, 3, 6, 13):
        x = terms(count, 1)
        assert int(bits_of(in_order(x))[0]) == exact.tree_sum([int(b) for b in bits_of(x[0])])


def test_tree_sum_differential_axes(backend):
    """SUM-1: several axes, last first; negative axes."""
    x = terms(60, 1).reshape(3, 4, 5)
    want = in_order(np.ascontiguousarray(np.moveaxis(in_order(x), 1, -1)))
    assert_same(backend.sums.tree_sum(x, axis=(1, 2)), want)
    assert_same(backend.sums.tree_sum(x, axis=0), in_order(np.moveaxis(x, 0, -1)))
    assert_same(backend.sums.tree_sum(x, axis=-1), in_order(x))


def test_tree_sum_golden_zeros_and_specials(backend):
    """SUM-1: an empty axis and a sum of −0s are +0; inf and NaN follow IEEE."""
    tree_sum = backend.sums.tree_sum
    assert_same(tree_sum(np.zeros((3, 0), np.float32), axis=1), np.zeros(3, np.float32))
    assert_same(tree_sum(np.full((2, 3), -0.0, np.float32), axis=1), np.zeros(2, np.float32))
    assert_same(tree_sum(np.float32([-0.0, 1]), axis=()), np.float32([0, 1]))  # over no axis: sums of one
    x = np.float32([[np.inf, 1, 2], [np.inf, -np.inf, 0], [np.nan, 1, 1], [3e38, 3e38, -3e38]])
    with np.errstate(all="ignore"):
        assert_same(tree_sum(x, axis=1), in_order(x))


SHARDED = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxquant import affine, sums
from refquant import affine as ref
from refquant.formats import ALL
from refquant.granularity import PerAxis
import strategies as some, test_sums
from bits import assert_same
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
x = test_sums.terms(64, 16)
near = np.resize(some.near(1 / 3, ALL["int8"]), (64, 16))
scale = np.full((64, 1), 1 / 3, np.float32)
for spec in (P("a"), P(None, "a"), P("a", "b"), P(("a", "b"))):
    put = lambda v: jax.device_put(v, NamedSharding(mesh, spec))
    assert_same(np.asarray(jax.jit(lambda v: sums.tree_sum(v, axis=1))(put(x))), test_sums.in_order(x))
    options = dict(fmt=ALL["int8"], granularity=PerAxis(0))
    assert_same(np.asarray(affine.quantize(put(near), scale, **options)), ref.quantize(near, scale, **options))
    want = ref.fake_quantize(near, scale, **options)
    assert_same(np.asarray(affine.fake_quantize(put(near), scale, **options)), want)
print(len(jax.devices()), "devices agree")
"""


def test_sharded_differential_eight_devices():
    """SUM-1, AFF-2, FQ-1 on 8 emulated devices, four layouts."""
    pytest.importorskip("jax")
    import os

    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    here = os.path.dirname(os.path.abspath(__file__))
    env["PYTHONPATH"] = os.pathsep.join([here, os.path.dirname(here)])
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.strip() == "8 devices agree", done.stderr[-2000:]
    assert some.SPECIAL.size > 0
