"""An NNX module as a target; a folder of type bert opens as one, with the names and layout of its file."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxquant.decide.layouts import NO_KERNEL, Layout
from jaxquant.decide.on_codes import OnCodes, laid_out, real_values, recipe_of
from jaxquant.decide.targets import Source, in_order, infos_of, saveable
from jaxquant.decide.targets.nnx_kernels import Held, held, layout_of, module_paths, on_trial, tried
from jaxquant.flax import nnx_api
from jaxquant.flax.nnx_magnitudes import magnitudes
from jaxquant.qtensor import QTensor, dequantize_tensor
from jaxquant.store_read import array
from refquant.files import TensorInfo, read_header

Keys = tuple[str | int, ...]
PASSING = (nnx.RngState, nnx.Cache, nnx.Intermediate)  # of one run or one training, no part of what a file keeps


class NnxTarget:
    """Weights by name, one compiled forward pass that takes them as arguments.

    Attributes:
      source: where the model came from.
      infos: its weights in saved order.
    """

    def __init__(
        self,
        model: nnx.Module,
        source: Source,
        *,
        names: Mapping[str, tuple[Keys, bool]] | None = None,
        infos: tuple[TensorInfo, ...] | None = None,
    ):
        """Takes a copy of the model, in evaluation mode.

        Args:
          model: any NNX module; it is never changed.
          source: where it came from.
          names: saved name → (path of the parameter, whether the file holds its transpose); None: dotted paths.
          infos: all tensors of the source file; None: the parameters and the other state that a run needs.
        """
        self.model, self.source = nnx.clone(model), source
        self.model.eval()  # dropout off, batch norm by its running averages
        self._graph, self._params, self._rest = nnx.split(self.model, nnx.Param, ...)
        flat = dict(nnx.to_flat_state(self._params))
        self._names = dict(names or {".".join(map(str, path)): (tuple(path), False) for path in flat})
        self._kept = {} if infos else _kept(self._rest)
        self.infos = infos or infos_of({n: flat[path][...] for n, (path, _) in self._names.items()} | self._kept)
        self._flat, self._own = flat, {}

    @property
    def names(self) -> frozenset[str]:
        """The weights that the forward pass reads; a file may hold more."""
        return frozenset(self._names)

    @cached_property
    def _places(self) -> dict[str, list[Held]]:
        return held(self.model, {"/".join(map(str, path)): name for name, (path, _) in self._names.items()})

    @cached_property
    def _layouts(self) -> dict[str, Layout]:
        return {name: layout_of(places) for name, places in self._places.items()}

    def layouts(self, sample: Callable[[], tuple[Any, ...]]) -> dict[str, Layout]:
        """What the module tree knows of tensors, in the file's axes."""
        trial = on_trial(self.model, self._layouts, self._places)
        found = tried(trial, self._layouts, self._places, sample())
        turned = {n: found[n] for n in found if self._turned(n)}
        turned = {n: replace(one, summed=tuple(1 - axis for axis in one.summed)) for n, one in turned.items()}
        return found | turned | dict.fromkeys(self._kept, NO_KERNEL)

    @cached_property
    def _header(self) -> Any:
        return read_header(self.source.path) if self.source.path else None

    def tensor(self, name: str) -> np.ndarray:
        """One weight as it lies in the file."""
        if name in self._own:
            return self._own[name]
        if self._header is not None:
            return array(self._header, name)
        if name in self._kept:
            return np.asarray(self._kept[name])
        return np.asarray(self._flat[self._names[name][0]][...])

    @cached_property
    def _run(self) -> Callable[..., Any]:
        graph = self._graph
        return jax.jit(lambda params, rest, *inputs: nnx.merge(graph, params, rest)(*inputs))

    def forward(self, replaced: Mapping[str, Any]) -> Callable[..., Any]:
        """The float forward pass with some weights replaced (file layout); compiled once for all of them."""
        params = self._with(replaced)
        return lambda *inputs: self._run(params, self._rest, *inputs)

    def forward_quantized(self, quantized: Mapping[str, QTensor], on: OnCodes) -> Callable[..., Any]:
        """The forward pass with codes in the layers that can have them, other weights dequantized."""
        floats = {name: dequantize_tensor(q) for name, q in quantized.items() if name not in on.layers}
        graph, state = nnx.split(self._on_codes(self._merged(floats, self._params, self._rest), quantized, on))
        run = jax.jit(lambda state, *args: nnx.merge(graph, state)(*args))
        return lambda *args: run(state, *args)

    def input_magnitudes(self) -> Callable[..., dict[str, Any]]:
        """A compiled function: the model's inputs → {weight name: float32 [channels], largest |input| of each}."""
        trial = on_trial(self.model, self._layouts, self._places)
        if trial is None:
            return lambda *inputs: {}
        graph, state = nnx.split(trial)
        names = {one.entry.path: name for name, places in self._places.items() for one in places if one.is_kernel}

        @jax.jit
        def run(state: nnx.State, *inputs: Any) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for path, seen in magnitudes(nnx.merge(graph, state), inputs)[0].items():
                found[names[path]] = jnp.maximum(found.get(names[path], 0), seen)  # two layers may share a kernel
            return found

        order = [name for path in self._flat for name, (own, _) in self._names.items() if own == tuple(path)]
        return lambda *inputs: in_order(run(state, *inputs), order)

    @property
    def state(self) -> Any:
        """Parameters and all other variables."""
        return self._params, self._rest

    def training_pass(
        self, state: Any, weights: Mapping[str, Any], args: tuple[Any, ...], on: OnCodes | None = None
    ) -> Any:
        """The forward pass as a function of arrays; a Trained weight counts as its codes do."""
        layers = on.layers if on else ()
        model = self._merged({n: real_values(w) for n, w in weights.items() if n not in layers}, *state)
        return (self._on_codes(model, weights, on) if on else model)(*args)

    def replaced(self, tensors: Mapping[str, np.ndarray]) -> "NnxTarget":
        """The same model with other weights; this one stays as it is."""
        other = copy.copy(self)
        other._own = {**self._own, **tensors}
        other._params = self._with(tensors)
        other._flat = dict(nnx.to_flat_state(other._params))
        other._rest = _with_kept(self._rest, {name: tensors[name] for name in self._kept if name in tensors})
        other._kept = {name: tensors.get(name, value) for name, value in self._kept.items()}
        other.model = nnx.merge(self._graph, other._params, other._rest)
        return other

    def _with(self, arrays: Mapping[str, Any], params: nnx.State | None = None) -> nnx.State:
        flat = self._flat if params is None else dict(nnx.to_flat_state(params))
        changed = {self._names[n][0]: self._param(n, v) for n, v in arrays.items() if n in self._names}
        return nnx.from_flat_state({**flat, **changed})

    def _param(self, name: str, value: Any) -> nnx.Param:
        array, own = jnp.asarray(value), self._flat[self._names[name][0]][...]
        return nnx.Param((array.T if self._turned(name) else array).astype(own.dtype))

    def _merged(self, floats: Mapping[str, Any], params: nnx.State, rest: nnx.State) -> nnx.Module:
        return nnx.merge(self._graph, self._with(floats, params), rest)

    def _on_codes(self, model: nnx.Module, weights: Mapping[str, Any], on: OnCodes) -> nnx.Module:
        """The model with codes, or weights in training, where kernels were."""
        if not on.layers:
            return model
        places = {name: module_paths(self._places[name]) for name in on.layers}
        turned = {name for name in on.layers if self._turned(name)}
        prepared, _ = nnx_api.prepare(model, recipe_of(places, on, turned=turned))
        codes = {n: laid_out(weights[n], spec, turned=n in turned) for n, spec in on.layers.items()}
        return nnx_api.convert(prepared, {path: codes[name] for name in codes for path in places[name]})

    def _turned(self, name: str) -> bool:
        """Whether the file holds the transpose of a parameter."""
        return self._names[name][1]


def _kept(rest: nnx.State) -> dict[str, Any]:
    """The state beside the parameters that a file needs too, such as batch statistics, by dotted path."""
    found = {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(rest) if not isinstance(v, PASSING)}
    return {name: value for name, value in found.items() if saveable(value)}


def _with_kept(rest: nnx.State, changed: Mapping[str, Any]) -> nnx.State:
    """The state with some of what a file keeps replaced."""
    flat = dict(nnx.to_flat_state(rest))
    for path in [path for path in flat if ".".join(map(str, path)) in changed]:
        value = changed[".".join(map(str, path))]
        flat[path] = flat[path].replace(jnp.asarray(value).astype(flat[path][...].dtype))
    return nnx.from_flat_state(flat)


def open_bert(folder: Path) -> NnxTarget:
    """A folder with config.json (model_type bert) and model.safetensors as a target under the file's own names."""
    from jaxquant.models import bert, bert_layout

    model, config = bert.open_folder(folder)
    path = Path(folder) / "model.safetensors"
    header = read_header(path)
    names = {name: (slot.path, slot.transposed) for name, slot in bert_layout.tensor_map(config).items()}
    return NnxTarget(model, Source(Path(folder).name, path, header.metadata), names=names, infos=header.tensors)
