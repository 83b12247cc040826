"""The window of a convolution: strides, padding and dilation as ints, and what fits (specs/60-layers.md, LAY-5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from refquant.checks import within
from refquant.granularity import Shape
from refquant.options import told

Numbers = int | Sequence[int]
Padding = str | int | Sequence[int | Sequence[int]]
MOST = 2**31 - 1  # the sizes that a compiled convolution can be given
NAMED = ("SAME", "SAME_LOWER", "VALID")


@dataclass(frozen=True)
class Window:
    """Where a convolution reads; one number an axis of space.

    Attributes:
      strides: distance of two outputs.
      padding: zeros put before and after (negative: cut off), after the input is dilated.
      input_dilation: distance of two inputs; zeros lie between them.
      kernel_dilation: distance of two taps.
      groups: how many groups of channels do not see each other.
      out: size of the result.
    """

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int
    out: tuple[int, ...]


def window(
    function: str,
    x: Shape,
    weight: Shape,
    *,
    strides: Numbers,
    padding: Padding,
    input_dilation: Numbers,
    kernel_dilation: Numbers,
    groups: int,
) -> Window:
    """The window of a kernel (*taps, in / groups, out) over x (batch, *space, in).

    Args:
      function: the caller's name, for the message.
      x: its shape.
      weight: its shape.
      strides: one number or one an axis of space.
      padding: "SAME", "SAME_LOWER", "VALID", or numbers or pairs of numbers.
      input_dilation: as strides.
      kernel_dilation: as strides.
      groups: divides both channels.
    Raises:
      ValueError: shapes or options do not fit.

    Spec: LAY-5 (specs/60-layers.md).
    Example:
      >>> sizes = dict(strides=2, input_dilation=1, kernel_dilation=1, groups=1)
      >>> window("conv", (1, 5, 5, 3), (3, 3, 3, 8), padding="SAME", **sizes).out
      (3, 3)
    """
    rank = len(weight) - 2
    if rank < 1 or len(x) != rank + 2 or min(weight[:-2]) < 1:
        raise ValueError(
            f"{function}: x has shape {x} and weight {weight}, need (batch, *space, in) and (*taps, in / groups, out)"
        )
    within(function, "feature_group_count", groups, 1, MOST, "groups of channels")
    if x[-1] != weight[-2] * groups or weight[-1] % groups:
        raise ValueError(
            f"{function}: x has {x[-1]} channels and weight {weight}, need in = weight's {weight[-2]} * "
            f"feature_group_count {groups}, and outputs divisible by it"
        )
    steps = _each(function, "strides", strides, rank)
    spread = _each(function, "input_dilation", input_dilation, rank)
    taps = _each(function, "kernel_dilation", kernel_dilation, rank)
    space = [(n - 1) * d + 1 if n else 0 for n, d in zip(x[1:-1], spread, strict=True)]
    reach = [(n - 1) * d + 1 for n, d in zip(weight[:-2], taps, strict=True)]
    if isinstance(padding, str) and padding != "VALID" and max(spread) > 1:
        raise ValueError(f"{function}: padding is {padding!r} with input_dilation {spread}, need pairs of numbers")
    pairs = _pairs(function, padding, space, reach, steps)
    out = tuple(
        max(0, (n + low + high - r) // s + 1) for n, (low, high), r, s in zip(space, pairs, reach, steps, strict=True)
    )
    return Window(steps, pairs, spread, taps, groups, out)


def _each(function: str, name: str, value: Numbers, rank: int) -> tuple[int, ...]:
    numbers = (value,) * rank if isinstance(value, int) else _tuple(value)
    if len(numbers) != rank or not all(isinstance(n, int) and 1 <= n < MOST for n in numbers):
        raise ValueError(
            f"{function}: {name} is {told(value)}, need a number from 1 on, or {rank} of them (axes of space)"
        )
    return numbers


def _pairs(
    function: str, padding: Padding, space: list[int], reach: list[int], steps: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, str):
        if padding not in NAMED:
            need = ", ".join(map(repr, NAMED))
            raise ValueError(f"{function}: padding is {padding!r}, need {need} or numbers (LAY-5)")
        return tuple(_named(padding, n, r, s) for n, r, s in zip(space, reach, steps, strict=True))
    each = (padding,) * len(space) if isinstance(padding, int) else _tuple(padding)
    pairs = [(one, one) if isinstance(one, int) else _tuple(one) for one in each]
    if len(pairs) != len(space) or not all(len(p) == 2 and all(map(_is_width, p)) for p in pairs):
        raise ValueError(
            f"{function}: padding is {told(padding)}, need a number or {len(space)} numbers or pairs (LAY-5)"
        )
    return tuple((low, high) for low, high in pairs)


def _is_width(value: object) -> bool:
    return isinstance(value, int) and -MOST < value < MOST


def _tuple(value: object) -> tuple:
    """What can be counted through; anything else is no number an axis."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _named(padding: str, size: int, reach: int, step: int) -> tuple[int, int]:
    """SAME: ceil(size / step) outputs; an odd zero goes after, for SAME_LOWER before."""
    if padding == "VALID":
        return 0, 0
    total = max(0, (math.ceil(size / step) - 1) * step + reach - size)
    half = total // 2
    return (half, total - half) if padding == "SAME" else (total - half, half)
