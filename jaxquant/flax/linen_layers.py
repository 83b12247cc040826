"""Linen's layers on codes: from a bound module's fields to the framework-neutral operations."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta

from jaxquant.flax import convolutions, layers
from jaxquant.flax.layers import Dtypes
from jaxquant.flax.linen_sites import Layer, check_leaves, site_of
from jaxquant.flax.names import named
from jaxquant.qtensor import QTensor


def quantized(layer: Layer, call: Callable[[], Any] | None = None) -> Any:
    """The layer's call on codes, by its master parameters or its converted ones; the float one is never called."""
    check_leaves(layer)
    try:
        return OPERATIONS[layer.kind.name](layer, layer.module)
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):
            raise
        raise type(error)(f"{named(layer.path)}: {error}") from error


def options_of(layer: Layer) -> dict[str, Any]:
    """What every operation is given."""
    return {"dtypes": layer.dtypes or own_dtypes(layer)}


def own_dtypes(layer: Layer) -> Dtypes:
    """The layer's dtype, and what its parameters promote to: their own dtypes, whatever `param_dtype` says.

    A converted kernel has codes; where `param_dtype` is not what its master had, a leaf beside it keeps that.
    """
    own = replace(layer, given=None)
    if isinstance(layer.boxed_kernel, QTensor):
        kept = own.get("kernel_dtype")
        return Dtypes(layer.module.dtype, layer.module.param_dtype if kept is None else kept.dtype)
    given = [v.dtype for v in (own.kernel, own.bias) if v is not None]
    return Dtypes(layer.module.dtype, jnp.result_type(*given))


def state_of(layer: Layer) -> dict[str, jax.Array]:
    """The leaves beside the kernel; zero points are kept as floats, so that jax.grad takes the tree."""
    names = site_of(layer).state_names
    state = {name: value for name, value in layer.state().items() if name in names}
    if "inputs_zero_point" in state:
        state["inputs_zero_point"] = state["inputs_zero_point"].astype(jnp.int32)
    return state


def _linear(layer: Layer, module: nn.Dense) -> Any:
    return layers.linear(*_operands(layer), **options_of(layer))


def _general(layer: Layer, module: nn.DenseGeneral) -> Any:
    rank = jnp.ndim(layer.x)
    axes = {"axis": _ascending(module.axis, rank), "batch_axis": _ascending(module.batch_dims, rank)}
    return layers.general(*_operands(layer), **axes, **options_of(layer))


def _einsum(layer: Layer, module: nn.Einsum) -> Any:
    site, kernel, bias, state, x = _operands(layer)
    subscripts = layer.subscripts
    if bias is not None:
        bias = bias.reshape(bias_shape(subscripts, x.ndim, kernel.shape))
    return layers.einsum(site, kernel, bias, state, x, subscripts=subscripts, **options_of(layer))


def _conv(layer: Layer, module: nn.Conv) -> Any:
    names = ("strides", "padding", "input_dilation", "kernel_dilation", "feature_group_count")
    return convolutions.conv(*_operands(layer), **{n: getattr(module, n) for n in names}, **options_of(layer))


def _conv_transpose(layer: Layer, module: nn.ConvTranspose) -> Any:
    names = ("strides", "padding", "kernel_dilation", "transpose_kernel")
    return convolutions.conv_transpose(*_operands(layer), **{n: getattr(module, n) for n in names}, **options_of(layer))


def _embed(layer: Layer, module: nn.Embed) -> Any:
    site, table, _, state, x = _operands(layer)
    if layer.method == "attend":
        return layers.attend(site, table, state, x, **options_of(layer))
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError("Input type must be an integer or unsigned integer.")  # Flax's own words
    ids = jnp.zeros_like(x) if module.num_embeddings == 1 else x  # Flax looks every id up in a table of one row
    return layers.embed(site, table, state, ids, **options_of(layer))


OPERATIONS = {
    "linear": _linear, "general": _general, "einsum": _einsum, "conv": _conv, "conv_transpose": _conv_transpose,
    "embed": _embed,
}  # fmt: skip


def _operands(layer: Layer) -> tuple:
    return site_of(layer), layer.kernel, layer.bias, state_of(layer), jnp.asarray(layer.x)


def bias_shape(subscripts: str, rank: int, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The bias of nn.Einsum as it broadcasts to the result: the kernel's sizes along the letters that it has."""
    left, _, out = subscripts.partition("->")
    term, _, letters = left.partition(",")
    out = out.replace("...", "?" * (rank - len(term.replace("...", ""))))
    return tuple(kernel[letters.index(c)] if c in letters else 1 for c in out)


def boxed_like(box: Any, leaf: jax.Array) -> Any:
    """A leaf that belongs to a kernel in a box of the kernel's kind: named along the axes that it has in full.

    Args:
      box: the kernel's leaf; not boxed: the leaf stays as it is.
      leaf: of the kernel's rank (a scale a channel), or another (a scalar): then no axis is named.
    """
    if not isinstance(box, meta.AxisMetadata):
        return leaf
    if not isinstance(box, meta.Partitioned):
        return box.replace_boxed(leaf)
    shape = box.value.shape
    same = leaf.ndim == len(shape)
    names = tuple(n if same and leaf.shape[i] == shape[i] else None for i, n in enumerate(box.names[: leaf.ndim]))
    return box.replace(value=leaf, names=names)


def boxed_codes(box: Any, weight: QTensor) -> QTensor:
    """The QTensor of a boxed kernel: its arrays in boxes of their own, so that Flax's tools find them."""
    if not isinstance(box, meta.AxisMetadata):
        return weight
    zero = None if weight.zero_point is None else boxed_like(box, weight.zero_point)
    return QTensor(boxed_like(box, weight.codes), boxed_like(box, weight.scale), zero, weight.spec)


def _ascending(axes: Any, rank: int) -> tuple[int, ...]:
    """Axes in the order in which nn.DenseGeneral takes them, whatever order they are named in."""
    return tuple(sorted(axis % rank for axis in ((axes,) if isinstance(axes, int) else axes)))
