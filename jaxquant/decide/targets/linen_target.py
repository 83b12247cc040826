"""A Linen module with its variables as a target: weights are leaves of the tree, dense layers are intercepted.

The interceptor is entered inside the traced function, so that another model's trace is never returned.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, traverse_util

from jaxquant import qat
from jaxquant.decide.layouts import NO_KERNEL, Layout
from jaxquant.decide.targets import Source, infos_of, saveable
from jaxquant.decide.targets.kernels import linen_layouts
from jaxquant.qat.straight import fake_values
from jaxquant.qtensor import QTensor, dequantize_tensor
from refquant.files.quantized import Plan
from refquant.schemes import TensorScheme
from refquant.spec import QuantSpec

PASSING = ("cache", "intermediates", "perturbations")  # collections of one run, no part of what a file keeps


class LinenTarget:
    """Weights by the path of their leaf, one compiled forward pass that takes them as arguments.

    Attributes:
      source: where the model came from.
      infos: its weights in saved order.
    """

    def __init__(self, module: linen.Module, variables: Mapping[str, Any], source: Source):
        """Takes module and variables as they are; neither is changed.

        Raises:
          ValueError: there is no collection "params".
        """
        if "params" not in variables:
            raise ValueError(f"decide: variables have collections {sorted(variables)}, need 'params' (module.init's)")
        self.module, self.source = module, source
        boxed = linen.meta.unbox(dict(variables))
        self._rest = {key: value for key, value in boxed.items() if key != "params"}
        self._flat = {".".join(path): leaf for path, leaf in traverse_util.flatten_dict(boxed["params"]).items()}
        kept = {key: value for key, value in self._rest.items() if key not in PASSING}
        leaves = {".".join(path): leaf for path, leaf in traverse_util.flatten_dict(kept).items()}
        self._kept = {name: leaf for name, leaf in leaves.items() if saveable(leaf)}
        self.infos, self._own = infos_of(self._flat | self._kept), {}
        self._run = jax.jit(lambda flat, rest, *inputs: self._apply(flat, rest, inputs))

    @property
    def names(self) -> frozenset[str]:
        """The weights that the forward pass reads."""
        return frozenset(self._flat)

    def layouts(self, sample: Callable[[], tuple[Any, ...]]) -> dict[str, Layout]:
        """What the modules that a run calls know of tensors."""
        shapes = {name: tuple(leaf.shape) for name, leaf in self._flat.items()}

        def run() -> None:
            jax.eval_shape(lambda *args: self._apply(self._flat, self._rest, args), *sample())

        return linen_layouts(shapes, run) | dict.fromkeys(self._kept, NO_KERNEL)

    def tensor(self, name: str) -> np.ndarray:
        """One weight."""
        if name in self._kept:
            return np.asarray(self._kept[name])
        return np.asarray(self._own.get(name, self._flat[name]))

    def forward(self, replaced: Mapping[str, Any]) -> Callable[..., Any]:
        """The float forward pass with some weights replaced; compiled once for all of them."""
        flat = {**self._flat, **{n: jnp.asarray(v, self._flat[n].dtype) for n, v in replaced.items()}}
        return lambda *inputs: self._run(flat, self._rest, *inputs)

    def forward_quantized(
        self, quantized: Mapping[str, QTensor], plans: tuple[Plan, ...], inputs: TensorScheme | None
    ) -> Callable[..., Any]:
        """The forward pass with codes in every nn.Dense, other weights dequantized."""
        spec = inputs.spec() if inputs else None
        run = jax.jit(lambda flat, codes, rest, *args: self._on_codes(flat, codes, rest, args, spec))
        floats = {n: dequantize_tensor(q).astype(self._flat[n].dtype) for n, q in quantized.items()}
        flat = {**self._flat, **floats}
        return lambda *args: run(flat, dict(quantized), self._rest, *args)

    def input_magnitudes(self) -> Callable[..., dict[str, Any]]:
        """A compiled function: the model's inputs → {weight name: float32 [in], largest |input| of each channel}."""

        @jax.jit
        def run(flat: Any, rest: Any, *args: Any) -> dict[str, Any]:
            seen: dict[str, Any] = {}

            def record(call: Any, path: str, call_args: tuple, call_kwargs: dict) -> Any:
                x = jnp.asarray(call_args[0], jnp.float32)
                largest = jnp.max(jnp.abs(x), axis=tuple(range(x.ndim - 1)))
                name = f"{path}.kernel" if path else "kernel"
                seen[name] = jnp.maximum(seen[name], largest) if name in seen else largest
                return call(*call_args, **call_kwargs)

            with linen.intercept_methods(_at_dense(record)):
                self._apply(flat, rest, args)
            return seen

        return lambda *args: run(self._flat, self._rest, *args)

    @property
    def state(self) -> Any:
        """Parameters by name, and all other collections."""
        return self._flat, self._rest

    def training_pass(
        self, state: Any, weights: Mapping[str, Any], args: tuple[Any, ...], inputs: TensorScheme | None = None
    ) -> Any:
        """The forward pass as a function of arrays; a Trained weight counts as its codes do."""
        flat, rest = state
        trained = {n: w for n, w in weights.items() if isinstance(w, qat.Trained)}
        floats = {n: fake_values(w, "float32") if n in trained else w for n, w in weights.items()}
        flat = {**flat, **{n: v.astype(flat[n].dtype) for n, v in floats.items() if n in flat}}
        if inputs is None:
            return self._apply(flat, rest, args)
        return self._on_codes(flat, trained, rest, args, inputs.spec())

    def replaced(self, tensors: Mapping[str, np.ndarray]) -> "LinenTarget":
        """The same model with other weights; this one stays as it is."""
        other = copy.copy(self)
        other._own = {**self._own, **tensors}
        other._flat = {**self._flat, **{n: jnp.asarray(v, self._flat[n].dtype) for n, v in tensors.items()}}
        return other

    def _on_codes(
        self, flat: Mapping[str, Any], codes: Mapping[str, Any], rest: Any, args: tuple, spec: QuantSpec | None
    ) -> Any:
        def dense(call: Any, path: str, call_args: tuple, call_kwargs: dict) -> Any:
            name = f"{path}.kernel" if path else "kernel"
            if name not in codes:
                return call(*call_args, **call_kwargs)
            return qat.dense(call_args[0], codes[name], flat.get(name.removesuffix("kernel") + "bias"), inputs=spec)

        with linen.intercept_methods(_at_dense(dense)):
            return self._apply(flat, rest, args)

    def _apply(self, flat: Mapping[str, Any], rest: Any, inputs: tuple[Any, ...]) -> Any:
        params = traverse_util.unflatten_dict({tuple(name.split(".")): leaf for name, leaf in flat.items()})
        return self.module.apply({**rest, "params": params}, *inputs)


def _at_dense(handle: Callable[[Any, str, tuple, dict], Any]) -> Callable[..., Any]:
    """An interceptor that hands calls of nn.Dense to `handle` and leaves all others alone."""

    def interceptor(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        if type(context.module) is linen.Dense and context.method_name == "__call__":
            return handle(call, ".".join(context.module.path), args, kwargs)
        return call(*args, **kwargs)

    return interceptor
