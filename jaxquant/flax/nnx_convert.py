"""From a prepared NNX model to one that holds codes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxquant.flax import finite, layers, nnx_folding
from jaxquant.flax.mark import check_left, is_mark, mark_of, mark_value
from jaxquant.flax.nnx_layers import check_leaves, layers_of
from jaxquant.flax.nnx_leaves import stacked_axes, tell_kernels
from jaxquant.flax.nnx_variables import Codes, beside, leaves_of, value_of
from jaxquant.flax.nnx_walk import KINDS, find
from jaxquant.flax.site import LayerSpec


def convert(model: nnx.Module, codes: Mapping[str, Any] | None = None) -> nnx.Module:
    """A clone of a prepared model with a QTensor where each kernel was: the same output, bit for bit.

    Args:
      model: from `prepare`, trained or calibrated; unchanged afterwards.
      codes: path of a layer → its QTensor, where that is decided elsewhere, or a Trained, for a gradient; of the spec
        that the recipe gives.  The others are quantized here.
    Returns:
      A model without learned scales and steps; codes and scales are Variables that are no Params.
    Raises:
      ValueError: the model is not prepared, or is converted; a kernel is not finite; a scale is NaN (not calibrated),
        infinite or zero; its state is of another recipe; its schedule has not started.
    """
    found = layers_of(model)
    if not found or any(layer.converted for layer in found):
        what = "converted already" if found else "not prepared"
        raise ValueError(f"convert: the model is {what}, need what prepare returned")
    for one in find(model):
        if type(one.module) in KINDS:
            check_left(one.path, one.kernel_name, value_of(getattr(one.module, one.kernel_name)), vars(one.module))
    for layer in found:
        check_leaves(layer)
        if layer.path not in (codes or {}):
            finite.check_weight("convert", layer.path, layer.kernel_name, layer.weight)
        check_constants(layer)
        check_started("convert", layer)
    clone = nnx.clone(model)
    made: dict[int, nnx.Variable] = {}
    norms = nnx_folding.norms_of(clone)
    for layer in layers_of(clone):
        norm = None if layer.handoff is None else norms[id(layer.handoff)]
        _convert(layer, made, norm, (codes or {}).get(layer.path))
    tell_kernels(clone)
    return clone


def check_constants(layer: Any) -> None:
    """Refuse scales that are zero or not finite, and offsets that are not finite, where values are known.

    Raises:
      ValueError: see above.
    """
    for name, value in leaves_of(layer).items():
        if name not in ("step", "inputs_zero_point"):
            finite.check_constant("convert", layer.path, name, value)


def check_started(function: str, layer: Any) -> None:
    """Refuse a layer that its schedule still runs in float.

    Raises:
      ValueError: it does.
    """
    if layer.site.has_step:
        finite.check_started(function, layer.path, value_of(layer.step), layer.site.start)


def _convert(
    layer: Any, made: dict[int, nnx.Variable], norm: nnx_folding.QuantBatchNorm | None, codes: Any = None
) -> None:
    site, state, stacked = layer.site, leaves_of(layer), stacked_axes(layer)
    kernel = getattr(layer, layer.kernel_name)
    layer.param_dtype = jnp.dtype(layer.dtypes.param)
    master = value_of(kernel) if norm is None else _absorb(layer, norm, stacked)
    if id(kernel) not in made:
        codes = _codes(site, master, state, stacked) if codes is None else codes
        made[id(kernel)] = beside(kernel, Codes, codes, stacked=stacked)
    constants = _inputs(site, state, stacked)
    still = layers.frozen_site(site)
    for name in (*state, *filter(is_mark, list(vars(layer)))):
        delattr(layer, name)
    for name, value in constants.items():
        setattr(layer, name, beside(kernel, Codes, value, stacked=stacked))
    setattr(layer, mark_of(still), beside(kernel, Codes, _over(mark_value, stacked, value_of(kernel)), stacked=stacked))
    setattr(layer, layer.kernel_name, made[id(kernel)])
    layer.site = still


def _absorb(layer: Any, norm: nnx_folding.QuantBatchNorm, stacked: int) -> Any:
    """The folded kernel; the layer keeps the folded bias, the norm nothing."""
    kernel, bias = nnx_folding.folded(layer.weight, value_of(layer.bias), norm, stacked)
    if norm.dtype or layer.dtype:
        layer.dtype = jnp.dtype(norm.dtype or jnp.result_type(layer.dtype, *nnx_folding.dtypes_of(norm)))
    layer.param_dtype = jnp.result_type(layer.param_dtype, *nnx_folding.dtypes_of(norm))
    layer.bias = Codes.from_metadata(bias, dict(norm.mean.get_metadata()))
    layer.handoff = norm.handoff = None
    for name in ("mean", "var", "scale", "bias"):
        delattr(norm, name)
    return kernel


def _codes(site: LayerSpec, kernel: Any, state: dict[str, Any], stacked: int) -> Any:
    learned = {name: state[name] for name in site.weight_names}
    return _over(lambda kernel, learned: layers.frozen_weight(site, kernel, learned), stacked, kernel, learned)


def _inputs(site: LayerSpec, state: dict[str, Any], stacked: int) -> dict[str, Any]:
    given = {name: state[name] for name in site.input_names if name in state}  # a table may have none
    return _over(lambda given: layers.frozen_inputs(site, given), stacked, given) if given else {}


def _over(function: Any, stacked: int, *args: Any) -> Any:
    """The function of one layer over layers stacked along leading axes, on values or on shapes."""
    for _ in range(stacked):
        function = jax.vmap(function)
    abstract = any(isinstance(v, jax.ShapeDtypeStruct) for v in jax.tree.leaves(args))
    return jax.eval_shape(function, *args) if abstract else function(*args)
