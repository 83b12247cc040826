"""Rounding to an integer: nearest, toward zero, and by random bits (specs/00-conventions.md, RND-1, RND-2)."""

import numpy as np

from refquant import checks
from refquant.arguments import as_array, as_real

TIES = ("even", "away", "up", "down", "trunc", "zero")


def round_to_integer(x: np.ndarray, *, ties: str = "even") -> np.ndarray:
    """The integer that x rounds to, as a float.

    Args:
      x: float32, float16 or bfloat16, any shape.
      ties: "even", "away" from zero, "up", "down", "zero" (of values midway between integers), or "trunc", which
        drops the fraction of any value.
    Returns:
      float32, shape of x.  NaN and the infinities stay; a zero has the sign of x.
    Raises:
      TypeError: another dtype.
      ValueError: another `ties`.

    Spec: RND-1 (specs/00-conventions.md).  Class: exact.
    Example:
      >>> [round_to_integer(np.float32([-1.5, -0.5, 2.5]), ties=t).tolist() for t in ("even", "away", "up")]
      [[-2.0, -0.0, 2.0], [-2.0, -1.0, 3.0], [-1.0, -0.0, 3.0]]
    """
    checks.option("round_to_integer", "ties", ties, TIES, "RND-1")
    return np.asarray(to_integer(as_real("round_to_integer", "x", x).astype(np.float32), ties))


@np.errstate(all="ignore")
def to_integer(x: np.ndarray, ties: str) -> np.ndarray:
    """RND-1 in the float dtype of x (binary16, 32 or 64), unchecked."""
    if ties == "even":
        return np.rint(x)  # RND-1
    whole = np.trunc(x)
    fraction = x - whole  # exact; carries the sign of x
    if ties == "trunc":
        return whole  # RND-1
    up, down = {
        "away": (fraction >= 0.5, fraction <= -0.5),  # RND-1: midway leaves zero
        "up": (fraction >= 0.5, fraction < -0.5),  # RND-1: midway toward +inf
        "down": (fraction > 0.5, fraction <= -0.5),  # RND-1: midway toward -inf
        "zero": (fraction > 0.5, fraction < -0.5),  # RND-1: midway toward zero
    }[ties]
    return np.copysign(whole + up - down, x)  # RND-1: a zero has the sign of x


@np.errstate(all="ignore")
def round_stochastic(x: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """x rounded up with the probability of its fraction, by given random bits.

    Args:
      x: float32, float16 or bfloat16, any shape.
      bits: uint32, shape of x, uniform; the upper 24 bits count.
    Returns:
      float32, shape of x.  Integers, NaN and the infinities stay.
    Raises:
      TypeError: another dtype.
      ValueError: bits of another shape.

    Spec: RND-2 (specs/00-conventions.md).  Class: exact.
    Example:
      >>> round_stochastic(np.float32([0.25, 0.25]), np.uint32([0x3FFFFFFF, 0x40000000])).tolist()
      [1.0, 0.0]
    """
    x, bits = as_real("round_stochastic", "x", x).astype(np.float32), as_array(bits)
    checks.random_bits("round_stochastic", bits.dtype)
    checks.same_shape("round_stochastic", "bits", bits.shape, x.shape, "x")
    floor = np.floor(x)
    fraction = x.astype(np.float64) - floor  # RND-2: binary64 keeps its order against every multiple of 2**-24
    threshold = (bits >> np.uint32(8)) * np.float64(2.0**-24)  # RND-2: u in [0, 1)
    return np.asarray(np.where(fraction > threshold, floor + np.float32(1), floor))  # RND-2
