"""What there is to say about a format, as data: limits, special codes, families.  Both outputs are made from it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from refquant import formats
from refquant.cli.numbers import bits_of, json_number, pattern
from refquant.codec import values_of
from refquant.formats import CodebookFormat, FloatFormat, Format, IntFormat

FAMILIES = ("signed integers", "narrow integers", "unsigned integers", "8-bit floats", "4- and 6-bit floats", "scales",
            "16-bit floats", "codebooks")  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """The ends of a format: values as binary32, codes as ints, None where there is no such thing."""

    max: tuple[int, np.float32]
    min: tuple[int, np.float32]
    min_normal: tuple[int, np.float32] | None
    min_positive: tuple[int, np.float32]
    inf: tuple[int, ...]
    nan: tuple[int, ...]
    negative_zero: int | None


def family(fmt: Format) -> str:
    """The heading that a format is listed under."""
    if isinstance(fmt, CodebookFormat):
        return "codebooks"
    if isinstance(fmt, IntFormat):
        return (
            "unsigned integers" if not fmt.signed else "narrow integers" if fmt.qmin == -fmt.qmax else "signed integers"
        )
    if not fmt.zero:
        return "scales"
    return "8-bit floats" if fmt.bits == 8 else "16-bit floats" if fmt.bits == 16 else "4- and 6-bit floats"


def by_family() -> dict[str, list[Format]]:
    """Every format under its heading."""
    found: dict[str, list[Format]] = {name: [] for name in FAMILIES}
    for fmt in formats.ALL.values():
        found.setdefault(family(fmt), []).append(fmt)
    return {name: rows for name, rows in found.items() if rows}


@lru_cache(maxsize=4)
def codes_and_values(fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """Every code (integers: qmin..qmax; codebooks: the codes of the list) and its value."""
    if isinstance(fmt, IntFormat):
        codes = np.arange(fmt.qmin, fmt.qmax + 1)
    else:
        codes = np.arange(len(fmt.values) if isinstance(fmt, CodebookFormat) else 1 << fmt.bits)
    return codes, values_of(codes.astype(fmt.storage), fmt)


def limits(fmt: Format) -> Limits:
    """The ends, found by looking at every code."""
    codes, values = codes_and_values(fmt)
    finite, positive = np.isfinite(values), np.isfinite(values) & (values > 0)
    zeros = codes[(values == 0) & np.signbit(values)]
    normal = _at(codes, values, codes == 1 << fmt.mantissa_bits) if isinstance(fmt, FloatFormat) and fmt.zero else None
    return Limits(
        max=_at(codes, values, finite, last=True),
        min=_at(codes, values, finite),
        min_normal=normal,
        min_positive=_at(codes, values, positive),
        inf=tuple(codes[np.isinf(values)].tolist()),
        nan=tuple(codes[np.isnan(values)].tolist()),
        negative_zero=int(zeros[0]) if len(zeros) and isinstance(fmt, FloatFormat) else None,
    )


def _at(codes: np.ndarray, values: np.ndarray, among: np.ndarray, *, last: bool = False) -> tuple[int, np.float32]:
    place = np.flatnonzero(among)[np.argsort(values[among], kind="stable")][-1 if last else 0]
    return int(codes[place]), np.float32(values[place])


def fields(code: int, fmt: Format) -> str:
    """The bits of a code, a float's as sign, exponent and mantissa."""
    bits = f"{code & ((1 << fmt.bits) - 1):0{fmt.bits}b}"
    if not isinstance(fmt, FloatFormat):
        return bits
    ends = (fmt.signed, fmt.signed + fmt.exponent_bits)
    return " ".join(part for part in (bits[: ends[0]], bits[ends[0] : ends[1]], bits[ends[1] :]) if part)


def code_entry(code: int, value: np.float32, fmt: Format) -> dict[str, Any]:
    """One code for JSON: int, packed pattern, value, binary32 bits."""
    return {
        "code": int(code),
        "hex": pattern(int(code), fmt),
        "value": json_number(value),
        "value_bits": bits_of(value),
    }


def as_json(fmt: Format, *, codes: bool) -> dict[str, Any]:
    """Everything about a format."""
    ends = limits(fmt)
    found: dict[str, Any] = {"name": fmt.name, "family": family(fmt), "bits": fmt.bits, "storage": fmt.storage}
    if isinstance(fmt, FloatFormat):
        keys = ("exponent_bits", "mantissa_bits", "bias", "specials", "signed")
        found |= {key: getattr(fmt, key) for key in keys}
    for name in ("max", "min", "min_normal", "min_positive"):
        end = getattr(ends, name)
        found[name] = code_entry(end[0], end[1], fmt) if end else None
    found |= {"inf_codes": list(ends.inf), "nan_codes": list(ends.nan), "negative_zero_code": ends.negative_zero}
    found["source"] = fmt.source
    if codes:
        every, values = codes_and_values(fmt)
        found["codes"] = [code_entry(c, v, fmt) for c, v in zip(every, values, strict=True)]
    return found
