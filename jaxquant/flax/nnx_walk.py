"""Every module of an NNX model with all of its paths, and what kind of layer it is."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flax import nnx

from jaxquant.flax.names import check_name, names_in, no_method
from jaxquant.flax.recipe import Place
from jaxquant.flax.site import kernel_letters_summed, mirrored_axes

KINDS = {
    nnx.Linear: "linear",
    nnx.LinearGeneral: "general",
    nnx.Einsum: "einsum",
    nnx.Conv: "conv",
    nnx.ConvTranspose: "conv_transpose",
    nnx.Embed: "embed",
}
#: What a user may have set to change a layer's arithmetic.
HOOKS = (
    "dot_general",
    "dot_general_cls",
    "einsum_op",
    "conv_general_dilated",
    "promote_dtype",
    "preferred_element_type",
    "mask",
    "attention_fn",
)
NORMS = tuple(
    getattr(nnx, name)
    for name in ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm", "WeightNorm", "SpectralNorm")
    if hasattr(nnx, name)
)
#: What keeps the layers in it in float: it has an arithmetic of its own with their parameters.
KEEPERS = {nnx.RNNCellBase: "a recurrent cell"} | {
    getattr(nnx, name): f"a {name}" for name in ("WeightNorm", "SpectralNorm") if hasattr(nnx, name)
}


@dataclass
class Found:
    """One module of a model.

    Attributes:
      module: the module.
      paths: every path that leads to it, the first one found first.
      reason: why it cannot be quantized; None where it is a layer or an attention that can.
    """

    module: Any
    paths: list[str] = field(default_factory=list)
    reason: str | None = None

    @property
    def path(self) -> str:
        """The first path."""
        return self.paths[0]

    @property
    def attention(self) -> bool:
        """Whether the module is an attention, whose products may be quantized."""
        return type(self.module) is nnx.MultiHeadAttention

    @property
    def kernel_name(self) -> str:
        """The attribute that holds the kernel or table."""
        return "embedding" if isinstance(self.module, nnx.Embed) else "kernel"

    def places(self) -> list[Place]:
        """What rules are asked about."""
        return [Place(path, self.module, self.attention, self.reason is None) for path in self.paths]


def find(model: nnx.Module) -> list[Found]:
    """Every module that is a layer, an attention, or has parameters of its own, in order of paths."""
    found: dict[int, Found] = {}
    for path, module, inside in _walk(model, "", "", ()):
        if type(module) in KINDS or type(module) is nnx.MultiHeadAttention or _own_params(module):
            entry = found.setdefault(id(module), Found(module, [], _reason(module, inside)))
            entry.paths.append(path)
    return list(found.values())


def _walk(node: Any, path: str, inside: str, above: tuple[int, ...]) -> Iterator[tuple[str, nnx.Module, str]]:
    """(path, module, the kind of container that keeps it in float or ""), by every way that leads there."""
    if id(node) in above:
        return
    if isinstance(node, nnx.Module):
        yield path, node, inside
    inside = inside or next((what for cls, what in KEEPERS.items() if isinstance(node, cls)), "")
    for key, child in children(node):
        yield from _walk(child, f"{path}/{key}" if path else str(key), inside, (*above, id(node)))


@contextmanager
def evaluating(model: nnx.Module) -> Iterator[None]:
    """The model in evaluation mode for a while: dropout off, batch norms by their running statistics, which stay."""
    switches = ("deterministic", "use_running_average")
    modules = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)]
    before = [(one, name, getattr(one, name)) for one in modules for name in switches if hasattr(one, name)]
    model.eval()
    try:
        yield
    finally:
        for one, name, value in before:
            setattr(one, name, value)


def sibling(model: nnx.Module, path: str, name: str) -> Any:
    """The module of that name beside the one at that path, None where there is none."""
    node: Any = model
    for key in [*path.split("/")[:-1], name]:
        node = {str(k): v for k, v in children(node)}.get(key)
    return node


def children(node: Any) -> list[tuple[Any, Any]]:
    """What a module, list or dict holds, but no Variables and arrays."""
    if isinstance(node, nnx.Variable):
        return []
    if isinstance(node, nnx.Module | nnx.Object):
        own = [(str(k), v) for k, v in vars(node).items()]  # a List of Flax 0.12.0 has ints
        return [(k, v) for k, v in sorted(own, key=_natural) if not k.startswith("_pytree")]
    if isinstance(node, dict):
        return list(node.items())
    if isinstance(node, list | tuple):
        return list(enumerate(node))
    return []


def _natural(item: tuple[str, Any]) -> tuple[int, int, str]:
    """Elements of a list in the order of their numbers."""
    return (0, int(item[0]), "") if item[0].isdigit() else (1, 0, item[0])


def _own_params(module: nnx.Module) -> bool:
    return any(isinstance(v, nnx.Param) for _, v in variables(module))


def variables(module: nnx.Module) -> list[tuple[str, nnx.Variable]]:
    """The Variables that a module holds itself, also in plain lists and dicts."""
    found = []
    stack = [(str(k), v) for k, v in vars(module).items() if not str(k).startswith("_pytree")]
    while stack:
        key, value = stack.pop()
        if isinstance(value, nnx.Variable):
            found.append((key, value))
        elif isinstance(value, list | tuple | dict):
            stack += [(f"{key}/{k}", v) for k, v in children(value)]
    return found


def _reason(module: nnx.Module, inside: str) -> str | None:
    if inside:
        return f"inside {inside}: left alone"
    if type(module) in KINDS:
        if type(module) is nnx.Einsum and module.einsum_str is None:
            return "its subscripts are given at the call"
        return None
    if type(module) is nnx.MultiHeadAttention:
        return None
    if isinstance(module, NORMS):
        return "a norm"
    base = next((cls for cls in type(module).__mro__ if cls in KINDS or cls is nnx.MultiHeadAttention), None)
    if base is not None:
        return f"a subclass of {base.__name__}: only Flax's own classes are known"
    return "parameters of a class that is not Flax's own layer"


def check_methods(function: str, argument: str, model: nnx.Module, methods: Any) -> None:
    """Refuse methods that the model has not.

    Args:
      function: that was called.
      argument: "method" or "methods", as which they were given.
      model: any module.
      methods: their names.
    Raises:
      TypeError: one is no name.
      ValueError: there is none of that name; the message has the nearest.
    """
    names = names_in(function, methods) if argument == "methods" else methods
    for name in names:
        if not callable(getattr(model, check_name(function, f"{argument} is", name), None)):
            raise ValueError(no_method(function, argument, name, model))


def expected_shape(module: Any, cls: type | None = None) -> tuple[int, ...]:
    """The shape of one kernel of a layer, without axes of layers stacked for a scan; `cls` as which it counts."""
    kind = KINDS[cls or type(module)]
    if kind == "linear":
        return module.in_features, module.out_features
    if kind == "general":
        return (*module.batch_axis.values(), *module.in_features, *module.out_features)
    if kind == "embed":
        return module.num_embeddings, module.features
    return tuple(module.kernel_shape)


def summed(module: Any) -> tuple[int, ...] | None:
    """The kernel's summed axes; None where the kind alone tells them."""
    kind = KINDS[type(module)]
    if kind == "conv_transpose" and module.transpose_kernel:
        return mirrored_axes(len(module.kernel_shape))
    if kind == "general":
        first = len(module.batch_axis)
        return tuple(range(first, first + len(module.axis)))
    if kind == "einsum":
        return kernel_letters_summed(module.einsum_str)
    return None


def hook_set(module: Any) -> str | None:
    """The name of a hook that the user has set on a layer, None where all are Flax's own."""
    defaults = inspect.signature(type(module).__init__).parameters
    for name in HOOKS:
        if name in defaults and getattr(module, name, defaults[name].default) is not defaults[name].default:
            return name
    return None
