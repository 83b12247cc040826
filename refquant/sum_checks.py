"""What fits a sum of integers: dtypes, shapes and bounds, never values (SUM-2, specs/60-layers.md).

Both packages raise these texts (GEN-5).
"""

import math

from refquant import checks
from refquant.layer_checks import Shaped
from refquant.windows import Numbers, Padding, Window, window


def check_matmul(a: Shaped, b: Shaped, max_a: int, max_b: int) -> None:
    """Integer matrices (..., M, K), or a vector (K,), and (..., K, N), whose sums fit int32 (SUM-2).

    Raises:
      TypeError: no integers.
      ValueError: shapes or bounds do not fit.
    """
    _check_integers("matmul", a, b, max_a, max_b)
    left, right = tuple(a.shape), tuple(b.shape)
    if not left or len(right) < 2 or left[-1] != right[-2] or right[:-2] not in ((), left[:-2]):
        raise ValueError(
            f"matmul: a has shape {left} and b {right}, need (..., M, K) or (K,), and (..., K, N) with the leading "
            "axes of a or none"
        )
    checks.accumulator("matmul", left[-1], max_a, max_b)


def check_convolve(
    a: Shaped,
    b: Shaped,
    max_a: int,
    max_b: int,
    *,
    strides: Numbers,
    padding: Padding,
    input_dilation: Numbers,
    kernel_dilation: Numbers,
    groups: int,
) -> Window:
    """The window of integers (*taps, in / groups, out) over integers (batch, *space, in), whose sums fit int32.

    Raises:
      TypeError: no integers.
      ValueError: shapes, options or bounds do not fit.
    """
    _check_integers("convolve", a, b, max_a, max_b)
    at = window(
        "convolve", tuple(a.shape), tuple(b.shape), strides=strides, padding=padding, input_dilation=input_dilation,
        kernel_dilation=kernel_dilation, groups=groups,
    )  # fmt: skip
    checks.accumulator("convolve", math.prod(b.shape[:-1]), max_a, max_b)
    return at


def _check_integers(function: str, a: Shaped, b: Shaped, max_a: int, max_b: int) -> None:
    for name, one, bound in (("a", a, max_a), ("b", b, max_b)):
        checks.integers(function, name, one.dtype)
        checks.within(function, f"max_{name}", bound, 0, 2**31, "what the format allows, SUM-2")
