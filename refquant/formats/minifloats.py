"""Small binary floats: how bits become a value.  DATA: one row a format (specs/10-formats.md, FMT-3..FMT-6)."""

from dataclasses import dataclass
from typing import Literal, get_args

from refquant.formats import _valid

Specials = Literal["ieee", "fn", "fnuz", "none"]


@dataclass(frozen=True)
class FloatFormat:
    """[sign] exponent mantissa, most significant bit first, at most 16 bits.

    Attributes:
      name: the name in `formats.ALL` (ml_dtypes' spelling).
      exponent_bits: width of the exponent field.
      mantissa_bits: width of the mantissa field.
      bias: exponent bias.
      specials: where infinities and NaNs live.  "ieee": the top exponent holds ±inf (mantissa 0) and NaNs;
        "fn": no inf, all-ones is NaN; "fnuz": no inf, no -0, the code of -0 is NaN; "none": every code is finite.
      source: the document that defines it.
      signed: whether there is a sign bit.
      zero: whether exponent field 0 means zero and subnormals (False only for pure scales, where it is a power).
      ties: the rounding of ties when a cast does not say ("even", or "away" for E8M0).
    Raises:
      ValueError: fields that make no format whose values are all binary32 (FMT-9).
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    specials: Specials
    source: str
    signed: bool = True
    zero: bool = True
    ties: str = "even"

    def __post_init__(self) -> None:
        row = f"FloatFormat {self.name}"
        _valid.one_of(row, "specials", self.specials, get_args(Specials), "FMT-4")
        _valid.one_of(row, "ties", self.ties, ("even", "away", "zero", "up", "down"), "ENC-2")
        _valid.whole(row, "exponent_bits", self.exponent_bits, 1, 16, "FMT-3")
        _valid.whole(row, "mantissa_bits", self.mantissa_bits, 0, 15, "FMT-3")
        _valid.whole(row, "bits", self.bits, 1, 16, "a code is held in 16 bits, FMT-3")
        if self.specials == "ieee":
            _valid.whole(row, "mantissa_bits", self.mantissa_bits, 1, 15, '"ieee" has inf and NaN, FMT-4')
        if self.specials == "fnuz":
            _valid.one_of(row, "signed", self.signed, (True,), 'the NaN of "fnuz" is the code of -0, FMT-4')
        if not self.zero:
            _valid.one_of(row, "signed", self.signed, (False,), "a format without zero is a scale, FMT-3")
        elif self.max_code == 0:
            _valid.whole(row, "mantissa_bits", self.mantissa_bits, 1, 15, "a positive value must be left, FMT-4")
        lowest = 1 if self.zero else 0  # exponent field of the smallest spacing
        highest = max(self.max_code >> self.mantissa_bits, lowest)
        low, high = highest - 127, lowest + 149 - self.mantissa_bits
        _valid.whole(row, "bias", self.bias, low, high, "all values are binary32, DCD-1")

    @property
    def bits(self) -> int:
        """Width of a packed code."""
        return self.signed + self.exponent_bits + self.mantissa_bits

    @property
    def storage(self) -> str:
        """Name of the NumPy dtype that holds one unpacked code."""
        return "uint8" if self.bits <= 8 else "uint16"

    @property
    def sign_bit(self) -> int:
        """The sign's place in a code; 0 for an unsigned format."""
        return 1 << (self.bits - 1) if self.signed else 0

    @property
    def max_code(self) -> int:
        """Code of the largest finite value."""
        top = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        if self.specials == "ieee":
            return top - (1 << self.mantissa_bits)
        return top - 1 if self.specials == "fn" else top

    @property
    def inf_code(self) -> int | None:
        """Code of +inf, None where there is none."""
        return self.max_code + 1 if self.specials == "ieee" else None

    @property
    def nan_code(self) -> int | None:
        """The canonical (quiet, positive where there is a choice) NaN, None where there is none."""
        quiet = (1 << (self.mantissa_bits - 1)) if self.mantissa_bits else 0
        return {
            "ieee": self.max_code + 1 + quiet,
            "fn": self.max_code + 1,
            "fnuz": self.sign_bit,
            "none": None,
        }[self.specials]

    @property
    def negative_zero(self) -> bool:
        """Whether -0 has a code of its own."""
        return self.signed and self.zero and self.specials != "fnuz"

    @property
    def max_value(self) -> float:
        """The largest finite value."""
        return self._value(self.max_code)

    @property
    def min_value(self) -> float:
        """The smallest positive value (a subnormal where there are any)."""
        return self._value(1 if self.zero else 0)

    def _value(self, code: int) -> float:
        exponent, mantissa = divmod(code, 1 << self.mantissa_bits)
        hidden = 1 if exponent or not self.zero else 0
        power = max(exponent, 1) if self.zero else exponent
        return (hidden + mantissa / 2**self.mantissa_bits) * 2.0 ** (power - self.bias)


OFP8 = "OCP 8-bit Floating Point Specification (OFP8) 1.0"
OCP_MX = "OCP Microscaling Formats (MX) Specification 1.0"
GRAPHCORE = "Noune et al. 2022, arXiv:2206.02915; ONNX float8 FNUZ"
IEEE = "IEEE 754-2019"

#                     name           exp man bias specials source
ROWS = (
    FloatFormat("e4m3fn",          4, 3,   7, "fn",   OFP8),
    FloatFormat("e5m2",            5, 2,  15, "ieee", OFP8),
    FloatFormat("e4m3fnuz",        4, 3,   8, "fnuz", GRAPHCORE),
    FloatFormat("e5m2fnuz",        5, 2,  16, "fnuz", GRAPHCORE),
    FloatFormat("e4m3",            4, 3,   7, "ieee", "IEEE-like; ml_dtypes float8_e4m3"),
    FloatFormat("e3m4",            3, 4,   3, "ieee", "IEEE-like; ml_dtypes float8_e3m4"),
    FloatFormat("e4m3b11fnuz",     4, 3,  11, "fnuz", "HFP8-like; ml_dtypes float8_e4m3b11fnuz"),
    FloatFormat("e8m0fnu",         8, 0, 127, "fn",   OCP_MX, signed=False, zero=False, ties="away"),
    FloatFormat("e2m3fn",          2, 3,   1, "none", OCP_MX),
    FloatFormat("e3m2fn",          3, 2,   3, "none", OCP_MX),
    FloatFormat("e2m1fn",          2, 1,   1, "none", OCP_MX),
    FloatFormat("float16",         5, 10, 15, "ieee", IEEE),
    FloatFormat("bfloat16",        8, 7, 127, "ieee", "bfloat16 (IEEE-like, binary32 range)"),
)  # fmt: skip
