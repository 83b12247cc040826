"""Numbers as people write them, and back: text to binary32 with one rounding, codes, and short decimals."""

import math
import re
import struct
import sys
from fractions import Fraction

import numpy as np

from refquant.formats import Format, IntFormat

BITS = re.compile(r"0x[0-9a-f]{8}", re.IGNORECASE)
SPECIAL = re.compile(r"[+-]?(inf|infinity|nan)", re.IGNORECASE)
FLT_MAX = Fraction(float(np.finfo(np.float32).max))


def words(given: list[str]) -> list[str]:
    """The words of the command line; `-` stands for those of stdin.

    Raises:
      OSError: stdin is no text.
      ValueError: there is no word at all.
    """
    found: list[str] = []
    for word in given:
        found += _stdin() if word == "-" else [word.strip()]
    if not found:
        raise ValueError("stdin holds no number, need at least one")
    return found


def _stdin() -> list[str]:
    try:
        return sys.stdin.read().replace(",", " ").split()
    except UnicodeDecodeError as error:
        raise OSError("stdin is no text, need numbers separated by spaces, commas or newlines") from error


def parse_real(text: str) -> np.float32:
    """A decimal, C99 hexadecimal, inf, nan or 0x + 8 digits (the bits) as binary32, rounded once (CMD-5).

    Raises:
      ValueError: anything else.
    """
    if BITS.fullmatch(text):
        return np.uint32(int(text, 16)).view(np.float32)
    try:
        if SPECIAL.fullmatch(text):
            return np.float32(float(text))
        if "0x" in text.lower() and "p" not in text.lower():
            raise ValueError
        if "0x" not in text.lower() and _is_plain(text):
            return np.float32(float(text))
        exact = _hexadecimal(text) if "0x" in text.lower() else _decimal(text)
    except (ValueError, OverflowError, ZeroDivisionError):
        raise ValueError(
            f"{text!r} is no number, need a decimal, inf, nan, a C hexadecimal (0x1.8p-3) or binary32 bits "
            "(0x + 8 digits)"
        ) from None
    return nearest_float32(exact, negative=text.startswith("-"))


def _is_plain(text: str) -> bool:
    """Whether binary64 on the way does no harm: it is not midway between two normal binary32 numbers."""
    if "/" in text or "_" in text:
        return False
    value = float(text)
    low = struct.unpack("<Q", struct.pack("<d", value))[0] & 0x1FFFFFFF
    return 2.0**-126 <= abs(value) < 2.0**127 and low != 0x10000000


def _decimal(text: str) -> Fraction:
    if "/" in text or "_" in text:
        raise ValueError
    value = float(text)
    if not math.isfinite(value) or value == 0:  # far beyond binary32 on either side, or zero
        return Fraction(0) if value == 0 else FLT_MAX * 4 * (1 if value > 0 else -1)
    return Fraction(text)


def _hexadecimal(text: str) -> Fraction:
    return Fraction(float.fromhex(text))


def nearest_float32(exact: Fraction, *, negative: bool = False) -> np.float32:
    """The binary32 nearest a rational, ties to even: through binary64 it would be rounded twice."""
    if abs(exact) > 2 * FLT_MAX:
        return np.float32(-np.inf if negative else np.inf)
    with np.errstate(over="ignore", under="ignore"):
        guess = np.float32(float(exact))
    if exact == 0:
        return np.float32(-0.0 if negative else 0.0)
    around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    best = min(around, key=lambda value: (abs(_rational(value) - exact), int(value.view(np.uint32)) & 1))
    return np.copysign(best, np.float32(-1 if negative else 1))


def _rational(value: np.float32) -> Fraction:
    if np.isinf(value):  # rounding to nearest treats infinity as the next power of two
        return Fraction(2) ** 128 * (1 if value > 0 else -1)
    return Fraction(float(value))


def parse_code(text: str, fmt: Format) -> int:
    """A code: decimal, or a bit pattern as 0x or 0b (two's complement in signed integer formats).

    Raises:
      ValueError: no integer, or outside the format's width.
    """
    low, high = (-(1 << (fmt.bits - 1)), 1 << (fmt.bits - 1)) if _signed(fmt) else (0, 1 << fmt.bits)
    try:
        pattern = text.lower().startswith(("0x", "0b"))
        code = int(text, 0) if pattern else int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no code, need an integer: decimal, 0x... or 0b...") from None
    if pattern and _signed(fmt) and high <= code < 1 << fmt.bits:
        code -= 1 << fmt.bits
    if not low <= code < high:
        raise ValueError(f"code {text} does not fit {fmt.name}, need {low}..{high - 1} or {fmt.bits} bits as 0x or 0b")
    return code


def _signed(fmt: Format) -> bool:
    return isinstance(fmt, IntFormat) and fmt.signed


def pattern(code: int, fmt: Format) -> str:
    """The packed bits of a code in hexadecimal: 0xFE for -2 of int8."""
    return f"0x{code & ((1 << fmt.bits) - 1):0{(fmt.bits + 3) // 4}X}"


def short(value: float | np.number) -> str:
    """The shortest decimal that reads back as the same number."""
    if np.isnan(value):
        return "NaN"
    text = str(value)
    return text.removesuffix(".0").replace("e+", "e").replace("e0", "e").replace("e-0", "e-")


def power(value: float) -> str:
    """`2^-9` for a power of two other than 1, else empty."""
    fraction, exponent = math.frexp(value)
    return f"2^{exponent - 1}" if fraction == 0.5 and exponent != 1 else ""


def json_number(value: float | np.floating) -> float | str:
    """A number, or "nan", "inf", "-inf", which JSON does not have."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def bits_of(value: np.float32) -> str:
    """The binary32 bits as 0x + 8 digits."""
    return f"0x{int(np.float32(value).view(np.uint32)):08x}"
