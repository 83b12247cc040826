"""From a tree of arrays and QTensors to the names of a file (FIL-6)."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np


def flatten(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The leaves of nested dicts by their paths, parts joined by "/"; a dict without branches is itself.

    Raises:
      TypeError: no dict.
      ValueError: two leaves have the same path.
    """
    if not isinstance(tree, Mapping):
        raise TypeError(f"save: tensors is a {type(tree).__name__}, need a dict of arrays and QTensors (or a tree)")
    found: dict[str, Any] = {}
    for name, leaf in _leaves(tree, ""):
        if name in found:
            raise ValueError(f"save: two tensors have the name {name!r}, need one (parts are joined by '/', FIL-6)")
        found[name] = leaf
    return found


def _leaves(tree: Mapping[Any, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}/")
        else:
            yield f"{above}{key}", value


def as_array(name: str, value: Any) -> np.ndarray:
    """A leaf as a NumPy array.

    Raises:
      TypeError: a random key, or nothing that is an array.
    """
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"save: {name!r} is a random key, need arrays and QTensors (leave random state out, "
            "as nnx_api.tensors(model) does, or by nnx.Not(nnx.RngState))"
        )
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = None  # a list of arrays of many shapes, or what only looks like an array
    if array is None or array.dtype == object:
        kind, need = type(value).__name__, "an array or a QTensor (or a dict of them)"
        if type(value).__module__ == "refquant.qtensor":
            kind, need = "refquant.QTensor", "jaxquant.QTensor(q.codes, q.scale, q.zero_point, q.spec)"
        raise TypeError(f"save: {name!r} is a {kind}, need {need}")
    return array
