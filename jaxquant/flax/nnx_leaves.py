"""The leaves beside the kernels of an NNX model: which there are, their mark, and what the kernel knows of them.

A layer multiplies its input, so a constant scale of it is a leaf from `prepare` on.  A table multiplies where the model
attends; elsewhere it is given ids, and a scale that no data sets would stay NaN for good.  So a table has input leaves
where it was *seen* to attend: by `prepare`, whose x and methods are traced, or by `observe`, for `calibrate`.  Without
x nothing was seen, and a table has none.  That way round every state can be restored into a model prepared without x
(of shapes, say): nnx.update and `restore` add leaves that a state has, and no function takes away those it lacks.
"""

from collections.abc import Container, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxquant.flax.mark import is_mark, mark_of
from jaxquant.flax.nnx_layers import layers_of
from jaxquant.flax.nnx_variables import Codes, Scale, beside, set_companions, set_value, value_of
from jaxquant.flax.nnx_walk import KINDS, expected_shape
from jaxquant.flax.rule import learned
from jaxquant.flax.site import LayerSpec


def stacked_axes(layer: Any) -> int:
    """How many leading axes of a layer's kernel count layers."""
    base = next(cls for cls in type(layer).__mro__ if cls in KINDS)
    return len(layer.weight.shape) - len(expected_shape(layer, base))


def full(kernel: nnx.Variable, shape: tuple[int, ...], value: float, dtype: Any) -> Any:
    """An array of one value, or its shape where the kernel is a shape."""
    like = jax.tree.leaves(value_of(kernel))
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in like)
    return jax.ShapeDtypeStruct(shape, dtype) if abstract else jnp.full(shape, value, dtype)


def unset_inputs(kernel: nnx.Variable, site: LayerSpec, stacked: int) -> dict[str, Any]:
    """The values of input leaves that no data has set: NaN shows in every result."""
    lead = tuple(value_of(kernel).shape[:stacked])
    zero = ("inputs_zero_point",)
    return {
        name: full(kernel, lead, 0 if name in zero else jnp.nan, jnp.int32 if name in zero else jnp.float32)
        for name in site.input_names
    }


def input_leaves(
    kernel: nnx.Variable, site: LayerSpec, values: Mapping[str, Any], stacked: int
) -> dict[str, nnx.Variable]:
    """The Variables of input leaves with those values."""
    kind = Scale if learned(site.input_estimator) else Codes
    return {name: beside(kernel, kind, value, stacked=stacked) for name, value in values.items()}


def mark_leaves(
    kernel: nnx.Variable, site: LayerSpec, leaves: Mapping[str, nnx.Variable], stacked: int
) -> dict[str, nnx.Variable]:
    """The mark of a prepared layer by its name; none beside a kernel that has no other leaves."""
    if not leaves:
        return {}
    kind = Scale if any(isinstance(leaf, Scale) for leaf in leaves.values()) else Codes  # where the learned ones go
    shape = tuple(value_of(kernel).shape)
    zero = full(kernel, (*shape[:stacked], *[1] * (len(shape) - stacked)), 0, jnp.float32)
    return {mark_of(site): beside(kernel, kind, zero, stacked=stacked)}


def keep_attended(model: nnx.Module, attended: Container[str]) -> None:
    """Take the input leaves from the tables of a prepared model that no trace has seen to attend.

    Args:
      model: with all leaves; changed in place.
      attended: the paths of the others.
    """
    for layer in layers_of(model):
        if layer.is_table and layer.site.input_names and layer.path not in attended:
            for name in layer.site.input_names:
                delattr(layer, name)
            _mark_anew(layer)
    tell_kernels(model)


def set_inputs(model: nnx.Module, found: list[tuple[Any, Mapping[str, Any]]]) -> None:
    """Put values into the input leaves of layers; a table that has none gets them.

    Args:
      model: what the layers are of; changed in place.
      found: (layer, its values by name).
    """
    for layer, values in found:
        kernel, stacked = getattr(layer, layer.kernel_name), stacked_axes(layer)
        new = {name: value for name, value in values.items() if not hasattr(layer, name)}
        for name in values.keys() - new.keys():
            set_value(getattr(layer, name), values[name])
        for name, leaf in input_leaves(kernel, layer.site, new, stacked).items():
            setattr(layer, name, leaf)
        if new:
            _mark_anew(layer)
    tell_kernels(model)


def with_inputs(model: nnx.Module) -> nnx.Module:
    """A clone whose every table has the input leaves of its recipe, unset: what a state of the model may hold."""
    clone = nnx.clone(model)
    for layer in layers_of(clone):
        kernel, stacked = getattr(layer, layer.kernel_name), stacked_axes(layer)
        for name, leaf in input_leaves(kernel, layer.site, unset_inputs(kernel, layer.site, stacked), stacked).items():
            if not hasattr(layer, name):
                setattr(layer, name, leaf)
    return clone


def tell_kernels(model: nnx.Module) -> None:
    """Note in every kernel what stands beside it, of each layer that shares it."""
    told: dict[int, tuple[nnx.Variable, set[str]]] = {}
    for layer in layers_of(model):
        kernel = getattr(layer, layer.kernel_name)
        own = {name for name in vars(layer) if name in layer.site.state_names or is_mark(name)}
        told.setdefault(id(kernel), (kernel, set()))[1].update(own)
    for kernel, names in told.values():
        set_companions(kernel, names)


def _mark_anew(layer: Any) -> None:
    """The mark that a prepared layer's leaves call for, in place of any."""
    for name in list(filter(is_mark, vars(layer))):
        delattr(layer, name)
    kernel = getattr(layer, layer.kernel_name)
    leaves = {name: getattr(layer, name) for name in layer.site.state_names if hasattr(layer, name)}
    for name, leaf in mark_leaves(kernel, layer.site, leaves, stacked_axes(layer)).items():
        setattr(layer, name, leaf)
