"""A batch norm folded into the NNX layer before it.

The layer hands its input over to the norm, which runs the layer with the folded kernel: so the norm's own call decides
between running and batch statistics.  What the layer returns itself is NaN, so that no other use of it goes unseen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxquant._inputs import of_rank
from jaxquant.flax import watch
from jaxquant.flax.layers import Dtypes
from jaxquant.flax.names import named
from jaxquant.flax.nnx_layers import operate
from jaxquant.flax.nnx_variables import value_of
from jaxquant.qat import folding

Thunk = Callable[[], jax.Array]


@dataclass(eq=False)
class Handoff:
    """What a layer leaves for the norm behind it; one object in both, compared by identity.

    Attributes:
      output: the very array that the layer returned.
      layer: the layer, None where the norm is to run in float.
      inputs: the layer's input.
      plain: the float layer on it.
    """

    output: Any = None
    layer: Any = None
    inputs: Any = None
    plain: Any = None

    def leave(self, layer: Any, inputs: jax.Array, plain: Thunk) -> jax.Array:
        """Called by the layer: its NaN for an output, or the float output while inputs are observed."""
        if layer.mode == "observe":
            self.layer, self.output = None, watch.observe(layer, inputs, plain, plain)
            return self.output
        like = jax.eval_shape(plain)
        self.layer, self.inputs, self.plain = layer, inputs, plain
        self.output = jnp.full(like.shape, jnp.nan, like.dtype)
        return self.output

    def take(self, x: Any) -> "Handoff | None":
        """Called by the norm: what was left with the array it is given, once."""
        if self.output is None or self.output is not x:
            return None
        found = Handoff(self.output, self.layer, self.inputs, self.plain)
        self.output = self.layer = self.inputs = self.plain = None
        return found


class QuantBatchNorm(nnx.BatchNorm):
    """nnx.BatchNorm that runs the layer before it with folded weights; converted, it returns its input.

    Attributes:
      layer_path: the layer that it is folded into.
      handoff: shared with that layer; None once converted.
      freeze: the first step that uses running statistics in training too; None: never.
    """

    layer_path: str
    handoff: Handoff | None
    freeze: int | None

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, *, mask: Any = None) -> jax.Array:
        """As nnx.BatchNorm of the layer's output.

        Raises:
          ValueError: x is not the layer's own output, or a converted model is run in training mode.
        """
        running = self.use_running_average if use_running_average is None else use_running_average
        if self.handoff is None:
            if not running:
                raise ValueError(
                    f"batch norm folded into {self.layer_path!r}: use_running_average is {running!r}, need True (the "
                    "model is converted, its statistics are constants)"
                )
            return x
        given = self.handoff.take(x)
        if given is None:
            raise ValueError(
                f"batch norm folded into {self.layer_path!r}: the input is not that layer's own output, need "
                "norm(layer(x)), nothing between them, in one trace"
            )
        if given.layer is None:
            return nnx.BatchNorm.__call__(self, x, use_running_average, mask=mask)
        return _running(self, given) if running else _training(self, given, mask)


def _running(norm: QuantBatchNorm, given: Handoff) -> jax.Array:
    layer = given.layer
    kernel, bias = folded(layer.weight, value_of(layer.bias), norm)

    def quantized() -> jax.Array:
        return operate(layer, kernel, bias, given.inputs, _dtypes(norm, layer, given.inputs))

    def plain() -> jax.Array:
        return nnx.BatchNorm.__call__(norm, given.plain(), True)

    if layer.mode == "explain":
        return watch.explain(layer, given.inputs, quantized, plain, kernel=kernel)
    return quantized()


def _training(norm: QuantBatchNorm, given: Handoff, mask: Any) -> jax.Array:
    """The layer by the folded codes, unfolded again in float, then the norm by the batch."""
    layer, before = given.layer, (norm.mean[...], norm.var[...])
    still = _running(norm, given) if norm.freeze is not None else None
    kernel, _ = folded(layer.weight, None, norm)
    y = operate(layer, kernel, None, given.inputs, _dtypes(norm, layer, given.inputs))
    factor = folding.factor_of(norm.var[...], value_of(norm.scale), epsilon=norm.epsilon)
    y = y / of_rank(y.ndim, jnp.where(factor == 0, 1, factor).astype(y.dtype))
    y = y if layer.bias is None else y + of_rank(y.ndim, layer.bias[...].astype(y.dtype))
    y = nnx.BatchNorm.__call__(norm, y, False, mask=mask)
    if still is None:
        return y
    frozen = value_of(layer.step) >= norm.freeze
    for variable, old in zip((norm.mean, norm.var), before, strict=True):
        variable[...] = jnp.where(frozen, old, variable[...])
    return jnp.where(frozen, still, y)


def _dtypes(norm: QuantBatchNorm, layer: Any, x: jax.Array) -> Dtypes:
    """Those of the norm's result."""
    own = norm.dtype or jnp.result_type(layer.dtypes.result(x), *dtypes_of(norm))
    return Dtypes(jnp.dtype(own), layer.dtypes.param)


def dtypes_of(norm: nnx.BatchNorm) -> list[Any]:
    """The dtypes that a norm's result is promoted with, those of its arrays."""
    return [v.dtype for v in map(value_of, (norm.mean, norm.var, norm.scale, norm.bias)) if v is not None]


def folded(kernel: Any, bias: Any, norm: nnx.BatchNorm, stacked: int = 0) -> tuple[Any, Any]:
    """The folded kernel and bias, of layers stacked along leading axes too; on values or on shapes (LAY-14)."""
    norms = tuple(value_of(v) for v in (norm.mean, norm.var, norm.scale, norm.bias))
    args = (kernel, bias, *norms)

    def one(*args: Any) -> tuple[jax.Array, jax.Array]:
        return folding.fold(*args, epsilon=norm.epsilon)

    for _ in range(stacked):
        one = jax.vmap(one)
    abstract = any(isinstance(v, jax.ShapeDtypeStruct) for v in args)
    return jax.eval_shape(one, *args) if abstract else one(*args)


def attach(layer: Any, path: str, norm: nnx.BatchNorm, freeze: int | None) -> None:
    """Tie a layer and the norm behind it; both change in place."""
    norm.handoff = layer.handoff = Handoff()
    norm.layer_path, norm.freeze = path, freeze
    object.__setattr__(norm, "__class__", QuantBatchNorm)


def norms_of(model: nnx.Module) -> dict[int, QuantBatchNorm]:
    """The folded norms of a prepared model by the identity of their handoff."""
    return {id(m.handoff): m for _, m in nnx.iter_graph(model) if isinstance(m, QuantBatchNorm)}


def check_norm(path: str, kind: str, channels: int, name: str, norm: Any) -> None:
    """Refuse a norm that cannot be folded.

    Raises:
      ValueError: no batch norm of that name, hooks or axes of its own, or another kind of layer.
    """
    why = None
    if type(norm) is not nnx.BatchNorm:
        why = f"is {type(norm).__name__ if norm is not None else 'not there'}, need the nnx.BatchNorm beside the layer"
    elif norm.axis not in (-1, (-1,)) or norm.num_features != channels:
        why = (
            f"has axis {norm.axis} and {norm.num_features} features, need axis -1 and {channels} (the layer's channels)"
        )
    elif kind not in ("linear", "conv", "conv_transpose"):
        why = f"stands behind a layer of kind {kind}, need linear, conv or conv_transpose"
    if why:
        raise ValueError(f"{named(path)}: fold={name!r} {why}")
