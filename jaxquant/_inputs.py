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
    x = _array(x, np.float32)
    checks.real_dtype(function, argument, x.dtype)
    return _strong(x)


def scale(function: str, value: Any) -> Any:
    """A float32 scale; a Python number is rounded to it once."""
    value = _array(value, np.float32)
    checks.scale_dtype(function, value.dtype)
    return _strong(value)


def zero_point(function: str, value: Any, zero: str, fmt: Format) -> Any:
    """None, or a zero point of the dtype that the convention's `zero` asks for; a Python number takes it."""
    if value is None:
        return None
    if zero != "bias":
        checks.int32_value(function, "zero_point", value)
    value = _array(value, np.float32 if zero == "bias" else np.int32)
    checks.zero_point(function, value.dtype, zero, fmt)
    return _strong(value)


def codes(function: str, value: Any, fmt: Format) -> Any:
    """Codes in the format's storage dtype."""
    checks.known_format(function, fmt)
    value = value if hasattr(value, "dtype") else np.asarray(value)
    checks.codes_dtype(function, value.dtype, fmt)
    return _strong(value)


def array(value: Any) -> Any:
    """The argument with a dtype; a list gets NumPy's, as in refquant."""
    return _strong(value if hasattr(value, "dtype") else np.asarray(value))


def _strong(x: Any) -> Any:
    return lax.convert_element_type(x, x.dtype) if isinstance(x, jax.Array) and x.weak_type else x


def _array(value: Any, dtype: type) -> Any:
    """A Python number has no dtype of its own and takes the one that is needed (GEN-1)."""
    checks.unmasked(type(value))
    if type(value) in (int, float):
        with np.errstate(all="ignore"):
            return np.asarray(value, dtype)
    return value if hasattr(value, "dtype") else np.asarray(value)
