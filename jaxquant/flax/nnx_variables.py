"""The Variables that prepared and converted NNX models hold."""

from collections.abc import Iterable
from typing import Any

import jax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

AXES = ("out_sharding", "sharding_names", "sharding")
#: In a kernel's metadata: what stands beside it.  nnx.update takes metadata over, and passes by what a state lacks.
COMPANIONS = "quantized_beside"


class Scale(nnx.Param):
    """A learned scale, offset or bound: trained like a Param, in an optimizer group of its own (`labels`)."""


class Codes(nnx.Variable):
    """A converted kernel (a QTensor) or a static scale: no Param, so gradients and optimizers pass it by."""


class Observed(nnx.Variable):
    """What an observer has seen."""


class Step(nnx.Variable):
    """The steps that a schedule counts, float32."""


class Explained(nnx.Variable):
    """What `explain` has added up in one layer."""


class Seen(nnx.Variable):
    """The largest |input| of each channel of one layer."""


def value_of(variable: nnx.Variable | None) -> Any:
    """The value, an array or a QTensor; `.value` is deprecated in later versions of Flax and all there is in 0.12.0."""
    if variable is None:
        return None
    return variable.get_value() if hasattr(type(variable), "get_value") else variable.value


def leaves_of(layer: Any) -> dict[str, Any]:
    """The leaves of a quantized layer beside kernel and bias, by the names of its site."""
    return {name: value_of(getattr(layer, name)) for name in layer.site.state_names if hasattr(layer, name)}


def set_companions(kernel: nnx.Variable, names: Iterable[str]) -> None:
    """Note in a kernel which leaves belong to it, so that the kernel of another recipe's state is known by it."""
    kernel.set_metadata({**kernel.get_metadata(), COMPANIONS: tuple(sorted(names))})


def companions(kernel: nnx.Variable) -> tuple[str, ...]:
    """The leaves that belong to a kernel, none where it was never prepared."""
    return kernel.get_metadata().get(COMPANIONS, ())


def set_value(variable: nnx.Variable, value: Any) -> None:
    """Put a value in place."""
    if hasattr(type(variable), "set_value"):
        variable.set_value(value)
    else:
        variable.value = value


def beside(kernel: nnx.Variable, kind: type[nnx.Variable], value: Any, *, stacked: int = 0) -> nnx.Variable:
    """A Variable beside a kernel, with its metadata; names of mesh axes stay where it has the kernel's size.

    Args:
      kernel: the Variable whose metadata is inherited.
      kind: the class of the new one.
      value: an array or a QTensor.
      stacked: how many leading axes of the kernel count layers.
    """
    metadata = {key: entry for key, entry in kernel.get_metadata().items() if key != COMPANIONS}
    shape = tuple(value_of(kernel).shape)
    shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(value)]
    for key in AXES:
        if metadata.get(key) is not None:
            kept = [_kept(metadata[key], shape, own, stacked) for own in shapes]
            metadata[key] = kept[0]
            if any(other != kept[0] for other in kept):
                del metadata[key]  # codes and scales differ: the arrays themselves say how they are sharded
    return kind.from_metadata(value, metadata)


def _kept(names: Any, shape: tuple[int, ...], own: tuple[int, ...], stacked: int) -> Any:
    """The names of a value of shape `own`, whose axes are the kernel's or, per tensor, only the stacked ones."""
    if isinstance(names, NamedSharding):
        return NamedSharding(names.mesh, _kept(names.spec, shape, own, stacked))
    every = (*names, *[None] * (len(shape) - len(names)))
    if len(own) != len(shape):
        kept = every[: min(stacked, len(own))]
    else:
        kept = tuple(name if mine == size else None for name, mine, size in zip(every, own, shape, strict=True))
    return PartitionSpec(*kept) if isinstance(names, PartitionSpec) else kept
