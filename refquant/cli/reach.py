"""Which inputs take a code: the run of binary32 numbers around x that get the same one, by galloping and bisection."""

from collections.abc import Callable

import numpy as np

INFINITY = 0x7F800000
MAGNITUDE = np.int64(0x7FFFFFFF)
Codes = Callable[[np.ndarray], np.ndarray]


def keys(x: np.ndarray) -> np.ndarray:
    """Places in the order -inf < ... < -0 < +0 < ... < +inf (CNV-2), int64."""
    bits = x.view(np.int32).astype(np.int64)
    return np.where(bits < 0, bits ^ MAGNITUDE, bits)


def numbers(places: np.ndarray) -> np.ndarray:
    """The float32 at each place."""
    return np.where(places < 0, places ^ MAGNITUDE, places).astype(np.int32).view(np.float32)


def reach(x: np.ndarray, codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last float32 of the run of equal codes around each x; NaN stays NaN.

    Args:
      x: float32, one axis.
      codes: the function from float32 to codes, element by element.
    Returns:
      two float32 arrays, shape of x.
    """
    return _edge(x, codes, -1), _edge(x, codes, 1)


def beyond(x: np.ndarray, side: int) -> np.ndarray:
    """The next float32 on a side, ±0 counted as two; the infinities stay."""
    return numbers(np.clip(keys(x) + side, -INFINITY - 1, INFINITY))


def _edge(x: np.ndarray, codes: Codes, side: int) -> np.ndarray:
    home, want = keys(x), codes(x)
    limit = np.int64(INFINITY if side > 0 else -INFINITY - 1)
    inside, outside, found = home, np.full_like(home, limit), np.zeros(x.shape, bool)
    for k in range(33):
        probe = np.clip(home + side * (1 << k), -INFINITY - 1, INFINITY)
        same = codes(numbers(probe)) == want
        outside = np.where(~same & ~found, probe, outside)
        found |= ~same
        inside = np.where(found, inside, probe)
    for _ in range(32):
        middle = np.where(found, (inside + outside) >> 1, inside)
        same = codes(numbers(middle)) == want
        inside, outside = np.where(same, middle, inside), np.where(same, outside, middle)
        if np.all(~found | (np.abs(outside - inside) <= 1)):
            break
    return np.where(np.isnan(x), x, numbers(inside))
