"""What else people call a format.  DATA: one row a name; it leads to the names of `formats.ALL` and to schemes."""

from collections.abc import Iterable

FP8 = "e4m3fn or e5m2 (OCP), e4m3fnuz or e5m2fnuz (without -0 and infinities), e4m3 or e3m4 (IEEE-like)"
MX = "in groups of 32 with e8m0fnu scales"
#: Of the schemes named here, whose scales are SCL-6's.
NOT_OCP = (
    "; but not with OCP's scales: here max / (the format's largest) is rounded up to a power of two, OCP MX 1.0, "
    "section 6.3, takes the power of two at or below max / 2**emax, which may saturate"
)

COMMON = {
    "mxfp4":    f"e2m1fn {MX}, the scheme e2m1fn:g32:se8m0{NOT_OCP} (of a group with max 3.9: 1 here, 0.5 by OCP)",
    "mxfp6":    f"e2m3fn or e3m2fn {MX}, the scheme e2m3fn:g32:se8m0 or e3m2fn:g32:se8m0{NOT_OCP}",
    "mxfp8":    f"e4m3fn or e5m2 {MX}, the scheme e4m3fn:g32:se8m0 or e5m2:g32:se8m0{NOT_OCP}",
    "nvfp4":    "e2m1fn in groups of 16 with e4m3fn scales, the scheme e2m1fn:g16:se4m3; without NVIDIA's other scale",
    "fp4":      "e2m1fn (floats), nf4 (a codebook)",
    "fp6":      "e2m3fn or e3m2fn",
    "fp8":      FP8,
    "float8":   FP8,
    "fp8_e4m3": "e4m3fn (OCP), e4m3 (IEEE-like, with infinities)",
    "fp8_e5m2": "e5m2",
    "fp16":     "float16",
    "f16":      "float16",
    "half":     "float16",
    "bf16":     "bfloat16",
    "s8":       "int8",
    "i8":       "int8",
    "u8":       "uint8",
    "s4":       "int4",
    "i4":       "int4",
    "u4":       "uint4",
    "int1":     "ternary, int2 or int2_narrow (the fewest codes that there are)",
}  # fmt: skip


def hint(name: object, known: Iterable[str], cutoff: float = 0.4) -> str:
    """Where a name that nothing has leads: to what it commonly means, else to the nearest ones; "": nowhere.

    Args:
      name: what was asked for.
      known: the names there are.
      cutoff: how near a name must be, 0..1.
    """
    import difflib
    import re

    lower = str(name).lower()
    if lower in COMMON:
        return f"{lower} is {COMMON[lower]}"
    bare = re.sub(r"^(\w+\.)?(float|fp)[468]_?(?=e\d)", "", lower)
    near = difflib.get_close_matches(bare, known, 3, cutoff)
    return f"nearest: {', '.join(near)}" if near else ""
