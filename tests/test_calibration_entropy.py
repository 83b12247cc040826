"""Entropy (specs/40-calibration.md, CAL-6, CAL-13..CAL-15): both packages and the third opinion."""

from dataclasses import replace

import exact_calibration as exact
import numpy as np
import pytest
from bits import assert_same
from calibration_support import PACKAGES, RNG, STREAMS, Package, bits, observe

from refquant.formats import ALL


def test_lg_differential_exact(backend):
    near = [max(1, (1 << e) + d) for e in range(31) for d in (-2, -1, 0, 1, 2)]
    v = np.array(sorted({*near, *range(1, 3000), *(int(n) for n in RNG.integers(1, 2**31, 3000)), 2**31 - 1}))
    v = v[v < 2**31]
    got = np.asarray(
        getattr(backend, "calibration.entropy").lg(v.astype(np.int32 if backend.name == "jaxquant" else int))
    )
    assert got.tolist() == [exact.lg(int(n)) for n in v]
    error = 2.0**24 * np.log2(v.astype(np.float64)) - got
    assert error.min() >= -1e-6 and error.max() < 8  # CAL-15


def test_divergence_property_is_the_kl_divergence():
    """CAL-14: within 2^-19 bits of KL(P || Q) in binary64."""
    h = [int(v) for v in np.random.default_rng(2).poisson(2000 * np.exp(-np.arange(2048) / 120)) + 0]
    for i in (128, 300, 517, 900):
        if exact.divergence(h, i, 128) is None:
            continue
        p, source = np.float64(h[:i]), np.float64(h[:i])
        p[-1] += sum(h[i:])
        q = np.zeros(i)
        for m in range(128):
            level = slice(-(-m * i // 128), -(-(m + 1) * i // 128))
            used = source[level] > 0
            q[level] = np.where(used, source[level].sum() / max(used.sum(), 1), 0)
        p, q, kept = p / p.sum(), q / q.sum(), p > 0
        kl = (p[kept] * np.log2(p[kept] / q[kept])).sum()
        got = exact.divergence(h, i, 128) / 2**24 / sum(h) - np.log2(sum(h))
        assert abs(got - kl) < 2**-19


@pytest.mark.parametrize("name", ["heavy", "relu", "specials", "subnormal", "nan", "zeros", "finite"])
@pytest.mark.parametrize("fmt", ["int8", "int4"])
def test_entropy_differential_exact(backend, name, fmt):
    batches = [x * np.float32(0.5) for x in STREAMS[name]] if name == "heavy" else STREAMS[name]
    data = [b for x in batches for b in bits(x)]
    got = getattr(backend, "calibration.entropy").finalize(observe(backend, "linear", batches), fmt=ALL[fmt])
    assert bits(got) == list(exact.entropy(data, ALL[fmt].qmax + 1))


def bumpy(seed: int, largest: int, top: int) -> np.ndarray:
    """Counts of a heavy tail with holes, up to a bin."""
    rng = np.random.default_rng(seed)
    i = np.arange(4096)
    mean = largest * np.exp(-i / rng.uniform(100, 900)) + rng.uniform(0, 0.1)
    counts = np.stack([rng.poisson(np.minimum(mean, 1e8)) * max(1, largest // 10**8), rng.poisson(mean / largest)])
    return np.where(i < top, np.minimum(counts, 2**31 - 1), 0).astype(np.int32)


@pytest.mark.parametrize(("largest", "top"), [(50, 2100), (3000, 2600), (2**31 - 1, 2052)])
def test_entropy_differential_exact_large_counts(backend, largest, top):
    counts = bumpy(1, largest, top)
    counts[0, top - 1] = 1
    state = observe(backend, "linear", [np.float32([-1.9, 1.9])])
    state = replace(state, counts=counts)
    cells = exact.Counter({(s, i): int(counts[s, i]) for s in (0, 1) for i in range(4096)})
    want = exact.entropy_bins(exact.folded(cells), 8)
    low, high = getattr(backend, "calibration.entropy").finalize(state, fmt=ALL["int4"])
    assert_same(np.asarray(high), np.minimum(np.float32(want / 1024), np.float32(1.9)))
    assert_same(np.asarray(low), -np.asarray(high))


def test_entropy_differential_packages():
    pytest.importorskip("jax")
    for seed in range(2):
        results = []
        for package in map(Package, PACKAGES):
            state = observe(package, "linear", [np.float32([-1.99, 1.99])])
            state = replace(state, counts=bumpy(seed, 10 ** (2 + seed), 4090))
            results.append(
                [
                    float(getattr(package, "calibration.entropy").finalize(state, fmt=ALL[f])[1])
                    for f in ("int8", "uint8", "int4")
                ]
            )
        assert results[0] == results[1]
        assert seed > 0 or len(set(results[0])) > 1
