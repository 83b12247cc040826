"""requantize: both packages against Python ints on ties, corners and random accumulators (specs/50-requantize.md)."""

from __future__ import annotations

import functools
import importlib.util
import itertools

import exact_requantize as exact
import numpy as np
import pytest
from bits import assert_same

from refquant.conventions import Rescale, fixed_point
from refquant.formats import ALL

INT8, UINT8, INT16 = ALL["int8"], ALL["uint8"], ALL["int16"]
FLOATS = [Rescale("f32", "single", t) for t in ("even", "away", "up")] + [Rescale("f64", "single", "even")]
FLOATS += [Rescale("f32", "single", "even", "i32"), Rescale("f64", "single", "away", "i32")]
FIXED = [Rescale("q31", "single", "away")] + [Rescale(m, "single", "up") for m in ("q31", "q15", "q8")]
DOUBLE = [Rescale("q31", "double", t) for t in ("away", "up")]
POINTS = FLOATS + FIXED + DOUBLE
MULTIPLIERS = [
    0.0, 1.0, 0.5, 0.25, 2.0**-7, 2.0**-31, 2.0**-32, 2.0**-33, 2.0**-40, 3 * 2.0**-9, 0.75, 1.5, 2.0, 77.125, 2.0**14,
    2.0**20, 2.0**31, 2.0**40, 0.1, 0.0123456789, 1 / 3, 1.0 - 2.0**-24, 1.0 + 2.0**-23, 2.0**-10 * (1 - 2.0**-24),
    -0.5, -0.0123,
]  # fmt: skip


HAVE_JAX = importlib.util.find_spec("jax") is not None
COUNT = 220  # one length, so that each point compiles once


def id_of(rescale: Rescale) -> str:
    return str(rescale).replace(" ", "-")


def corners(multiplier: float) -> list[int]:
    """int32's ends, powers of two, and accumulators whose product lies on or beside k + 1/2."""
    ends = [-(2**31), -(2**31) + 1, 2**31 - 1, 2**31 - 2, 0, 1, -1]
    powers = [s * 2**k + d for k in range(1, 31) for s in (1, -1) for d in (-1, 0, 1)]
    ties = [round((k + 0.5) / multiplier) + d for k in (-129, -3, -2, -1, 0, 1, 2, 126, 127) for d in (-1, 0, 1)
            if multiplier]  # fmt: skip
    inside = [a for a in dict.fromkeys(ends + ties + powers) if -(2**31) <= a < 2**31]
    return (inside * 2)[:COUNT]


def each(multiplier: float, zero_point: int, rescale: Rescale) -> tuple[np.ndarray, np.ndarray]:
    """The operands once an element: one shape for all tests."""
    dtype = np.float32 if rescale.multiplier == "f32" else np.float64
    return np.full(COUNT, multiplier, dtype), np.full(COUNT, zero_point, np.int32)


@functools.cache
def wanted(multiplier: float, zero_point: int, rescale: Rescale) -> np.ndarray:
    return np.int8([exact.requantize(a, multiplier, zero_point, INT8, rescale) for a in corners(multiplier)])


def to_precision(multiplier: float, rescale: Rescale) -> float:
    return float(np.float32(multiplier)) if rescale.multiplier == "f32" else multiplier


@pytest.mark.parametrize("rescale", POINTS, ids=id_of)
def test_requantize_differential_corners_equal_the_exact_opinion(backend, rescale):
    for multiplier, zero_point in itertools.product(MULTIPLIERS, (0, -5)):
        real = to_precision(multiplier, rescale)
        acc = corners(real)
        got = backend.requantize.requantize(np.int32(acc), real, np.int32(zero_point), fmt=INT8, rescale=rescale)
        want = np.int8([exact.requantize(a, real, zero_point, INT8, rescale) for a in acc])
        assert_same(
            got, want, inputs={"acc": np.int32(acc)}, call=f"requantize(acc, {real!r}, {zero_point}, {rescale})"
        )


@pytest.mark.parametrize("rescale", POINTS, ids=id_of)
def test_requantize_differential_random_accumulators(backend, rescale):
    random = np.random.default_rng(7)
    acc = random.integers(-(2**31), 2**31, COUNT).astype(np.int32) >> random.integers(0, 24, COUNT).astype(np.int32)
    multiplier = float(np.float32(random.uniform(2**-12, 2**-9)))
    got = backend.requantize.requantize(acc, *each(multiplier, 100, rescale), fmt=INT8, rescale=rescale)
    want = np.int8([exact.requantize(int(a), multiplier, 100, INT8, rescale) for a in acc])
    assert_same(got, want, inputs={"acc": acc}, call=f"requantize(acc, {multiplier!r}, 100, {rescale})")


@pytest.mark.parametrize("rescale", [FLOATS[0], FLOATS[-1], FIXED[3], DOUBLE[0]], ids=id_of)
def test_requantize_differential_one_multiplier_a_channel(backend, rescale):
    multiplier = np.array([0.5, 0.0123, 2.0**-9, 1.7])
    multiplier = multiplier.astype(np.float32) if rescale.multiplier == "f32" else multiplier
    zero = np.int32([0, 1, -2, 3])
    acc = np.int32([-(2**31), -1001, -77, -1, 0, 1, 3, 129, 30001, 2**31 - 1])[:, None] + np.zeros(4, np.int32)
    got = backend.requantize.requantize(acc, multiplier, zero, fmt=UINT8, rescale=rescale)
    want = [
        [
            exact.requantize(int(a), float(m), int(z), UINT8, rescale)
            for a, m, z in zip(row, multiplier, zero, strict=True)
        ]
        for row in acc
    ]
    assert_same(got, np.uint8(want))


def test_requantize_golden_infinite_float_multiplier(backend):
    acc, inf = np.int32([-1, 0, 1]), np.float32(np.inf)
    for overflow, want in (("sat", [-128, -128, 127]), ("i32", [-128, -128, -128])):
        got = backend.requantize.requantize(acc, inf, fmt=INT8, rescale=Rescale(overflow=overflow))
        assert_same(got, np.int8(want))


@pytest.mark.parametrize("rescale", FIXED + DOUBLE, ids=id_of)
def test_fixed_point_differential_equals_the_exact_opinion(rescale):
    random = np.random.default_rng(3)
    numbers = [*MULTIPLIERS, *np.ldexp(random.uniform(0.5, 1, 300), random.integers(-40, 40, 300)).tolist()]
    assert [fixed_point(m, rescale) for m in numbers] == [exact.fixed_point(m, rescale) for m in numbers]


def test_fixed_point_golden_largest_pairs():
    """RSC-3: what a multiplier too large for its form becomes, both signs."""
    for sign in (1, -1):
        assert fixed_point(sign * 2.0**40, Rescale("q31", ties="up")) == (sign * (2**31 - 1), 30)
        assert fixed_point(sign * 2.0**40, Rescale("q15", ties="up")) == (sign * (2**15 - 1), 14)
        assert fixed_point(sign * 2.0**23, Rescale("q8", ties="up")) == (sign * (2**31 - 1), 0)


def test_high_product_property_nudge_and_truncation_are_ties_up():
    corners = [-(2**31), -(2**31) + 1, -1, 0, 1, 2**30, -(2**30), 2**31 - 1, 3, -3, 2**16 + 1]
    for a, b in itertools.product(corners, corners):
        floor = min((a * b + 2**30) >> 31, 2**31 - 1)
        assert exact.gemmlowp_high_product(a, b) == floor


def test_requantize_fixed_golden_saturating_product_of_two_smallest(backend):
    got = backend.requantize.requantize_fixed(
        np.int32([-(2**31)]), np.int32(-(2**31)), np.int32(0), fmt=INT16, rescale=DOUBLE[0]
    )
    assert_same(got, np.int16([32767]))


@pytest.mark.parametrize("kind", ["q15", "q8", "q31", "q31 double"])
@pytest.mark.parametrize("ties", ["up", "away"])
def test_requantize_fixed_differential_every_shift(backend, kind, ties):
    """RSC-7: from -31 to 30, beyond the bits of the fraction too."""
    multiplier, _, steps = kind.partition(" ")
    rescale = Rescale(multiplier, steps=steps or "single", ties=ties)
    acc = np.int32([0, 1, -1, 3, -3, 5, -77, 12345, -(2**20) + 1, 2**31 - 1, -(2**31)])
    for shift in range(-31, 31):
        for q in (1, -1, 3, 255, 1000, 2**14 + 1, 2**30):
            got = backend.requantize.requantize_fixed(acc, q, shift, fmt=INT16, rescale=rescale)
            want = [min(max(exact.scaled(int(a), q, shift, rescale), -(2**15)), 2**15 - 1) for a in acc]
            assert np.asarray(got).tolist() == want, (shift, q)


def test_requantize_fixed_golden_nothing_to_shift_out(backend):
    """RSC-6: a shift of all fraction bits leaves the product."""
    acc = np.int32([-3, -1, 0, 1, 3])
    got = backend.requantize.requantize_fixed(acc, 5, 15, fmt=INT16, rescale=Rescale("q15", ties="up"))
    assert_same(got, np.int16([-15, -5, 0, 5, 15]))


def test_requantize_property_shapes(backend):
    for shape in ((), (0,), (2, 0, 3), (2, 3)):
        got = backend.requantize.requantize(np.zeros(shape, np.int32), 0.5, fmt=INT8)
        assert got.shape == shape and got.dtype == np.int8


BAD = [
    (lambda r: r.requantize(np.float32([1]), 0.5, fmt=INT8), TypeError,
     "requantize: acc has dtype float32, need int32 (an accumulator of integer products, RSC-1)"),
    (lambda r: r.requantize(np.int32([1]), np.int32(1), fmt=INT8), TypeError,
     "requantize: multiplier has dtype int32, need float32 (the rescale is 'f32', RSC-2)"),
    (lambda r: r.requantize(np.int32([1]), np.float16(0.5), fmt=INT8), TypeError,
     "requantize: multiplier has dtype float16, need float32 (the rescale is 'f32', RSC-2)"),
    (lambda r: r.requantize(np.int32([1]), 0.5, np.float32(0), fmt=INT8), TypeError,
     "requantize: zero_point has dtype float32, need int32 (it is added to integers, RSC-8)"),
    (lambda r: r.requantize(np.int32([1]), 0.5, fmt=ALL["e4m3fn"]), ValueError,
     "requantize: fmt is e4m3fn, need an integer format (an accumulator becomes an integer code)"),
    (lambda r: r.requantize(np.int32([1, 2]), np.float32([1, 2, 3]), fmt=INT8), ValueError,
     "requantize: multiplier has shape (3,), need one that broadcasts to (2,) (the shape of acc)"),
    (lambda r: r.requantize(np.int32([1]), float("nan"), fmt=INT8, rescale=Rescale("f64")), ValueError,
     "requantize: multiplier has nan, need finite numbers (it is held as 'f64', RSC-3)"),
    (lambda r: r.requantize_fixed(np.int32([1]), 1, 0, fmt=INT8, rescale=Rescale()), ValueError,
     "requantize_fixed: rescale is 'f32 single even sat', need a fixed-point one: q31, q15, q8 (RSC-3)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), BAD, ids=[b[2][:40] for b in BAD])
def test_requantize_property_errors_say_what_why(backend, call, kind, text):
    with pytest.raises(kind) as error:
        call(backend.requantize)
    assert str(error.value) == text


@pytest.mark.parametrize(
    "options", [{"steps": "double"}, {"multiplier": "q31"}, {"multiplier": "q8", "ties": "up", "overflow": "i32"}]
)
def test_rescale_property_refuses_points_without_meaning(options):
    with pytest.raises(ValueError, match=r"Rescale: .* need"):
        Rescale(**options)


@pytest.mark.skipif(not HAVE_JAX, reason="JAX is not installed: the NumPy-only lane")
@pytest.mark.parametrize("rescale", [Rescale(), Rescale("f64", ties="away", overflow="i32"), DOUBLE[1]], ids=id_of)
def test_requantize_differential_same_bits_inside_jit_and_vmap(rescale):
    import jax

    from jaxquant import requantize as jaxed
    from refquant import requantize as plain

    multiplier = np.float32(0.25) if rescale.multiplier == "f32" else 0.25
    acc = np.int32(corners(0.25)).reshape(20, 11)

    def codes(a):
        return jaxed.requantize(a * 1, multiplier, np.int32(3), fmt=INT8, rescale=rescale)

    want = plain.requantize(acc, multiplier, np.int32(3), fmt=INT8, rescale=rescale)
    assert_same(np.asarray(jax.jit(codes)(acc)), want)
    assert_same(np.asarray(jax.vmap(codes, in_axes=1, out_axes=1)(acc)), want)
