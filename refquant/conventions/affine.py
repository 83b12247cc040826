"""Conventions: how a runtime computes a code.  DATA: named points of small enumerations (specs/25-conventions.md)."""

from dataclasses import dataclass
from typing import Literal

Ties = Literal["even", "away", "up", "down", "trunc"]


@dataclass(frozen=True)
class Affine:
    """One semantics of code = round(x / scale) + zero_point (CNV-1..CNV-6).

    Attributes:
      op: "div" divides by the scale, "inv" multiplies by its binary32 reciprocal, "given" multiplies by the
        argument itself (the caller stores the reciprocal).
      prec: the precision of that step; its result is rounded once to it.
      zero: "int" adds the zero point after rounding, as an integer; "add" adds it before rounding with a rounding
        of its own; "fma" adds it before rounding in one fused step; "bias" subtracts a real offset from x first.
      ties: how a value midway between two integers rounds ("up" toward +inf, "down" toward -inf; "trunc" drops the
        fraction, of any value).
      overflow: "sat" clamps before any cast; "i32"/"i64" cast first, out of range gives the smallest integer;
        "magic" rounds by adding 1.5 * 2**23 in binary32 and reads the low bits.
      nan: the code of NaN: qmin, qmax, or the zero point.
    """

    op: Literal["div", "inv", "given"] = "div"
    prec: Literal["f32", "f64", "f16"] = "f32"
    zero: Literal["int", "add", "fma", "bias"] = "int"
    ties: Ties = "even"
    overflow: Literal["sat", "i32", "i64", "magic"] = "sat"
    nan: Literal["qmin", "qmax", "zero"] = "qmin"

    def __str__(self) -> str:
        return " ".join((self.op, self.prec, self.zero, self.ties, self.overflow, self.nan))


DEFAULT = Affine()


@dataclass(frozen=True)
class Cast:
    """What a cast of a real value to a float format or a codebook does beyond rounding to nearest (ENC-3..ENC-6).

    Attributes:
      overflow: "saturate" takes ±max for everything above it, inf included; "finite" saturates finite values only and
        lets ±inf be special; "special" takes ±inf where the format has one, else NaN, else ±max, for both.
      ties: "even", "away", "zero", "up" or "down"; None: the format's own (`fmt.ties`).
      nan: "canonical" the format's positive quiet NaN, "signed" the same with the sign of x; in a format without
        NaN both give zero; "zero" and "max" give +0 and +max in every format.
      zero: "keep" gives -0 to a negative value that rounds to zero (where the format has -0), "positive" gives +0.
    """

    overflow: Literal["saturate", "finite", "special"] = "saturate"
    ties: Literal["even", "away", "zero", "up", "down"] | None = None
    nan: Literal["canonical", "signed", "zero", "max"] = "canonical"
    zero: Literal["keep", "positive"] = "keep"


CAST = Cast()
