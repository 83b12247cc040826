"""What must hold of values before they become codes or constants; traced and abstract ones pass, in both APIs."""

from typing import Any

import jax
import numpy as np

from jaxquant.flax.names import named


def unknown(value: Any) -> bool:
    """Whether a value is a trace, a shape, or partly on other hosts."""
    return isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct) or not getattr(value, "is_fully_addressable", True)


def check_weight(function: str, path: str, name: str, value: Any) -> None:
    """Refuse a float weight with elements that codes would hide.

    Args:
      function: that was called.
      path: of the layer.
      name: of its weight.
      value: an array, of one layer or of stacked ones.
    Raises:
      ValueError: an element is NaN or infinite.
    """
    if unknown(value):
        return
    values = np.asarray(value)
    nans, infinite = np.count_nonzero(np.isnan(values)), np.count_nonzero(np.isinf(values))
    if nans or infinite:
        found = f"{nans} NaN and {infinite} infinite of {values.size} elements"
        raise ValueError(
            f"{function}: the {name} of {named(path)} has {found}, need finite weights (a range leaves NaN out and "
            "codes have none, SCL-1 and AFF-5: the outputs would be finite and hide it)"
        )


def check_constant(function: str, path: str, name: str, value: Any) -> None:
    """Refuse scales that are zero or not finite, and offsets that are not finite.

    Raises:
      ValueError: see above; it says where such a value comes from.
    """
    if unknown(value):
        return
    numbers = np.asarray(value)
    wrong = ~np.isfinite(numbers) | ((numbers == 0) & name.endswith("scale"))
    if wrong.any():
        unset = "not calibrated yet, see observe and calibrate; or " if name.startswith("inputs") else ""
        raise ValueError(
            f"{function}: {named(path)} has {name} {numbers[wrong].flat[0]}, need finite numbers, and scales that are "
            f"not zero ({unset}learned in a training that diverged)"
        )


def check_started(function: str, path: str, step: Any, start: int | None) -> None:
    """Refuse a layer that still runs in float: converted it would answer otherwise than it was trained.

    Args:
      function: that was called.
      path: of the layer.
      step: how many steps it has counted, of one layer or of stacked ones.
      start: the first step that quantizes; None: all do.
    Raises:
      ValueError: no step has reached it.
    """
    if not start or unknown(step):
        return
    reached = int(np.min(np.asarray(step)))
    if reached < start:
        raise ValueError(
            f"{function}: {named(path)} is at step {reached} of a schedule that starts at {start}, need advance after "
            "each step of training until then (it still runs in float, and its codes would answer otherwise)"
        )
