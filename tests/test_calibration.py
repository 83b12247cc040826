"""Calibration (specs/40-calibration.md, CAL-0..CAL-15): both packages, the third opinion, merging, bad input."""

import importlib
from dataclasses import fields, replace

import exact_calibration as exact
import numpy as np
import pytest
import strategies as some
from bits import assert_same, bits_of, float32
from exact_affine import range_of

from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup, PerTensor, PerToken
from refquant.spec import ScaleRule

RNG = np.random.default_rng(7)
KINDS = ("minmax", "ema", "histogram", "linear")
INT = ScaleRule(zero="int")


def bits(x) -> list[int]:  # noqa: ANN001
    return [int(b) for b in bits_of(np.asarray(x, np.float32)).reshape(-1)]


def leaves(state) -> list:  # noqa: ANN001
    """The arrays of a state, in order."""
    found = []
    for item in fields(state):
        value = getattr(state, item.name)
        found += leaves(value) if hasattr(value, "__dataclass_fields__") and item.name == "seen" else [value]
    return found


def assert_same_state(got, want) -> None:  # noqa: ANN001
    for a, b in zip(leaves(got), leaves(want), strict=True):
        assert_same(np.asarray(a), np.asarray(b)) if hasattr(b, "dtype") else assert_(a == b)


def assert_(truth: bool) -> None:
    assert truth


def observe(backend, kind: str, batches, **options):  # noqa: ANN001, ANN003, ANN201
    module = getattr(backend, f"calibration.{kind}")
    state = module.init(**options)
    for x in batches:
        state = module.update(state, x)
    return state


def edges(seed: int) -> list[np.ndarray]:
    """Batches around the edges of bins of every width, with specials, growing in range."""
    rng = np.random.default_rng(seed)
    batches = []
    for power in rng.permutation([-140, -120, -3, 0, 1, 5, 60, 127]):
        top = np.ldexp(1.0, int(power))
        at = top * rng.integers(0, 4096, 12) / 2048
        with np.errstate(over="ignore"):
            near = some.neighbours(np.concatenate([at, -at]).astype(np.float32))
            near = np.concatenate([near, some.neighbours((top * rng.integers(128, 256, 6) / 128).astype(np.float32))])
        batches.append(np.where(np.isinf(near), np.float32(1), near))
    return batches


STREAMS = {
    "empty": [np.zeros((0,), np.float32)],
    "nan": [np.float32([np.nan, np.nan])],
    "zeros": [np.float32([0.0, -0.0])],
    "specials": [some.SPECIAL],
    "finite": [some.SPECIAL[np.isfinite(some.SPECIAL)], np.float32([-7.0])],
    "subnormal": [float32([1, 0x80000003, 0x00400000, 0x807FFFFF])],
    "relu": [np.maximum(RNG.standard_normal(300), 0).astype(np.float32)],
    "normal": list(RNG.standard_normal((4, 200)).astype(np.float32)),
    "heavy": list(np.tan(np.linspace(-1.55, 1.55, 400)).astype(np.float32).reshape(4, 100)),
    "grows": [np.float32(2.0**k) * RNG.standard_normal(60).astype(np.float32) for k in (-130, -20, 0, 1, 13, 90)],
    "edges": edges(0),
    "edges without extremes": edges(1)[:5],
}


#: Batches of one size (JAX compiles once a shape): longer ones are cut off, shorter ones begin again.
STREAMS = {name: [np.resize(x, 120) if x.size else x for x in batches] for name, batches in STREAMS.items()}


@pytest.mark.parametrize("name", STREAMS)
def test_counts_differential_exact(backend, name):
    data = [b for x in STREAMS[name] for b in bits(x)]
    nan, inf = sum(np.isnan(x).sum() for x in STREAMS[name]), sum(np.isinf(x).sum() for x in STREAMS[name])
    for kind in KINDS:
        state = observe(backend, kind, STREAMS[name])
        seen = getattr(state, "seen", state)
        assert (int(state.count), int(seen.nan), int(seen.inf)) == (len(data) - nan, nan, inf)  # CAL-9
        assert bits([seen.low, seen.high]) == list(range_of(data))  # CAL-1
    counts = np.asarray(observe(backend, "histogram", STREAMS[name]).counts)
    assert {i: counts[i] for i in np.nonzero(counts)[0]} == exact.histogram(data)  # CAL-3
    counts = np.asarray(observe(backend, "linear", STREAMS[name]).counts)
    assert {(s, i): counts[s, i] for s, i in np.argwhere(counts)} == exact.linear(data)  # CAL-8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["specials", "normal", "grows", "edges"])
def test_merge_property_halves_equal_the_whole(backend, kind, name):
    module, batches = getattr(backend, f"calibration.{kind}"), [STREAMS["empty"][0], *STREAMS[name], *STREAMS["nan"]]
    whole = observe(backend, kind, batches)
    for at in range(len(batches) + 1):
        parts = observe(backend, kind, batches[:at]), observe(backend, kind, batches[at:])
        assert_same_state(module.merge(*parts), whole)  # CAL-0
        if kind != "ema":
            assert_same_state(module.merge(*parts[::-1]), whole)
    if kind != "ema":
        assert_same_state(observe(backend, kind, [np.concatenate([x.reshape(-1) for x in batches])]), whole)
        assert_same_state(observe(backend, kind, batches[::-1]), whole)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_inputs_exhaustive(backend, dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(dtype) if dtype == "float16" else np.dtype(ml_dtypes.bfloat16)
    x = np.arange(1 << 16, dtype=np.uint16).view(kind)
    for name in ("minmax", "histogram", "linear"):
        assert_same_state(observe(backend, name, [x]), observe(backend, name, [x.astype(np.float32)]))


@pytest.mark.parametrize(
    ("shape", "granularity"),
    [
        ((5, 6), PerAxis(1)),
        ((5, 6), PerGroup(1, 4)),
        ((2, 3, 5), PerAxis((0, 2))),
        ((4, 6), PerToken()),
        ((0, 6), PerAxis(1)),
        ((5, 6), PerAxis((0, 1))),
        ((1,), PerTensor()),
    ],
)
@pytest.mark.parametrize("kind", ["minmax", "ema"])
def test_tiles_differential_packages(kind, shape, granularity):
    pytest.importorskip("jax")
    batches = [RNG.choice(np.concatenate([some.SPECIAL, edges(2)[0]]), shape) for _ in range(6)]
    states = [observe(importlib_backend(n), kind, batches, shape=shape, granularity=granularity) for n in PACKAGES]
    assert_same_state(states[1], states[0])
    ends = [
        importlib_backend(n).__getattr__(f"calibration.{kind}").finalize(s)
        for n, s in zip(PACKAGES, states, strict=True)
    ]
    for got, want in zip(ends[1], ends[0], strict=True):
        assert_same(np.asarray(got), want)


PACKAGES = ("refquant", "jaxquant")


class importlib_backend:  # noqa: N801
    """A package outside the fixture, for tests that hold two side by side."""

    def __init__(self, name: str):
        self.name = name

    def __getattr__(self, name: str):  # noqa: ANN204
        return importlib.import_module(f"{self.name}.{name}")


def test_minmax_tiles_property_of_each_tile(backend):
    x = RNG.choice(some.SPECIAL, (3, 5, 7))
    state = observe(backend, "minmax", list(x), shape=(5, 7), granularity=PerGroup(1, 3))
    for i in range(5):
        for j in range(3):
            want = range_of(bits(x[:, i, 3 * j : 3 * j + 3]))
            assert bits([np.asarray(state.low)[i, j], np.asarray(state.high)[i, j]]) == list(want)


@pytest.mark.parametrize("constant", [0.1, 1.0, 2.0**-20])
def test_ema_differential_exact(backend, constant):
    batches = [x for name in ("normal", "grows", "edges", "subnormal", "nan", "finite") for x in STREAMS[name]]
    ranges = [range_of(bits(x)) for x in batches if not np.isnan(x).all()]
    want = list(exact.ema(ranges, bits(constant)[0]))
    for capacity in (2, 128) if constant == 0.1 else (5,):  # CAL-10
        state = observe(backend, "ema", batches, averaging_constant=constant, capacity=capacity)
        assert bits(getattr(backend, "calibration.ema").finalize(state)) == want


def test_ema_merge_property_when_the_first_part_is_full(backend):
    module, batches = getattr(backend, "calibration.ema"), list(RNG.standard_normal((9, 20)).astype(np.float32))
    options = {"averaging_constant": 0.25, "capacity": 4}
    whole = observe(backend, "ema", batches, **options)
    merged = module.merge(
        observe(backend, "ema", batches[:6], **options), observe(backend, "ema", batches[6:], **options)
    )
    assert_same_state(merged, whole)


def test_ema_external_torch_moving_average():
    """MovingAverageMinMaxObserver: m + c * (x - m) in float32; the numbers were computed by that formula."""
    from refquant.calibration import ema

    batches, m = [np.float32([-0.5, v]) for v in (3.0, 5.25, 0.125)], np.float32(3.0)
    for x in batches[1:]:
        m = m + np.float32(0.01) * (x.max() - m)
    low, high = ema.finalize(observe(importlib_backend("refquant"), "ema", batches))
    assert_same(high, np.float32(m))
    assert float(low) == -0.5


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_percentile_differential_exact(backend, name, two_sided):
    data = [b for x in STREAMS[name] for b in bits(x)]
    state = observe(backend, "histogram", STREAMS[name])
    for millionths in (1, 500_000, 990_000, 999_900, 1_000_000):
        got = getattr(backend, "calibration.percentile").finalize(state, millionths=millionths, two_sided=two_sided)
        assert bits(got) == list(exact.percentile(data, millionths, two_sided=two_sided)), millionths


@pytest.mark.parametrize("two_sided", [False, True])
def test_percentile_differential_counts_beyond_int64_products(backend, two_sided):
    counts = np.full(1 << 16, 2**31 - 1, np.int32)
    counts[0x7F80:0x8000] = counts[0xFF80:] = 0
    state = observe(backend, "histogram", [np.float32([-np.inf, np.inf])])
    state = replace(state, counts=counts)
    total = (2**31 - 1) * 2 * 0x7F80
    for millionths in (1, 333_333, 500_001, 999_999, 10**6):
        need = -(-millionths * total // 10**6)
        if two_sided:
            need -= total // 2
        first = -(-need // ((2**31 - 1) * (1 if two_sided else 2))) - 1
        want = 0 if need <= 0 else first << 16 | 0xFFFF
        low, high = getattr(backend, "calibration.percentile").finalize(
            state, millionths=millionths, two_sided=two_sided
        )
        assert bits([low, high]) == [want | 0x80000000 if want else 0, want]


def test_counts_property_saturate(backend):
    most = 2**31 - 1
    for kind in ("histogram", "linear"):
        module = getattr(backend, f"calibration.{kind}")
        state = observe(backend, kind, [np.float32([1.0, 3.0])])
        full = replace(state, counts=np.full_like(np.asarray(state.counts), most - 1))
        assert (np.asarray(module.merge(full, full).counts) == most).all()
        grown = module.merge(full, observe(backend, kind, [np.float32([1e9])]))
        assert int(np.asarray(grown.counts).max()) == most


SCHEMES = [
    ("int4", ScaleRule(), 2),
    ("int8", ScaleRule(denominator="half_range"), 1),
    ("int3", ScaleRule(denominator="signed_absmax"), 3),
    ("uint4", INT, 4),
    ("e2m1fn", ScaleRule(storage="e4m3fn"), 2),
    ("nf4", ScaleRule(storage="bfloat16"), 2),
    ("int2", ScaleRule(storage="e8m0fnu"), 2),
]


@pytest.mark.parametrize(("name", "rule", "power"), SCHEMES)
def test_mse_search_differential_exact(backend, name, rule, power):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 7)).astype(np.float32)
    x[0, 1], x[1, 5], x[1, 2] = 5, np.nan, 2.0**-127
    options = {"fmt": ALL[name], "rule": rule, "power": power, "smallest": 60}
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
@pytest.mark.parametrize(("fmt", "rule"), [("int4", ScaleRule()), ("uint4", INT)])
def test_mse_bins_differential_exact(backend, name, fmt, rule):
    data = [b for x in STREAMS[name] for b in bits(x)]
    options = {"fmt": ALL[fmt], "rule": rule, "smallest": 97}
    got = getattr(backend, "calibration.mse").finalize(observe(backend, "linear", STREAMS[name]), **options)
    assert bits(got) == list(exact.mse_of_bins(data, **options))


@pytest.mark.parametrize(("name", "rule", "power"), [SCHEMES[0], SCHEMES[3], SCHEMES[4]])
def test_mse_differential_packages(name, rule, power):
    """All 81 candidates, larger tensors whose elements lie within 2 ulp of a half step of some candidate."""
    pytest.importorskip("jax")
    rng = np.random.default_rng(5)
    steps = rng.integers(-16, 16, (24, 96)) / 2 * rng.integers(20, 101, (24, 96)) / 100
    x = some.from_keys(some.keys_of(steps.astype(np.float32)) + rng.integers(-2, 3, steps.shape))
    results = []
    for package in map(importlib_backend, PACKAGES):
        module = getattr(package, "calibration.mse")
        state = observe(package, "linear", [x * np.float32(0.3), x])
        options = {"fmt": ALL[name], "rule": rule, "power": power}
        granularity = {"int4": PerAxis(0), "uint4": PerGroup(1, 40), "e2m1fn": PerTensor()}[name]
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
        for package in map(importlib_backend, PACKAGES):
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


BAD = {
    "dtype": lambda c: c.minmax.update(c.minmax.init(), np.zeros(3)),
    "tiles": lambda c: c.minmax.update(c.minmax.init((4, 3), granularity=PerAxis(1)), np.zeros((4, 5), np.float32)),
    "granularity": lambda c: c.minmax.merge(c.minmax.init(), c.minmax.init((3,), granularity=PerAxis(0))),
    "constant": lambda c: c.ema.init(averaging_constant=0.0),
    "capacity": lambda c: c.ema.init(capacity=1),
    "capacities": lambda c: c.ema.merge(c.ema.init(capacity=3), c.ema.init(capacity=4)),
    "constants": lambda c: c.ema.merge(c.ema.init(averaging_constant=0.5), c.ema.init()),
    "percentile": lambda c: c.percentile.finalize(c.percentile.init(), millionths=0),
    "fraction": lambda c: c.percentile.finalize(c.percentile.init(), millionths=99.99),
    "power": lambda c: c.mse.finalize(c.mse.init(), fmt=ALL["int8"], power=2.4),
    "smallest": lambda c: c.mse.search(np.zeros(3, np.float32), fmt=ALL["int8"], smallest=0),
    "unsigned": lambda c: c.mse.search(np.zeros(3, np.float32), fmt=ALL["uint8"]),
    "entropy": lambda c: c.entropy.finalize(c.entropy.init(), fmt=ALL["e4m3fn"]),
    "levels": lambda c: c.entropy.finalize(c.entropy.init(), fmt=ALL["int16"]),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_property_same_text(case):
    texts = []
    for name in PACKAGES:
        if name == "jaxquant":
            pytest.importorskip("jax")
        package = importlib.import_module(f"{name}.calibration")
        with pytest.raises((ValueError, TypeError)) as caught:
            BAD[case](package)
        assert " is " in str(caught.value) or " has " in str(caught.value)
        texts.append((caught.type, str(caught.value)))
    assert texts[0] == texts[1]


def test_update_property_compiles_once():
    jax = pytest.importorskip("jax")
    from jaxquant import calibration

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
    )
    for kind in KINDS:
        module = getattr(calibration, kind)
        state = module.update(module.init(), RNG.standard_normal((5, 3)).astype(np.float32))
        state = module.update(state, RNG.standard_normal((5, 3)).astype(np.float32))
        compiled.clear()
        for scale in (1.0, 100.0, 1e-30):
            state = module.update(state, np.float32(scale) * RNG.standard_normal((5, 3)).astype(np.float32))
        assert not compiled, kind


def test_inside_scan_and_vmap_differential_same_bits():
    jax = pytest.importorskip("jax")
    from jaxquant import calibration

    batches = np.stack([*STREAMS["normal"], *STREAMS["normal"]]) * np.float32(2.0) ** np.arange(-3, 5)[:, None]
    for kind in KINDS:
        module = getattr(calibration, kind)
        want = observe(importlib_backend("refquant"), kind, batches.astype(np.float32))
        got, _ = jax.lax.scan(lambda s, x: (module.update(s, x), None), module.init(), batches.astype(np.float32))  # noqa: B023
        assert_same_state(got, want)
