"""Which weights of a Linen model are kernels, and of what: read off the calls of its modules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from flax import linen
from flax.core import meta

from jaxquant.decide.layouts import NEVER, NO_INPUTS, NO_KERNEL, NOT_CALLED, Layout, kernel_layout
from jaxquant.flax.linen_layers import quantized
from jaxquant.flax.linen_quantized import fresh_token
from jaxquant.flax.linen_sites import KINDS, NORMS, Layer, check_hooks, left_alone, multiplies, summed_of
from jaxquant.flax.linen_visit import Call, Visitor, run
from jaxquant.flax.site import resolve, summed_axes
from jaxquant.flax.trial import in_short, refusal, smallest

TRIAL = smallest("**")


def linen_layouts(
    module: linen.Module, variables: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], args: tuple[Any, ...]
) -> dict[str, Layout]:
    """Dotted path → what the modules of a model know of a parameter; the model runs once, on shapes alone.

    Args:
      module: any Linen module.
      variables: all of its collections.
      shapes: of its parameters.
      args: of its call.
    """
    notes = Notes(fresh_token("layouts"), shapes)
    # parameters that some transform computes cannot be changed even so
    jax.eval_shape(lambda v, a: run(module, notes, v, Call(None, a), mutable=["params"]), variables, args)
    return {name: notes.found.get(name) or notes.other(name) for name in shapes}


def replaceable(path: str, module: linen.Module) -> bool:
    """Whether a layer's operation may be another; a predicate of rules."""
    return not refused(module)


def refused(module: linen.Module) -> str:
    """Why a layer's operation may not be another, "" where it may."""
    if not module.is_mutable_collection("params"):
        return "parameters computed by a transform"
    if why := left_alone(module):
        return why.partition(": ")[0]
    try:
        check_hooks(module, KINDS[type(module)])
    except ValueError as error:
        return in_short(error)
    return ""


@dataclass
class Notes(Visitor):
    """Notes what the layers that are called know of their kernels.

    Attributes:
      shapes: of the parameters, by dotted path.
      found: of the kernels, likewise.
    """

    shapes: Mapping[str, tuple[int, ...]]
    found: dict[str, Layout] = field(default_factory=dict)

    def visit(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        """A layer is noted before its call."""
        kind = KINDS.get(type(context.module))
        if kind is not None and context.method_name in kind.methods:
            self._note(Layer(context.module, kind, None, context.method_name, args, kwargs, lambda path: None))
        return call(*args, **kwargs)

    def other(self, name: str) -> Layout:
        """Of a parameter that is no called layer's kernel."""
        owner = self.coverage.modules.get("/".join(name.split(".")[:-1]))
        if type(owner) in KINDS or isinstance(owner, NORMS) or name.rpartition(".")[2] in NEVER:
            return NO_KERNEL
        return Layout("other", floats=NOT_CALLED if owner is None else (left_alone(owner) or "").partition(": ")[0])

    def _note(self, layer: Layer) -> None:
        kernel, name = meta.unbox(layer.boxed_kernel), ".".join((*layer.module.path, layer.kind.kernel))
        if kernel is None or name not in self.shapes:
            return
        kind, shape, summed = layer.kind.name, tuple(kernel.shape), summed_of(layer)
        summed = summed_axes(kind, len(shape)) if summed is None else summed
        layout = kernel_layout(kind, summed, self.shapes[name], shape, self._floats(layer, shape))
        self.found[name] = _both(self.found.get(name, layout), layout)

    def _floats(self, layer: Layer, shape: tuple[int, ...]) -> str:
        if not multiplies(layer):
            return NO_INPUTS
        if why := "inside a recurrent cell" if self.cells else refused(layer.module):
            return why
        rule = {"rule": TRIAL, "kind": layer.kind.name, "kernel_shape": shape, "summed": summed_of(layer)}
        return refusal(lambda: quantized(replace(layer, site=resolve(**rule))))


def _both(first: Layout, second: Layout) -> Layout:
    """Of two calls with one kernel: what forbids codes in one forbids them in both; a look-up forbids nothing."""
    told = {first.floats, second.floats}
    why = next(iter(sorted(told - {"", NO_INPUTS})), "" if "" in told else NO_INPUTS)
    return replace(first, floats=why)
