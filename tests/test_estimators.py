"""Learned scales, offsets and bounds, and rounding by random bits (specs/62-estimators.md)."""

from __future__ import annotations

import dataclasses
import itertools

import exact_estimators as third
import numpy as np
import pytest
from bits import assert_same, bits_of

from refquant import qat
from refquant.conventions import DEFAULT, Affine
from refquant.estimators import Lsq, LsqPlus, Pact, Ste, gradient_scale, learned_names, reciprocal_root
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor
from specs.vector_cases import estimators as some
from specs.vector_cases.arrays import Array, array
from specs.vector_cases.call import call
from specs.vector_cases.case import Case
from specs.vector_cases.inputs import SPECIALS, Ints
from specs.vector_cases.opinions import opinion

GRAINS = [PerTensor(), PerAxis(1), PerGroup(1, 5), PerBlock((2, 4))]
SHAPE = (6, 17)
POOL = (*some.SCALES, *some.ODD.values())  # a zero, a NaN and an infinite scale among good ones
VARIANTS = [("per_scale", "ratio"), ("features", "rounded"), ("numel", "ratio"), ("none", "rounded")]
BASES = (0xBE99999A, 0x3F333333, 0, 0x80000000, 0xC00AE148, 0xBFB33333, 0x7FC00000, 5)


def agrees(package: str, fn: str, args: dict[str, Array], **options: object) -> None:
    """A package and the third opinion have the same bits."""
    want = opinion(Case("", fn, args, "", (), options))
    got = call(package, fn, options, args)
    assert set(got) == set(want)
    for name, value in want.items():
        found = got[name].numpy()
        assert_same(found, value.numpy(), call=f"{fn}: {name} on {package}, {options}")


def inputs(
    seed: int, grain: object, fmt: object, pool: tuple = POOL, shape: tuple = SHAPE
) -> tuple[Ints, Array, Array]:
    """(generator, scales, x next to where codes and masks turn)."""
    draw = Ints(seed)
    scale = some.tiled(shape, grain, draw, pool)
    return draw, scale, some.elements(draw, shape, grain, scale, fmt)


def check_lsq(package: str, grain: object, kind: str, mask: str, name: str, seed: int = 1) -> None:
    fmt = ALL[name]
    draw, scale, x = inputs(seed, grain, fmt)
    options = {"fmt": fmt, "granularity": grain, "estimator": Lsq(kind, mask)}
    agrees(package, "qat.lsq", {"x": x, "scale": scale}, **options)
    args = {"x": x, "scale": scale, "cotangent": some.flowing(draw, SHAPE, seed % 2 == 1)}
    agrees(package, "qat.lsq_vjp", args, **options)


def check_plus(package: str, grain: object, kind: str, mask: str, name: str, seed: int = 2) -> None:
    fmt = ALL[name]
    draw, scale, _ = inputs(seed, grain, fmt)
    offset = some.tiled(SHAPE, grain, draw, BASES)
    x = some.elements(draw, SHAPE, grain, scale, fmt, offset)
    options = {"fmt": fmt, "granularity": grain, "estimator": LsqPlus(kind, mask)}
    args = {"x": x, "scale": scale, "offset": offset}
    agrees(package, "qat.lsq_plus", args, **options)
    agrees(package, "qat.lsq_plus_vjp", args | {"cotangent": some.flowing(draw, SHAPE, seed % 2 == 1)}, **options)


def check_layer(
    package: str, grain: object, kind: str, mask: str, name: str, convention: Affine = DEFAULT, seed: int = 3
) -> None:
    """LSQ and LSQ+ as an integer layer has them."""
    fmt = ALL[name]
    draw, scale, x = inputs(seed, grain, fmt, POOL if convention == DEFAULT else some.SCALES)
    offset = some.tiled(SHAPE, grain, draw, BASES)
    args = {"x": x, "cotangent": some.flowing(draw, SHAPE, seed % 2 == 1), "learned.scale": scale}
    options = {"fmt": fmt, "granularity": grain, "convention": convention}
    agrees(package, "qat.learned_vjp", args, estimator=Lsq(kind, mask), **options)
    args |= {"learned.offset": offset}
    agrees(package, "qat.learned_vjp", args, estimator=LsqPlus(kind, mask), **options)
    parts = {"learned.scale": scale, "learned.offset": offset}
    agrees(package, "qat.effective", parts, fmt=fmt, estimator=LsqPlus(kind, mask))


def check_pact(package: str, grain: object, name: str, seed: int = 4) -> None:
    fmt, draw = ALL[name], Ints(seed)
    alpha = some.tiled(SHAPE, grain, draw, (0x40C00000, 0x3F800000, 0xC0C00000, *some.ODD.values()))
    bounds = [b for b in alpha.bits if 0x20000000 < b & 0x7FFFFFFF < 0x7F800000] or [0x40C00000]
    wide = [int(b) for v in bounds for b in (v & 0x7FFFFFFF, (v & 0x7FFFFFFF) - 1, (v & 0x7FFFFFFF) + 1)]
    pool = [*wide, *SPECIALS, *draw.normalish(20, 1)]
    x = array("float32", [draw.pick(pool) for _ in range(SHAPE[0] * SHAPE[1])], SHAPE)
    args = {"x": x, "alpha": alpha}
    agrees(package, "qat.pact", args, fmt=fmt, granularity=grain)
    args |= {"cotangent": some.flowing(draw, SHAPE, seed % 2 == 1)}
    agrees(package, "qat.pact_vjp", args, fmt=fmt, granularity=grain)


def check_stochastic(package: str, grain: object, name: str, seed: int = 5) -> None:
    fmt = ALL[name]
    draw, scale, x = inputs(seed, grain, fmt, some.SCALES[:4])
    zeros = array("int32", [draw.between(fmt.qmin - 3, fmt.qmax + 3) for _ in scale.bits], scale.shape)
    words = [draw.pick((0, 255, 256, 2**31, 2**32 - 1, draw.word())) for _ in x.bits]
    args = {"x": x, "scale": scale, "zero_point": zeros, "bits": array("uint32", words, SHAPE)}
    options = {"fmt": fmt, "granularity": grain}
    agrees(package, "qat.stochastic_quantize", args, **options)
    agrees(package, "qat.stochastic_fake_quantize", args, **options)
    agrees(package, "qat.stochastic_fake_quantize_vjp", args | {"cotangent": some.flowing(draw, SHAPE)}, **options)


def check_initial(package: str, grain: object, name: str, seed: int = 6) -> None:
    draw = Ints(seed)
    x = array("float32", [b + (draw.below(9) << 23) if b & 0x7FFFFFFF else b for b in draw.normalish(102, -4)], SHAPE)
    for fn in ("qat.lsq_init", "qat.lsq_plus_init"):
        agrees(package, fn, {"x": x}, fmt=ALL[name], granularity=grain)


EVERY = list(itertools.product(GRAINS, ["int4", "uint8"]))


@pytest.mark.parametrize(("grain", "name"), EVERY, ids=lambda v: getattr(v, "__name__", str(v)))
def test_lsq_and_plus_differential(backend, grain, name):
    """EST-1..EST-6, LSQ-1, LSQ-2, LSP-1..LSP-4: near boundaries, with good and odd scales side by side."""
    for seed, (kind, mask) in enumerate(VARIANTS):
        if backend.name == "jaxquant" and (seed != GRAINS.index(grain) or (name == "uint8") != (seed > 1)):
            continue  # each variant with one grain and one format: every one compiles anew
        for more in (0, 10):
            check_lsq(backend.name, grain, kind, mask, name, seed + more)
            check_plus(backend.name, grain, kind, mask, name, seed + more + 1)
            check_layer(backend.name, grain, kind, mask, name, seed=seed + more + 2)


def test_alone_differential(backend):
    """EST-2, EST-4: a tile an element, so that no other term hides a last bit."""
    for seed in range(6):
        check_lsq(backend.name, PerAxis((0, 1)), "none", "ratio", "int4", seed)
        check_plus(backend.name, PerAxis((0, 1)), "none", "ratio", "uint8", seed)
        check_layer(backend.name, PerAxis((0, 1)), "none", "ratio", "uint8", seed=seed)


@pytest.mark.parametrize("convention", [*some.CONVENTIONS, Affine(zero="fma", op="inv"), Affine(nan="qmax")], ids=str)
def test_learned_differential_conventions(backend, convention):
    """EST-2, EST-3: the convention decides codes and mask, the ratio stays a quotient."""
    for seed, (kind, mask) in enumerate(VARIANTS[: 1 if backend.name == "jaxquant" else 3]):
        check_layer(backend.name, PerGroup(1, 5), kind, mask, "uint4", convention, seed)


@pytest.mark.parametrize("grain", GRAINS, ids=str)
def test_pact_stochastic_and_starts_differential(backend, grain):
    """PCT-1..PCT-3, SRD-1, SRD-2, LSQ-3, LSP-5."""
    for seed in range(2):
        check_pact(backend.name, grain, "uint4", seed)
        check_stochastic(backend.name, grain, "int4", seed)
        check_initial(backend.name, grain, "int4", seed)


@pytest.mark.parametrize(("shape", "grain"), some.LAYOUTS[5:], ids=str)
def test_empty_and_small_differential(backend, shape, grain):
    """EST-4, GRA-2: nothing to sum gives +0."""
    draw, scale, x = inputs(9, grain, ALL["int8"], some.SCALES, shape)
    args = {"x": x, "scale": scale, "cotangent": some.flowing(draw, shape)}
    agrees(backend.name, "qat.lsq_vjp", args, fmt=ALL["int8"], granularity=grain, estimator=Lsq())
    agrees(backend.name, "qat.lsq_init", {"x": x}, fmt=ALL["int8"], granularity=grain)


def test_from_range_differential(backend):
    """LSP-6."""
    for case in some._ranges():
        agrees(backend.name, case.fn, case.args, **case.options)


def test_gradient_scale_exhaustive():
    """EST-5: nearest binary32 for all small N · qmax, and some large; what N counts."""
    for n in [*range(1, 700), *(2**k + d for k in range(10, 60, 3) for d in (-1, 0, 1)), 3**40]:
        assert int(bits_of(np.float32(reciprocal_root(n)))) == third.inverse_root(n), n
        assert float(np.float32(reciprocal_root(n))) == reciprocal_root(n)
    fmt = ALL["int4"]
    for (kind, _), shape, grain in itertools.product(VARIANTS, [(8, 6), (5, 7), (0, 3), (3, 4, 5)], GRAINS[:3]):
        found = gradient_scale(Lsq(kind), fmt, shape, grain)
        assert int(bits_of(np.float32(found))) == third.gradient_scale(kind, fmt, shape, grain)
    assert gradient_scale(Lsq("features"), ALL["uint8"], (32, 10), PerTensor()) == reciprocal_root(10 * 255)
    assert gradient_scale(Pact(), ALL["uint8"], (32, 10), PerTensor()) == 1.0


@pytest.mark.parametrize("mask", ["ratio", "rounded"])
def test_ends_property(backend, mask):
    """EST-3, PCT-2, PCT-3: what happens at the ends exactly, and within half a step of them."""
    x = np.float32([-8, -8.25, 7, 7.25, 7.5, 7.75, np.inf, -np.inf, np.nan])
    options = {"fmt": ALL["int4"], "granularity": PerAxis(0), "estimator": Lsq("none", mask)}
    scale, ones = np.ones(9, np.float32), np.ones(9, np.float32)
    dx, dscale = backend.qat.lsq_vjp(x, scale, ones, **options)
    near = 1.0 if mask == "rounded" else 0.0
    assert dx.tolist() == [1, near, 1, near, 0, 0, 0, 0, 0]
    steps = [0, 0.25, 0, -0.25] if mask == "rounded" else [0, -8, 0, 7]
    assert dscale.tolist() == [*steps, 7, 7, 7, -8, -8]
    dx, dalpha = backend.qat.pact_vjp(
        np.float32([-1, -0.0, 5.5, 6, 7]), 6.0, np.float32([1, 2, 4, 8, 16]), fmt=ALL["uint4"]
    )
    assert dx.tolist() == [0, 2, 4, 0, 0]
    assert float(dalpha) == 24


def test_a_scale_that_fell_to_zero_comes_back(backend):
    """EST-1: values, and a gradient with the sign that lets a step leave zero."""
    x, ones = np.float32([3.0, -1.0]), np.ones(2, np.float32)
    for scale, sign in ((0.0, 1), (-0.0, -1), (1e-40, 1), (-1e-30, -1)):
        scale = np.float32(scale)
        assert_same(backend.qat.lsq(x, scale, fmt=ALL["int4"]), np.float32([7 * 2.0**-60, -8 * 2.0**-60]))
        _, dscale = backend.qat.lsq_vjp(x, scale, ones, fmt=ALL["int4"], estimator=Lsq("none"))
        assert float(dscale) == -sign
    assert np.isnan(backend.qat.lsq(x, np.float32(np.nan), fmt=ALL["int4"])).all()


def test_plus_agrees_with_its_integer_form(backend):
    """LSP-1, LSP-3: where offset / scale is an integer, the paper's values are the layer's."""
    from refquant import affine

    scale, offset, fmt = np.float32(0.25), np.float32(-1.25), ALL["uint4"]
    x = (np.arange(-40, 80) / 16).astype(np.float32)
    s, z = backend.qat.effective(LsqPlus(), (scale, offset), fmt)
    assert int(z) == 5
    paper = backend.qat.lsq_plus(x, scale, offset, fmt=fmt)
    layer = affine.fake_quantize(x, s, z, fmt=fmt)
    halves = np.abs(x / scale % 1) == 0.5  # ties fall otherwise: of x / s here, of (x - offset) / s there
    assert_same(paper[~halves], layer[~halves])
    cotangent = np.resize(np.float32([1, 2, -1, 0.5]), x.shape)
    ours = backend.qat.lsq_plus_vjp(x, scale, offset, cotangent, fmt=fmt)
    dx, (_, doffset) = backend.qat.learned_vjp(LsqPlus(), x, (scale, offset), cotangent, fmt=fmt)
    assert_same(dx, ours[0])
    assert_same(doffset, ours[2])


def test_stochastic_property_unbiased(backend):
    """SRD-1: over a grid of bits the mean of the codes is x / scale, and an integer never moves."""
    count = 1 << 12
    bits = (np.arange(count, dtype=np.uint64) << 20).astype(np.uint32)
    for x in (0.3, -1.7, 2.0, 6.999, 40.0):
        codes = backend.qat.stochastic_quantize(np.full(count, x, np.float32), 1.0, None, bits, fmt=ALL["int4"])
        assert abs(codes.mean() - min(x, 7)) <= 1 / count
    assert set(codes.tolist()) == {7}


def test_estimators_are_hashable_and_checked():
    """EST-3, EST-5: data that jit can take as static, and clear errors."""
    everything = [Ste(), Ste("ratio"), Lsq(), Lsq("none"), LsqPlus(), LsqPlus(mask="rounded"), Pact()]
    assert len(set(everything)) == len(everything)
    assert [learned_names(e) for e in everything[::2]] == [(), ("scale",), ("scale", "offset"), ("alpha",)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Lsq().mask = "ratio"
    for make, text in (
        (lambda: Ste("strict"), "Ste: mask is 'strict', need 'rounded', 'ratio' (STE-2)"),
        (lambda: Lsq(gradient_scale="n"), "Lsq: gradient_scale is 'n', need 'per_scale', 'features', 'numel', 'none'"),
        (lambda: LsqPlus(mask=None), "LsqPlus: mask is None, need 'rounded', 'ratio' (EST-3, EST-5)"),
    ):
        with pytest.raises(ValueError) as error:
            make()
        assert str(error.value).startswith(text)


X, ONES, INT4, UINT4 = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), ALL["int4"], ALL["uint4"]
S = np.float32(1)
REFUSALS = {
    "an estimator that learns nothing": (TypeError, "effective", (Ste(), (), INT4), {}),
    "another estimator": (TypeError, "lsq", (X, S), {"fmt": INT4, "estimator": LsqPlus()}),
    "a float format": (TypeError, "lsq_vjp", (X, S, ONES), {"fmt": ALL["e4m3fn"]}),
    "a name for a format": (TypeError, "lsq_init", (X,), {"fmt": "int4"}),
    "a signed format": (ValueError, "pact", (X, S), {"fmt": INT4}),
    "a scale a channel": (ValueError, "lsq", (X, np.ones(3, np.float32)), {"fmt": INT4, "granularity": PerAxis(1)}),
    "a float64 offset": (TypeError, "lsq_plus", (X, S, np.float64(1)), {"fmt": INT4}),
    "a float64 cotangent": (TypeError, "lsq_vjp", (X, S, ONES.astype(np.float64)), {"fmt": INT4}),
    "another cotangent": (ValueError, "lsq_plus_vjp", (X, S, S, ONES[0]), {"fmt": INT4}),
    "one array of two": (ValueError, "learned_vjp", (LsqPlus(), X, (S,), ONES), {"fmt": INT4}),
    "two shapes": (ValueError, "effective", (LsqPlus(), (S, X), INT4), {}),
    "a real zero point": (
        ValueError, "learned_vjp", (Lsq(), X, (S,), ONES), {"fmt": INT4, "convention": Affine(zero="bias")}),
    "other bits": (TypeError, "stochastic_quantize", (X, S, None, np.zeros((2, 3), np.int32)), {"fmt": UINT4}),
    "few bits": (ValueError, "stochastic_fake_quantize", (X, S, None, np.zeros(3, np.uint32)), {"fmt": UINT4}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSALS))
def test_errors_differential(backend, name):
    """GEN-5: one text in both packages."""
    kind, fn, args, options = REFUSALS[name]
    with pytest.raises(kind) as ours:
        getattr(qat, fn)(*args, **options)
    with pytest.raises(kind) as theirs:
        getattr(backend.qat, fn)(*args, **options)
    assert str(theirs.value) == str(ours.value)
    assert fn in str(ours.value) and "need" in str(ours.value)
