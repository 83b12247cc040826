"""A target is a model as `decide` sees it: named weights, a compiled forward pass, and a place to put codes.

Three kinds open here: a folder of type bert, an NNX module, a Linen module with its variables.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxquant.decide.layouts import Layout
from jaxquant.decide.on_codes import OnCodes
from jaxquant.store import DTYPES
from refquant.files import TensorInfo


@dataclass(frozen=True)
class Source:
    """Where a model came from.

    Attributes:
      name: what the reader calls it.
      path: its file, None for a model made in Python.
      metadata: the file's own metadata, kept in what is saved.
    """

    name: str
    path: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


class Target(Protocol):
    """What the ladder needs of a model; weights have the layout and the names of the saved file."""

    source: Source
    infos: tuple[TensorInfo, ...]  # all that is saved: weights, and the state that a run needs (batch statistics)

    @property
    def names(self) -> frozenset[str]:
        """The weights that the forward pass reads; a file may hold more."""
        ...

    def layouts(self, sample: Callable[[], tuple[Any, ...]]) -> Mapping[str, Layout]:
        """What the module tree knows of tensors; `sample` gives inputs of a run where the tree needs one."""
        ...

    def tensor(self, name: str) -> np.ndarray:
        """One weight as it lies in the file."""
        ...

    def forward(self, replaced: Mapping[str, Any]) -> Callable[..., Any]:
        """The float forward pass with some weights replaced by other float arrays; compiled once for all."""
        ...

    def forward_quantized(self, quantized: Mapping[str, Any], on: OnCodes) -> Callable[..., Any]:
        """The forward pass with codes in the layers that can have them, other weights dequantized."""
        ...

    def input_magnitudes(self) -> Callable[..., dict[str, Any]]:
        """A compiled function from the model's inputs to each layer's largest |input| by channel."""
        ...

    @property
    def state(self) -> Any:
        """Every array that the forward pass reads, a pytree: the argument of `training_pass`."""
        ...

    def training_pass(
        self, state: Any, weights: Mapping[str, Any], args: tuple[Any, ...], on: OnCodes | None = None
    ) -> Any:
        """The forward pass as a function of arrays alone, for jax.grad.

        Args:
          state: as the property gives it.
          weights: name → float array or Trained (file layout), instead of what the state has.
          args: the model's inputs.
          on: which layers run on codes; None: every weight counts as the floats that it stands for.
        """
        ...

    def replaced(self, tensors: Mapping[str, np.ndarray]) -> "Target":
        """The same model with other weights (file layout); this one stays as it is."""
        ...


def saveable(value: Any) -> bool:
    """Whether a leaf of a model's state can lie in a file: an array that is no random key."""
    return hasattr(value, "shape") and str(getattr(value, "dtype", "")) in DTYPES


def in_order(found: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The same in the model's order: a compiled function sorts names."""
    return {name: found[name] for name in names if name in found}


def infos_of(tensors: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
    """TensorInfos for arrays that lie in no file yet, in order."""
    made, start = [], 0
    for name, value in tensors.items():
        end = start + value.size * value.dtype.itemsize
        made.append(TensorInfo(name, DTYPES.get(str(value.dtype), "U8"), tuple(value.shape), start, end))
        start = end
    return tuple(made)
