"""Sums with an order (specs/00-conventions.md, SUM-1)."""

from functools import partial

import jax

from jaxquant import _exact, _inputs, _sharding
from refquant import checks


def tree_sum(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """The sum over one or more axes, in the fixed order of adjacent pairs.

    Args:
      x: float32 (or float16, bfloat16, widened), any shape.
      axis: the axis or axes to sum; several are summed one after the other, last axis first.
    Returns:
      float32 without the summed axes; an empty sum, or a sum of zeros, is +0.
    Raises:
      TypeError: another dtype.  ValueError: an axis that does not exist or appears twice.

    Spec: SUM-1 (specs/00-conventions.md).  Class: exact.
    """
    x = _inputs.real("tree_sum", "x", x)
    return _tree_sum(x, axes=tuple(sorted(checks.axes("tree_sum", axis, x.shape), reverse=True)))


@partial(_sharding.jit, static_argnames="axes")
def _tree_sum(x: jax.Array, *, axes: tuple[int, ...]) -> jax.Array:
    x = _exact.widen(x)
    for axis in axes:
        x = _exact.tree_sum(x, axis)
    return x if axes else _exact.tree_sum(x[None], 0)  # a sum of one: -0 becomes +0 there too
