"""Scales and zero points from the range of each tile (specs/30-scales.md)."""

import numpy as np

from refquant import checks
from refquant.arguments import as_real
from refquant.bits import flush
from refquant.blocks import over_tiles, to_blocks
from refquant.codec import decode, encode
from refquant.formats import Format, IntFormat, minifloats
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds
from refquant.rounding import to_integer
from refquant.spec import ScaleRule, check_scale_rule, denominator, scale_limits

FLT_MAX = np.finfo(np.float32).max
FLOATS = {row.name: row for row in minifloats.ROWS}
ZERO = np.float32(0)
TENSOR = PerTensor()
SYMMETRIC = ScaleRule()


@kinds
@np.errstate(all="ignore")
def range_of(x: np.ndarray, *, granularity: Granularity = TENSOR) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest element of each tile, zero included.

    Args:
      x: float32, float16 or bfloat16, any shape.
      granularity: the tile.
    Returns:
      (low, high), float32, shape `granularity.scale_shape(x.shape)`; low <= +0 <= high.  NaN is ignored, ±inf counts
      as ±FLT_MAX, a tile without numbers gives 0 and 0.
    Raises:
      TypeError: another dtype.

    Spec: SCL-1 (specs/30-scales.md).  Class: exact.
    Example:
      >>> low, high = range_of(np.float32([[1, 3], [-2, np.nan]]))
      >>> float(low), float(high)
      (-2.0, 3.0)
    """
    x = as_real("range_of", "x", x).astype(np.float32, copy=False)
    blocks = to_blocks(x, granularity=granularity)  # ragged tiles get zeros, which are in every range
    tensor = isinstance(granularity, PerTensor)
    within = tuple(range(blocks.ndim)) if tensor else tuple(range(1, blocks.ndim, 2))
    high = over_tiles(np.maximum, blocks, within)  # SCL-1; a NaN shows up here, a signalling one too
    if np.isnan(high).any():
        blocks = np.where(np.isnan(blocks), ZERO, blocks)  # SCL-1: NaN is ignored
        high = over_tiles(np.maximum, blocks, within)
    low = over_tiles(np.minimum, blocks, within)  # SCL-1
    return _range(np.asarray(low), np.asarray(high))


@kinds
@np.errstate(all="ignore")
def choose_scale(
    low: np.ndarray, high: np.ndarray, *, fmt: Format, rule: ScaleRule = SYMMETRIC
) -> tuple[np.ndarray, np.ndarray | None]:
    """The scale (and zero point) with which a format covers a range.

    Args:
      low: float32, any shape.
      high: float32, shape of low.
      fmt: the format of the codes.
      rule: symmetric or not, the denominator, the format of the scale.
    Returns:
      (scale, zero_point), shape of low: scale float32; zero_point None for a symmetric rule, int32 for zero "int",
      float32 for zero "float".
    Raises:
      TypeError: another dtype.
      ValueError: the shapes differ, or the rule has no meaning for the format.

    Spec: SCL-2..SCL-8 (specs/30-scales.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> scale, zero_point = choose_scale(np.float32(-1), np.float32(3), fmt=ALL["uint8"], rule=ScaleRule(zero="int"))
      >>> float(scale), int(zero_point)
      (0.01568627543747425, 64)
    """
    check_scale_rule("choose_scale", fmt, rule)
    low, high = (as_real("choose_scale", name, v).astype(np.float32) for name, v in (("low", low), ("high", high)))
    checks.same_shape("choose_scale", "high", high.shape, low.shape, "low")
    low, high = (np.where(np.isnan(v), ZERO, v) for v in (low, high))  # SCL-1; fmin passes signalling NaNs on
    low, high = _range(np.minimum(low, ZERO), np.maximum(high, ZERO))  # SCL-1
    if rule.zero == "none" or not isinstance(fmt, IntFormat):
        return stored(clamped(symmetric(low, high, fmt, rule), fmt), rule), None
    width = np.minimum(high - low, FLT_MAX)  # SCL-7
    scale = stored(clamped(width / np.float32(fmt.qmax - fmt.qmin), fmt), rule)  # SCL-7
    return scale, np.asarray(zero_points(low, scale, fmt) if rule.zero == "int" else flush(low))  # SCL-8


def _range(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SCL-1: ±inf counts as ±FLT_MAX, zeros are +0."""
    return np.asarray(np.maximum(low, -FLT_MAX) + ZERO), np.asarray(np.minimum(high, FLT_MAX) + ZERO)


def symmetric(low: np.ndarray, high: np.ndarray, fmt: Format, rule: ScaleRule) -> np.ndarray:
    """SCL-3 and SCL-4, before the clamp."""
    largest = np.maximum(high, -low)  # SCL-2
    if rule.denominator == "signed_absmax":
        largest = np.where(-low > high, -largest, largest)  # SCL-4
    return largest / np.float32(denominator(fmt, rule))  # SCL-3


def clamped(scale: np.ndarray, fmt: Format) -> np.ndarray:
    """SCL-5: the magnitude into the limits of the format, the sign kept, a zero made positive."""
    smallest, largest = (np.float32(limit) for limit in scale_limits(fmt))
    scale = flush(scale)  # SCL-5
    magnitude = np.clip(np.abs(scale), smallest, largest)  # SCL-5
    return np.where(scale < 0, -magnitude, magnitude)  # SCL-5


def stored(scale: np.ndarray, rule: ScaleRule) -> np.ndarray:
    """SCL-6: the scale as its storage holds it, in binary32."""
    if rule.storage == "float32":
        return np.asarray(scale)
    if rule.storage in ("pow2", "e8m0fnu"):
        bits = np.asarray(scale).view(np.uint32)
        return np.asarray((bits + np.uint32(0x007FFFFF)) & np.uint32(0x7F800000)).view(np.float32)  # SCL-6
    fmt = FLOATS[rule.storage]
    if rule.storage == "float16":  # NumPy's own cast rounds ties to even
        largest = np.float32(fmt.max_value)
        rounded = np.clip(scale, -largest, largest).astype(np.float16).astype(np.float32)  # SCL-6
    else:
        rounded = decode(encode(scale, fmt=fmt), fmt=fmt)  # SCL-6: ties to even, saturating
    return np.where(rounded == 0, np.float32(fmt.min_value), rounded)  # SCL-6


def zero_points(low: np.ndarray, scale: np.ndarray, fmt: IntFormat) -> np.ndarray:
    """SCL-7: the code of zero; where it lies inside the clamp the float difference of integers is exact."""
    steps = np.float32(fmt.qmin) - to_integer(low / scale, "even")  # SCL-7
    return np.clip(steps, np.float32(fmt.qmin), np.float32(fmt.qmax)).astype(np.int32)  # SCL-7, GEN-4
