"""The largest |input| of each channel of each layer of a Linen model, while it runs in float."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxquant.flax.channels import channel_axes, largest
from jaxquant.flax.linen_acts import shared
from jaxquant.flax.linen_quantized import Quantized
from jaxquant.flax.linen_sites import Layer, multiplies
from jaxquant.flax.linen_visit import Call, grown

#: What stands in the parameters only while a run lasts, before the kernel's name.
SEEN = "magnitudes beside "


def magnitudes(qmodel: Quantized, variables: Mapping[str, Any], args: tuple[Any, ...]) -> dict[tuple, jax.Array]:
    """One call of a model; where outliers lie.

    Args:
      qmodel: the model with a recipe that picks the layers.  It runs in float, whatever else the recipe says.
      variables: "params" and the other collections, not converted.
      args: of the model.
    Returns:
      path of a kernel → float32 [channels], of every layer that was given inputs to multiply; the largest of layers
      that are stacked.
    Raises:
      NoPlace: a layer stands in a loop that shares its parameters.
    """
    found = grown(qmodel.model, qmodel.interceptor(_noted, in_float=True), variables, (Call(None, args),))
    named = {(*path[:-1], path[-1].removeprefix(SEEN)): v for path, v in found.items()}
    return {path: v.reshape(-1, v.shape[-1]).max(axis=0) for path, v in named.items()}


def _noted(layer: Layer, call: Any) -> Any:
    if multiplies(layer):
        x, name = jnp.asarray(layer.x), SEEN + layer.kind.kernel
        axis = layer.module.axis if layer.kind.name == "general" else None
        axes = channel_axes(x.ndim, axis, layer.subscripts if layer.kind.name == "einsum" else None)
        now = largest(x, axes)[None]  # two axes: a loop may stack its parameters along either
        before = layer.module.get_variable("params", name)
        layer.put(name, shared(jnp.maximum)(jnp.zeros_like(now) if before is None else before, layer.kernel, now))
    return call()
