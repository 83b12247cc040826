"""The largest |input| of each channel of each layer of an NNX model, while it runs in float."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxquant.flax.nnx_layers import layers_of
from jaxquant.flax.nnx_leaves import stacked_axes
from jaxquant.flax.nnx_variables import Seen, value_of
from jaxquant.flax.site import kernel_letters_summed
from jaxquant.flax.watch import Reached


def magnitudes(model: nnx.Module, args: tuple[Any, ...]) -> tuple[dict[str, jax.Array], dict[str, str]]:
    """One call of a model; where outliers lie.

    Args:
      model: from `prepare`, not converted; unchanged afterwards.  It runs in float, whatever the recipe.
      args: of the model.
    Returns:
      (path → float32 [channels], the largest of layers that are stacked, of every layer that was given inputs to
      multiply; path → why, of every other layer that was given some and cannot do what the recipe says).
    """
    clone, reached = nnx.clone(model), Reached()
    layers = layers_of(clone)
    for layer in layers:
        lead = tuple(layer.weight.shape[: stacked_axes(layer)])
        layer.seen = Seen(jnp.zeros((*lead, _channels(layer)), jnp.float32))
        layer.mode, layer.reached = "magnitudes", reached
    clone(*args)
    seen = {layer.path: value_of(layer.seen) for layer in layers if layer.path in reached.fed}
    return {path: v.reshape(-1, v.shape[-1]).max(axis=0) for path, v in seen.items()}, reached.refused


def _channels(layer: Any) -> int:
    if isinstance(layer, nnx.Einsum):
        return math.prod(layer.kernel_shape[axis] for axis in kernel_letters_summed(layer.einsum_str))
    features = layer.features if isinstance(layer, nnx.Embed) else layer.in_features
    return features if isinstance(features, int) else math.prod(features)
