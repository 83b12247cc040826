"""The steps between x and its code, one function a rule (specs/20-affine.md, AFF-2..AFF-6); arguments already checked.

All arrays are float32 (zero points int32, or float32 under zero "bias") and broadcast against x.
"""

import numpy as np

from refquant.bits import flush
from refquant.codec import codes_of
from refquant.conventions import Affine, Cast
from refquant.formats import Format, IntFormat
from refquant.fused import divide_add, multiply_add
from refquant.rounding import to_integer

PRECISION = {"f32": np.float32, "f64": np.float64, "f16": np.float16}
MAGIC = np.float32(12582912)  # 1.5 * 2**23
FLOAT32_EXACT = 1 << 23  # zero points up to here need no binary64: sums inside the clamp are exact


def ratio(x: np.ndarray, scale: np.ndarray, convention: Affine) -> np.ndarray:
    """AFF-2, in the convention's precision."""
    x, factor = _operands(x, scale, convention)
    return x / factor if convention.op == "div" else x * factor  # AFF-2


def _operands(x: np.ndarray, scale: np.ndarray, convention: Affine) -> tuple[np.ndarray, np.ndarray]:
    dtype = PRECISION[convention.prec]
    x, scale = x.astype(dtype, copy=False), scale.astype(dtype, copy=False)  # AFF-2: widened, or rounded to binary16
    return x, dtype(1) / scale if convention.op == "inv" else scale  # AFF-2: r rounded by itself


def fused(x: np.ndarray, scale: np.ndarray, addend: np.ndarray, convention: Affine) -> np.ndarray:
    """AFF-3 "fma": ratio and sum with one rounding."""
    x, factor = _operands(x, scale, convention)
    step = divide_add if convention.op == "div" else multiply_add
    return step(x, factor, addend, PRECISION[convention.prec])


def rounded_value(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, fmt: IntFormat, convention: Affine) -> np.ndarray:
    """The code before the clamp, as a float; NaN stays (AFF-3, AFF-4).

    Where it lies inside the clamp it is a small sum of integers, so exact; outside only its side matters.
    """
    kind, dtype = convention.zero, PRECISION[convention.prec]
    if kind == "bias":
        real, after = ratio(x - zero, scale, convention), np.int32(fmt.qmin)  # AFF-3
    elif kind == "int":
        real, after = ratio(x, scale, convention), zero  # AFF-3
    elif kind == "add":
        real, after = ratio(x, scale, convention) + zero.astype(dtype), np.int32(0)  # AFF-3
    else:
        real, after = fused(x, scale, zero.astype(dtype), convention), np.int32(0)  # AFF-3
    real = real if convention.prec == "f64" else real.astype(np.float32, copy=False)
    rounded = _to_integer(real, convention)  # AFF-4
    if after.ndim == 0 and after == 0:
        return rounded
    if convention.overflow == "wrap32":
        return _wrapped(rounded + after)  # AFF-4
    wide = np.float64 if _beyond(after) else np.float32
    return rounded + after.astype(wide)  # AFF-3: an integer sum


def _wrapped(value: np.ndarray) -> np.ndarray:
    """The int32 that a whole binary64 number below 2**53 in size is mod 2**32; NaN stays."""
    return (value + 2.0**31) % 2.0**32 - 2.0**31


def _beyond(zero: np.ndarray | np.int32) -> bool:
    return bool(np.any((zero > FLOAT32_EXACT) | (zero < -FLOAT32_EXACT)))


def _to_integer(real: np.ndarray, convention: Affine) -> np.ndarray:
    """AFF-4: RND-1 and what a cast to a narrow type makes of large values."""
    if convention.overflow == "magic":
        return _magic(real)
    rounded = to_integer(real, convention.ties)
    if convention.overflow == "sat":
        return rounded
    limit = 2.0**63 if convention.overflow == "i64" else 2.0**31
    outside = (rounded >= limit) | (rounded < -limit)
    return np.where(outside, -limit, rounded.astype(np.float64))  # AFF-4: the smallest integer


def _magic(real: np.ndarray) -> np.ndarray:
    real = real.astype(np.float32)
    shifted = np.asarray(real + MAGIC).view(np.int32)
    difference = shifted - MAGIC.view(np.int32)  # AFF-4: wraps
    return np.where(np.isnan(real), np.nan, difference.astype(np.float64))  # AFF-5


def integer_codes(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, fmt: IntFormat, convention: Affine) -> np.ndarray:
    """AFF-2..AFF-5: round, clamp, only then cast."""
    value = rounded_value(x, scale, zero, fmt, convention)
    is_nan = np.isnan(value)
    if is_nan.any():
        value = np.where(is_nan, _nan_value(zero, fmt, convention).astype(value.dtype), value)  # AFF-5
    return np.clip(value, value.dtype.type(fmt.qmin), value.dtype.type(fmt.qmax)).astype(fmt.storage)  # AFF-4, GEN-4


def _nan_value(zero: np.ndarray, fmt: IntFormat, convention: Affine) -> np.ndarray | np.int32:
    """AFF-5, before the clamp."""
    whole = np.int32(fmt.qmin) if convention.zero == "bias" else zero  # what is added after rounding, or would be
    if convention.overflow == "wrap32":
        after = np.int32(0) if convention.zero in ("add", "fma") else whole
        return _wrapped(np.asarray(after - 2.0**31))
    return {"qmin": np.int32(fmt.qmin), "qmax": np.int32(fmt.qmax), "zero": whole}[convention.nan]


def real_ratio(x: np.ndarray, scale: np.ndarray, convention: Affine) -> np.ndarray:
    """AFF-6: the ratio for float formats and codebooks, in binary32."""
    return flush(ratio(flush(x), scale, convention).astype(np.float32))


def real_codes(x: np.ndarray, scale: np.ndarray, fmt: Format, convention: Affine, cast: Cast) -> np.ndarray:
    """AFF-6."""
    return codes_of(real_ratio(x, scale, convention), fmt, cast)
