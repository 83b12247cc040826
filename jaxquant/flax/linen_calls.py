"""One call of a Linen model: what is static in it, its arrays, their shapes, and zeros in their place."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

#: nn.Dropout in a run whose values nobody sees.
UNSEEN_RNGS = ("dropout",)


@dataclass(frozen=True)
class Call:
    """One call of a model: its method, what it is given, and the collections beside the parameters.

    Attributes:
      method: None is "__call__".
      args: arrays, ShapeDtypeStructs, or static values.
      kwargs: likewise.
      rngs: keys by name, or one key.
    """

    method: str | None = None
    args: tuple = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    rngs: Any = None

    def abstract(self) -> "Call":
        """The same with shapes instead of arrays."""
        names = self.rngs if isinstance(self.rngs, Mapping) else {} if self.rngs is None else {"params": None}
        return replace(self, args=_shapes(self.args), kwargs=_shapes(dict(self.kwargs)), rngs=dict.fromkeys(names))

    def unseen(self) -> "Call":
        """The same with zeros, for runs of which only the parameters are wanted."""
        call = self.abstract()
        rngs = {name: jax.random.key(0) for name in (*call.rngs, *UNSEEN_RNGS)}
        return replace(call, args=_zeros(call.args), kwargs=_zeros(call.kwargs), rngs=rngs)


@dataclass(frozen=True)
class Frame:
    """All of a call but its arrays; hashable.

    Attributes:
      method: as in Call.
      tree: of args, kwargs and rngs.
      static: the leaves that are no arrays, None at an array's place.
    """

    method: str | None
    tree: Any
    static: tuple

    def call(self, arrays: list) -> Call:
        """The call with its arrays."""
        rest = iter(arrays)
        leaves = [next(rest) if leaf is None else leaf for leaf in self.static]
        args, kwargs, rngs = jax.tree.unflatten(self.tree, leaves)
        return Call(self.method, args, kwargs, rngs)


def calls_of(methods: Mapping[str, Any] | None, rngs: Any = None) -> list[Call]:
    """Calls of methods, each by its name with its argument or the tuple of them."""
    each = (methods or {}).items()
    return [Call(name, args if isinstance(args, tuple) else (args,), {}, rngs) for name, args in each]


def framed(call: Call) -> tuple[Frame, list]:
    """A call as what is static in it, and its arrays."""
    leaves, tree = jax.tree.flatten((call.args, dict(call.kwargs), call.rngs))
    static = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
    return Frame(call.method, tree, static), [leaf for leaf in leaves if _is_array(leaf)]


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype) if _is_array(v) else v, tree)


def _zeros(tree: Any) -> Any:
    def zero(leaf: Any) -> Any:
        if not _is_array(leaf):
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), leaf.shape)
        return jnp.zeros(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))

    return jax.tree.map(zero, tree)
