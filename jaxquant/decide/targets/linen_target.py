"""A Linen module with its variables as a target: weights are leaves of the tree, codes stand where kernels were."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, traverse_util

from jaxquant.decide.layouts import NO_KERNEL, Layout
from jaxquant.decide.on_codes import OnCodes, laid_out, real_values, recipe_of
from jaxquant.decide.targets import Source, in_order, infos_of, saveable
from jaxquant.decide.targets.linen_kernels import linen_layouts, replaceable
from jaxquant.flax import Recipe
from jaxquant.flax.layers import Dtypes
from jaxquant.flax.linen_layers import quantized
from jaxquant.flax.linen_magnitudes import magnitudes
from jaxquant.flax.linen_quantized import Quantized
from jaxquant.flax.linen_refusals import NoPlace
from jaxquant.flax.linen_sites import Layer
from jaxquant.flax.linen_visit import Call, run
from jaxquant.flax.trial import smallest
from jaxquant.qtensor import QTensor, dequantize_tensor

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
        found = linen_layouts(self.module, {**self._rest, "params": _tree(self._flat)}, shapes, sample())
        return found | dict.fromkeys(self._kept, NO_KERNEL)

    def tensor(self, name: str) -> np.ndarray:
        """One weight."""
        if name in self._kept:
            return np.asarray(self._kept[name])
        return np.asarray(self._own.get(name, self._flat[name]))

    def forward(self, replaced: Mapping[str, Any]) -> Callable[..., Any]:
        """The float forward pass with some weights replaced; compiled once for all of them."""
        flat = self._with(replaced, self._flat, None)
        return lambda *inputs: self._run(flat, self._rest, *inputs)

    def forward_quantized(self, quantized: Mapping[str, QTensor], on: OnCodes) -> Callable[..., Any]:
        """The forward pass with codes in the layers that can have them, other weights dequantized."""
        weights = {n: q if n in on.layers else dequantize_tensor(q) for n, q in quantized.items()}
        run = jax.jit(lambda flat, rest, *args: self._on_codes(flat, rest, args, on))
        flat = self._with(weights, self._flat, on)
        return lambda *args: run(flat, self._rest, *args)

    def input_magnitudes(self) -> Callable[..., dict[str, Any]]:
        """A compiled function: the model's inputs → {weight name: float32 [channels], largest |input| of each}.

        Nothing is seen of a model in which a layer stands in a loop that shares its parameters.
        """
        qmodel = Quantized(self.module, Recipe(smallest(replaceable)))

        @jax.jit
        def run(flat: Any, rest: Any, *args: Any) -> dict[str, Any]:
            found = magnitudes(qmodel, {**rest, "params": _tree(flat)}, args)
            return {".".join(path): value for path, value in found.items()}

        def seen(*args: Any) -> dict[str, Any]:
            try:
                return in_order(run(self._flat, self._rest, *args), self._flat)
            except NoPlace:
                return {}

        return seen

    @property
    def state(self) -> Any:
        """Parameters by name, and all other collections."""
        return self._flat, self._rest

    def training_pass(
        self, state: Any, weights: Mapping[str, Any], args: tuple[Any, ...], on: OnCodes | None = None
    ) -> Any:
        """The forward pass as a function of arrays; a Trained weight counts as its codes do."""
        flat, rest = state
        layers = on.layers if on else ()
        values = {n: w if n in layers else real_values(w) for n, w in weights.items()}
        flat = self._with(values, flat, on)
        return self._on_codes(flat, rest, args, on) if on else self._apply(flat, rest, args)

    def replaced(self, tensors: Mapping[str, np.ndarray]) -> "LinenTarget":
        """The same model with other weights; this one stays as it is."""
        other = copy.copy(self)
        other._own = {**self._own, **tensors}
        other._flat = self._with(tensors, self._flat, None)
        changed = {n: jnp.asarray(tensors[n]).astype(v.dtype) for n, v in self._kept.items() if n in tensors}
        other._kept = {**self._kept, **changed}
        rest = traverse_util.flatten_dict(self._rest)
        other._rest = traverse_util.unflatten_dict({p: changed.get(".".join(p), leaf) for p, leaf in rest.items()})
        return other

    def _with(self, weights: Mapping[str, Any], flat: Mapping[str, Any], on: OnCodes | None) -> dict[str, Any]:
        """The parameters with weights in place: floats, each in its parameter's dtype, and what stands for codes."""
        layers = on.layers if on else {}
        floats = {n: jnp.asarray(v).astype(flat[n].dtype) for n, v in weights.items() if n in flat and n not in layers}
        return {**flat, **floats, **{n: laid_out(weights[n], spec) for n, spec in layers.items()}}

    def _on_codes(self, flat: Mapping[str, Any], rest: Any, args: tuple, on: OnCodes) -> Any:
        """The pass of a model whose parameters have codes, or weights in training, where kernels were."""
        if not on.layers:
            return self._apply(flat, rest, args)
        recipe = recipe_of({name: ("/".join(name.split(".")[:-1]),) for name in on.layers}, on)
        call = Call(None, args)

        def act(layer: Layer, plain: Callable[[], Any]) -> Any:
            return quantized(replace(layer, dtypes=Dtypes(layer.module.dtype, self._dtype(layer.module.path))))

        return run(self.module, Quantized(self.module, recipe).interceptor(act), {**rest, "params": _tree(flat)}, call)

    def _dtype(self, path: tuple[str, ...]) -> Any:
        """What a layer's own parameters promote to, as Flax reads them: their dtypes, not the module's param_dtype."""
        names = (".".join((*path, name)) for name in ("kernel", "embedding", "bias"))
        return jnp.result_type(*(self._flat[name].dtype for name in names if name in self._flat))

    def _apply(self, flat: Mapping[str, Any], rest: Any, inputs: tuple[Any, ...]) -> Any:
        return self.module.apply({**rest, "params": _tree(flat)}, *inputs)


def _tree(flat: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.unflatten_dict({tuple(name.split(".")): leaf for name, leaf in flat.items()})
