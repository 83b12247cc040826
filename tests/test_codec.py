"""encode and decode (specs/10-formats.md): ENC-1..ENC-8, DCD-1, DCD-2, FMT-1..FMT-8."""

import functools

import exact
import numpy as np
import pytest
import strategies as some
from bits import assert_same, bits_of, float32
from hypothesis import given
from hypothesis import strategies as st

from refquant.conventions import CAST, Cast
from refquant.formats import ALL, CodebookFormat, FloatFormat, Format, IntFormat

FORMATS = [pytest.param(f, id=f.name) for f in ALL.values()]
NOT_INTS = [pytest.param(f, id=f.name) for f in (*some.FLOATS, *some.CODEBOOKS)]
FLOATS = [pytest.param(f, id=f.name) for f in some.FLOATS]


def all_codes(fmt: Format) -> np.ndarray:
    """Every pattern of the format's storage (also above its width, FMT-8) in the storage dtype."""
    info = np.iinfo(fmt.storage)
    return np.arange(info.min, info.max + 1).astype(fmt.storage)


@functools.cache
def exact_values(fmt: Format) -> np.ndarray:
    if isinstance(fmt, IntFormat):
        return all_codes(fmt).astype(np.float32)  # exact: |code| < 2^24
    return float32([exact.decode(int(code), fmt) for code in all_codes(fmt)])


@functools.cache
def exact_codes(fmt: Format, cast: Cast, count: int) -> tuple[np.ndarray, np.ndarray]:
    x = some.thin(np.concatenate([some.SPECIAL, some.midpoints(fmt), some.random_bits(200)]), count)
    codes = [exact.encode(int(b), fmt, cast) for b in bits_of(x)]
    return x, np.array(codes).astype(fmt.storage)


def check_decode(codec: object, fmt: Format) -> None:
    codes = all_codes(fmt)
    call = f"codec.decode(code, fmt=ALL[{fmt.name!r}])"
    got = codec.decode(codes, fmt=fmt)
    assert_same(got, exact_values(fmt), payload=isinstance(fmt, FloatFormat), inputs={"code": codes}, call=call)


def check_encode(codec: object, fmt: Format, cast: Cast = CAST, count: int = 1500) -> None:
    x, want = exact_codes(fmt, cast, count)
    call = f"codec.encode(x, fmt=ALL[{fmt.name!r}], cast={cast})"
    assert_same(codec.encode(x, fmt=fmt, cast=cast), want, inputs={"x": x}, call=call)


def check_encode_large(codec: object, fmt: Format, cast: Cast = CAST) -> None:
    """The same where an implementation may switch to a table (a large array)."""
    x, want = exact_codes(fmt, cast, 700)
    assert_same(codec.encode(np.resize(x, 70_000), fmt=fmt, cast=cast), np.resize(want, 70_000))


def check_all_casts(codec: object, fmt: Format, casts: list[Cast]) -> None:
    for cast in casts:
        check_encode(codec, fmt, cast, 300)


@pytest.mark.parametrize("fmt", FORMATS)
def test_decode_exhaustive_every_code(backend, fmt):
    """DCD-1, DCD-2, FMT-1..FMT-8."""
    check_decode(backend.codec, fmt)


@pytest.mark.parametrize("fmt", FORMATS)
def test_encode_differential_midpoints(backend, fmt):
    """ENC-1..ENC-8 within 2 ulp of every midpoint (of 16-bit formats a sample)."""
    check_encode(backend.codec, fmt)


@pytest.mark.parametrize("fmt", FORMATS)
def test_encode_differential_large_arrays(backend, fmt):
    """ENC-1..ENC-8: the size of the array does not matter."""
    check_encode_large(backend.codec, fmt)
    if fmt.bits == 8 and isinstance(fmt, FloatFormat):
        check_encode_large(backend.codec, fmt, Cast("special", "away", "signed", "positive"))


@pytest.mark.parametrize("fmt", NOT_INTS)
def test_encode_differential_every_pair_of_cast_options(backend, fmt):
    """ENC-2..ENC-7; compiling takes time, so jaxquant takes a third of the combinations for each format."""
    if isinstance(fmt, CodebookFormat):
        casts = [Cast(), Cast(nan="max"), Cast("special", "away", "signed", "positive")]
    else:
        turn = some.FLOATS.index(fmt)
        casts = some.CASTS if backend.name == "refquant" else some.CASTS[turn % 3 :: 3]
    check_all_casts(backend.codec, fmt, casts)


@pytest.mark.parametrize("ties", [None, "even", "away", "zero", "up", "down"])
@pytest.mark.parametrize("name", ["int4", "uint8", "int16_narrow"])
def test_encode_differential_integer_ties(backend, name, ties):
    """ENC-1."""
    for nan in ("canonical", "max"):
        check_encode(backend.codec, ALL[name], Cast(ties=ties, nan=nan), 400)


def test_encode_exhaustive_every_cast_of_fp8():
    """ENC-2..ENC-6: all 144 combinations of Cast, e4m3fn, e5m2, e4m3fnuz, e8m0fnu, e2m1fn, in the reference."""
    from refquant import codec

    for name in ("e4m3fn", "e5m2", "e4m3fnuz", "e8m0fnu", "e2m1fn"):
        for cast in some.every_cast():
            check_encode(codec, ALL[name], cast, 60)


def half_inputs(dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return np.arange(65536, dtype=np.uint16).view(np.dtype(dtype))


def check_half_inputs(jax_codec: object, ref_codec: object, fmt: Format, dtype: str, cast: Cast = CAST) -> None:
    x = half_inputs(dtype)
    got, want = jax_codec.encode(x, fmt=fmt, cast=cast), ref_codec.encode(x, fmt=fmt, cast=cast)
    assert_same(np.asarray(got), want, inputs={"x": x}, call=f"codec.encode(x, fmt=ALL[{fmt.name!r}])")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_encode_exhaustive_every_half_input_jax_equals_reference(fmt, dtype):
    """GEN-1, ENC-8: all 65,536 inputs."""
    pytest.importorskip("jax")
    import jaxquant.codec
    import refquant.codec

    check_half_inputs(jaxquant.codec, refquant.codec, fmt, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_encode_differential_half_inputs_against_exact(fmt, dtype):
    """GEN-1: 600 of the 65,536 inputs, widened by the third opinion."""
    from refquant import codec

    x = half_inputs(dtype)[:: 65536 // 600]
    want = [exact.encode(int(b), fmt) for b in bits_of(x.astype(np.float32))]
    assert_same(codec.encode(x, fmt=fmt), np.array(want).astype(fmt.storage), inputs={"x": x}, call="codec.encode(x)")


@pytest.mark.parametrize("fmt", FORMATS)
def test_encode_property_each_code_comes_back(backend, fmt):
    """ENC-2, FMT-7: encode(decode(c)) is c, or another name of the same value (±0, NaN, a repeated value)."""
    codes = all_codes(fmt)
    if isinstance(fmt, IntFormat):
        codes = codes[(codes >= fmt.qmin) & (codes <= fmt.qmax)]
    values = backend.codec.decode(codes, fmt=fmt)
    finite = np.isfinite(values)
    again = backend.codec.encode(values, fmt=fmt, cast=Cast(overflow="special"))
    back = backend.codec.decode(again, fmt=fmt)
    assert_same(np.where(values == 0, 0, back)[finite], np.where(values == 0, 0, values)[finite])


@pytest.mark.parametrize("fmt", FORMATS)
def test_encode_property_monotone(backend, fmt):
    """ENC-2, ENC-7: a larger x never takes a smaller value."""
    x = np.sort(np.concatenate([some.midpoints(fmt, 1)[::17], some.powers(), np.float32([-np.inf, np.inf])]))
    x = x[x >= 0] if isinstance(fmt, FloatFormat) and not fmt.signed else x
    values = backend.codec.decode(backend.codec.encode(x, fmt=fmt), fmt=fmt)
    assert (np.diff(values.astype(np.float64)) >= 0).all()


@given(x=some.floats32(), fmt=some.some_format(), cast=st.sampled_from(some.every_cast()))
def test_encode_property_follows_the_rules(x, fmt, cast):
    """ENC-1..ENC-8 on what Hypothesis finds."""
    from refquant import codec

    want = np.array([exact.encode(int(b), fmt, cast) for b in bits_of(x)]).astype(fmt.storage)
    assert_same(codec.encode(x, fmt=fmt, cast=cast), want, inputs={"x": x}, call=f"encode(x, fmt={fmt.name})")


@pytest.mark.parametrize("fmt", [ALL["int4"], ALL["e4m3fn"], ALL["nf4"]], ids=lambda f: f.name)
def test_encode_property_shapes(backend, fmt):
    """ENC-1: 0-d, empty, transposed and strided arrays, Python numbers."""
    x = np.linspace(-9, 9, 24, dtype=np.float32).reshape(4, 6)
    want = backend.codec.encode(x, fmt=fmt)
    assert_same(backend.codec.encode(x.T, fmt=fmt), want.T)
    assert_same(backend.codec.encode(x[::2, ::-1], fmt=fmt), want[::2, ::-1])
    assert_same(backend.codec.encode(np.float32(x[1, 2]), fmt=fmt), want[1, 2])
    for shape in ((0,), (0, 3), (2, 0)):
        assert_same(backend.codec.encode(np.zeros(shape, np.float32), fmt=fmt), np.zeros(shape, fmt.storage))
        assert_same(backend.codec.decode(np.zeros(shape, fmt.storage), fmt=fmt), np.zeros(shape, np.float32))
    assert_same(backend.codec.decode(want.T, fmt=fmt), backend.codec.decode(want, fmt=fmt).T)


@pytest.mark.parametrize("fmt", NOT_INTS)
def test_decode_property_wide_codes(backend, fmt):
    """FMT-8: bits above the width do not matter."""
    codes = all_codes(fmt)
    low = (codes.astype(np.int64) & ((1 << fmt.bits) - 1)).astype(fmt.storage)
    assert_same(backend.codec.decode(codes, fmt=fmt), backend.codec.decode(low, fmt=fmt))


@pytest.mark.parametrize("name", ["e4m3fn", "e8m0fnu", "e2m3fn", "nf4", "int8", "bfloat16"])
def test_encode_differential_contexts(name):
    """GEN-5, ENC-8: the same codes eagerly, inside jit, vmap, scan, and from a compile-time constant."""
    jax = pytest.importorskip("jax")
    import jaxquant.codec
    import refquant.codec

    fmt = ALL[name]
    x = np.resize(np.concatenate([some.SPECIAL, some.midpoints(fmt)[:400]]), (8, 55))
    want = refquant.codec.encode(x, fmt=fmt)
    encode = functools.partial(jaxquant.codec.encode, fmt=fmt)
    with jax.disable_jit():
        assert_same(np.asarray(encode(x)), want)
    for context in (
        jax.jit(encode),
        jax.vmap(encode),
        lambda v: jax.lax.scan(lambda c, row: (c, encode(row)), 0, v)[1],
        lambda v: jax.jit(lambda: encode(v))(),
    ):
        assert_same(np.asarray(context(x)), want)


def test_zero_code_golden():
    """ENC-7, FMT-7: NaN takes the value nearest zero."""
    for fmt in some.CODEBOOKS:
        assert isinstance(fmt, CodebookFormat)
        assert fmt.zero_code == exact.encode(0x7FC00000, fmt)


def test_encode_golden_unsigned_without_nan(backend):
    """ENC-6: a negative x is 0, one that rounds to zero as well."""
    fmt = FloatFormat("own", 2, 2, 1, "none", "own", signed=False)
    x = np.float32([-np.inf, -1.0, -1e-9, -0.0, 0.25, 1.0, np.inf])
    assert_same(backend.codec.encode(x, fmt=fmt), np.uint8([0, 0, 0, 0, 1, 4, 15]))
