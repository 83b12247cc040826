"""Steps on the bits of binary32: ordered keys, powers of two, flushing (specs/00-conventions.md, BIT rules, GEN-9)."""

import numpy as np

from refquant import checks
from refquant.arguments import as_array, as_real

MAGNITUDE = np.int32(0x7FFFFFFF)
SMALLEST_NORMAL = np.int32(0x00800000)
SCALB_LIMIT = 300  # 2**300 takes the smallest subnormal beyond FLT_MAX, and stays far inside binary64


def ordered_key(x: np.ndarray) -> np.ndarray:
    """Integers that sort like the values; both zeros are 0, a NaN lies beyond the infinity of its sign.

    Args:
      x: float32, float16 or bfloat16, any shape.
    Returns:
      int32, shape of x.
    Raises:
      TypeError: x has another dtype.

    Spec: BIT-1 (specs/00-conventions.md).  Class: exact.
    Example:
      >>> ordered_key(np.float32([0.0, -0.0, 1.0, -1.0])).tolist()
      [0, 0, 1065353216, -1065353216]
    """
    bits = as_real("ordered_key", "x", x).astype(np.float32).view(np.int32)
    return np.asarray(np.where(bits < 0, -(bits & MAGNITUDE), bits))  # BIT-1


def from_key(key: np.ndarray) -> np.ndarray:
    """The value of an ordered key; key 0 is +0.

    Args:
      key: int32 above -2**31, any shape.
    Returns:
      float32, shape of key.
    Raises:
      TypeError: key has another dtype.

    Spec: BIT-1 (specs/00-conventions.md).  Class: exact.
    Example:
      >>> from_key(np.int32([0, 1065353216, -1065353216])).tolist()
      [0.0, 1.0, -1.0]
    """
    key = as_array(key)
    checks.int32("from_key", "key", key.dtype)
    return np.where(key < 0, ~MAGNITUDE | -key, key).view(np.float32)  # BIT-1


@np.errstate(all="ignore")
def scalb(x: np.ndarray | np.float32, k: np.ndarray | int) -> np.ndarray:
    """x * 2**k, rounded once, ties to even, also in the subnormals.

    Args:
      x: float32, float16 or bfloat16, any shape.
      k: an integer dtype, a shape that broadcasts with x.
    Returns:
      float32, the common shape.  NaN, the infinities and the zeros stay.
    Raises:
      TypeError: x has another dtype, or k none of integers.
      ValueError: the shapes have no common one.

    Spec: BIT-2 (specs/00-conventions.md).  Class: exact.
    Example:
      >>> scalb(np.float32([1.5, -3.0]), np.int32([-149, 2])).tolist()
      [2.802596928649634e-45, -12.0]
    """
    x, k = as_real("scalb", "x", x), as_array(checks.clamped(k, SCALB_LIMIT))
    checks.integers("scalb", "k", k.dtype)
    checks.broadcast("scalb", x=x.shape, k=k.shape)
    wide = k + np.int64(0)  # NumPy 2.0 refuses limits that k's own dtype has no room for
    power = np.asarray(np.clip(wide, -SCALB_LIMIT, SCALB_LIMIT)).astype(np.int32)
    exact = np.ldexp(x.astype(np.float64), power)  # BIT-2: exact, binary64 has room
    return np.asarray(exact.astype(np.float32))  # BIT-2: the one rounding


def flush(x: np.ndarray) -> np.ndarray:
    """x with every subnormal replaced by the zero of its sign.

    Args:
      x: float32, float16 or bfloat16, any shape.
    Returns:
      float32, shape of x.
    Raises:
      TypeError: x has another dtype.

    Spec: GEN-9 (specs/00-conventions.md).  Class: exact.
    Example:
      >>> flush(np.float32([1e-40, -1e-40, 2**-126])).tolist()
      [0.0, -0.0, 1.1754943508222875e-38]
    """
    bits = as_real("flush", "x", x).astype(np.float32).view(np.int32)
    subnormal = (bits & MAGNITUDE) < SMALLEST_NORMAL
    return np.where(subnormal, bits & ~MAGNITUDE, bits).view(np.float32)  # GEN-9
