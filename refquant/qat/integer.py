"""Exact integer sums of products, through a float BLAS where that is exact (specs/00-conventions.md, SUM-2).

A sum of integers in binary32 is exact in any order while every partial sum stays within 2^24, in binary64 within
2^53; and NumPy multiplies integer matrices some fifty times slower than float ones.
"""

import itertools
import math

import numpy as np

from refquant.arguments import as_array
from refquant.sum_checks import check_convolve, check_matmul
from refquant.windows import Numbers, Padding, Window


def matmul(a: np.ndarray, b: np.ndarray, *, max_a: int, max_b: int) -> np.ndarray:
    """The int32 product of integer matrices.

    Args:
      a: any integer dtype, shape (..., M, K) or (K,), |a| at most max_a.
      b: any integer dtype, shape (..., K, N), |b| at most max_b; leading axes as those of a, or none.
      max_a: the bound that the formats give.
      max_b: likewise.
    Returns:
      int32, the shape that np.matmul gives.
    Raises:
      TypeError: another dtype.
      ValueError: shapes do not fit, or K * max_a * max_b is above 2^31 - 1.

    Spec: SUM-2 (specs/00-conventions.md), LAY-8 (specs/60-layers.md).  Class: exact.
    Example:
      >>> matmul(np.int8([[100, -128]]), np.int8([[100], [-128]]), max_a=128, max_b=128).tolist()
      [[26384]]
    """
    a, b = as_array(a), as_array(b)
    check_matmul(a, b, max_a, max_b)
    dtype = exact_dtype(a.shape[-1], max_a, max_b)
    return np.matmul(a.astype(dtype), b.astype(dtype)).astype(np.int32)


def convolve(
    a: np.ndarray,
    b: np.ndarray,
    *,
    strides: Numbers = 1,
    padding: Padding = "SAME",
    input_dilation: Numbers = 1,
    kernel_dilation: Numbers = 1,
    feature_group_count: int = 1,
    max_a: int,
    max_b: int,
) -> np.ndarray:
    """The int32 convolution of integers (the kernel is not flipped): the sums of `conv`.

    Args:
      a: any integer dtype, shape (batch, *space, in), |a| at most max_a; what is padded counts as 0.
      b: any integer dtype, shape (*taps, in / feature_group_count, out), |b| at most max_b.
      strides: as in `conv`.
      padding: likewise.
      input_dilation: likewise.
      kernel_dilation: likewise.
      feature_group_count: likewise.
      max_a: the bound that the formats give.
      max_b: likewise.
    Returns:
      int32, shape (batch, *space of the result, out).
    Raises:
      TypeError: another dtype.
      ValueError: shapes or options do not fit, or the sum over taps and channels could exceed 2^31 - 1.

    Spec: SUM-2 (specs/00-conventions.md), LAY-5, LAY-8 (specs/60-layers.md).  Class: exact.
    Example:
      >>> a, b = np.int8([[[1], [2], [3]]]), np.int8([[[1]], [[10]]])
      >>> convolve(a, b, max_a=128, max_b=128, padding="VALID").tolist()
      [[[21], [32]]]
    """
    a, b = as_array(a), as_array(b)
    at = check_convolve(
        a, b, max_a, max_b, strides=strides, padding=padding, input_dilation=input_dilation,
        kernel_dilation=kernel_dilation, groups=feature_group_count,
    )  # fmt: skip
    return windowed(a, b, window=at, max_a=max_a, max_b=max_b)


def windowed(a: np.ndarray, b: np.ndarray, *, window: Window, max_a: int, max_b: int) -> np.ndarray:
    """`convolve` by a window that fits: one product of matrices a tap, summed over the taps."""
    dtype = exact_dtype(math.prod(b.shape[:-1]), max_a, max_b)
    return correlate(a.astype(dtype), b.astype(dtype), window).astype(np.int32)


def exact_dtype(products: int, max_a: int, max_b: int) -> type:
    """The float dtype in which every partial sum of that many products is an integer it holds (SUM-2)."""
    return np.float32 if products * max_a * max_b <= 2**24 else np.float64


def correlate(a: np.ndarray, b: np.ndarray, window: Window) -> np.ndarray:
    """The convolution (without flipping the kernel) of floats, in their dtype, tap after tap."""
    a = _padded(_dilated(a, window.input_dilation), window.padding)
    total = np.zeros((a.shape[0], *window.out, b.shape[-1]), a.dtype)
    for tap in itertools.product(*map(range, b.shape[:-2])):
        starts = [at * step for at, step in zip(tap, window.kernel_dilation, strict=True)]
        steps = zip(starts, window.strides, window.out, strict=True)
        seen = a[(slice(None), *(slice(start, start + s * n, s) for start, s, n in steps))]  # LAY-5
        total += _channels(seen, b[tap], window.groups)
    return total


def _channels(seen: np.ndarray, tap: np.ndarray, groups: int) -> np.ndarray:
    """(..., in) times (in / groups, out): group after group of channels."""
    if groups == 1:
        return np.matmul(seen, tap)
    width, out = tap.shape[0], tap.shape[1] // groups
    grouped = seen.reshape(*seen.shape[:-1], groups, width)
    if width == 1:  # depthwise: BLAS would see one matrix a channel
        return (grouped * tap.reshape(groups, out)).reshape(*seen.shape[:-1], groups * out)
    product = np.matmul(np.moveaxis(grouped, -2, 0), _kernels(tap, groups, seen.ndim))
    return np.moveaxis(product, 0, -2).reshape(*seen.shape[:-1], groups * out)


def _kernels(tap: np.ndarray, groups: int, rank: int) -> np.ndarray:
    """(in / groups, groups * out) as (groups, 1.., in / groups, out)."""
    split = np.moveaxis(tap.reshape(tap.shape[0], groups, -1), 1, 0)
    return split.reshape(groups, *[1] * (rank - 2), *split.shape[1:])


def _dilated(a: np.ndarray, dilation: tuple[int, ...]) -> np.ndarray:
    """Zeros between neighbours along the axes of space."""
    if max(dilation) == 1:
        return a
    space = [(n - 1) * d + 1 if n else 0 for n, d in zip(a.shape[1:-1], dilation, strict=True)]
    wide = np.zeros((a.shape[0], *space, a.shape[-1]), a.dtype)
    wide[(slice(None), *(slice(None, None, d) for d in dilation))] = a
    return wide


def _padded(a: np.ndarray, padding: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Zeros around the axes of space; negative padding cuts off."""
    grow = [(max(low, 0), max(high, 0)) for low, high in padding]
    a = np.pad(a, [(0, 0), *grow, (0, 0)])
    cut = [slice(max(-low, 0), n - max(-high, 0)) for (low, high), n in zip(padding, a.shape[1:-1], strict=True)]
    return a[(slice(None), *cut)]
