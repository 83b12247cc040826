"""How a code becomes a real value again.  DATA (specs/20-affine.md, DEQ-1; specs/25-conventions.md, CNV-7)."""

from dataclasses import dataclass
from typing import Literal

from refquant.conventions.preset import Preset, table


@dataclass(frozen=True)
class Dequant:
    """One semantics of x = (code - zero_point) * scale.

    Attributes:
      form: "sub_mul" subtracts the zero point as an integer, then multiplies; "mul_add" multiplies the code and adds
        a real offset, two roundings; "fma" the same with one rounding.
      prec: the precision of those steps.
      out: the dtype of the result, rounded once more where it is narrower.
    """

    form: Literal["sub_mul", "mul_add", "fma"] = "sub_mul"
    prec: Literal["f32", "f64", "f16"] = "f32"
    out: Literal["float32", "float16", "bfloat16"] = "float32"

    def __str__(self) -> str:
        return " ".join((self.form, self.prec, self.out))
