"""Arguments as strong arrays before the jit boundary, so that equal dtypes share one compilation.

No float64 slips in: JAX would narrow it silently, here `refquant.checks` refuses it.
"""

from typing import Any

import jax
import numpy as np
from jax import lax

from refquant import checks
from refquant.formats import Format


def real(function: str, argument: str, x: Any) -> Any:
    """The argument x, of a real dtype (float32, float16, bfloat16)."""
    x = array(x, np.float32)
    checks.real_dtype(function, argument, x.dtype)
    return x


def scale(function: str, value: Any) -> Any:
    """A float32 scale; a Python number is rounded to it once."""
    value = array(value, np.float32)
    checks.scale_dtype(function, value.dtype)
    return value


def zero_point(function: str, value: Any, zero: str, fmt: Format) -> Any:
    """None, or a zero point of the dtype that the convention's `zero` asks for; a Python number takes it."""
    if value is None:
        return None
    if zero != "bias":
        checks.int32_value(function, "zero_point", value)
    value = array(value, np.float32 if zero == "bias" else np.int32)
    checks.zero_point(function, value.dtype, zero, fmt)
    return value


def codes(function: str, value: Any, fmt: Format) -> Any:
    """Codes in the format's storage dtype."""
    value = array(value)
    checks.codes_dtype(function, value.dtype, fmt)
    return value


def array(value: Any, number: type | None = None) -> Any:
    """The argument with a dtype: a Python number has none of its own and takes that of `number`, a list gets NumPy's.

    Raises:
      TypeError: a masked array.
    """
    checks.plain(value)
    if number and type(value) in (int, float):
        with np.errstate(all="ignore"):
            return np.asarray(value, number)
    plain = isinstance(value, type) or not hasattr(value, "dtype")  # the dtype of a class such as np.float32 is none
    return np.asarray(value) if plain else _strong(value)


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an argument that is no array yet; a class is one object, what it calls its shape is none."""
    return () if isinstance(value, type) else np.shape(value)


def of_rank(ndim: int, values: jax.Array) -> jax.Array:
    """With leading axes of one element, so that nothing broadcasts ranks where a user forbids it."""
    return lax.expand_dims(values, range(ndim - values.ndim))


def result_dtype(function: str, dtype: Any) -> str:
    """The name of the dtype of a real result.

    Raises:
      TypeError: another one.
    """
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:
        name = checks.told(dtype)
    checks.result_dtype(function, name)
    return name


def _strong(x: Any) -> Any:
    return lax.convert_element_type(x, x.dtype) if isinstance(x, jax.Array) and x.weak_type else x
