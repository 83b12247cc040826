"""The tables of formats against other people's (FMT-1..FMT-8)."""

import hashlib
import pickle
import re

import exact
import numpy as np
import pytest
import strategies as some
from bits import assert_same, float32

from refquant.conventions import Cast
from refquant.formats import ALL, CodebookFormat, FloatFormat, IntFormat, get, ordered_key
from refquant.formats.names import COMMON
from refquant.schemes import parse_tensor

ML_DTYPES = {
    **{n: f"float8_{n}" for n in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e4m3", "e3m4", "e4m3b11fnuz", "e8m0fnu")},
    "e2m3fn": "float6_e2m3fn",
    "e3m2fn": "float6_e3m2fn",
    "e2m1fn": "float4_e2m1fn",
    "bfloat16": "bfloat16",
}


@pytest.mark.parametrize("fmt", [pytest.param(f, id=f.name) for f in some.INTS])
def test_integers_golden(fmt: IntFormat):
    """FMT-1, FMT-2."""
    assert fmt.qmin <= 0 < fmt.qmax
    narrow = fmt.name.endswith("narrow") or fmt.name == "ternary"
    assert fmt.qmax - fmt.qmin + 1 == (1 << fmt.bits) - narrow
    info = np.iinfo(fmt.storage)
    assert info.min <= fmt.qmin
    assert fmt.qmax <= info.max
    assert info.bits == (8 if fmt.bits <= 8 else 16)
    assert fmt.signed == (info.min < 0)
    assert fmt.max_magnitude == max(abs(fmt.qmin), fmt.qmax)


@pytest.mark.parametrize("fmt", [pytest.param(f, id=f.name) for f in some.FLOATS])
def test_floats_golden_limits(fmt: FloatFormat):
    """FMT-3..FMT-6: max, min, inf, NaN and −0 by decoding every code."""
    values = float32([exact.decode(code, fmt) for code in range(1 << fmt.bits)])
    finite = values[np.isfinite(values)]
    assert finite.max() == np.float32(fmt.max_value)
    assert values[fmt.max_code] == np.float32(fmt.max_value)
    assert finite[finite > 0].min() == np.float32(fmt.min_value)
    assert np.isinf(values).any() == (fmt.inf_code is not None)
    assert np.isnan(values).any() == (fmt.nan_code is not None)
    assert fmt.nan_code is None or np.isnan(values[fmt.nan_code])
    assert fmt.inf_code is None or np.isposinf(values[fmt.inf_code])
    assert ((values == 0) & np.signbit(values)).any() == fmt.negative_zero


@pytest.mark.parametrize("name", list(ML_DTYPES))
def test_floats_external_ml_dtypes(name):
    """DCD-1, FMT-3..FMT-6 against ml_dtypes: every code and finfo."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    fmt, dtype = ALL[name], getattr(ml_dtypes, ML_DTYPES[name])
    codes = np.arange(1 << fmt.bits).astype(fmt.storage)
    want = codes.view(dtype).astype(np.float32)
    assert_same(float32([exact.decode(int(c), fmt) for c in codes]), want, inputs={"code": codes})
    info = ml_dtypes.finfo(dtype)
    assert float(info.max) == fmt.max_value
    assert (info.nmant, info.bits) == (fmt.mantissa_bits, 8 if 4 < fmt.bits < 8 else fmt.bits) or fmt.bits < 8
    assert float(info.smallest_subnormal if fmt.zero else info.smallest_normal) == fmt.min_value


@pytest.mark.parametrize("name", [n for n in ML_DTYPES if n not in ("e8m0fnu", "e2m3fn", "e3m2fn", "e2m1fn")])
def test_encode_external_ml_dtypes(backend, name):
    """ENC-2..ENC-5 against ml_dtypes' casts (its NaNs and overflows: "special", "signed")."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    fmt = ALL[name]
    x = np.concatenate([some.SPECIAL, some.midpoints(fmt)[:: 1 + (fmt.bits > 8) * 40], some.random_bits(2000)])
    with np.errstate(all="ignore"):
        want = x.astype(getattr(ml_dtypes, ML_DTYPES[name])).view(fmt.storage)
    got = backend.codec.encode(x, fmt=fmt, cast=Cast("special", nan="signed"))
    numbers = ~np.isnan(x)
    assert_same(got[numbers], want[numbers], inputs={"x": x[numbers]}, call=f"encode(x, fmt=ALL[{name!r}])")


def test_float16_external_numpy(backend):
    """DCD-1, ENC-2 against NumPy's binary16."""
    codes = np.arange(65536, dtype=np.uint16)
    want = codes.view(np.float16).astype(np.float32)
    assert_same(backend.codec.decode(codes, fmt=ALL["float16"]), want)
    x = np.concatenate([some.midpoints(ALL["float16"]), some.random_bits(5000)])
    x = x[~np.isnan(x)]
    with np.errstate(all="ignore"):
        want = x.astype(np.float16).view(np.uint16)
    assert_same(backend.codec.encode(x, fmt=ALL["float16"], cast=Cast("special")), want, inputs={"x": x})


@pytest.mark.parametrize("fmt", [pytest.param(f, id=f.name) for f in some.CODEBOOKS])
def test_codebooks_golden(fmt: CodebookFormat):
    """FMT-7: binary32 values, thresholds between neighbours, one code for each distinct value."""
    values = np.array(fmt.values, np.float64)
    assert (values.astype(np.float32) == values).all()
    assert len(values) <= 1 << fmt.bits
    assert fmt.max_value == values.max()
    codes = list(fmt.ordered_codes)
    assert (np.diff(values[codes]) > 0).all()
    for key, low, high in zip(fmt.threshold_keys, codes, codes[1:], strict=False):
        below, above = (int(some.from_keys(np.array([k])).view(np.uint32)[0]) for k in (key - 1, key))
        assert (exact.encode(below, fmt), exact.encode(above, fmt)) == (low, high)


@pytest.mark.parametrize("ties", ["down", "up"])
def test_codebooks_golden_thresholds_of_a_new_codebook(ties):
    """ENC-7: middles that binary32 has, where the ties decide, and middles that it has not."""
    above = float(np.nextafter(np.float32(1), np.float32(2)))
    fmt = CodebookFormat("own", 3, (0.5, -0.5, above, 1.0, -above, -1.0), "own", ties)
    assert fmt.ordered_codes == (4, 5, 1, 0, 3, 2)
    middles = [ordered_key(middle) + (ties == "down") for middle in (-0.75, 0.0, 0.75)]
    assert fmt.threshold_keys == (ordered_key(-1.0), *middles, ordered_key(above))


DIGESTS = {
    "dynamic8": "e732639a65f497b4",
    "dynamic8_unsigned": "305f002cc11278fb",
}


@pytest.mark.parametrize("name", list(DIGESTS))
def test_dynamic_golden_digest(name):
    """FMT-7: the values of bitsandbytes 0.50.2, whose float32 steps (a fused linspace) are part of them."""
    values = np.array(ALL[name].values, "<f4")
    assert hashlib.sha256(values.tobytes()).hexdigest()[:16] == DIGESTS[name]


def test_codebooks_external_bitsandbytes():
    """FMT-7 against the installed bitsandbytes."""
    functional = pytest.importorskip("bitsandbytes.functional")
    for name, signed in (("dynamic8", True), ("dynamic8_unsigned", False)):
        assert_same(np.float32(ALL[name].values), functional.create_dynamic_map(signed=signed).numpy())
    for name, theirs in (("nf4", "nf4"), ("fp4_bnb", "fp4")):
        got, want = np.float32(ALL[name].values), functional.get_4bit_type(theirs, device="cpu").numpy()
        assert_same(got + np.float32(0), want + np.float32(0))


def test_ordered_key_golden():
    """BIT-1 on the data side."""
    for value in (0.0, -0.0, 1.5, -1.5, 1e-45, float("inf")):
        assert ordered_key(value) == exact.ordered_key(int(np.float32(value).view(np.uint32)))


def test_names_golden():
    """FMT-1: the name is the key, and each row has a source."""
    for name, fmt in ALL.items():
        assert fmt.name == name
        assert get(name) is fmt
        assert fmt.source


NO_FORMATS = {
    # a float's exponent, mantissa, bias, specials and options, and what is told
    "specials": ((3, 4, 3, "fnn"), {}, "specials is 'fnn', need 'ieee', 'fn', 'fnuz', 'none' (FMT-4)"),
    "wide": ((9, 9, 3, "ieee"), {}, "bits is 19, need an integer from 1 to 16 (a code is held in 16 bits, FMT-3)"),
    "exponent": ((0, 3, 3, "fn"), {}, "exponent_bits is 0, need an integer from 1 to 16 (FMT-3)"),
    "real": ((4.0, 3, 3, "fn"), {}, "exponent_bits is 4.0, need an integer from 1 to 16 (FMT-3)"),
    "mantissa": ((3, -1, 3, "fn"), {}, "mantissa_bits is -1, need an integer from 0 to 15 (FMT-3)"),
    "ieee": ((4, 0, 7, "ieee"), {},
             'mantissa_bits is 0, need an integer from 1 to 15 ("ieee" has inf and NaN, FMT-4)'),
    "ties": ((4, 3, 7, "fn"), {"ties": "evn"}, "ties is 'evn', need 'even', 'away', 'zero', 'up', 'down' (ENC-2)"),
    "fnuz": ((4, 3, 8, "fnuz"), {"signed": False},
             'signed is False, need True (the NaN of "fnuz" is the code of -0, FMT-4)'),
    "nz": ((4, 3, 8, "fn"), {"zero": False}, "signed is True, need False (a format without zero is a scale, FMT-3)"),
    "empty": ((1, 0, 0, "fn"), {},
              "mantissa_bits is 0, need an integer from 1 to 15 (a positive value must be left, FMT-4)"),
    "half": ((4, 3, 1.5, "fn"), {}, "bias is 1.5, need an integer from -112 to 147 (all values are binary32, DCD-1)"),
    "high": ((4, 3, -113, "fn"), {}, "bias is -113, need an integer from -112 to 147 (all values are binary32, DCD-1)"),
    "low": ((4, 3, 148, "fn"), {}, "bias is 148, need an integer from -112 to 147 (all values are binary32, DCD-1)"),
    "scale": ((8, 0, 150, "fn"), {"signed": False, "zero": False},
              "bias is 150, need an integer from 127 to 149 (all values are binary32, DCD-1)"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_FORMATS)
def test_floats_golden_refused(name):
    """FMT-9: what is no format is refused where it is made."""
    numbers, options, told = NO_FORMATS[name]
    with pytest.raises(ValueError) as error:
        FloatFormat("own", *numbers, "me", **options)
    assert str(error.value) == f"FloatFormat own: {told}"


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((0, 0, 0), "bits is 0, need an integer from 1 to 16 (a code is held in 16 bits, FMT-2)"),
        ((17, 0, 9), "bits is 17, need an integer from 1 to 16 (a code is held in 16 bits, FMT-2)"),
        ((4, -9, 7), "qmin is -9, need an integer from -8 to 0 (4 bits, and 0 is a code, FMT-1)"),
        ((4, 1, 7), "qmin is 1, need an integer from -8 to 0 (4 bits, and 0 is a code, FMT-1)"),
        ((4, -8, 8), "qmax is 8, need an integer from 1 to 7 (4 bits, FMT-1)"),
        ((4, 0, 16), "qmax is 16, need an integer from 1 to 15 (4 bits, FMT-1)"),
        ((4, -8, 0), "qmax is 0, need an integer from 1 to 7 (4 bits, FMT-1)"),
        ((4, -8, 7.0), "qmax is 7.0, need an integer from 1 to 7 (4 bits, FMT-1)"),
    ],
)
def test_integers_golden_refused(numbers, told):
    """FMT-9."""
    with pytest.raises(ValueError) as error:
        IntFormat("own", *numbers, "me")
    assert str(error.value) == f"IntFormat own: {told}"


@pytest.mark.parametrize(
    ("bits", "values", "ties", "told"),
    [
        (9, (0.0, 1.0), "down", "bits is 9, need an integer from 1 to 8 (a code is held in uint8, FMT-7)"),
        (2, (0.0,) * 5, "down", "number of values is 5, need an integer from 1 to 4 (one a code, FMT-7)"),
        (2, (), "down", "number of values is 0, need an integer from 1 to 4 (one a code, FMT-7)"),
        (2, (0.0, 0.1), "down", "value is 0.1, need a finite binary32 number (FMT-7)"),
        (2, (0.0, float("nan")), "down", "value is nan, need a finite binary32 number (FMT-7)"),
        (2, (float("inf"), 1.0), "down", "value is inf, need a finite binary32 number (FMT-7)"),
        (2, (1e300, 1.0), "down", "value is 1e+300, need a finite binary32 number (FMT-7)"),
        (2, (0.0, 1.0), "even", "ties is 'even', need 'down', 'up' (ENC-7)"),
    ],
)
def test_codebooks_golden_refused(bits, values, ties, told):
    """FMT-9."""
    with pytest.raises(ValueError) as error:
        CodebookFormat("own", bits, values, "me", ties)
    assert str(error.value) == f"CodebookFormat own: {told}"


#: The ends of what FMT-9 lets in: the largest and smallest binary32 values, no mantissa, one exponent bit, 16 bits.
ENDS = [
    FloatFormat("top", 4, 3, -112, "fn", "own"),
    FloatFormat("bottom", 4, 3, 147, "fn", "own"),
    FloatFormat("ieee", 3, 2, -121, "ieee", "own"),
    FloatFormat("fixed", 1, 4, 1, "ieee", "own"),
    FloatFormat("fixed_none", 1, 7, 3, "none", "own", signed=False),
    FloatFormat("powers", 5, 0, 15, "fnuz", "own"),
    FloatFormat("scale", 6, 2, 147, "fn", "own", signed=False, zero=False, ties="up"),
    FloatFormat("high_scale", 4, 1, -112, "none", "own", signed=False, zero=False, ties="zero"),
]  # fmt: skip


@pytest.mark.parametrize("fmt", [pytest.param(f, id=f.name) for f in ENDS])
def test_floats_differential_at_the_ends_of_what_is_let_in(backend, fmt):
    """FMT-9: any format that can be made works: every code decoded, and every value and midpoint encoded."""
    codes = np.arange(1 << fmt.bits).astype(fmt.storage)
    values = float32([exact.decode(int(code), fmt) for code in codes])
    assert_same(backend.codec.decode(codes, fmt=fmt), values, inputs={"code": codes})
    x = np.concatenate([some.SPECIAL, some.midpoints(fmt)])
    for cast in (Cast(), Cast("special", nan="signed"), Cast("finite", ties="down", nan="max")):
        want = np.array([exact.encode(int(bits), fmt, cast) for bits in x.view(np.uint32)], fmt.storage)
        assert_same(backend.codec.encode(x, fmt=fmt, cast=cast), want, inputs={"x": x}, call=str(cast))


@pytest.mark.parametrize("name", COMMON)
def test_common_names_lead_to_formats_and_schemes(name):
    """Every name and scheme that a pointer has is one, and no pointer hides a format."""
    words = re.findall(r"[a-z]+[0-9][a-z0-9_]*(?::\w+)*", COMMON[name].replace("-0", ""))
    assert words and all(word in ALL or parse_tensor(word) for word in words)
    assert name not in ALL
    for look_up, error in ((get, ValueError), (ALL.__getitem__, KeyError)):
        with pytest.raises(error, match=re.escape(f"need a name in refquant.formats.ALL; {name} is {COMMON[name]}")):
            look_up(name.upper())


def test_a_missing_format_names_the_nearest():
    with pytest.raises(KeyError, match="format is 'int44', need a name in refquant.formats.ALL; nearest: int4, "):
        ALL["int44"]
    with pytest.raises(KeyError, match="format is 5, need a name"):
        ALL[5]  # type: ignore[index]
    assert ALL.get("int44") is None and "int44" not in ALL and isinstance(ALL, dict)
    assert pickle.loads(pickle.dumps(ALL)) == ALL  # noqa: S301
