"""Real values and the codes that stand for them, without a scale (specs/10-formats.md, FMT, DCD and ENC rules)."""

from functools import lru_cache

import numpy as np

from refquant import checks
from refquant.arguments import as_array, as_real
from refquant.bits import ordered_key
from refquant.blocks import in_chunks
from refquant.conventions import CAST, Cast
from refquant.floats import float_codes, float_values
from refquant.formats import CodebookFormat, FloatFormat, Format, IntFormat
from refquant.kinds import kinds
from refquant.rounding import to_integer


@kinds
def decode(codes: np.ndarray, *, fmt: Format) -> np.ndarray:
    """The values that codes stand for, exactly.

    Args:
      codes: `fmt.storage`, any shape.
      fmt: the format.
    Returns:
      float32, shape of codes.  NaN codes give 0x7FC00000.
    Raises:
      TypeError: another dtype.

    Spec: DCD-1, DCD-2, FMT-8 (specs/10-formats.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> decode(np.uint8([0x00, 0x38, 0xFE]), fmt=ALL["e4m3fn"]).tolist()
      [0.0, 1.0, -448.0]
    """
    codes = as_array(codes)
    checks.codes_dtype("decode", codes.dtype, fmt)
    return in_chunks(lambda part: values_of(part, fmt), codes, dtype=np.float32)


@kinds
@np.errstate(all="ignore")
def encode(x: np.ndarray, *, fmt: Format, cast: Cast = CAST) -> np.ndarray:
    """The codes nearest to real values.

    Args:
      x: float32, float16 or bfloat16, any shape.
      fmt: the format.
      cast: what overflow, ties, NaN and negative zeros give.
    Returns:
      `fmt.storage`, shape of x.
    Raises:
      TypeError: another dtype.

    Spec: ENC-1..ENC-8 (specs/10-formats.md).  Class: exact.
    Differs from: ml_dtypes, whose casts are Cast(overflow="special", nan="signed").
    Example:
      >>> from refquant.formats import ALL
      >>> [hex(c) for c in encode(np.float32([1.0, -0.3, 1e9, np.nan]), fmt=ALL["e4m3fn"])]
      ['0x38', '0xaa', '0x7e', '0x7f']
    """
    x = as_real("encode", "x", x)
    return in_chunks(lambda part: codes_of(part.astype(np.float32), fmt, cast), x, dtype=fmt.storage)


def values_of(codes: np.ndarray, fmt: Format) -> np.ndarray:
    """DCD-1 and DCD-2, unchecked."""
    if isinstance(fmt, IntFormat):
        return codes.astype(np.float32)  # DCD-2: its value, also outside qmin..qmax
    return value_table(fmt)[codes & ((1 << fmt.bits) - 1)]  # DCD-1, FMT-8: upper bits are ignored


def codes_of(x: np.ndarray, fmt: Format, cast: Cast) -> np.ndarray:
    """ENC-1..ENC-8 of a float32 array, unchecked."""
    if isinstance(fmt, IntFormat):
        return integer_codes(x, fmt, cast)
    codes = float_codes(x, fmt, cast) if isinstance(fmt, FloatFormat) else codebook_codes(x, fmt, cast)
    return codes.astype(fmt.storage)


@lru_cache(maxsize=64)
def value_table(fmt: FloatFormat | CodebookFormat) -> np.ndarray:
    """DCD-1: the value of every code of the format's width, read-only."""
    if isinstance(fmt, FloatFormat):
        table = float_values(fmt)
    else:
        wrapped = np.arange(1 << fmt.bits) % len(fmt.values)  # FMT-8: a code beyond the list wraps around
        table = np.array(fmt.values, np.float32)[wrapped]
    table.flags.writeable = False
    return table


def integer_codes(x: np.ndarray, fmt: IntFormat, cast: Cast) -> np.ndarray:
    """ENC-1: round, give NaN its code, clamp; only then cast."""
    rounded = to_integer(x, cast.ties or "even")  # ENC-1
    rounded = np.where(np.isnan(rounded), np.float32(fmt.qmax if cast.nan == "max" else 0), rounded)  # ENC-1
    return np.clip(rounded, np.float32(fmt.qmin), np.float32(fmt.qmax)).astype(fmt.storage)  # ENC-1, GEN-4


def codebook_codes(x: np.ndarray, fmt: CodebookFormat, cast: Cast) -> np.ndarray:
    """ENC-7: the ordered key of x against the smallest key that takes each next value."""
    thresholds, ordered = _codebook(fmt)
    codes = ordered[np.searchsorted(thresholds, ordered_key(x), side="right")]  # ENC-7
    return np.where(np.isnan(x), ordered[-1] if cast.nan == "max" else np.uint8(fmt.zero_code), codes)  # ENC-7


@lru_cache(maxsize=64)
def _codebook(fmt: CodebookFormat) -> tuple[np.ndarray, np.ndarray]:
    return np.array(fmt.threshold_keys, np.int32), np.array(fmt.ordered_codes, np.uint8)
