"""What a quantized NNX layer does besides running: note that it was reached, watch its inputs, measure its error."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxquant.flax import layers, measures, observers
from jaxquant.flax.channels import channel_axes, largest
from jaxquant.flax.nnx_variables import leaves_of, set_value, value_of
from jaxquant.flax.trial import refusal

Thunk = Callable[[], jax.Array]


@dataclass(eq=False)
class Reached:
    """The paths of the layers that a trace has called; compared by identity, so that no trace is taken from a cache.

    Attributes:
      paths: filled while the model runs.
      fed: of those that were given inputs to multiply; a look-up in a table is given ids.  On codes tables alone are
        noted, of which nothing else tells it.
      refused: path → why a layer that was given some cannot do what its site says.
    """

    paths: set[str] = field(default_factory=set)
    fed: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


def observe(layer: Any, x: jax.Array, quantized: Thunk, plain: Thunk) -> jax.Array:
    """The float layer; a static one notes its input's statistics."""
    observed = getattr(layer, "observed", None)
    if observed is not None and (not layer.is_table or jnp.issubdtype(x.dtype, jnp.floating)):
        seen = layers.real(x, {"dtype": layer.dtypes.result(x)})
        set_value(observed, observers.update(value_of(observed), seen))
    return plain()


def explain(layer: Any, x: jax.Array, quantized: Thunk, plain: Thunk, *, kernel: Any = None) -> jax.Array:
    """The layer on codes, with its error against the float layer on the same input; `kernel`: the folded one."""
    y = quantized()
    sums = measures.measure(layer.site, layer.weight if kernel is None else kernel, leaves_of(layer), x, y, plain())
    set_value(layer.explained, measures.add(value_of(layer.explained), sums))
    return y


def magnitudes(layer: Any, x: jax.Array, quantized: Thunk, plain: Thunk) -> jax.Array:
    """The float layer; it notes the largest |input| of each of its channels."""
    if not layer.is_table or jnp.issubdtype(x.dtype, jnp.floating):
        if why := refusal(quantized):
            layer.reached.refused[layer.path] = why
            return plain()
        layer.reached.fed.add(layer.path)
        axes = channel_axes(x.ndim, getattr(layer, "axis", None), getattr(layer, "einsum_str", None))
        set_value(layer.seen, jnp.maximum(value_of(layer.seen), largest(x, axes)))
    return plain()


MODES = {"observe": observe, "explain": explain, "magnitudes": magnitudes}
