"""The third opinion on specs/20-affine.md and specs/30-scales.md: one element at a time, Fractions and Python ints."""

from __future__ import annotations

from fractions import Fraction

from exact import (
    BF16,
    F16,
    F32,
    FLT_MAX,
    INF,
    NAN,
    PRECISION,
    Real,
    _whole,
    add,
    clamp,
    decode,
    div,
    encode_real,
    flushed,
    from_bits,
    is_nan,
    magnitude_code,
    mul,
    nearest,
    negated,
    of,
    ordered_key,
    pow2,
    rounded,
    to_bits,
)

from refquant.conventions import CAST, DEFAULT, Affine, Cast
from refquant.formats import ALL, CodebookFormat, FloatFormat, Format, IntFormat
from refquant.spec import ScaleRule, denominator, magnitude

MAGIC = 12582912
MAGIC_BITS = to_bits(of(MAGIC))


def operands(x: Real, scale: Real, convention: Affine) -> tuple[Real, Real]:
    """AFF-2: what the step works on; for "inv" the second one is the rounded reciprocal."""
    binary = PRECISION[convention.prec]
    x, scale = rounded(x, binary), rounded(scale, binary)
    return x, rounded(div(of(1), scale), binary) if convention.op == "inv" else scale


def exact_ratio(x: Real, scale: Real, convention: Affine) -> Real:
    """The step of AFF-2 before its rounding."""
    return (div if convention.op == "div" else mul)(*operands(x, scale, convention))


def ratio(x: Real, scale: Real, convention: Affine) -> Real:
    """AFF-2."""
    return rounded(exact_ratio(x, scale, convention), PRECISION[convention.prec])


def before_rounding(x: Real, scale: Real, zero_point: int | Real, convention: Affine) -> Real:
    """AFF-3: the value that RND-1 rounds."""
    binary = PRECISION[convention.prec]
    if convention.zero == "bias":
        return ratio(rounded(add(x, negated(zero_point))), scale, convention)
    if convention.zero == "add":
        return rounded(add(ratio(x, scale, convention), rounded(of(zero_point), binary)), binary)
    if convention.zero == "fma":
        return rounded(add(exact_ratio(x, scale, convention), rounded(of(zero_point), binary)), binary)
    return ratio(x, scale, convention)


def unclamped(x: Real, scale: Real, zero_point: int | Real, fmt: IntFormat, convention: Affine) -> int | None:
    """AFF-3, AFF-4: the integer before the clamp; None for NaN."""
    value = before_rounding(x, scale, zero_point, convention)
    if value.size == NAN:
        return None
    after = {"int": zero_point, "bias": fmt.qmin}.get(convention.zero, 0)
    if convention.overflow == "magic":
        return _magic(value) + after
    whole = _whole(value, convention.ties)
    if convention.overflow == "sat":
        return whole + after
    top = 1 << {"i32": 31, "i64": 63, "wrap32": 31}[convention.overflow]
    whole = whole if -top <= whole < top else -top
    if convention.overflow == "wrap32":
        return int32(whole + after)
    return clamp(whole + after, -top, top - 1)


def undefined(x: int, scale: int, zero_point: int, fmt: IntFormat, convention: Affine) -> bool:
    """CNV-8: whether the code of one binary32 pattern rests on a cast or a sum that C++ leaves undefined."""
    if convention.overflow in ("sat", "magic"):
        return False
    zero = _zero(zero_point, convention)
    value = before_rounding(from_bits(x), from_bits(scale), zero, convention)
    if value.size == NAN:
        return True
    whole, top = _whole(value, convention.ties), 1 << (63 if convention.overflow == "i64" else 31)
    after = {"int": zero, "bias": fmt.qmin}.get(convention.zero, 0)
    return not -top <= whole < top or not -top <= whole + after < top


def int32(value: int) -> int:
    """Two's complement of 32 bits."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def _magic(value: Real) -> int:
    """AFF-4 "magic"."""
    difference = to_bits(rounded(add(rounded(value), of(MAGIC)))) - MAGIC_BITS
    return int32(difference)


def _zero(zero_point: int | None, convention: Affine) -> int | Real:
    """AFF-7; the zero point of "bias" comes as a binary32 pattern."""
    if convention.zero == "bias":
        return from_bits(zero_point or 0)
    return zero_point or 0


def quantize(
    x: int,
    scale: int,
    zero_point: int | None = None,
    *,
    fmt: Format,
    convention: Affine = DEFAULT,
    cast: Cast = CAST,
) -> int:
    """AFF-1..AFF-8: the code of one binary32 pattern."""
    if not isinstance(fmt, IntFormat):  # AFF-6
        return encode_real(_flushed_ratio(x, scale, convention), fmt, cast)
    zero = _zero(zero_point, convention)
    value = unclamped(from_bits(x), from_bits(scale), zero, fmt, convention)
    if value is None and convention.overflow == "wrap32":  # AFF-5
        after = {"int": zero, "bias": fmt.qmin}.get(convention.zero, 0)
        return clamp(int32(after - (1 << 31)), fmt.qmin, fmt.qmax)
    if value is None:
        middle = fmt.qmin if convention.zero == "bias" else clamp(zero, fmt.qmin, fmt.qmax)
        return {"qmin": fmt.qmin, "qmax": fmt.qmax, "zero": middle}[convention.nan]
    return clamp(value, fmt.qmin, fmt.qmax)


def _flushed_ratio(x: int, scale: int, convention: Affine) -> Real:
    return flushed(rounded(ratio(flushed(from_bits(x)), from_bits(scale), convention)))


def inside(
    x: int,
    scale: int,
    zero_point: int | None = None,
    *,
    fmt: Format,
    convention: Affine = DEFAULT,
    mask: str = "rounded",
) -> bool:
    """STE-2, STE-3: whether the cotangent passes."""
    if not isinstance(fmt, IntFormat):
        return _inside_values(_flushed_ratio(x, scale, convention), fmt, mask)
    zero = _zero(zero_point, convention)
    if mask == "rounded":
        value = unclamped(from_bits(x), from_bits(scale), zero, fmt, convention)
        return value is not None and fmt.qmin <= value <= fmt.qmax
    start = flushed(from_bits(x))
    if convention.zero == "bias":
        start, zero = flushed(rounded(add(start, negated(zero)))), fmt.qmin
    value = flushed(ratio(start, from_bits(scale), convention))
    return not isinstance(value.size, str) and fmt.qmin - zero <= value.value() <= fmt.qmax - zero


def _inside_values(value: Real, fmt: FloatFormat | CodebookFormat, mask: str) -> bool:
    if isinstance(value.size, str):
        return False
    if isinstance(fmt, CodebookFormat):
        return Fraction(min(fmt.values)) <= value.value() <= Fraction(max(fmt.values))
    if mask == "rounded":
        return magnitude_code(value, fmt, fmt.ties) <= fmt.max_code
    return value.size <= Fraction(fmt.max_value)


def dequantize(
    code: int, scale: int, zero_point: int | None = None, *, fmt: Format, real: bool = False, dtype: str = "float32"
) -> int:
    """DEQ-1..DEQ-4 as a binary32 pattern; `real`: the zero point is a pattern too."""
    if not isinstance(fmt, IntFormat):  # DEQ-3
        value = flushed(rounded(mul(flushed(from_bits(decode(code, fmt))), from_bits(scale))))
    elif real:  # DEQ-2
        offset = flushed(from_bits(zero_point))
        value = flushed(rounded(add(rounded(mul(of(code - fmt.qmin), from_bits(scale))), offset)))
    else:  # DEQ-1
        value = rounded(mul(rounded(of(code - (zero_point or 0))), from_bits(scale)))
    return to_bits(rounded(value, {"float32": F32, "float16": F16, "bfloat16": BF16}[dtype]))


def range_of(tile: list[int]) -> tuple[int, int]:
    """SCL-1 of one tile of binary32 patterns."""
    finite = [min(bits & 0x7FFFFFFF, FLT_MAX) | (bits & 0x80000000) for bits in tile if not is_nan(bits)]
    low = min([0, *finite], key=ordered_key)
    high = max([0, *finite], key=ordered_key)
    return (low if ordered_key(low) else 0), (high if ordered_key(high) else 0)


def choose_scale(low: int, high: int, *, fmt: Format, rule: ScaleRule) -> tuple[int, int | None]:
    """SCL-2..SCL-8: (scale pattern, zero point: None, an int, or the pattern of a real offset)."""
    if rule.zero == "none":
        return _store(_symmetric(low, high, fmt, rule), fmt, rule), None
    span = rounded(add(from_bits(high), negated(from_bits(low))))  # SCL-7
    span = from_bits(FLT_MAX) if span.size == INF else span
    scale = _store(rounded(div(span, of(fmt.qmax - fmt.qmin))), fmt, rule)
    if rule.zero == "float":  # SCL-8
        return scale, to_bits(flushed(from_bits(low)))
    steps = nearest(rounded(div(from_bits(low), from_bits(scale))).value(), "even")
    return scale, clamp(fmt.qmin - steps, fmt.qmin, fmt.qmax)


def _symmetric(low: int, high: int, fmt: Format, rule: ScaleRule) -> Real:
    """SCL-2..SCL-4."""
    amax = from_bits(max(high & 0x7FFFFFFF, low & 0x7FFFFFFF))
    if rule.denominator == "signed_absmax" and (low & 0x7FFFFFFF) > (high & 0x7FFFFFFF):
        amax = negated(amax)
    return rounded(div(amax, of(denominator(fmt, rule))))


def _store(scale: Real, fmt: Format, rule: ScaleRule) -> int:
    """SCL-5, SCL-6."""
    top = 0
    while pow2(top) <= Fraction(magnitude(fmt)):
        top += 1
    smallest, largest = pow2(-100), pow2(127 - top)
    scale = flushed(scale)
    scale = Real(scale.negative and scale.size != 0, max(smallest, min(scale.size, largest)))
    if rule.storage == "float32":
        return to_bits(scale)
    if rule.storage in ("pow2", "e8m0fnu"):
        power = Fraction(1)
        while power < scale.size:
            power *= 2
        while power / 2 >= scale.size:
            power /= 2
        return to_bits(Real(scale.negative, power))
    target = ALL[rule.storage]
    code = encode_real(scale, target)
    return decode(code, target) if from_bits(decode(code, target)).size else to_bits(of(Fraction(target.min_value)))
