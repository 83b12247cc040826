"""The third opinion: the rules of specs/00, 10, 15, 20 and 30 once more, on Fractions and Python ints.

Written from the chapters with the array files of both packages closed; slow, tiny, no NumPy, no float arithmetic.
A binary32 pattern is an int; a value is a `Real`, whose size is a Fraction, INF or NAN.
"""

from __future__ import annotations

import bisect
import functools
import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from refquant.conventions import CAST, Cast
from refquant.formats import CodebookFormat, FloatFormat, Format, IntFormat

INF, NAN = "inf", "nan"
FLT_MAX = 0x7F7FFFFF


class Real(NamedTuple):
    """A sign and a magnitude; both zeros, both infinities and NaN are told apart."""

    negative: bool
    size: Fraction | str

    def value(self) -> Fraction:
        return -self.size if self.negative else self.size


class Binary(NamedTuple):
    """Digits of precision, exponent of the smallest subnormal, exponent of the first power that overflows."""

    digits: int
    lowest: int
    top: int


F16, BF16, F32, F64 = Binary(11, -24, 16), Binary(8, -133, 128), Binary(24, -149, 128), Binary(53, -1074, 1024)
PRECISION = {"f16": F16, "f32": F32, "f64": F64}
NOT_A_NUMBER = Real(False, NAN)


@functools.cache
def pow2(exponent: int) -> Fraction:
    """2^exponent."""
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


@functools.lru_cache(maxsize=1 << 14)
def from_bits(bits: int) -> Real:
    """The value of a binary32 pattern."""
    exponent, mantissa = divmod(bits & 0x7FFFFFFF, 1 << 23)
    negative = bool(bits >> 31)
    if exponent == 255:
        return Real(negative, NAN if mantissa else INF)
    hidden = (1 << 23) if exponent else 0
    return Real(negative, Fraction(hidden + mantissa) * pow2(max(exponent, 1) - 150))


def to_bits(real: Real) -> int:
    """The binary32 pattern of a representable value."""
    if real.size == NAN:
        return 0x7FC00000
    number = math.inf if real.size == INF else float(real.size)
    return struct.unpack("<I", struct.pack("<f", number))[0] | (real.negative << 31)


def of(value: float | int | Fraction) -> Real:
    """A finite Python number; zero is +0."""
    return Real(value < 0, abs(Fraction(value)))


def nearest(value: Fraction, ties: str) -> int:
    """RND-1 on a finite value (and "zero": ties toward zero)."""
    return nearest_quotient(value.numerator, value.denominator, ties)


def nearest_quotient(a: int, b: int, ties: str) -> int:
    """RND-1 of a / b, b > 0."""
    low, rest = divmod(a, b)
    if ties == "trunc":
        return low + (a < 0 and rest > 0)
    if 2 * rest != b:
        return low + (2 * rest > b)
    return {"even": low + low % 2, "up": low + 1, "down": low, "away": low + (low >= 0), "zero": low + (low < 0)}[ties]


def log2_floor(size: Fraction) -> int:
    """The exponent e with 2^e <= size < 2^(e+1)."""
    a, b = size.numerator, size.denominator
    e = a.bit_length() - b.bit_length()
    return e if a << max(-e, 0) >= b << max(e, 0) else e - 1


def rounded(real: Real, binary: Binary = F32) -> Real:
    """One rounding to a binary precision, ties to even, gradual underflow, overflow to infinity."""
    if isinstance(real.size, str) or not real.size:
        return real
    unit = max(log2_floor(real.size) - binary.digits + 1, binary.lowest)
    whole = nearest_quotient(real.size.numerator << max(-unit, 0), real.size.denominator << max(unit, 0), "even")
    size = Fraction(whole << unit) if unit >= 0 else Fraction(whole, 1 << -unit)
    return Real(real.negative, INF if size >= pow2(binary.top) else size)


def mul(a: Real, b: Real) -> Real:
    """The exact product with IEEE 754's special cases."""
    negative = a.negative != b.negative
    if NAN in (a.size, b.size) or (INF in (a.size, b.size) and 0 in (a.size, b.size)):
        return NOT_A_NUMBER
    return Real(negative, INF if INF in (a.size, b.size) else a.size * b.size)


def div(a: Real, b: Real) -> Real:
    """The exact quotient with IEEE 754's special cases."""
    if b.size == INF:
        return mul(a, Real(b.negative, Fraction(0))) if a.size != INF else NOT_A_NUMBER
    if b.size == 0:
        return mul(a, Real(b.negative, INF)) if a.size != 0 else NOT_A_NUMBER
    return mul(a, Real(b.negative, b.size if b.size == NAN else 1 / b.size))


def add(a: Real, b: Real) -> Real:
    """The exact sum with IEEE 754's special cases; a zero sum is -0 for two negative zeros only."""
    if NAN in (a.size, b.size) or (a.size == b.size == INF and a.negative != b.negative):
        return NOT_A_NUMBER
    if INF in (a.size, b.size):
        return a if a.size == INF else b
    total = a.value() + b.value()
    return Real(total < 0 or (a.negative and b.negative), abs(total))


def negated(real: Real) -> Real:
    return Real(not real.negative, real.size)


def flushed(real: Real) -> Real:
    """GEN-9: a binary32 subnormal counts as the zero of its sign."""
    small = not isinstance(real.size, str) and real.size < pow2(-126)
    return Real(real.negative, Fraction(0)) if small else real


def ordered_key(bits: int) -> int:
    """BIT-1."""
    return -(bits & 0x7FFFFFFF) if bits >> 31 else bits


def scalb(bits: int, k: int) -> int:
    """BIT-2."""
    return bits if is_nan(bits) else to_bits(rounded(mul(from_bits(bits), of(pow2(k)))))


def is_nan(bits: int) -> bool:
    return (bits & 0x7FFFFFFF) > 0x7F800000


def round_to_integer(bits: int, ties: str = "even") -> int:
    """RND-1 on a binary32 pattern."""
    x = from_bits(bits)
    return (
        bits if isinstance(x.size, str) else to_bits(rounded(Real(x.negative, Fraction(abs(nearest(x.value(), ties))))))
    )


def round_stochastic(bits: int, r: int) -> int | None:
    """RND-2 as an integer; None for NaN and the infinities."""
    x = from_bits(bits)
    if isinstance(x.size, str):
        return None
    low = math.floor(x.value())
    return low + (x.value() - low > Fraction(r >> 8, 1 << 24))


def tree_sum(terms: Sequence[int]) -> int:
    """SUM-1 over one axis of binary32 patterns."""
    level = [from_bits(b) for b in terms]
    while len(level) > 1:
        level += [Real(True, Fraction(0))] * (len(level) % 2)
        level = [rounded(add(a, b)) for a, b in zip(level[::2], level[1::2], strict=True)]
    return to_bits(rounded(add(level[0], of(0)))) if level else 0


def pack(codes: Sequence[int], bits: int) -> bytes:
    """PCK-1, PCK-2."""
    stream = sum((code & ((1 << bits) - 1)) << (i * bits) for i, code in enumerate(codes))
    return stream.to_bytes(-(-len(codes) * bits // 8), "little")


def decode(code: int, fmt: Format) -> int:
    """DCD-1, DCD-2, FMT-3..FMT-8: the binary32 pattern of a code."""
    if isinstance(fmt, IntFormat):
        return to_bits(of(code))
    code &= (1 << fmt.bits) - 1
    if isinstance(fmt, CodebookFormat):
        value = fmt.values[code % len(fmt.values)]
        return struct.unpack("<I", struct.pack("<f", value))[0]
    return to_bits(_decode_float(code, fmt))


def _decode_float(code: int, fmt: FloatFormat) -> Real:
    exponent, mantissa = divmod(code % (1 << (fmt.exponent_bits + fmt.mantissa_bits)), 1 << fmt.mantissa_bits)
    negative = fmt.signed and bool(code >> (fmt.bits - 1))
    all_ones = exponent == (1 << fmt.exponent_bits) - 1
    if fmt.specials == "ieee" and all_ones:
        return NOT_A_NUMBER if mantissa else Real(negative, INF)
    if fmt.specials == "fn" and all_ones and mantissa == (1 << fmt.mantissa_bits) - 1:
        return NOT_A_NUMBER
    if fmt.specials == "fnuz" and negative and exponent == mantissa == 0:
        return NOT_A_NUMBER
    fraction = Fraction(mantissa, 1 << fmt.mantissa_bits)
    if exponent or not fmt.zero:
        return Real(negative, (1 + fraction) * pow2(exponent - fmt.bias))
    return Real(negative, fraction * pow2(1 - fmt.bias))


def encode(bits: int, fmt: Format, cast: Cast = CAST) -> int:
    """ENC-1..ENC-8."""
    return encode_real(from_bits(bits), fmt, cast)


def encode_real(x: Real, fmt: Format, cast: Cast = CAST) -> int:
    if isinstance(fmt, CodebookFormat):
        return _encode_codebook(x, fmt, cast)
    return (_encode_int if isinstance(fmt, IntFormat) else _encode_float)(x, fmt, cast)


def _encode_int(x: Real, fmt: IntFormat, cast: Cast) -> int:
    if x.size == NAN:
        return fmt.qmax if cast.nan == "max" else 0
    return clamp(_whole(x, cast.ties or "even"), fmt.qmin, fmt.qmax)


def _whole(x: Real, ties: str) -> int:
    """RND-1; an infinity is an integer beyond every type."""
    return (-(1 << 2000) if x.negative else 1 << 2000) if x.size == INF else nearest(x.value(), ties)


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


@functools.cache
def _codebook(fmt: CodebookFormat) -> list[tuple[Fraction, int]]:
    first = {Fraction(v): i for i, v in reversed(list(enumerate(fmt.values)))}
    return sorted(first.items())


def _encode_codebook(x: Real, fmt: CodebookFormat, cast: Cast) -> int:
    """ENC-7, FMT-7."""
    table = _codebook(fmt)
    if x.size == NAN:
        return table[-1][1] if cast.nan == "max" else min(table, key=lambda row: (abs(row[0]), row[1]))[1]
    if x.size == INF:
        return table[0 if x.negative else -1][1]
    values = [value for value, _ in table]
    above = bisect.bisect_left(values, x.value())
    if above in (0, len(values)):
        return table[0 if above == 0 else -1][1]
    low, high = x.value() - values[above - 1], values[above] - x.value()
    return table[above - 1 if low < high or (low == high and fmt.ties == "down") else above][1]


def magnitude_code(x: Real, fmt: FloatFormat, ties: str) -> int:
    """ENC-2: the code of |x| in the format extended upward without limit, sign left off."""
    if x.size == INF:
        return 1 << 2000
    if x.size == 0 or (not fmt.zero and x.size < pow2(-fmt.bias)):
        return 0
    first = 1 if fmt.zero else 0
    e = max(log2_floor(x.size), first - fmt.bias)
    place = (e + fmt.bias - first) * (1 << fmt.mantissa_bits) + x.size / pow2(e - fmt.mantissa_bits)
    place -= 0 if fmt.zero else 1 << fmt.mantissa_bits
    toward = {
        "away": "up",
        "zero": "down",
        "up": "down" if x.negative else "up",
        "down": "up" if x.negative else "down",
    }
    return nearest(place, toward.get(ties, ties))


def _encode_float(x: Real, fmt: FloatFormat, cast: Cast) -> int:
    sign = fmt.sign_bit if x.negative else 0
    if x.size == NAN:  # ENC-4
        return {"max": fmt.max_code, "zero": 0}.get(cast.nan, _nan(x, fmt, cast))
    code = magnitude_code(x, fmt, cast.ties or fmt.ties)
    if not fmt.zero and x.size == 0:  # ENC-6
        return _nan(x, fmt, cast) if cast.overflow == "special" else 0
    if not fmt.signed and x.negative and not (fmt.zero and code == 0):  # ENC-6
        return _nan(x, fmt, cast)
    if code > fmt.max_code:
        return _overflow(x, fmt, cast)
    if code == 0 and fmt.zero:  # ENC-5
        return sign if fmt.negative_zero and cast.zero == "keep" else 0
    return sign | code


def _nan(x: Real, fmt: FloatFormat, cast: Cast) -> int:
    """ENC-4, for NaN and for what becomes NaN."""
    signed = fmt.sign_bit if x.negative and cast.nan == "signed" else 0
    return 0 if fmt.nan_code is None else fmt.nan_code | signed


def _overflow(x: Real, fmt: FloatFormat, cast: Cast) -> int:
    """ENC-3."""
    sign = fmt.sign_bit if x.negative else 0
    if cast.overflow == "special" or (cast.overflow == "finite" and x.size == INF):
        if fmt.inf_code is not None:
            return sign | fmt.inf_code
        if fmt.nan_code is not None:
            return _nan(x, fmt, cast)
    return sign | fmt.max_code
