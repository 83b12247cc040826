"""Flax's ways to say padding, as what the convolution on codes takes: pairs of zeros, or inputs padded before."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def pad_inputs(
    x: jax.Array, padding: Any, taps: tuple[int, ...], dilation: tuple[int, ...], spread: tuple[int, ...]
) -> tuple[jax.Array, Any]:
    """Flax's own kinds of padding, done on the inputs; the others as numbers or names for the operation.

    Raises:
      ValueError: what Flax itself refuses: "CAUSAL" in several axes of space, a name beside dilated inputs.
    """
    if isinstance(padding, str) and max(spread) > 1:
        raise ValueError(f"conv: padding is {padding!r} with input_dilation {spread}, need pairs of numbers")
    reach = [(n - 1) * d + 1 for n, d in zip(taps, dilation, strict=True)]
    if padding in ("CIRCULAR", "REFLECT"):
        pairs = [(0, 0), *(((r - 1) // 2, r // 2) for r in reach), (0, 0)]
        return jnp.pad(x, pairs, mode="wrap" if padding == "CIRCULAR" else "reflect"), "VALID"
    if padding == "CAUSAL":
        if len(taps) != 1:
            raise ValueError(f"conv: padding is 'CAUSAL' for {len(taps)} axes of space, need one (it has a direction)")
        return x, ((reach[0] - 1, 0),)
    if isinstance(padding, str | int):
        return x, padding
    return x, tuple(p if isinstance(p, int) else tuple(p) for p in padding)


def transposed_padding(reach: int, stride: int, padding: str) -> tuple[int, int]:
    """The padding of the dilated input that makes SAME and VALID of a transposed convolution (lax.conv_transpose)."""
    if padding == "SAME":
        total = reach + stride - 2
        before = reach - 1 if stride > reach - 1 else -(-total // 2)
    elif padding == "VALID":
        total = reach + stride - 2 + max(reach - stride, 0)
        before = reach - 1
    else:
        raise ValueError(f"conv_transpose: padding is {padding!r}, need 'SAME', 'VALID' or numbers")
    return before, total - before


def circular_transposed(
    x: jax.Array, reach: list[int], strides: tuple[int, ...], *, extra_left: bool
) -> tuple[jax.Array, list[tuple[int, int]]]:
    """Inputs repeated so that a transposed convolution without wrapping gives Flax's circular one.

    Flax wraps the result of VALID around each axis of space, of period size·stride.  Every tap then reads the dilated
    input of the same period, from a place that padding and centring decide.

    Args:
      x: (batch, *space, in).
      reach: of the dilated kernel, by axis of space.
      strides: likewise.
      extra_left: where the odd place of the centring goes (Flax: not with transpose_kernel).
    Returns:
      (x, the padding of the dilated x).
    """
    pads = []
    for axis, (taps, stride) in enumerate(zip(reach, strides, strict=True), start=1):
        size = x.shape[axis]
        before, after = transposed_padding(taps, stride, "VALID")
        period, full = size * stride, (size - 1) * stride + 1 + before + after - taps + 1
        missing = -(full - period) % (2 * period)
        start = before + (missing + extra_left) // 2
        left, first = divmod(start % period, stride)
        count, last = divmod(period + taps - 2 - first, stride)
        x = jnp.take(x, (np.arange(count + 1) - left) % size, axis=axis)
        pads.append((first, last))
    return x, pads


def each(value: Any, rank: int) -> tuple:
    """One value an axis of space; None is 1."""
    return (1 if value is None else value,) * rank if value is None or isinstance(value, int) else tuple(value)
