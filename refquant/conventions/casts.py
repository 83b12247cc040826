"""What a cast to a float format or a codebook does at the edges.  DATA (specs/10-formats.md, ENC-3..ENC-6)."""

from dataclasses import dataclass
from typing import Literal


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
