"""QuantSpec: everything that decides the bits of a quantized tensor, as one frozen, hashable value."""

from dataclasses import dataclass, field
from typing import Literal

from refquant.conventions import DEFAULT, Affine
from refquant.formats import CodebookFormat, FloatFormat, Format, IntFormat
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import check_fields
from refquant.options import check_options

SCALE_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "e4m3fn": 8, "e8m0fnu": 8, "pow2": 8}
SMALLEST_DENOMINATOR = 2.0**-26  # times the smallest scale, 2**-100, it is the smallest normal number


@dataclass(frozen=True)
class ScaleRule:
    """How scale and zero point follow from a range (SCL-1..SCL-8).

    Attributes:
      zero: "none" symmetric; "int" asymmetric with an integer zero point; "float" asymmetric with a real offset.
      denominator: symmetric only; "qmax", "half_range" (qmax - qmin) / 2, "pow2" 2**(bits - 1), or "signed_absmax"
        (the element of largest magnitude, with its sign, over qmin).
      storage: the format the scale is rounded to; "pow2" and "e8m0fnu" take the next power of two upward.
    """

    zero: Literal["none", "int", "float"] = "none"
    denominator: Literal["qmax", "half_range", "pow2", "signed_absmax"] = "qmax"
    storage: Literal["float32", "float16", "bfloat16", "e4m3fn", "e8m0fnu", "pow2"] = "float32"

    def __post_init__(self) -> None:
        check_options(self, "SCL-1..SCL-8")
        if self.zero != "none" and self.denominator != "qmax":
            raise ValueError(
                f"ScaleRule: denominator is {self.denominator!r} with zero {self.zero!r}, need 'qmax' "
                "(an asymmetric scale is range / (qmax - qmin))"
            )
        if self.denominator == "signed_absmax" and self.storage in ("e8m0fnu", "pow2", "e4m3fn"):
            raise ValueError(
                f"ScaleRule: storage is {self.storage!r} with denominator 'signed_absmax', need float32, float16 or "
                "bfloat16 (the scale may be negative)"
            )


@dataclass(frozen=True)
class QuantSpec:
    """Format, granularity, scale rule and convention of a quantized tensor."""

    fmt: Format
    granularity: Granularity = field(default_factory=PerTensor)
    scale: ScaleRule = ScaleRule()
    convention: Affine = DEFAULT

    def __post_init__(self) -> None:
        if not isinstance(self.fmt, Format):
            raise TypeError(
                f"QuantSpec: fmt is {self.fmt!r}, need a format such as formats.ALL['int4'] (a scheme's text goes to "
                "schemes.parse_tensor)"
            )
        check_fields(self, "granularity", "scale", "convention")
        check_scale_rule("QuantSpec", self.fmt, self.scale)


def check_scale_rule(function: str, fmt: Format, rule: ScaleRule) -> None:
    """Refuse a scale rule that has no meaning for a format.

    Raises:
      ValueError: zero points outside integer formats, symmetric scales of unsigned integers, signed_absmax or
        2**(bits-1) where the format has no -2**(bits-1), a largest value below 2**-26.
    """
    if not isinstance(fmt, IntFormat):
        if rule.zero != "none" or rule.denominator != "qmax":
            raise ValueError(
                f"{function}: scale rule is zero={rule.zero!r}, denominator={rule.denominator!r} for {fmt.name}, need "
                "zero='none', denominator='qmax' (zero points and denominators belong to integer formats)"
            )
        if fmt.max_value < SMALLEST_DENOMINATOR:
            raise ValueError(
                f"{function}: fmt is {fmt.name!r}, need one whose largest value is at least 2**-26, its own is "
                f"{fmt.max_value!r} (a scale is the largest magnitude divided by it)"
            )
    elif rule.zero == "none" and not fmt.signed:
        raise ValueError(
            f"{function}: scale rule is symmetric for {fmt.name}, need zero='int' or 'float', ':asym' or ':fzero' in "
            "a scheme's text (an unsigned format has no negative codes)"
        )
    elif rule.denominator in ("pow2", "signed_absmax") and fmt.qmin != -(2 ** (fmt.bits - 1)):
        raise ValueError(
            f"{function}: denominator is {rule.denominator!r} for {fmt.name}, need a format whose qmin is "
            f"-2**(bits-1) (its qmin is {fmt.qmin})"
        )


def magnitude(fmt: Format) -> float:
    """The largest |value| of a code, before any scale."""
    if isinstance(fmt, IntFormat):
        return float(fmt.max_magnitude)
    return max(fmt.max_value, -min(fmt.values)) if isinstance(fmt, CodebookFormat) else fmt.max_value


def denominator(fmt: Format, rule: ScaleRule) -> float:
    """What a symmetric rule divides the largest magnitude by (SCL-3); exactly representable in binary32."""
    if isinstance(fmt, FloatFormat | CodebookFormat):
        return fmt.max_value
    return {
        "qmax": float(fmt.qmax),
        "half_range": (fmt.qmax - fmt.qmin) / 2,
        "pow2": float(2 ** (fmt.bits - 1)),
        "signed_absmax": float(fmt.qmin),
    }[rule.denominator]


def scale_limits(fmt: Format) -> tuple[float, float]:
    """The smallest and largest |scale| a scale rule gives (SCL-5, inside GEN-8): powers of two.

    2**-100 keeps x / scale exact on devices that flush subnormals; the upper one keeps max * scale finite.
    """
    import math

    return 2.0**-100, 2.0 ** max(-100, 127 - math.frexp(magnitude(fmt))[1])
