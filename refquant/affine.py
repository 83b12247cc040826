"""quantize, dequantize, fake_quantize and its gradient (specs/20-affine.md)."""

import numpy as np

from refquant import checks
from refquant.affine_steps import integer_codes, ratio, real_codes, real_ratio, rounded_value
from refquant.arguments import as_array, as_real, as_scale, as_zero_point, real_result
from refquant.bits import flush
from refquant.blocks import expand, from_blocks, in_chunks, to_blocks
from refquant.codec import values_of
from refquant.conventions import CAST, DEFAULT, Affine, Cast
from refquant.floats import rounded_position
from refquant.formats import CodebookFormat, FloatFormat, Format, IntFormat
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds

TENSOR = PerTensor()


@kinds
@np.errstate(all="ignore")
def quantize(
    x: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None = None,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
    convention: Affine = DEFAULT,
    cast: Cast = CAST,
) -> np.ndarray:
    """Codes of x: round(x / scale) + zero_point, clamped to the format; or encode(x / scale).

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, shape `granularity.scale_shape(x.shape)`; under op "given" the reciprocal.
      zero_point: int32 (under zero "bias" float32), shape of scale; None is zero; integer formats only.
      fmt: the format of the codes.
      granularity: which elements share a scale.
      convention: how the code is computed.
      cast: float formats and codebooks: what the cast does.
    Returns:
      `fmt.storage`, shape of x.  ±inf give qmax and qmin under overflow "sat", NaN what the convention says.
    Raises:
      TypeError: a dtype does not fit.
      ValueError: a shape does not fit, or a zero point beside a format without.

    Spec: AFF-1..AFF-8, GRA-1..GRA-3 (specs/20-affine.md).  Class: exact.
    Differs from: torch and torchao (multiply by 1 / scale); StableHLO (adds zero_point before rounding).
    Example:
      >>> from refquant.formats import ALL
      >>> quantize(np.float32([0.5, 1.5, 300]), 1.0, fmt=ALL["int8"]).tolist()
      [0, 2, 127]
    """
    x, scale, zero_point = _arguments("quantize", x, scale, zero_point, fmt, granularity, convention.zero)
    operands = _operands(scale, zero_point, x.shape, granularity, convention.zero)

    def codes(part: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        part = part.astype(np.float32)  # AFF-1
        if isinstance(fmt, IntFormat):
            return integer_codes(part, scale, zero, fmt, convention)
        return real_codes(part, scale, fmt, convention, cast)

    blocks = to_blocks(x, granularity=granularity)
    return from_blocks(in_chunks(codes, blocks, *operands, dtype=fmt.storage), x.shape)


@kinds
@np.errstate(all="ignore")
def dequantize(
    codes: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None = None,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
    dtype: np.dtype | type | str = "float32",
) -> np.ndarray:
    """The values of codes: (code - zero_point) * scale, or decode(code) * scale.

    Args:
      codes: `fmt.storage`, any shape.
      scale: float32, shape `granularity.scale_shape(codes.shape)`.
      zero_point: int32, or float32 for a real offset, shape of scale; None is zero; integer formats only.
      fmt: the format of the codes.
      granularity: which elements share a scale.
      dtype: of the result: float32, or float16 or bfloat16 with one more rounding.
    Returns:
      dtype, shape of codes.
    Raises:
      TypeError: a dtype does not fit, or NumPy has no bfloat16 because ml_dtypes is not installed.
      ValueError: a shape does not fit, or a zero point beside a format without.

    Spec: DEQ-1..DEQ-4 (specs/20-affine.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> dequantize(np.uint8([0, 128, 255]), 0.5, 128, fmt=ALL["uint8"]).tolist()
      [-64.0, 0.0, 63.5]
    """
    result, codes = real_result("dequantize", dtype), as_array(codes)
    checks.codes_dtype("dequantize", codes.dtype, fmt)
    scale = as_scale("dequantize", scale, codes.shape, granularity)
    kind = _zero_kind(zero_point)
    zero_point = as_zero_point("dequantize", zero_point, kind, fmt, codes.shape, granularity)
    operands = _operands(scale, zero_point, codes.shape, granularity, kind)

    def values(part: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        if not isinstance(fmt, IntFormat):
            return flush(flush(values_of(part, fmt)) * scale)  # DEQ-3
        if kind == "bias":
            steps = (part.astype(np.int32) - np.int32(fmt.qmin)).astype(np.float32)
            return flush(steps * scale + flush(zero))  # DEQ-2
        return (part.astype(np.int32) - zero).astype(np.float32) * scale  # DEQ-1

    blocks = to_blocks(codes, granularity=granularity)
    return from_blocks(in_chunks(values, blocks, *operands, dtype=result), codes.shape)  # DEQ-4


@kinds
def fake_quantize(
    x: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None = None,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
    convention: Affine = DEFAULT,
    cast: Cast = CAST,
) -> np.ndarray:
    """The values that x has after quantize and dequantize.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, shape `granularity.scale_shape(x.shape)`.
      zero_point: int32 (under zero "bias" float32), shape of scale; None is zero; integer formats only.
      fmt: the format of the codes.
      granularity: which elements share a scale.
      convention: how the code is computed.
      cast: float formats and codebooks: what the cast does.
    Returns:
      dtype and shape of x.
    Raises:
      TypeError: a dtype does not fit.
      ValueError: a shape does not fit, or a zero point beside a format without.

    Spec: FQ-1, AFF-7 (specs/20-affine.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> fake_quantize(np.float32([0.3, 1.3, 9.0]), 0.5, fmt=ALL["int4"]).tolist()
      [0.5, 1.5, 3.5]
    """
    x, scale, zero_point = _arguments("fake_quantize", x, scale, zero_point, fmt, granularity, convention.zero)
    if zero_point is None and convention.zero == "bias" and isinstance(fmt, IntFormat):
        zero_point = np.zeros(scale.shape, np.float32)  # AFF-7: the real offset 0.0 in both steps
    codes = quantize(x, scale, zero_point, fmt=fmt, granularity=granularity, convention=convention, cast=cast)
    return dequantize(codes, scale, zero_point, fmt=fmt, granularity=granularity, dtype=x.dtype)  # FQ-1


@kinds
@np.errstate(all="ignore")
def fake_quantize_vjp(
    x: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None,
    cotangent: np.ndarray,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
    convention: Affine = DEFAULT,
    mask: str = "rounded",
) -> np.ndarray:
    """The straight-through gradient of x: the cotangent inside the format's range, zero outside.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, shape `granularity.scale_shape(x.shape)`.
      zero_point: int32 (under zero "bias" float32), shape of scale; None is zero; integer formats only.
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: the format of the codes.
      granularity: which elements share a scale.
      convention: how the code is computed.
      mask: "rounded": inside is judged after rounding, "ratio": before it.
    Returns:
      dtype and shape of cotangent, its bits where it passes, else +0.
    Raises:
      TypeError: a dtype does not fit.
      ValueError: a shape or `mask` does not fit, or a zero point beside a format without.

    Spec: STE-1..STE-4 (specs/20-affine.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> x, ones = np.float32([127.4, 127.6, np.nan]), np.ones(3, np.float32)
      >>> fake_quantize_vjp(x, 1.0, None, ones, fmt=ALL["int8"]).tolist()
      [1.0, 0.0, 0.0]
    """
    name = "fake_quantize_vjp"
    checks.option(name, "mask", mask, ("rounded", "ratio"), "STE-2")
    x, scale, zero_point = _arguments(name, x, scale, zero_point, fmt, granularity, convention.zero)
    cotangent = as_real(name, "cotangent", cotangent)
    checks.same_shape(name, "cotangent", cotangent.shape, x.shape, "x")
    operands = _operands(scale, zero_point, x.shape, granularity, convention.zero)
    inside = _inside_rounded if mask == "rounded" else _inside_ratio

    def passed(part: np.ndarray, scale: np.ndarray, zero: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
        passes = inside(part.astype(np.float32), scale, zero, fmt, convention)
        return np.where(passes, cotangent, np.zeros((), cotangent.dtype))  # STE-1, STE-4

    blocks, flowing = (to_blocks(a, granularity=granularity) for a in (x, cotangent))
    return from_blocks(in_chunks(passed, blocks, *operands, flowing, dtype=cotangent.dtype), x.shape)


def _inside_rounded(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, fmt: Format, convention: Affine) -> np.ndarray:
    if isinstance(fmt, IntFormat):
        value = rounded_value(x, scale, zero, fmt, convention)
        return (value >= fmt.qmin) & (value <= fmt.qmax)  # STE-2
    if isinstance(fmt, CodebookFormat):
        return _inside_ratio(x, scale, zero, fmt, convention)  # STE-3
    value = real_ratio(x, scale, convention)
    steps = rounded_position(value, fmt, fmt.ties)
    return (steps <= fmt.max_code) & ~np.isnan(value)  # STE-3: no overflow


def _inside_ratio(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, fmt: Format, convention: Affine) -> np.ndarray:
    if isinstance(fmt, FloatFormat):
        value = real_ratio(x, scale, convention)
        return np.abs(value) <= np.float32(fmt.max_value)  # STE-3
    if isinstance(fmt, CodebookFormat):
        value = real_ratio(x, scale, convention)
        return (value >= np.float32(min(fmt.values))) & (value <= np.float32(max(fmt.values)))  # STE-3
    bias = convention.zero == "bias"
    x = flush(x)  # STE-2
    value = ratio(flush(x - zero) if bias else x, scale, convention)
    value = np.where(np.abs(value) < np.float32(2.0**-126), 0, value)  # STE-2
    offset = np.float64(fmt.qmin) if bias else zero.astype(np.float64)
    return (value >= fmt.qmin - offset) & (value <= fmt.qmax - offset)  # STE-2


def _arguments(
    function: str, x: object, scale: object, zero_point: object, fmt: Format, granularity: Granularity, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """x, scale and zero point as arrays, checked in this order."""
    x = as_real(function, "x", x)
    scale = as_scale(function, scale, x.shape, granularity)
    return x, scale, as_zero_point(function, zero_point, kind, fmt, x.shape, granularity)


def _operands(
    scale: np.ndarray, zero_point: np.ndarray | None, shape: tuple[int, ...], granularity: Granularity, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point as they broadcast against the blocks (GRA-3)."""
    if zero_point is None:
        zero_point = np.zeros((), np.float32 if kind == "bias" else np.int32)  # AFF-7
        return expand(scale, shape, granularity=granularity), zero_point
    return expand(scale, shape, granularity=granularity), expand(zero_point, shape, granularity=granularity)


def _zero_kind(zero_point: object) -> str:
    """DEQ-2: a real offset is told from an integer zero point by its dtype."""
    real = type(zero_point) is float or str(getattr(zero_point, "dtype", "")) == "float32"
    return "bias" if real else "int"
