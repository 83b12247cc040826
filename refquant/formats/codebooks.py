"""Codebooks: a code is an index into a table of values.  DATA: one row a format (specs/10-formats.md, FMT-7, FMT-8)."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal

from refquant.formats import _valid
from refquant.formats._dynamic import DYNAMIC_SIGNED, DYNAMIC_UNSIGNED

MAX_FLOAT = (2 - 2.0**-23) * 2.0**127


@dataclass(frozen=True)
class CodebookFormat:
    """At most 256 binary32 values in code order; x takes the nearest, ties by `ties`.

    Attributes:
      name: the name in `formats.ALL`.
      bits: width of a packed code.
      values: the value of each code, exactly representable in binary32.
      source: who defines it.
      ties: which neighbour an x midway between two values takes: "down" the lower, "up" the upper.
    Raises:
      ValueError: a width, values or ties that no codebook has (FMT-9).
    """

    name: str
    bits: int
    values: tuple[float, ...]
    source: str
    ties: Literal["down", "up"] = "down"

    def __post_init__(self) -> None:
        row = f"CodebookFormat {self.name}"
        _valid.whole(row, "bits", self.bits, 1, 8, "a code is held in uint8, FMT-7")
        _valid.whole(row, "number of values", len(self.values), 1, 1 << self.bits, "one a code, FMT-7")
        _valid.one_of(row, "ties", self.ties, ("down", "up"), "ENC-7")
        for value in self.values:
            if not abs(value) <= MAX_FLOAT or _f32(value)[0] != value:
                raise ValueError(f"{row}: value is {value!r}, need a finite binary32 number (FMT-7)")

    @property
    def storage(self) -> str:
        """Name of the NumPy dtype that holds one unpacked code."""
        return "uint8"

    @property
    def max_value(self) -> float:
        """The largest value."""
        return max(self.values)

    @property
    def zero_code(self) -> int:
        """Code of the value nearest zero: what NaN encodes to (ENC-7)."""
        return min(range(len(self.values)), key=lambda code: (abs(self.values[code]), code))

    @cached_property
    def ordered_codes(self) -> tuple[int, ...]:
        """One code for each distinct value, ascending by value; of equal values the first code."""
        first = {value: code for code, value in reversed(list(enumerate(self.values)))}
        return tuple(first[value] for value in sorted(first))

    @cached_property
    def threshold_keys(self) -> tuple[int, ...]:
        """For each neighbouring pair the ordered key (BIT-1) of the smallest binary32 x that takes the upper value."""
        values = [self.values[code] for code in self.ordered_codes]
        return tuple(_threshold(a, b, self.ties) for a, b in zip(values, values[1:], strict=False))


def ordered_key(value: float) -> int:
    """BIT-1: binary32 bits as an integer that sorts like the value; both zeros are 0."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return -(bits & 0x7FFFFFFF) if bits >> 31 else bits


def _threshold(low: float, high: float, ties: str) -> int:
    middle = (Fraction(low) + Fraction(high)) / 2
    key = ordered_key(float(middle))  # the nearest binary32: the one before it lies below the middle
    while not _crosses(key, middle, ties):
        key += 1
    return key


def _crosses(key: int, middle: Fraction, ties: str) -> bool:
    value = Fraction(struct.unpack("<f", struct.pack("<I", abs(key)))[0]) * (1 if key >= 0 else -1)
    return value >= middle if ties == "up" else value > middle


def _f32(*values: float) -> tuple[float, ...]:
    return struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values))


_FP4 = (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_AF4 = (
    -1.0, -0.69441008, -0.51243739, -0.3736951, -0.25607552, -0.14982478, -0.04934812, 0.0,
    0.04273164, 0.12934483, 0.21961274, 0.31675666, 0.42563882, 0.55496234, 0.72424863, 1.0,
)  # fmt: skip

#                      name            bits values                                     source
ROWS = (
    CodebookFormat("nf4",              4, _f32(*_NF4), "Dettmers et al. 2023, QLoRA, arXiv:2305.14314; bitsandbytes"),
    CodebookFormat("af4",              4, _f32(*_AF4), "Yoshida 2023, arXiv:2306.06965 (block 64)"),
    CodebookFormat("fp4_bnb",          4, _f32(*_FP4, *(-v for v in _FP4)), "bitsandbytes FP4 (not E2M1)"),
    CodebookFormat("dynamic8",         8, DYNAMIC_SIGNED, "Dettmers 2016, arXiv:1511.04561; bitsandbytes"),
    CodebookFormat("dynamic8_unsigned", 8, DYNAMIC_UNSIGNED, "bitsandbytes, unsigned map"),
    CodebookFormat("binary",           1, (-1.0, 1.0), "BinaryConnect (Courbariaux 2015); sign with 0 -> +1", ties="up"),
)  # fmt: skip
