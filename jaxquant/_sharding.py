"""Meshes with explicit or manual axes.  Explicit: a function runs with automatic ones, sharded as its operands say.

With explicit axes JAX asks for the sharding of every step.  The steps in here are many and their bits do not depend on
it, so a call as a whole is a step: what is in one is left to the compiler, as with automatic axes.  Manual (in a
shard_map): JAX checks what varies over the devices, so the operands of a call vary alike.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

Spec = tuple[Any, ...]
FORWARD = (
    "forward-mode autodiff (jvp, jacfwd, linearize) of a straight-through gradient, need reverse mode (grad, vjp, "
    "jacrev): its rule is one for cotangents, and rounding has no tangent"
)


def jit(function: Callable, *, result: Callable[..., Spec] | None = None, **options: Any) -> Callable:
    """jax.jit that takes arrays sharded over explicit axes, or varying over manual ones, as well.

    Args:
      function: as for jax.jit.
      result: from (a result's shape, *args, **kwargs) to how that is sharded; None: `like_first`.
      **options: of jax.jit.
    Returns:
      A function of the same arguments; of what jax.jit adds it has `lower`.
    Raises:
      ValueError: arrays have explicit axes and no mesh is set.
    """
    compiled, rule = jax.jit(function, **options), result or like_first

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        axes = frozenset().union(*map(_manual_axes, leaves))
        if axes:  # all alike, or a gradient of our own would vary where its operand does not
            leaves = [_varying(leaf, axes) if _is_array(leaf) else leaf for leaf in leaves]
            args, kwargs = jax.tree.unflatten(tree, leaves)
        mesh = next(filter(None, map(_explicit_mesh, leaves)), None)
        if mesh is None:
            # no mesh and an empty one are two keys of JAX's cache: inside gradients all would be traced a second time
            with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()), _told():
                return compiled(*args, **kwargs)
        at = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]

        def inside(*arrays: Any) -> Any:
            given = dict(zip(at, arrays, strict=True))
            args, kwargs = jax.tree.unflatten(tree, [given.get(i, leaf) for i, leaf in enumerate(leaves)])
            return compiled(*args, **kwargs)

        return _automatic(inside, [leaves[i] for i in at], mesh, lambda out: rule(out.shape, *args, **kwargs))

    called.lower = compiled.lower
    return called


@contextmanager
def _told() -> Iterator[None]:
    """A gradient forward through a rule for cotangents, refused by JAX, in words that say what to take instead."""
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error) or str(error).startswith(FORWARD):
            raise
        raise TypeError(FORWARD) from error


def _automatic(function: Callable, operands: list[Any], mesh: AbstractMesh, rule: Callable[[Any], Spec]) -> Any:
    if jax.sharding.get_abstract_mesh().empty:
        raise ValueError(
            f"an array is sharded over {mesh.axis_names}, the axes of a mesh that is not set, need jax.set_mesh(mesh) "
            "around the call, or a mesh made with axis_types of AxisType.Auto (explicit axes)"
        )
    explicit = tuple(n for n, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit)
    automatic = mesh.update_axis_types(dict.fromkeys(explicit, AxisType.Auto))
    with jax.sharding.use_abstract_mesh(automatic):
        shapes = jax.eval_shape(function, *(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in operands))
    specs = jax.tree.map(lambda out: PartitionSpec(*rule(out)), shapes)
    return jax.sharding.auto_axes(function, axes=explicit, out_sharding=specs)(*map(jnp.asarray, operands))


def varying_as(value: jax.Array, *operands: Any) -> jax.Array:
    """The value, counted as varying over the manual axes of a mesh over which an operand varies.

    Inside a shard_map that checks it (check_vma), a loop must start from what varies as its steps' results do.
    """
    return _varying(value, frozenset().union(*map(_manual_axes, operands)))


def _varying(value: Any, axes: frozenset[str]) -> Any:
    missing = tuple(axes - _manual_axes(value)) if axes else ()
    if not missing:
        return value
    return lax.pcast(value, missing, to="varying") if hasattr(lax, "pcast") else lax.pvary(value, missing)


def _manual_axes(value: Any) -> frozenset[str]:
    """The manual axes of a mesh over which an array varies: none outside of shard_map, or where it does not check."""
    if not isinstance(value, jax.core.Tracer):
        return frozenset()
    kind = jax.typeof(value)
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying


def spec_of(array: Any) -> Spec:
    """How an array is sharded over explicit axes: a mesh axis, several or None, for each of its own axes."""
    spec = tuple(jax.typeof(array).sharding.spec) if isinstance(array, jax.Array) else ()
    return (*spec, *[None] * (array.ndim - len(spec)))


def like_first(shape: tuple[int, ...], /, *args: Any, **kwargs: Any) -> Spec:
    """As the first array is, along axes of the same size; replicated where the rank is another."""
    first = next(leaf for leaf in jax.tree.leaves((args, kwargs)) if hasattr(leaf, "ndim"))
    if len(shape) != first.ndim:
        return (None,) * len(shape)
    pairs = zip(spec_of(first), first.shape, shape, strict=True)
    return tuple(name if mine == size else None for name, mine, size in pairs)


def joined(*parts: Spec) -> Spec:
    """The sharding of a result whose axes are those of several operands, one operand after the other.

    Raises:
      ValueError: a mesh axis stands in two of them.
    """
    spec = tuple(name for part in parts for name in part)
    flat = [name for entry in spec if entry for name in (entry if isinstance(entry, tuple) else (entry,))]
    twice = sorted({name for name in flat if flat.count(name) > 1})
    if twice:
        raise ValueError(
            f"layer: the result's axes would be sharded by {spec}, need {twice[0]!r} along one of them (explicit axes: "
            "lay x or the weight out anew with jax.sharding.reshard, or call the layer inside jax.sharding.auto_axes)"
        )
    return spec


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _explicit_mesh(leaf: Any) -> AbstractMesh | None:
    mesh = jax.typeof(leaf).sharding.mesh if isinstance(leaf, jax.Array) else None
    return mesh if mesh is not None and AxisType.Explicit in mesh.axis_types else None
