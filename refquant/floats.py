"""Small binary floats: the value of every code, and the code of a real value (FMT-3..FMT-6, ENC-2..ENC-6).

The codes of the non-negative values are consecutive integers, and between two neighbours the value grows linearly.
So x has a *position* on the line of codes, an exact real number, and rounding x to the format is rounding its
position to an integer.
"""

from functools import lru_cache

import numpy as np

from refquant.conventions import Cast
from refquant.formats import FloatFormat
from refquant.rounding import to_integer

DIRECT_SIZE = 1 << 13  # below it the table of 65,536 codes costs more than it saves
TABLE_MANTISSA = 5  # bfloat16 rounded to odd has 8 bits: two more than the widest format that may go through it


@np.errstate(all="ignore")
def float_values(fmt: FloatFormat) -> np.ndarray:
    """The binary32 value of every code, as a vector of 2**bits (FMT-3..FMT-6)."""
    codes = np.arange(1 << fmt.bits)
    magnitude = codes & ~fmt.sign_bit
    exponent, mantissa = magnitude >> fmt.mantissa_bits, magnitude & ((1 << fmt.mantissa_bits) - 1)
    normal = (exponent > 0) | (not fmt.zero)  # FMT-3: without zero, exponent 0 is an ordinary one
    power = np.where(normal, exponent, 1) - fmt.bias - fmt.mantissa_bits
    value = np.ldexp((np.where(normal, 1 << fmt.mantissa_bits, 0) + mantissa).astype(np.float64), power)  # FMT-3
    value = np.where(magnitude > fmt.max_code, np.nan, value)  # FMT-4
    value = np.where(magnitude == (-1 if fmt.inf_code is None else fmt.inf_code), np.inf, value)  # FMT-4
    value = np.where(codes & fmt.sign_bit, -value, value)  # FMT-3, FMT-6
    if fmt.specials == "fnuz":
        value[fmt.sign_bit] = np.nan  # FMT-4: the code of -0
    return np.where(np.isnan(value), np.float32(np.nan), value.astype(np.float32))  # DCD-1: 0x7FC00000


def float_codes(x: np.ndarray, fmt: FloatFormat, cast: Cast) -> np.ndarray:
    """ENC-2..ENC-6 of a float32 array; large arrays through a table of all bfloat16 patterns.

    Rounding to odd keeps on which side of every value and midpoint of the format x lies, so what the table says
    of x rounded to odd is true of x.
    """
    if x.size <= DIRECT_SIZE or fmt.mantissa_bits > TABLE_MANTISSA:
        return direct_codes(x, fmt, cast)
    bits = x.view(np.uint32)
    return _table(fmt, cast)[(bits >> 16) | ((bits & 0xFFFF) != 0)]


@lru_cache(maxsize=64)
def _table(fmt: FloatFormat, cast: Cast) -> np.ndarray:
    patterns = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    return direct_codes(patterns, fmt, cast).astype(fmt.storage)


@np.errstate(all="ignore")
def direct_codes(x: np.ndarray, fmt: FloatFormat, cast: Cast) -> np.ndarray:
    """ENC-2..ENC-6, rule by rule, as int64."""
    negative, infinite = np.signbit(x), np.isinf(x)
    steps = rounded_position(x, fmt, cast.ties or fmt.ties)  # ENC-2
    code = np.minimum(steps, fmt.max_code).astype(np.int64)  # ENC-3, GEN-4
    sign = np.where(negative, fmt.sign_bit, 0)
    keeps = (code > 0) | (fmt.negative_zero and cast.zero == "keep")
    code = code | np.where(keeps, sign, 0)  # ENC-5
    special = {
        "saturate": np.zeros_like(infinite),  # ENC-3
        "finite": infinite,  # ENC-3
        "special": steps > fmt.max_code,  # ENC-3
    }[cast.overflow]
    code = np.where(special, overflow_code(fmt, cast, sign), code)  # ENC-3
    if not fmt.signed:
        code = _unsigned(x, steps, code, fmt, cast)  # ENC-6
    return np.where(np.isnan(x), nan_codes(fmt, cast, sign), code)  # ENC-4


def rounded_position(x: np.ndarray, fmt: FloatFormat, ties: str) -> np.ndarray:
    """The code of |x| rounded in the format without largest exponent, as float64 (ENC-2); inf for inf, 0 for NaN."""
    magnitude = np.abs(x).astype(np.float64)
    lowest = (1 if fmt.zero else 0) - fmt.bias
    exponent = np.where(magnitude > 0, np.frexp(magnitude)[1] - 1, lowest)
    exponent = np.maximum(exponent, lowest)  # ENC-2: one spacing below the smallest normal
    above = exponent - lowest - (not fmt.zero)  # binades below, each of 2**mantissa_bits codes
    position = np.ldexp(magnitude, fmt.mantissa_bits - exponent) + np.ldexp(1.0 * above, fmt.mantissa_bits)
    signed = np.copysign(np.where(position > 0, position, 0), x)  # ENC-6: below the smallest power; NaN
    return np.where(np.isinf(magnitude), np.inf, np.abs(to_integer(signed, ties)))  # ENC-2


def overflow_code(fmt: FloatFormat, cast: Cast, sign: np.ndarray) -> np.ndarray:
    """ENC-3: ±inf, else NaN, else ±max."""
    if fmt.inf_code is not None:
        return fmt.inf_code | sign
    if fmt.nan_code is not None:
        return fmt.nan_code | np.where(cast.nan == "signed", sign, 0)
    return fmt.max_code | sign


def nan_codes(fmt: FloatFormat, cast: Cast, sign: np.ndarray) -> np.ndarray:
    """ENC-4, where `sign` is the sign bit of each NaN."""
    if cast.nan == "max":
        return np.full_like(sign, fmt.max_code)
    if cast.nan == "zero" or fmt.nan_code is None:
        return np.zeros_like(sign)
    return fmt.nan_code | np.where(cast.nan == "signed", sign, 0)


def _unsigned(x: np.ndarray, steps: np.ndarray, code: np.ndarray, fmt: FloatFormat, cast: Cast) -> np.ndarray:
    nan = 0 if fmt.nan_code is None else fmt.nan_code
    refused = (x < 0) & ((steps > 0) | (not fmt.zero))  # ENC-6
    if not fmt.zero and cast.overflow == "special":
        refused |= x == 0  # ENC-6
    return np.where(refused, nan, code)
