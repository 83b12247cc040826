"""A product or a quotient plus an addend, rounded once (AFF-3 "fma"), from binary64 steps that are exact.

A sum that does not fit binary64 is kept as two parts, the lower one *rounded to odd*: of the two neighbours of an
exact value the one whose last bit is 1.  A number rounded to odd lies on the same side of every coarser number and
midpoint as the exact value, so one more rounding, to nearest, gives what a single rounding would have given.
Sum of three parts: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using
rounding to odd", IEEE Transactions on Computers 57(4), 2008.
"""

import numpy as np

LOW_BITS = np.int64((1 << 27) - 1)


@np.errstate(all="ignore")
def multiply_add(x: np.ndarray, factor: np.ndarray, addend: np.ndarray, dtype: type) -> np.ndarray:
    """x * factor + addend, rounded once to dtype.

    Args:
      x: of at most 24 significant bits (binary16, binary32), any shape.
      factor: of at most 53, a shape that broadcasts with x.
      addend: any float dtype, a shape that broadcasts with x.
      dtype: np.float16, np.float32 or np.float64.
    Returns:
      dtype, the common shape; inf and NaN as the two steps would give.

    Spec: AFF-3, GEN-3 (specs/20-affine.md).  Class: exact.
    Example:
      >>> third = np.float32(1 / 3)
      >>> float(multiply_add(np.float32(3), third, np.float32(-1), np.float32)), float(np.float32(3) * third - 1)
      (2.9802322387695312e-08, 0.0)
    """
    x, factor, addend = (np.asarray(v).astype(np.float64) for v in (x, factor, addend))
    high, low = _halves(factor)
    exact = _sum_of_three(*_two_sum(x * high, x * low), addend, dtype)  # both products fit 53 bits
    plain = x * factor + addend
    return np.where(np.isfinite(plain), exact, plain.astype(dtype))


@np.errstate(all="ignore")
def divide_add(x: np.ndarray, divisor: np.ndarray, addend: np.ndarray, dtype: type) -> np.ndarray:
    """x / divisor + addend, rounded once to dtype.

    Args:
      x: of at most 24 significant bits (binary16, binary32), any shape.
      divisor: of at most 24, a shape that broadcasts with x.
      addend: any float dtype, a shape that broadcasts with x.
      dtype: np.float16, np.float32 or np.float64.
    Returns:
      dtype, the common shape; inf and NaN as the two steps would give.

    Spec: AFF-3, GEN-3 (specs/20-affine.md).  Class: exact.
    Example:
      >>> third = divide_add(np.float32(1), np.float32(3), np.float32(2**23), np.float32)  # 8388608.333…
      >>> float(third)
      8388608.0
    """
    x, divisor, addend = (np.asarray(v).astype(np.float64) for v in (x, divisor, addend))
    quotient = x / divisor
    rest = _remainder(x, quotient, divisor)
    second = rest / divisor
    left = _remainder(rest, second, divisor) / divisor  # only its sign counts
    second = _to_odd(second, left)
    exact = _sum_of_three(quotient, second, addend, dtype)
    plain = quotient + addend
    return np.where(np.isfinite(plain) & np.isfinite(divisor), exact, plain.astype(dtype))


def _sum_of_three(high: np.ndarray, low: np.ndarray, addend: np.ndarray, dtype: type) -> np.ndarray:
    """high + low + addend rounded once, where |low| is at most half a unit of high's last place."""
    upper, lowest = _two_sum(addend, low)
    upper, middle = _two_sum(high, upper)
    lower = _odd_sum(lowest, middle)
    return upper + lower if dtype is np.float64 else _odd_sum(upper, lower).astype(dtype)


def _remainder(x: np.ndarray, quotient: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """x - quotient * divisor, exact where quotient is x / divisor rounded and divisor has at most 24 bits."""
    high, low = _halves(quotient)
    return (x - high * divisor) - low * divisor


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x as the sum of a number of 26 bits and one of 27."""
    high = (x.view(np.int64) & ~LOW_BITS).view(np.float64)
    return high, x - high


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b rounded, and what the rounding left: their sum is exact (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _odd_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _to_odd(*_two_sum(a, b))


def _to_odd(nearest: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Round to odd, given the nearest number and the sign of what is left."""
    even = (np.asarray(nearest).view(np.int64) & 1) == 0
    other = np.nextafter(nearest, np.copysign(np.inf, rest))
    return np.where(even & (rest != 0), other, nearest)
