"""quantize, dequantize, fake_quantize and its gradient (specs/20-affine.md), every field of Affine (CNV-1)."""

import itertools

import exact_affine
import numpy as np
import pytest
import strategies as some
from bits import assert_same, bits_of, float32
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.conventions import DEFAULT, Affine, Cast
from refquant.formats import ALL, Format, IntFormat

FORMATS = [pytest.param(f, id=f.name) for f in ALL.values()]
LAYOUTS = [pytest.param(s, g, id=f"{s}-{g}".replace(" ", "")) for s, g in some.LAYOUTS]
SOME = ["int4", "uint8", "int8_narrow", "int16", "e4m3fn", "e8m0fnu", "nf4", "bfloat16", "binary"]
ONE_FIELD_EACH = [
    Affine(**{name: value})
    for name, values in some.FIELDS.items()
    for value in values
    if value != getattr(DEFAULT, name)
]


def zero_points(fmt: Format, convention: Affine) -> list:
    """None and a few that test both ends; a real offset under "bias"."""
    if not isinstance(fmt, IntFormat):
        return [None]
    if convention.zero == "bias":
        return [None, np.float32(-0.37), np.float32(3.0)]
    return [None, np.int32(fmt.qmin), np.int32(fmt.qmax // 2 + 1)]


def pattern(zero_point: object) -> int | None:
    if zero_point is None:
        return None
    return int(bits_of(zero_point)) if zero_point.dtype == np.float32 else int(zero_point)


@np.errstate(all="ignore")
def points(scale: float, fmt: Format, count: int, zero_point: object = None) -> np.ndarray:
    """Near-boundary inputs; a real offset moves the boundaries, so it moves half of the points."""
    x = some.thin(some.near(scale, fmt), count)
    if zero_point is None or zero_point.dtype != np.float32:
        return x
    moved = np.float64(zero_point) + (np.arange(-20, 280) + 0.5) * np.float64(scale)
    return np.concatenate([x, some.thin(some.neighbours(moved.astype(np.float32)), count)])


def check_quantize(
    affine: object, fmt: Format, scale: float, zero_point: object = None, convention: Affine = DEFAULT, count: int = 300
) -> None:
    check_points(affine, points(scale, fmt, count, zero_point), fmt, np.float32(scale), zero_point, convention)


def check_points(
    affine: object, x: np.ndarray, fmt: Format, scale: np.float32, zero_point: object, convention: Affine
) -> None:
    want = [
        exact_affine.quantize(int(b), int(bits_of(scale)), pattern(zero_point), fmt=fmt, convention=convention)
        for b in bits_of(x)
    ]
    got = affine.quantize(x, scale, zero_point, fmt=fmt, convention=convention)
    call = f"quantize(x, np.float32({scale!r}), {zero_point!r}, fmt=ALL[{fmt.name!r}], convention={convention!r})"
    assert_same(np.asarray(got), np.array(want).astype(fmt.storage), inputs={"x": x}, call=call)


def check_mask(
    affine: object, fmt: Format, scale: float, zero_point: object, convention: Affine, mask: str, count: int = 200
) -> None:
    x = points(scale, fmt, count, zero_point)
    scale = np.float32(scale)
    keywords = {"fmt": fmt, "convention": convention, "mask": mask}
    inside = [exact_affine.inside(int(b), int(bits_of(scale)), pattern(zero_point), **keywords) for b in bits_of(x)]
    cotangent = np.resize(some.SPECIAL, x.shape)
    got = affine.fake_quantize_vjp(x, scale, zero_point, cotangent, **keywords)
    options = f"fmt=ALL[{fmt.name!r}], convention={convention!r}, mask={mask!r}"
    call = f"fake_quantize_vjp(x, {scale!r}, {zero_point!r}, g, {options})"
    assert_same(np.asarray(got), np.where(inside, cotangent, np.float32(0)), inputs={"x": x, "g": cotangent}, call=call)


def check_dequantize(
    affine: object, fmt: Format, scale: float, zero_point: object = None, dtype: str = "float32", count: int = 300
) -> None:
    info = np.iinfo(fmt.storage)
    codes = np.unique(np.linspace(info.min, info.max, count).astype(np.int64)).astype(fmt.storage)
    scale = np.float32(scale)
    real = zero_point is not None and zero_point.dtype == np.float32
    want = [
        exact_affine.dequantize(int(c), int(bits_of(scale)), pattern(zero_point), fmt=fmt, real=real, dtype=dtype)
        for c in codes
    ]
    got = np.asarray(affine.dequantize(codes, scale, zero_point, fmt=fmt, dtype=dtype))
    assert str(got.dtype) == dtype
    call = f"dequantize(code, {scale!r}, {zero_point!r}, fmt=ALL[{fmt.name!r}], dtype={dtype!r})"
    assert_same(got.astype(np.float32), float32(want), inputs={"code": codes}, call=call)


@pytest.mark.parametrize("fmt", FORMATS)
def test_quantize_differential_every_format(backend, fmt):
    """AFF-1..AFF-8."""
    for scale in (1.0, 1 / 3, 2.0**-100, 0.0123):
        for zero_point in zero_points(fmt, DEFAULT)[:2]:
            check_quantize(backend.affine, fmt, scale, zero_point, count=120)


@pytest.mark.parametrize("scale", some.SCALES.tolist())
def test_quantize_differential_every_scale(backend, scale):
    """AFF-2, AFF-6."""
    for name in ("int4", "uint8", "e4m3fn", "nf4"):
        check_quantize(backend.affine, ALL[name], scale, count=250)


@pytest.mark.parametrize("convention", [*ONE_FIELD_EACH, *some.CONVENTIONS], ids=str)
def test_quantize_differential_conventions(backend, convention):
    """CNV-1, AFF-2..AFF-5, AFF-7: each field alone and every pair of fields."""
    fmt = ALL["uint8"]
    for zero_point in zero_points(fmt, convention):
        check_quantize(backend.affine, fmt, 1 / 3, zero_point, convention, count=250)
    check_quantize(backend.affine, ALL["int4"], 2.0**-7, None, convention, count=100)


def test_quantize_exhaustive_all_2700_conventions():
    """CNV-1: the whole enumeration, in the reference, on 20 hard points each."""
    from refquant import affine

    for number, convention in enumerate(some.every_convention()):
        fmt = ALL[("int4", "uint8", "int16")[number % 3]]
        scale = np.float32((1 / 3, 0.7, 1e10)[number % 3])
        hard = some.halves(scale, -3, 3)[number % 7 :: 7][:8]
        x = np.concatenate([some.SPECIAL[number % 4 :: 4], hard, np.float32([2.0**31, -3e9]) * scale])
        check_points(affine, x, fmt, scale, zero_points(fmt, convention)[number % 2], convention)


@pytest.mark.parametrize("name", SOME)
def test_quantize_differential_odd_scales(name):
    """AFF-8, GEN-4: 0, negative, infinite, NaN and tiny scales (the reference; GEN-8 promises no device equality)."""
    from refquant import affine

    for scale in some.ODD_SCALES:
        for convention in (DEFAULT, Affine(op="inv"), Affine(zero="add"), Affine(op="given", zero="fma")):
            check_quantize(affine, ALL[name], scale, None, convention, count=60)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("mask", ["rounded", "ratio"])
def test_vjp_differential(backend, name, mask):
    """STE-1..STE-4."""
    fmt = ALL[name]
    for scale in (1.0, 1 / 3, 0.0123):
        for zero_point in zero_points(fmt, DEFAULT):
            check_mask(backend.affine, fmt, scale, zero_point, DEFAULT, mask)


@pytest.mark.parametrize("convention", some.CONVENTIONS, ids=str)
def test_vjp_differential_conventions(backend, convention):
    """STE-2 under every pair of fields."""
    for mask in ("rounded", "ratio"):
        check_mask(backend.affine, ALL["uint8"], 1 / 3, zero_points(ALL["uint8"], convention)[2], convention, mask)


@pytest.mark.parametrize("fmt", FORMATS)
def test_dequantize_differential(backend, fmt):
    """DEQ-1..DEQ-4."""
    for scale in (1.0, 1 / 3, 2.0**-60):
        for zero_point in zero_points(fmt, DEFAULT)[:2]:
            check_dequantize(backend.affine, fmt, scale, zero_point)
    if isinstance(fmt, IntFormat):
        check_dequantize(backend.affine, fmt, 1 / 3, np.float32(-0.7))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", SOME)
def test_dequantize_differential_half_results(backend, name, dtype):
    """DEQ-4."""
    pytest.importorskip("ml_dtypes")
    for scale in (1 / 3, 2.0**-20, 1e10):
        check_dequantize(backend.affine, ALL[name], scale, dtype=dtype, count=150)


def by_element(x: np.ndarray, scale: np.ndarray, granularity: object, fmt: Format) -> np.ndarray:
    """GRA-3, element for element, by the third opinion."""
    each = bits_of(np.ascontiguousarray(some.spread(scale, x.shape, granularity))).ravel()
    codes = [exact_affine.quantize(int(b), int(s), fmt=fmt) for b, s in zip(bits_of(x).ravel(), each, strict=True)]
    return np.array(codes, np.int64).astype(fmt.storage).reshape(x.shape)


def check_layout(affine: object, shape: tuple, granularity: object, fmt: Format, seed: int = 7) -> None:
    x, scale = some.layout_arrays(shape, granularity, fmt, seed)
    keywords = {"fmt": fmt, "granularity": granularity}
    codes = by_element(x, scale, granularity, fmt)
    got = affine.quantize(x, scale, **keywords)
    assert_same(np.asarray(got), codes, inputs={"x": x}, call=f"{shape} {granularity}")
    values = np.asarray(affine.dequantize(codes, scale, **keywords))
    each = bits_of(some.spread(scale, x.shape, granularity)).flat
    wide = [exact_affine.dequantize(int(c), int(s), fmt=fmt) for c, s in zip(codes.flat, each, strict=True)]
    assert_same(values, float32(wide).reshape(shape), call=f"dequantize {shape} {granularity}")
    assert_same(
        np.asarray(affine.fake_quantize(x, scale, **keywords)), values, call=f"fake_quantize {shape} {granularity}"
    )


@pytest.mark.parametrize(("shape", "granularity"), LAYOUTS)
@pytest.mark.parametrize("name", ["int8", "e4m3fn", "nf4"])
def test_granularity_differential(backend, shape, granularity, name):
    """GRA-1..GRA-3, FQ-1: ragged, empty and 0-d included."""
    check_layout(backend.affine, shape, granularity, ALL[name])


@pytest.mark.parametrize(("shape", "granularity"), LAYOUTS)
def test_granularity_differential_zero_points(backend, shape, granularity):
    """AFF-3, DEQ-1, STE-2 with one zero point a tile."""
    from refquant import affine

    fmt = ALL["uint8"]
    x, scale = some.layout_arrays(shape, granularity, fmt, 3)
    zero_point = np.random.default_rng(0).integers(0, 256, scale.shape).astype(np.int32)
    keywords = {"fmt": fmt, "granularity": granularity}
    codes = affine.quantize(x, scale, zero_point, **keywords)
    assert_same(backend.affine.quantize(x, scale, zero_point, **keywords), codes)
    values = affine.dequantize(codes, scale, zero_point, **keywords)
    assert_same(backend.affine.dequantize(codes, scale, zero_point, **keywords), values)
    assert_same(backend.affine.fake_quantize(x, scale, zero_point, **keywords), values)
    args = (x, scale, zero_point, np.ones_like(x))
    assert_same(backend.affine.fake_quantize_vjp(*args, **keywords), affine.fake_quantize_vjp(*args, **keywords))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["int8", "uint4", "e5m2", "nf4"])
def test_half_inputs_exhaustive(backend, name, dtype):
    """GEN-1, FQ-1, DEQ-4: all 65,536 inputs equal the widened ones, and fake_quantize keeps the dtype."""
    pytest.importorskip("ml_dtypes")
    from refquant import affine

    fmt, scale = ALL[name], np.float32(1 / 3)
    x = np.arange(65536, dtype=np.uint16).view(np.dtype(dtype))
    codes = affine.quantize(x.astype(np.float32), scale, fmt=fmt)
    assert_same(backend.affine.quantize(x, scale, fmt=fmt), codes, inputs={"x": x})
    want = affine.dequantize(codes, scale, fmt=fmt, dtype=dtype)
    assert_same(backend.affine.fake_quantize(x, scale, fmt=fmt), want, inputs={"x": x})
    got = backend.affine.fake_quantize_vjp(x, scale, None, x, fmt=fmt)
    inside = affine.fake_quantize_vjp(x.astype(np.float32), scale, None, np.ones(65536, np.float32), fmt=fmt) == 1
    assert_same(got, np.where(inside, x, np.zeros((), x.dtype)), inputs={"x": x})


def test_strides_property(backend):
    """GRA-3: transposed, reversed and strided arrays are the arrays they show."""
    fmt = ALL["int8"]
    x = some.near(1 / 3, fmt)[: 60 * 40].reshape(60, 40)
    scale = np.float32(1 / 3)
    codes = backend.affine.quantize(x, scale, fmt=fmt)
    for view in (lambda a: a.T, lambda a: a[::-1, ::3], lambda a: np.asfortranarray(a)):
        assert_same(backend.affine.quantize(view(x), scale, fmt=fmt), view(codes))
        assert_same(
            backend.affine.dequantize(view(codes), scale, fmt=fmt),
            view(backend.affine.dequantize(codes, scale, fmt=fmt)),
        )


@settings(max_examples=60)
@given(
    x=some.floats32(), scale=some.scales(), fmt=some.some_format(), convention=st.sampled_from(some.every_convention())
)
def test_quantize_property_follows_the_rules(x, scale, fmt, convention):
    """AFF-1..AFF-8 on what Hypothesis finds."""
    from refquant import affine

    want = [exact_affine.quantize(int(b), int(bits_of(scale)), fmt=fmt, convention=convention) for b in bits_of(x)]
    got = affine.quantize(x, scale, fmt=fmt, convention=convention)
    assert_same(
        got, np.array(want, np.int64).astype(fmt.storage), inputs={"x": x}, call=f"{fmt.name} {convention} {scale!r}"
    )


@pytest.mark.parametrize("name", SOME)
def test_fake_quantize_property_idempotent(backend, name):
    """FQ-1."""
    fmt = ALL[name]
    for scale in (0.5, 1 / 3, 0.0123):
        once = backend.affine.fake_quantize(some.near(scale, fmt), np.float32(scale), fmt=fmt)
        assert_same(backend.affine.fake_quantize(once, np.float32(scale), fmt=fmt), once, inputs={"x": once})


@pytest.mark.parametrize("zero_point", [2**24 + 1, -(2**24) - 1, 2**30 + 1, -(2**31) + 1])
def test_quantize_golden_zero_points_beyond_float32(backend, zero_point):
    """AFF-3: the sum with a zero point is one of integers, also where binary32 has no room for the zero point."""
    x = np.nextafter(np.float32(-zero_point), np.float32([-np.inf, 0, np.inf]))
    x = np.append(x, np.float32(-zero_point))
    want = [max(-128, min(127, int(v) + zero_point)) for v in x]
    codes = backend.affine.quantize(x, np.float32(1), np.int32(zero_point), fmt=ALL["int8"])
    assert codes.tolist() == want
    assert len(set(want)) > 2


@pytest.mark.parametrize("zero_point", [37, -37, 2**30, -(2**30), 2**31 - 1, -(2**31), -(2**31) + 127])
@pytest.mark.parametrize("kind", ["int", "add", "fma"])
def test_quantize_differential_wrap32(backend, kind, zero_point):
    """AFF-4, AFF-5, STE-2: what is beyond int32, NaN too, is -2^31, and the zero point is added mod 2^32."""
    edges = np.float32([2.0**31, -(2.0**31), -zero_point, 2.0**31 - zero_point, -(2.0**31) - zero_point, 2.0**63])
    x = np.concatenate([some.SPECIAL, some.neighbours(edges, 3), -some.neighbours(edges, 3)])
    for fmt, point in itertools.product((ALL["int8"], ALL["uint4"]), ("div", "inv")):
        convention = Affine(point, zero=kind, overflow="wrap32", nan="qmax")
        check_points(backend.affine, x, fmt, np.float32(1), np.int32(zero_point), convention)
        zero, scale = np.int32(zero_point), np.float32(1)
        inside = [exact_affine.inside(int(b), 0x3F800000, zero_point, fmt=fmt, convention=convention)
                  for b in bits_of(x)]  # fmt: skip
        got = backend.affine.fake_quantize_vjp(x, scale, zero, np.ones_like(x), fmt=fmt, convention=convention)
        assert_same(got, np.float32(inside), inputs={"x": x})


def test_quantize_golden_wrap32(backend):
    """AFF-4: LiteRT's reference kernels on x86-64."""
    x = np.float32([3e9, np.inf, np.nan, -np.inf, 2.0**31 - 128, -1])
    convention = Affine(ties="away", overflow="wrap32")
    for zero_point, codes in (
        (0, [-128, -128, -128, -128, 127, -1]), (-1, [127, 127, 127, 127, 127, -2]), (5, [-128] * 4 + [127, 4]),
        (127, [-128] * 4 + [127, 126]), (128, [-128] * 5 + [127]),
    ):  # fmt: skip
        got = backend.affine.quantize(x, np.float32(1), np.int32(zero_point), fmt=ALL["int8"], convention=convention)
        assert got.tolist() == codes


@pytest.mark.parametrize("op", ["div", "inv", "given"])
@pytest.mark.parametrize("zero", ["add", "fma"])
def test_quantize_golden_zero_points_beyond_binary16(backend, zero, op):
    """AFF-3: a zero point is rounded to the precision, and infinite where that has no room for it."""
    convention = Affine(op, "f16", zero)
    for zero_point, code in ((65520, 127), (-65520, -128)):
        x = np.float32([-60000, 0, 60000])
        codes = backend.affine.quantize(x, np.float32(1), np.int32(zero_point), fmt=ALL["int8"], convention=convention)
        assert codes.tolist() == [code] * 3


def test_quantize_property_python_numbers(backend):
    """GEN-1: a Python number is rounded to binary32; one beyond it is infinite, without a word."""
    bias = {"fmt": ALL["int8"], "convention": Affine(zero="bias")}
    x = np.float32([-2, 0.3, 2.75])
    want = backend.affine.quantize(x, np.float32(0.1), np.float32(0.7), **bias)
    assert_same(backend.affine.quantize(x, 0.1, 0.7, **bias), want)
    assert backend.affine.quantize(x, 1e300, fmt=ALL["int8"]).tolist() == [0, 0, 0]
    assert [int(backend.bits.ordered_key(x)) for x in (1e300, -1e300)] == [0x7F800000, -0x7F800000]


def test_vjp_golden_tiny_ratios(backend):
    """STE-2, GEN-9: under "ratio" a ratio below 2**-126 is zero, which lies in the range; 2**-126 itself is not."""
    x = np.float32([-1.5, -1.75, -1.0, -2.0]) * np.float32(2.0**-126)
    inside = [True, True, True, False]
    for sign, fmt, zero_point in ((1, ALL["uint8"], 0), (-1, ALL["int8"], 127)):
        got = backend.affine.fake_quantize_vjp(
            sign * x, np.float32(2), np.int32(zero_point), np.ones_like(x), fmt=fmt, mask="ratio"
        )
        assert (got == 1).tolist() == inside


@pytest.mark.parametrize("name", ["int4", "uint8"])
def test_no_real_offset_is_the_offset_zero(backend, name):
    """AFF-7: under "bias" None is 0.0, which stands at qmin."""
    x, convention = some.halves(1 / 3, -20, 20), Affine(zero="bias")
    options = {"fmt": ALL[name], "convention": convention}
    want = backend.affine.fake_quantize(x, np.float32(1 / 3), np.float32(0), **options)
    assert_same(backend.affine.fake_quantize(x, np.float32(1 / 3), None, **options), want)
    assert want.min() == 0 < want.max()


@pytest.mark.parametrize("name", ["int8", "uint4", "e4m3fn", "nf4"])
def test_quantize_property_monotone_and_scales_by_powers_of_two(backend, name):
    """AFF-2: codes of x·2^k with scale·2^k are the codes of x; values grow with x."""
    fmt = ALL[name]
    x = np.sort(some.halves(1 / 3, -40, 40))
    codes = backend.affine.quantize(x, np.float32(1 / 3), fmt=fmt)
    for k in (-60, -1, 1, 60):
        scaled = backend.affine.quantize(np.ldexp(x, k), np.ldexp(np.float32(1 / 3), k), fmt=fmt)
        assert_same(scaled, codes, inputs={"x": x})
    values = backend.affine.dequantize(codes, np.float32(1), fmt=fmt)
    assert (np.diff(values) >= 0).all()


@pytest.mark.parametrize("name", ["int8", "int4", "uint8"])
def test_quantize_property_error_at_most_half_a_step(backend, name):
    """AFF-2, DEQ-1: inside the range |x − fake_quantize(x)| <= scale / 2, and a rounding."""
    fmt, scale = ALL[name], np.float32(0.0123)
    x = np.linspace(fmt.qmin * 0.0123, fmt.qmax * 0.0123, 5001).astype(np.float32)
    error = np.abs(backend.affine.fake_quantize(x, scale, fmt=fmt).astype(np.float64) - x)
    assert error.max() <= 0.0123 / 2 * (1 + 2**-15)


def test_cast_reaches_quantize(backend):
    """AFF-6: the cast options hold with a scale too."""
    x = np.float32([1e9, -1e9, np.nan, -1e-9, np.inf])
    cast = Cast("special", None, "signed", "positive")
    fmt, scale = ALL["e4m3fn"], int(bits_of(np.float32(0.3)))
    want = [exact_affine.quantize(int(b), scale, fmt=fmt, cast=cast) for b in bits_of(x)]
    got = backend.affine.quantize(x, np.float32(0.3), fmt=ALL["e4m3fn"], cast=cast)
    assert_same(got, np.array(want, np.uint8))
