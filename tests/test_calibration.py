"""Observers (specs/40-calibration.md, CAL-0..CAL-3, CAL-8..CAL-10): the third opinion, merging, bad input."""

import importlib
from dataclasses import replace

import exact_calibration as exact
import numpy as np
import pytest
import strategies as some
from bits import assert_same
from calibration_support import (
    KINDS,
    PACKAGES,
    RNG,
    STREAMS,
    Package,
    assert_same_state,
    bits,
    edges,
    observe,
)
from exact_affine import range_of

from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup, PerTensor, PerToken


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


NEEDS = {
    "minmax": "minmax", "ema": "ema", "histogram": "histogram", "linear": "linear",
    "percentile": "histogram", "mse": "linear", "entropy": "linear",
}  # fmt: skip


@pytest.mark.parametrize("name", NEEDS)
def test_states_of_another_observer_are_refused_in_words(backend, name):
    module, options = (
        getattr(backend, f"calibration.{name}"),
        {"fmt": ALL["int8"]} if name in ("mse", "entropy") else {},
    )
    for kind in KINDS:
        state = observe(backend, kind, [np.float32([1, 2, 3])])
        if kind == NEEDS[name]:
            module.finalize(state, **options)
            continue
        need = type(observe(backend, NEEDS[name], [])).__name__
        kind = f"{type(state).__module__}.{type(state).__name__}"
        text = f"finalize: state is of type {kind}, need {need} of calibration.{NEEDS[name]}"
        with pytest.raises(TypeError, match=f"^{text}$"):
            module.finalize(state, **options)


@pytest.mark.parametrize("fmt", ["e4m3fn", "int16", "nf4"])
def test_entropy_names_the_formats_it_takes(backend, fmt):
    module = getattr(backend, "calibration.entropy")
    text = rf"^finalize: fmt is '{fmt}', need an integer format of at most 1,024 magnitudes such as int8 \(CAL-6\)"
    with pytest.raises(ValueError, match=text):
        module.finalize(module.init(), fmt=ALL[fmt])


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
    states = [observe(Package(n), kind, batches, shape=shape, granularity=granularity) for n in PACKAGES]
    assert_same_state(states[1], states[0])
    ends = [Package(n).__getattr__(f"calibration.{kind}").finalize(s) for n, s in zip(PACKAGES, states, strict=True)]
    for got, want in zip(ends[1], ends[0], strict=True):
        assert_same(np.asarray(got), want)


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
    low, high = ema.finalize(observe(Package("refquant"), "ema", batches))
    assert_same(high, np.float32(m))
    assert float(low) == -0.5


def test_counts_property_saturate(backend):
    most = 2**31 - 1
    for kind in ("histogram", "linear"):
        module = getattr(backend, f"calibration.{kind}")
        state = observe(backend, kind, [np.float32([1.0, 3.0])])
        full = replace(state, counts=np.full_like(np.asarray(state.counts), most - 1))
        assert (np.asarray(module.merge(full, full).counts) == most).all()
        grown = module.merge(full, observe(backend, kind, [np.float32([1e9])]))
        assert int(np.asarray(grown.counts).max()) == most


BEYOND = np.broadcast_to(np.float32(1), (2, 2**30))
BAD = {
    "dtype": lambda c: c.minmax.update(c.minmax.init(), np.zeros(3)),
    "tiles": lambda c: c.minmax.update(c.minmax.init((4, 3), granularity=PerAxis(1)), np.zeros((4, 5), np.float32)),
    "granularity": lambda c: c.minmax.merge(c.minmax.init(), c.minmax.init((3,), granularity=PerAxis(0))),
    "constant": lambda c: c.ema.init(averaging_constant=0.0),
    "capacity": lambda c: c.ema.init(capacity=1),
    "large": lambda c: c.ema.init(capacity=2**31),
    "capacities": lambda c: c.ema.merge(c.ema.init(capacity=3), c.ema.init(capacity=4)),
    "constants": lambda c: c.ema.merge(c.ema.init(averaging_constant=0.5), c.ema.init()),
    "percentile": lambda c: c.percentile.finalize(c.percentile.init(), millionths=0),
    "fraction": lambda c: c.percentile.finalize(c.percentile.init(), millionths=99.99),
    "power": lambda c: c.mse.finalize(c.mse.init(), fmt=ALL["int8"], power=2.4),
    "smallest": lambda c: c.mse.search(np.zeros(3, np.float32), fmt=ALL["int8"], smallest=0),
    "unsigned": lambda c: c.mse.search(np.zeros(3, np.float32), fmt=ALL["uint8"]),
    "entropy": lambda c: c.entropy.finalize(c.entropy.init(), fmt=ALL["e4m3fn"]),
    **{
        f"2**31 elements for {kind}": lambda c, kind=kind: getattr(c, kind).update(getattr(c, kind).init(), BEYOND)
        for kind in KINDS
    },
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
        want = observe(Package("refquant"), kind, batches.astype(np.float32))
        got, _ = jax.lax.scan(lambda s, x: (module.update(s, x), None), module.init(), batches.astype(np.float32))  # noqa: B023
        assert_same_state(got, want)


@pytest.mark.parametrize("size", [31, 32, 33, 64, 100])
def test_tally_golden_counts_every_piece(size):
    """CAL-9: 4 bins are filled 32 elements at a time."""
    from refquant.calibration.histogram import tally

    x = np.arange(size, dtype=np.float32)
    assert tally(x, lambda part: part.astype(np.int64) % 4, 4).tolist() == [len(range(k, size, 4)) for k in range(4)]


def test_midpoints_golden_the_bins_at_zero_stand_for_zero():
    """CAL-12: both of them, and only they."""
    from refquant.calibration import linear

    middles = linear.midpoints(linear.update(linear.init(), np.float32([1.5])))
    assert middles[:, :3].tolist() == [[0.0, 1.5 / 2**11, 2.5 / 2**11], [0.0, -1.5 / 2**11, -2.5 / 2**11]]


def test_ema_takes_strict_promotion_with_x64() -> None:
    """No index of 64 bits meets the state's int32."""
    jax = pytest.importorskip("jax")
    from jaxquant.calibration import ema
    from refquant.calibration import ema as reference

    x = np.float32([-1, 2])
    jax.config.update("jax_enable_x64", True)
    try:
        with jax.numpy_dtype_promotion("strict"):
            got = ema.finalize(ema.merge(ema.update(ema.init(), x), ema.update(ema.init(), x / 2)))
    finally:
        jax.config.update("jax_enable_x64", False)
    want = reference.finalize(reference.merge(*(reference.update(reference.init(), v) for v in (x, x / 2))))
    for one, other in zip(got, want, strict=True):
        assert_same(np.asarray(one), other)
