"""What a cast to a float format or a codebook does at the edges.  DATA (specs/10-formats.md, ENC-3..ENC-6)."""

from dataclasses import dataclass
from typing import Literal

from refquant.conventions.preset import Preset, table
from refquant.options import check_options


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

    Raises:
      ValueError: a field is none of its options.
    """

    overflow: Literal["saturate", "finite", "special"] = "saturate"
    ties: Literal["even", "away", "zero", "up", "down"] | None = None
    nan: Literal["canonical", "signed", "zero", "max"] = "canonical"
    zero: Literal["keep", "positive"] = "keep"

    def __post_init__(self) -> None:
        check_options(self, "ENC-2..ENC-6")


CAST = Cast()

RUN = "measured"
SATURATE_SIGNED = Cast("saturate", nan="signed")
SPECIAL_SIGNED = Cast("special", nan="signed")

#         name                   point             source, version, note
CASTS = table(
    Preset("onnx_saturate",      SATURATE_SIGNED,  RUN, "onnxruntime 1.32.0",
           "Cast saturate=1 to e4m3fn and both FNUZ; E5M2 has the same values but NaN is all ones (7F, FF), not 7E; "
           "onnx.reference of onnx 1.23.2 follows it in all four"),
    Preset("onnx_no_saturate",   SPECIAL_SIGNED,   RUN, "onnxruntime 1.32.0",
           "Cast saturate=0 to e4m3fn and both FNUZ; E5M2: NaN 7F / FF, and 61440 <= |x| < inf gives NaN where the "
           "specification says inf; onnx.reference of onnx 1.23.2 follows it in all four"),
    Preset("onnx_float16",       SPECIAL_SIGNED,   RUN, "onnxruntime 1.32.0", "also bfloat16; NaN payloads are kept"),
    Preset("ml_dtypes",          SPECIAL_SIGNED,   RUN, "0.6.0",
           "all 8-bit formats and bfloat16; JAX casts with the same bits"),
    Preset("ml_dtypes_small",    Cast("saturate"), RUN, "0.6.0",
           "e2m3fn, e3m2fn, e2m1fn; but NaN: a positive one gives -0, a negative one +0"),
    Preset("ml_dtypes_e8m0",     Cast("special"),  RUN, "0.6.0",
           "except 2**-127 < x < 1.5 * 2**-127, which goes up to 2**-126"),
    Preset("torch_e4m3fn",       SATURATE_SIGNED,  RUN, "2.13.0 CPU", "before 2.12 overflow gave NaN"),
    Preset("torch_fnuz",         SPECIAL_SIGNED,   RUN, "2.13.0 CPU", "e4m3fnuz, e5m2fnuz"),
    Preset("torch_e5m2",         SPECIAL_SIGNED,   RUN, "2.13.0 CPU", "but NaN is all ones (7F, FF), not 7E"),
    Preset("torch_e8m0",         Cast("special"),  RUN, "2.13.0 CPU",
           "except as ml_dtypes_e8m0, and ±0 and small negative values give code 0"),
    Preset("mlx_e4m3fn",         Cast("saturate", nan="max"), RUN, "0.32.4 CPU", "to_fp8; a negative NaN gives -448"),
    Preset("ocp_mx",             Cast("finite"),   RUN, "gfloat 0.5.2, torchao 0.18.0, torchmx 0.1.0",
           "the five element formats, finite values (torchmx: computed in binary64, but -0 gives +0); MX 1.0 leaves "
           "inf and NaN open: torchmx keeps both, as the point does in E5M2, gfloat and torchao saturate inf"),
)  # fmt: skip
