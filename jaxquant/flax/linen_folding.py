"""A batch norm folded into the Linen layer before it.

The layer hands its call over to the norm, which runs it with the folded kernel: so the norm's own call decides between
running and batch statistics.  What the layer returns itself is NaN, so that no other use of it goes unseen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta

from jaxquant._inputs import of_rank
from jaxquant.flax.layers import Dtypes
from jaxquant.flax.linen_layers import own_dtypes
from jaxquant.flax.linen_sites import Layer
from jaxquant.flax.names import named
from jaxquant.qat import folding
from jaxquant.qtensor import QTensor

Act = Callable[[Layer, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Handoff:
    """What a layer leaves for the norm behind it.

    Attributes:
      output: the very array that the layer returned.
      layer: the call.
      plain: the float layer's output (computed only where it is used).
    """

    output: Any
    layer: Layer
    plain: Any


@dataclass
class Handoffs:
    """What waits for norms, by their paths.

    Attributes:
      trains: whether norms may run on batch statistics in this kind of run.
      freeze: the first step that uses running statistics in training too; None: never.
    """

    trains: bool = False
    freeze: int | None = None
    waiting: dict[str, Handoff] = field(default_factory=dict)

    def leave(self, layer: Layer, plain: jax.Array) -> jax.Array:
        """Called for the layer with an output of its shape; the result shows every use but the norm's.

        Raises:
          ValueError: an earlier output still waits for the norm, this layer's or another's.
        """
        norm = norm_path(layer)
        if norm in self.waiting and self.waiting[norm].layer.path != layer.path:
            self.check()
        if norm in self.waiting:
            raise ValueError(
                f"{named(layer.path)}: called again before the batch norm {norm!r} that is folded into it, need "
                "norm(layer(x)) at once (the first output would be lost)"
            )
        output = jnp.full(plain.shape, jnp.nan, plain.dtype)
        self.waiting[norm] = Handoff(output, layer, plain)
        return output

    def take(self, norm: nn.Module, x: Any) -> Handoff | None:
        """Called for a norm: what was left with the array it is given.

        Raises:
          ValueError: something else than the layer's own output.
        """
        path = "/".join(norm.path)
        found = self.waiting.pop(path, None)
        if found is not None and (found.output is not x or norm.axis not in (-1, (-1,))):
            raise ValueError(
                f"batch norm {path!r}, folded into {found.layer.path!r}: need norm(layer(x)) with axis=-1, nothing "
                "between them, in one trace"
            )
        return found

    def check(self) -> None:
        """Refuse a layer whose norm was never called.

        Raises:
          ValueError: see above.
        """
        for path, left in self.waiting.items():
            raise ValueError(
                f"{named(left.layer.path)}: fold names the batch norm {path!r}, which was not called behind it, need "
                "the name of the norm beside the layer, and norm(layer(x)) in one call (what a layer left is not kept)"
            )

    def run(self, act: Act, given: Handoff, norm: nn.Module, call: Callable, args: tuple, kwargs: dict) -> Any:
        """The norm's call: the layer with folded weights, or in training the layer and then the norm.

        Args:
          act: what becomes of the layer.
          given: what it left.
          norm: bound.
          call: the norm's own operation.
          args: of its call; the first is the layer's output.
          kwargs: likewise.
        """
        asked = args[1] if len(args) > 1 else kwargs.get("use_running_average")
        running = norm.use_running_average if asked is None else asked
        converted = isinstance(given.layer.boxed_kernel, QTensor)
        if converted and not running and self.trains:
            raise ValueError(
                f"batch norm {'/'.join(norm.path)!r}: use_running_average is {running!r}, need True (the model is "
                "converted, its statistics are constants)"
            )
        layer = replace(given.layer, dtypes=_dtypes(given.layer, norm))
        if not converted:
            layer = replace(layer, given=_folded(layer.kernel, layer.bias, norm))
        if running or converted or not self.trains:
            options = {} if norm.use_running_average is not None else {"use_running_average": True}
            return act(layer, lambda: call(given.plain, **options))
        return self._training(act, layer, norm, lambda y: call(y, *args[1:], **kwargs))

    def _training(self, act: Act, layer: Layer, norm: nn.Module, call: Callable) -> Any:
        """The layer by the folded codes, unfolded again in float, then the norm by the batch."""
        before = _statistics(norm)
        y = act(replace(layer, given=(layer.given[0], None)), call)
        factor = folding.factor_of(before[1], _param(norm, "scale"), epsilon=norm.epsilon)
        y = y / of_rank(y.ndim, jnp.where(factor == 0, 1, factor).astype(y.dtype))
        own = replace(layer, given=None).bias
        y = call(y if own is None else y + of_rank(y.ndim, own.astype(y.dtype)))
        if self.freeze is None:
            return y
        frozen = layer.get("step") >= self.freeze
        for name, old in zip(("mean", "var"), before, strict=True):
            if norm.is_mutable_collection("batch_stats"):
                new = norm.get_variable("batch_stats", name)
                norm.put_variable("batch_stats", name, jnp.where(frozen, old, new))
        return jnp.where(frozen, act(layer, call), y)


def norm_path(layer: Layer) -> str:
    """The path of the norm beside a layer."""
    return "/".join((*layer.module.path[:-1], layer.fold))


def _folded(kernel: Any, bias: Any, norm: nn.BatchNorm) -> tuple[jax.Array, jax.Array]:
    """LAY-14."""
    mean, var = _statistics(norm)
    return folding.fold(kernel, bias, mean, var, _param(norm, "scale"), _param(norm, "bias"), epsilon=norm.epsilon)


def _statistics(norm: nn.BatchNorm) -> tuple[jax.Array, jax.Array]:
    found = tuple(meta.unbox(norm.get_variable("batch_stats", name)) for name in ("mean", "var"))
    if found[0] is None:
        raise ValueError(
            f"batch norm {'/'.join(norm.path)!r}: no running statistics, need collections={{'batch_stats': ...}} (they "
            "are folded into the layer before it)"
        )
    return found


def _param(norm: nn.BatchNorm, name: str) -> Any:
    return meta.unbox(norm.get_variable("params", name))


def _dtypes(layer: Layer, norm: nn.BatchNorm) -> Dtypes:
    """Those of the norm's result."""
    own = own_dtypes(layer)
    leaves = [leaf.dtype for leaf in (_param(norm, "scale"), _param(norm, "bias")) if leaf is not None]
    cast = leaves if norm.force_float32_reductions else [norm.param_dtype] * len(leaves)
    return Dtypes(jnp.dtype(norm.dtype or jnp.result_type(own.result(jnp.asarray(layer.x)), *cast)), own.param)
