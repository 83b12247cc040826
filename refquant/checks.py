"""The error messages about shapes, dtypes and options, so that both packages say the same (rule GEN-5).

Every function takes names, ints, strings, shapes and dtypes, never arrays, and either returns or raises.
Form: *function: argument is X, need Y (why)*.
"""

import sys
from collections.abc import Iterable
from itertools import zip_longest
from operator import index
from typing import SupportsIndex

from refquant.formats import Format, IntFormat
from refquant.granularity import Granularity, Shape
from refquant.options import told

REAL = ("float32", "float16", "bfloat16")
LARGEST_EXPONENT = sys.float_info.max_exp - 1


def plain(value: object) -> None:
    """No masked array, whose hidden elements would count, no random key, and no integer beyond binary64.

    Raises:
      TypeError: an array or a key.
      ValueError: an integer.
    """
    if any(base.__name__ == "MaskedArray" for base in type(value).__mro__):
        raise TypeError("an argument is a masked array, need a plain one: x.filled(0) (a masked element has no code)")
    if str(getattr(value, "dtype", "")).startswith("key<"):
        raise TypeError("an argument is a key, need numbers: jax.random.bits(key, x.shape, 'uint32') (GEN-6)")
    if type(value) is int and value.bit_length() > LARGEST_EXPONENT:
        raise ValueError(
            f"an argument is an integer of {value.bit_length()} bits, need at most {LARGEST_EXPONENT} (binary64 has no "
            "larger number; an infinity is float('inf'))"
        )


def real_dtype(function: str, argument: str, dtype: object) -> None:
    """x must widen exactly to binary32.

    Raises:
      TypeError: any other dtype.
    """
    if str(dtype) not in REAL:
        raise TypeError(
            f"{function}: {argument} has dtype {dtype}, need float32, float16 or bfloat16 (what widens exactly to "
            "binary32, GEN-1)"
        )


def scale_dtype(function: str, dtype: object) -> None:
    """A scale is binary32.

    Raises:
      TypeError: any other dtype.
    """
    if str(dtype) != "float32":
        raise TypeError(
            f"{function}: scale has dtype {dtype}, need float32 (scales take part in binary32 steps, GEN-1)"
        )


def scale_shape(function: str, argument: str, shape: Shape, x_shape: Shape, granularity: Granularity) -> None:
    """A scale (or zero point) has one element a tile.

    Raises:
      ValueError: the shape is another one.
    """
    need = granularity.scale_shape(x_shape)
    if tuple(shape) != need:
        raise ValueError(
            f"{function}: {argument} has shape {tuple(shape)}, need {need}: {granularity!r} of x with shape {x_shape}"
        )


def zero_point(function: str, dtype: object | None, zero: str, fmt: Format) -> None:
    """A zero point belongs to integer formats, and its dtype to the convention.

    Raises:
      ValueError: a zero point beside a float format or a codebook.
      TypeError: not int32 ("int"), or not float32 ("bias").
    """
    if dtype is None:
        return
    if not isinstance(fmt, IntFormat):
        raise ValueError(f"{function}: zero_point given for {fmt.name}, need None (only integer formats have one)")
    need = "float32" if zero == "bias" else "int32"
    if str(dtype) != need:
        raise TypeError(f"{function}: zero_point has dtype {dtype}, need {need} (the convention's zero is {zero!r})")


def codes_dtype(function: str, dtype: object, fmt: Format) -> None:
    """Codes are held in the format's storage dtype.

    Raises:
      TypeError: any other dtype.
    """
    if str(dtype) != fmt.storage:
        raise TypeError(f"{function}: codes have dtype {dtype}, need {fmt.storage} (the storage of {fmt.name})")


def same_shape(function: str, argument: str, shape: Shape, need: Shape, other: str) -> None:
    """Two arrays must agree in shape.

    Raises:
      ValueError: they do not.
    """
    if tuple(shape) != tuple(need):
        raise ValueError(f"{function}: {argument} has shape {tuple(shape)}, need {tuple(need)} (the shape of {other})")


def option(function: str, argument: str, value: object, allowed: tuple[object, ...], why: str) -> None:
    """An option is one of a few values; where none of them is known, `why` alone says what is needed.

    Raises:
      ValueError: it is not.
    """
    if not isinstance(value, tuple({type(one) for one in allowed})) or value not in allowed:
        need = f"{', '.join(map(repr, allowed))} ({why})" if allowed else why
        raise ValueError(f"{function}: {argument} is {told(value)}, need {need}")


def random_bits(function: str, dtype: object) -> None:
    """Randomness enters as uint32 bits.

    Raises:
      TypeError: any other dtype.
    """
    if str(dtype) != "uint32":
        raise TypeError(f"{function}: bits have dtype {dtype}, need uint32 (randomness enters as bits, GEN-6)")


def result_dtype(function: str, name: str) -> None:
    """A real result is binary32, or rounded once more (DEQ-4).

    Raises:
      TypeError: any other dtype.
    """
    if name not in REAL:
        raise TypeError(f"{function}: dtype is {name}, need float32, float16 or bfloat16 (DEQ-4)")


def accumulator(function: str, depth: int, max_a: int, max_b: int) -> None:
    """A sum of products must fit int32 (SUM-2, LAY-8).

    Raises:
      ValueError: it might not.
    """
    if depth * max_a * max_b > 2**31 - 1:
        raise ValueError(
            f"{function}: {depth} products of magnitudes up to {max_a} and {max_b} can reach {depth * max_a * max_b}, "
            f"need at most {2**31 - 1} (the sum is kept in int32)"
        )


def packed(function: str, dtype: object, shape: Shape, need: int, codes_shape: Shape, fmt: Format) -> None:
    """Packed codes are a vector of as many bytes as the shape asks for (PCK-2).

    Raises:
      TypeError: not uint8.
      ValueError: another shape or number of bytes.
    """
    if str(dtype) != "uint8":
        raise TypeError(f"{function}: packed has dtype {dtype}, need uint8 (a stream of bytes, PCK-2)")
    if tuple(shape) != (need,):
        raise ValueError(
            f"{function}: packed has shape {tuple(shape)}, need ({need},): {fmt.bits} bits for each code of shape "
            f"{tuple(codes_shape)} (PCK-2)"
        )


def axes(function: str, axis: int | tuple[int, ...], shape: Shape) -> tuple[int, ...]:
    """The axes as distinct non-negative numbers.

    Raises:
      TypeError: an axis that is no integer.
      ValueError: an axis that the shape does not have, or one given twice.
    """
    try:
        given = tuple(map(index, axis if isinstance(axis, tuple) else (axis,)))
    except TypeError:
        raise TypeError(f"{function}: axis is {told(axis)}, need an integer or a tuple of integers") from None
    if any(not -len(shape) <= a < len(shape) for a in given):
        raise ValueError(f"{function}: axis is {axis}, need axes of an array of shape {tuple(shape)}")
    found = tuple(a % len(shape) for a in given)
    if len(set(found)) != len(found):
        raise ValueError(f"{function}: axis is {axis}, need each axis once (shape {tuple(shape)})")
    return found


def shape(function: str, value: Iterable[SupportsIndex]) -> Shape:
    """A shape as a tuple of ints.

    Raises:
      TypeError: a number that is no integer, or no numbers.
      ValueError: a negative one.
    """
    try:
        sizes = tuple(map(index, value))
    except TypeError:
        raise TypeError(f"{function}: shape is {told(value)}, need a tuple of integers") from None
    if any(n < 0 for n in sizes):
        raise ValueError(f"{function}: shape is {sizes}, need sizes from 0 up")
    return sizes


def number(function: str, argument: str, value: object) -> None:
    """One real number, of Python's or of an array without axes.

    Raises:
      TypeError: anything else.
    """
    plain(value)
    if isinstance(value, complex | type) or not hasattr(value, "__float__") or getattr(value, "shape", ()) != ():
        raise TypeError(f"{function}: {argument} is {told(value)}, need one real number")


def broadcast(function: str, **shapes: Shape) -> None:
    """Operands have a common shape.

    Raises:
      ValueError: they have none.
    """
    for sizes in zip_longest(*(one[::-1] for one in shapes.values()), fillvalue=1):
        if len(set(sizes) - {1}) > 1:
            found = ", ".join(f"{name} {tuple(one)}" for name, one in shapes.items())
            raise ValueError(f"{function}: shapes are {found}, need ones that broadcast to a common shape")


def int32(function: str, argument: str, dtype: object) -> None:
    """Keys are int32.

    Raises:
      TypeError: any other dtype.
    """
    if str(dtype) != "int32":
        raise TypeError(f"{function}: {argument} has dtype {dtype}, need int32 (a key of a binary32 pattern, BIT-1)")


def clamped(value: object, limit: int) -> object:
    """A Python int, which no dtype bounds, within ±limit; anything else as it is."""
    return max(-limit, min(limit, value)) if type(value) is int else value


def integers(function: str, argument: str, dtype: object) -> None:
    """Numbers that stand for themselves have an integer dtype.

    Raises:
      TypeError: any other dtype.
    """
    if not str(dtype).startswith(("int", "uint")):
        raise TypeError(f"{function}: {argument} has dtype {dtype}, need an integer dtype")


def int32_value(function: str, argument: str, value: object) -> None:
    """A Python number that becomes an int32 must be an int, and one that fits.

    Raises:
      TypeError: it is a float.
      ValueError: it lies outside -2**31..2**31 - 1.
    """
    if type(value) is float:
        raise TypeError(f"{function}: {argument} is {value}, need an int (a real offset goes with zero 'bias', AFF-3)")
    if type(value) is int and not -(2**31) <= value < 2**31:
        raise ValueError(f"{function}: {argument} is {value}, need -2**31..2**31 - 1 (it becomes an int32, GEN-1)")


def within(function: str, argument: str, value: float, low: float, high: float, why: str) -> None:
    """An option lies in low..high (an integer where both bounds are).

    Raises:
      ValueError: it does not.
    """
    whole = isinstance(low, int) and isinstance(high, int)
    if not isinstance(value, int if whole else int | float) or not low <= value <= high:
        kind = "an integer" if whole else "a number"
        raise ValueError(f"{function}: {argument} is {told(value)}, need {kind} from {low} to {high} ({why})")


def few_steps(found: int, limit: int, jump: tuple[object, object, object]) -> None:
    """A function that is tabulated has few steps; one that wraps instead of saturating has hundreds of millions.

    Args:
      found: how many steps there are at least.
      limit: how many there may be.
      jump: an input, its code, and the code of the input before it.

    Raises:
      ValueError: there are more.
    """
    if found > limit:
        x, code, before = jump
        raise ValueError(
            f"tabulate: function has more than {limit:,} steps, need a function of at most limit = {limit:,} steps: at "
            f"x = {x!s} the code goes from {before} to {code}; does it saturate? (CNV-3)"
        )
