"""MSE and L_p search (specs/40-calibration.md, CAL-5, CAL-11, CAL-12): both packages and the third opinion."""

import exact_calibration as exact
import numpy as np
import pytest
import strategies as some
from bits import assert_same
from calibration_support import INT, PACKAGES, STREAMS, Package, bits, observe

from refquant.conventions import Affine
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup, PerTensor
from refquant.spec import ScaleRule

FLOAT = ScaleRule(zero="float")
SCHEMES = [
    ("int4", ScaleRule(), 2),
    ("int8", ScaleRule(denominator="half_range"), 1),
    ("int3", ScaleRule(denominator="signed_absmax"), 3),
    ("uint4", INT, 4),
    ("e2m1fn", ScaleRule(storage="e4m3fn"), 2),
    ("nf4", ScaleRule(storage="bfloat16"), 2),
    ("int2", ScaleRule(storage="e8m0fnu"), 2),
    ("uint4", FLOAT, 2),
    ("int3", FLOAT, 1),
]


CONVENTIONS = [Affine(), Affine(op="given", zero="bias", nan="zero")]


@pytest.mark.parametrize("convention", CONVENTIONS, ids=str)
@pytest.mark.parametrize(("name", "rule", "power"), SCHEMES)
def test_mse_search_differential_exact(backend, name, rule, power, convention):
    """CAL-5, QTN-2: "bias" and a real offset find each other, and op "given" is given 1 / scale."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 7)).astype(np.float32)
    x[0, 1], x[1, 5], x[1, 2] = 5, np.nan, 2.0**-127
    options = {"fmt": ALL[name], "rule": rule, "power": power, "smallest": 60, "convention": convention}
    low, high = getattr(backend, "calibration.mse").search(x, granularity=PerGroup(1, 4), **options)
    for i in range(2):
        for j, row in enumerate((x[i, :4], [*x[i, 4:], None])):
            tile = [[None if v is None else bits(v)[0] for v in row]]
            assert bits([low[i, j], high[i, j]]) == list(exact.mse_of_tile(tile, **options)), (i, j)


@pytest.mark.parametrize("scale", [2.0**-120, 2.0**-149, 1.0, 2.0**120])
def test_mse_search_differential_exact_at_the_ends(backend, scale):
    with np.errstate(over="ignore"):
        x = (np.float64([[1.0, -0.3, 0.2, 0.7], [0.1, -200.0, 3.5, 0.0]]) * scale).astype(np.float32)
    options = {"fmt": ALL["int3"], "smallest": 80}
    low, high = getattr(backend, "calibration.mse").search(x, **options)
    tile = [bits(row) for row in x]
    assert bits([low, high]) == list(exact.mse_of_tile(tile, **options))


@pytest.mark.parametrize("name", ["specials", "heavy", "relu", "subnormal", "nan", "grows"])
@pytest.mark.parametrize(("fmt", "rule"), [("int4", ScaleRule()), ("uint4", INT), ("int4", FLOAT)])
def test_mse_bins_differential_exact(backend, name, fmt, rule):
    data = [b for x in STREAMS[name] for b in bits(x)]
    options = {"fmt": ALL[fmt], "rule": rule, "smallest": 97}
    got = getattr(backend, "calibration.mse").finalize(observe(backend, "linear", STREAMS[name]), **options)
    assert bits(got) == list(exact.mse_of_bins(data, **options))


@pytest.mark.parametrize(("name", "rule", "power"), [SCHEMES[0], SCHEMES[3], SCHEMES[4], SCHEMES[8]])
def test_mse_differential_packages(name, rule, power):
    """All 81 candidates, larger tensors whose elements lie within 2 ulp of a half step of some candidate."""
    pytest.importorskip("jax")
    rng = np.random.default_rng(5)
    steps = rng.integers(-16, 16, (24, 96)) / 2 * rng.integers(20, 101, (24, 96)) / 100
    x = some.from_keys(some.keys_of(steps.astype(np.float32)) + rng.integers(-2, 3, steps.shape))
    results = []
    for package in map(Package, PACKAGES):
        module = getattr(package, "calibration.mse")
        state = observe(package, "linear", [x * np.float32(0.3), x])
        options = {"fmt": ALL[name], "rule": rule, "power": power}
        granularity = {"int4": PerAxis(0), "uint4": PerGroup(1, 40), "e2m1fn": PerTensor(), "int3": PerAxis(1)}[name]
        found = module.search(x, granularity=granularity, **options), module.finalize(state, **options)
        results.append([np.asarray(v) for pair in found for v in pair])
    for want, got in zip(*results, strict=True):
        assert_same(got, want)


def test_mse_property_finds_the_smallest_error():
    from refquant import affine, scales
    from refquant.calibration import mse

    x = np.float32(np.random.default_rng(1).laplace(size=4000))
    found = mse.search(x, fmt=ALL["int4"])

    def error(low, high) -> float:  # noqa: ANN001
        scale, zero = scales.choose_scale(low, high, fmt=ALL["int4"], rule=ScaleRule())
        return float(np.mean((x.astype(np.float64) - affine.fake_quantize(x, scale, zero, fmt=ALL["int4"])) ** 2))

    low, high = scales.range_of(x)
    best = min(error(low * np.float32(k / 100), high * np.float32(k / 100)) for k in range(20, 101))
    assert error(*found) == pytest.approx(best, rel=1e-6)
    assert error(*found) < 0.7 * error(low, high)
