"""The error messages about shapes, dtypes and options, so that both packages say the same (rule GEN-5).

Every function takes names, ints, strings, shapes and dtypes, never arrays, and either returns or raises.
Form: *function: argument is X, need Y (why)*.
"""

from refquant.formats import Format, IntFormat
from refquant.granularity import Granularity, Shape

REAL = ("float32", "float16", "bfloat16")


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
        raise TypeError(f"{function}: scale has dtype {dtype}, need float32 (scales take part in binary32 steps, GEN-1)")


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
        raise TypeError(
            f"{function}: zero_point has dtype {dtype}, need {need} (the convention's zero is {zero!r})"
        )


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
    """An option is one of a few values.

    Raises:
      ValueError: it is not.
    """
    if value not in allowed:
        need = ", ".join(map(repr, allowed))
        raise ValueError(f"{function}: {argument} is {value!r}, need {need} ({why})")
