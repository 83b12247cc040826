"""The third opinion on specs/60-layers.md: sums in Python ints, every rounding in Fractions.  No arrays of numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from exact import (
    BF16,
    F16,
    F32,
    NOT_A_NUMBER,
    Real,
    add,
    clamp,
    div,
    flushed,
    from_bits,
    mul,
    negated,
    of,
    rounded,
    to_bits,
    tree_sum,
)
from exact_estimators import root

from refquant.windows import Window

BINARY = {"float32": F32, "float16": F16, "bfloat16": BF16}


def product(a: int, b: int) -> int:
    """rounded(a · b) of two patterns."""
    return to_bits(rounded(mul(from_bits(a), from_bits(b))))


def scaled(acc: int, s_w: int, bias: int = 0) -> int:
    """LAY-1, LAY-9: rounded(float32(acc + bias) · s_w)."""
    wrapped = (acc + bias + 2**31) % 2**32 - 2**31
    return product(to_bits(rounded(of(wrapped))), s_w)


def finished(y: int, s_x: int, bias: int | None, dtype: str) -> int:
    """LAY-1: rounded(y · s_x) + bias, flushed, then one cast; the pattern of the result widened to binary32."""
    y = product(y, s_x)
    if bias is not None:
        y = to_bits(flushed(rounded(add(from_bits(y), flushed(from_bits(bias))))))
    return to_bits(rounded(from_bits(y), BINARY[dtype]))


def integer_bias(bias: int, s_x: int, s_w: int) -> int:
    """LAY-11 for finite operands."""
    from exact import nearest

    ratio = rounded(div(from_bits(bias), from_bits(product(s_x, s_w))))
    return clamp(nearest(ratio.value(), "even"), -(2**31), 2**31 - 128)


def dense(
    a: Sequence[int], w: Sequence[int], s_w: Sequence[int], size: int, s_x: int, bias: int | None, dtype: str
) -> int:
    """One element of a dense layer: centred codes of a row and a column, one scale a group of `size` (LAY-1, LAY-3)."""
    groups = [sum(p * q for p, q in zip(a[i : i + size], w[i : i + size], strict=True)) for i in range(0, len(a), size)]
    if len(s_w) == 1:
        return finished(scaled(sum(groups), s_w[0]), s_x, bias, dtype)
    return finished(tree_sum([scaled(acc, s) for acc, s in zip(groups, s_w, strict=True)]), s_x, bias, dtype)


def convolution(
    a: Callable[..., int], w: Callable[..., int], x: Sequence[int], weight: Sequence[int], at: Window
) -> dict[tuple[int, ...], int]:
    """LAY-5: the sums of all outputs of example 0, from functions that give the centred code at an index."""
    taps = list(itertools.product(*map(range, weight[:-2])))
    width, per_group = weight[-2], weight[-1] // at.groups
    return {
        (*place, channel): sum(
            a(*inside, channel // per_group * width + i) * w(*tap, i, channel)
            for tap in taps
            if (inside := _inside(place, tap, x[1:-1], at)) is not None
            for i in range(width)
        )
        for place in itertools.product(*map(range, at.out))
        for channel in range(weight[-1])
    }


def _inside(place: tuple[int, ...], tap: tuple[int, ...], space: Sequence[int], at: Window) -> tuple[int, ...] | None:
    """The input that a tap reads; None where it reads padding or a zero between dilated inputs."""
    index = []
    for axis, size in enumerate(space):
        where = place[axis] * at.strides[axis] + tap[axis] * at.kernel_dilation[axis] - at.padding[axis][0]
        if where % at.input_dilation[axis] or not 0 <= where // at.input_dilation[axis] < size:
            return None
        index.append(where // at.input_dilation[axis])
    return tuple(index)


def fold_factor(var: int, scale: int, epsilon: float) -> int:
    """LAY-14: scale / √(var + ε)."""
    above = _step(add(_operand(var), flushed(rounded(of(epsilon)))))
    deviation = NOT_A_NUMBER if above.negative and above.size != 0 else root(above)
    return to_bits(_step(div(_operand(scale), deviation)))


def folded(kernel: int, factor: int) -> int:
    """LAY-14: kernel · f."""
    return to_bits(_step(mul(_operand(kernel), from_bits(factor))))


def fold_bias(bias: int | None, mean: int, factor: int, offset: int | None) -> int:
    """LAY-14: (bias − mean) · f + offset; what is None adds nothing."""
    below = negated(_operand(mean))
    centre = below if bias is None else _step(add(_operand(bias), below))
    shifted = _step(mul(centre, from_bits(factor)))
    return to_bits(shifted if offset is None else _step(add(shifted, _operand(offset))))


def _operand(bits: int) -> Real:
    return flushed(from_bits(bits))


def _step(exactly: Real) -> Real:
    """Rounded and flushed."""
    return flushed(rounded(exactly))
