"""Arguments as arrays: what is accepted for x, scale and zero point, and that nothing is converted silently (GEN-1)."""

from typing import Any

import numpy as np

from refquant import checks
from refquant.formats import Format
from refquant.granularity import Granularity, Shape
from refquant.options import told


def as_real(function: str, argument: str, x: object) -> np.ndarray:
    """x as an array of float32, float16 or bfloat16; a Python number becomes float32 (GEN-1).

    Raises:
      TypeError: another dtype.
    """
    array = as_array(x, np.float32)
    checks.real_dtype(function, argument, array.dtype)
    return array


def as_scale(function: str, scale: object, shape: Shape, granularity: Granularity) -> np.ndarray:
    """The scale as a float32 array with one element a tile of x (GRA-1).

    Raises:
      TypeError: another dtype.
      ValueError: another shape.
    """
    array = as_array(scale, np.float32)
    checks.scale_dtype(function, array.dtype)
    checks.scale_shape(function, "scale", array.shape, shape, granularity)
    return array


def as_zero_point(
    function: str, zero_point: object | None, kind: str, fmt: Format, shape: Shape, granularity: Granularity
) -> np.ndarray | None:
    """The zero point as an array of the scale's shape: float32 where `kind` is "bias", else int32; None stays.

    Raises:
      TypeError: another dtype.
      ValueError: another shape, or a format without zero points.
    """
    if zero_point is None:
        return None
    if kind != "bias":
        checks.int32_value(function, "zero_point", zero_point)
    array = as_array(zero_point, np.float32 if kind == "bias" else np.int32)
    checks.zero_point(function, array.dtype, kind, fmt)
    checks.scale_shape(function, "zero_point", array.shape, shape, granularity)
    return array


@np.errstate(all="ignore")
def as_array(value: object, number: type | None = None) -> np.ndarray:
    """An argument as an array; a Python number has no dtype of its own and takes that of `number`, np.float64 has one.

    Raises:
      TypeError: a masked array.
    """
    checks.plain(value)
    return np.asarray(value, number) if type(value) in (int, float) else np.asarray(value)


def shape_of(value: Any) -> Shape:
    """The shape of an argument that is no array yet; a class is one object, what it calls its shape is none."""
    return () if isinstance(value, type) else np.shape(value)


def real_result(function: str, dtype: np.dtype | type | str) -> np.dtype:
    """The NumPy dtype of a real result; bfloat16 is ml_dtypes' (NumPy has none of its own).

    Raises:
      TypeError: another dtype, or bfloat16 without ml_dtypes.
    """
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:
        name = told(dtype)
    checks.result_dtype(function, name)
    if name != "bfloat16":
        return np.dtype(name)
    return np.dtype(dtype) if not isinstance(dtype, str) else _bfloat16(function)


def _bfloat16(function: str) -> np.dtype:
    try:
        import ml_dtypes  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TypeError(
            f"{function}: dtype is bfloat16, need the package ml_dtypes (NumPy has no bfloat16 of its own)"
        ) from error
    return np.dtype(ml_dtypes.bfloat16)
