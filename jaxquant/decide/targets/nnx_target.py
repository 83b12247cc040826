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

from jaxquant import qat
from jaxquant.decide.layouts import NO_KERNEL, Layout
from jaxquant.decide.targets import Source, infos_of, saveable
from jaxquant.decide.targets.kernels import nnx_layouts
from jaxquant.flax.linear import QuantizedLinear, RecordingLinear, Seen
from jaxquant.flax.replace import replaced
from jaxquant.qat.straight import fake_values
from jaxquant.qtensor import QTensor, dequantize_tensor
from jaxquant.store import array
from refquant.files import TensorInfo, read_header
from refquant.files.quantized import Plan
from refquant.granularity import PerAxis, PerGroup
from refquant.schemes import TensorScheme
from refquant.spec import QuantSpec

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

    def layouts(self, sample: Callable[[], tuple[Any, ...]]) -> dict[str, Layout]:
        """What the module tree knows of tensors; nothing where a file has its own names."""
        if self.source.path is not None:
            return {}
        return nnx_layouts(self.model, self._names) | dict.fromkeys(self._kept, NO_KERNEL)

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

    def forward_quantized(
        self, quantized: Mapping[str, QTensor], plans: tuple[Plan, ...], inputs: TensorScheme | None
    ) -> Callable[..., Any]:
        """The forward pass with codes in every dense layer: on integer inputs, or dequantized at each call (None)."""
        kernels = {path[:-1]: name for name, (path, _) in self._names.items() if path[-1] == "kernel"}
        spec = inputs.spec() if inputs else None
        used: set[str] = set()

        def make(path: Keys, linear: Any) -> nnx.Module | None:
            name = kernels.get(tuple(path))
            if name not in quantized:
                return None
            used.add(name)
            bias = None if linear.bias is None else linear.bias[...]
            return QuantizedLinear(self._as_kernel(name, quantized[name]), bias, spec)

        model = replaced(self.model, make)
        floats = {
            name: dequantize_tensor(q) for name, q in quantized.items() if name in self._names and name not in used
        }
        graph, state = nnx.split(model)
        nnx.update(state, nnx.from_flat_state({self._names[n][0]: self._param(n, v) for n, v in floats.items()}))
        run = jax.jit(lambda state, *args: nnx.merge(graph, state)(*args))
        return lambda *args: run(state, *args)

    def input_magnitudes(self) -> Callable[..., dict[str, Any]]:
        """A compiled function: the model's inputs → {weight name: float32 [in], largest |input| of each channel}."""
        names = {path[:-1]: name for name, (path, _) in self._names.items() if path[-1] == "kernel"}
        model = replaced(self.model, lambda _, linear: RecordingLinear(linear))
        graph, state = nnx.split(model)

        @jax.jit
        def run(state: Any, *inputs: Any) -> Any:
            merged = nnx.merge(graph, state)
            merged(*inputs)
            return nnx.state(merged, Seen)

        def magnitudes(*inputs: Any) -> dict[str, Any]:
            seen = nnx.to_flat_state(run(state, *inputs))
            return {names[tuple(p[:-1])]: v[...] for p, v in seen if tuple(p[:-1]) in names}

        return magnitudes

    @property
    def state(self) -> Any:
        """Parameters and all other variables."""
        return self._params, self._rest

    def training_pass(
        self, state: Any, weights: Mapping[str, Any], args: tuple[Any, ...], inputs: TensorScheme | None = None
    ) -> Any:
        """The forward pass as a function of arrays; a Trained weight counts as its codes do."""
        params, rest = state
        floats = {n: fake_values(w, "float32") if isinstance(w, qat.Trained) else w for n, w in weights.items()}
        model = nnx.merge(self._graph, self._with(floats, params), rest)
        if inputs is None:
            return model(*args)
        trained = {self._names[n][0][:-1]: (n, w) for n, w in weights.items() if isinstance(w, qat.Trained)}

        def make(path: Keys, linear: Any) -> nnx.Module | None:
            if tuple(path) not in trained:
                return None
            name, weight = trained[tuple(path)]
            bias = None if linear.bias is None else linear.bias[...]
            return _Traced(lambda x: qat.dense(x, self._turned(name, weight), bias, inputs=inputs.spec()))

        return replaced(model, make)(*args)

    def replaced(self, tensors: Mapping[str, np.ndarray]) -> "NnxTarget":
        """The same model with other weights; this one stays as it is."""
        other = copy.copy(self)
        other._own = {**self._own, **tensors}
        other._params = self._with(tensors)
        other._flat = dict(nnx.to_flat_state(other._params))
        other.model = nnx.merge(self._graph, other._params, self._rest)
        return other

    def _with(self, arrays: Mapping[str, Any], params: nnx.State | None = None) -> nnx.State:
        flat = self._flat if params is None else dict(nnx.to_flat_state(params))
        changed = {self._names[n][0]: self._param(n, v) for n, v in arrays.items() if n in self._names}
        return nnx.from_flat_state({**flat, **changed})

    def _param(self, name: str, value: Any) -> nnx.Param:
        array = jnp.asarray(value)
        return nnx.Param(array.T if self._names[name][1] else array)

    def _as_kernel(self, name: str, q: QTensor) -> QTensor:
        """Codes as [in, out], as a dense layer reads them; the same codes and scales, only laid out anew."""
        if not self._names[name][1]:
            return q
        zero = None if q.zero_point is None else q.zero_point.T
        return QTensor(q.codes.T, q.scale.T, zero, _turned_spec(q.spec))

    def _turned(self, name: str, weight: qat.Trained) -> qat.Trained:
        """The same of a weight in training."""
        if not self._names[name][1]:
            return weight
        return qat.Trained(weight.values.T, spec=_turned_spec(weight.spec), estimator=weight.estimator)


class _Traced(nnx.Module):
    """Stands for a dense layer within one trace."""

    def __init__(self, run: Callable[[Any], Any]):
        self.run = run

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.run(x)


def _kept(rest: nnx.State) -> dict[str, Any]:
    """The state beside the parameters that a file needs too, such as batch statistics, by dotted path."""
    found = {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(rest) if not isinstance(v, PASSING)}
    return {name: value for name, value in found.items() if saveable(value)}


def _turned_spec(spec: QuantSpec) -> QuantSpec:
    """The spec of the transpose."""
    turned = {PerAxis: lambda g: PerAxis(1 - g.axis % 2), PerGroup: lambda g: PerGroup(1 - g.axis % 2, g.size)}
    grain = turned.get(type(spec.granularity), lambda g: g)(spec.granularity)
    return replace(spec, granularity=grain)


def open_bert(folder: Path) -> NnxTarget:
    """A folder with config.json (model_type bert) and model.safetensors as a target under the file's own names."""
    from jaxquant.models import bert, bert_layout

    model, config = bert.open_folder(folder)
    path = Path(folder) / "model.safetensors"
    header = read_header(path)
    names = {name: (slot.path, slot.transposed) for name, slot in bert_layout.tensor_map(config).items()}
    return NnxTarget(model, Source(Path(folder).name, path, header.metadata), names=names, infos=header.tensors)
