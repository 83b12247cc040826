"""How a code becomes a real value again.  DATA (specs/20-affine.md, DEQ-1; specs/25-conventions.md, CNV-7)."""

from dataclasses import dataclass
from typing import Literal

from refquant.conventions.preset import Preset, table
from refquant.options import check_options


@dataclass(frozen=True)
class Dequant:
    """One semantics of x = (code - zero_point) * scale.

    Attributes:
      form: "sub_mul" subtracts the zero point as an integer, then multiplies; "mul_add" multiplies the code and adds
        a real offset, two roundings; "fma" the same with one rounding.
      prec: the precision of those steps.
      out: the dtype of the result, rounded once more where it is narrower.

    Raises:
      ValueError: a field is none of its options.
    """

    form: Literal["sub_mul", "mul_add", "fma"] = "sub_mul"
    prec: Literal["f32", "f64", "f16"] = "f32"
    out: Literal["float32", "float16", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_options(self, "CNV-7")

    def __str__(self) -> str:
        return " ".join((self.form, self.prec, self.out))


RUN = "measured"

#         name                  point                            source, version, note
DEQUANTS = table(
    Preset("onnx",              Dequant("sub_mul"),              RUN, "onnxruntime 1.32.0", "DequantizeLinear"),
    Preset("torch",             Dequant("sub_mul"),              RUN, "2.13.0 CPU", "per tensor and per channel"),
    Preset("litert_xnnpack",    Dequant("sub_mul"),              RUN, "LiteRT 2.3.0", "DEQUANTIZE int8"),
    Preset("litert_reference",  Dequant("sub_mul", "f64"),       RUN, "LiteRT 2.3.0",
           "the product in binary64; for codes of up to 24 bits the same bits as f32"),
    Preset("litert_builtin",    Dequant("mul_add"),              RUN, "LiteRT 2.3.0",
           "the offset is rounded(-zero_point * scale)"),
    Preset("mlx",               Dequant("mul_add"),              RUN, "0.32.4", "the offset is the stored bias"),
)  # fmt: skip
