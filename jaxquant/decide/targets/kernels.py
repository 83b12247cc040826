"""Which weights of a Flax model are kernels, and of what: read off the module tree (NNX) or off its calls (Linen)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flax import linen, nnx
from flax.core import meta

from jaxquant.decide.layouts import NEVER, NO_KERNEL, Layout, stacked
from jaxquant.flax import linen_sites, nnx_walk
from jaxquant.flax.site import kernel_letters_summed, summed_axes


def nnx_layouts(model: nnx.Module, names: Iterable[str]) -> dict[str, Layout]:
    """Dotted path → Layout of the parameters that Flax's own modules hold, and of those named bias or scale.

    Args:
      model: any NNX module.
      names: of its parameters.
    """
    found = {}
    for entry in nnx_walk.find(model):
        for key, variable in nnx_walk.variables(entry.module):
            layout = _nnx_layout(entry, key, variable)
            found |= {".".join(filter(None, (*path.split("/"), *key.split("/")))): layout for path in entry.paths}
    return _known(found, names)


def _nnx_layout(entry: nnx_walk.Found, key: str, variable: nnx.Variable) -> Layout | None:
    module = entry.module
    kind = nnx_walk.KINDS.get(type(module))
    if kind is None:
        return NO_KERNEL if isinstance(module, nnx_walk.NORMS) else None
    if key != entry.kernel_name:
        return NO_KERNEL
    if kind == "einsum" and module.einsum_str is None:
        return None
    rank = len(nnx_walk.expected_shape(module))
    summed = nnx_walk.summed(module)
    return stacked(kind, summed_axes(kind, rank) if summed is None else summed, variable[...].shape, rank)


def linen_layouts(shapes: Mapping[str, tuple[int, ...]], run: Callable[[], Any]) -> dict[str, Layout]:
    """Dotted path → Layout of the parameters of the modules of Flax that are called, and of those named bias or scale.

    Args:
      shapes: of the parameters.
      run: calls the model once (under jax.eval_shape).
    """
    found: dict[str, Layout | None] = {}

    def note(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        kind = linen_sites.KINDS.get(type(module))
        if kind is not None and context.method_name in kind.methods:
            name = ".".join((*module.path, kind.kernel))
            found[name] = _linen_layout(module, kind, shapes.get(name, ()), args, kwargs)
        if kind is not None or isinstance(module, linen_sites.NORMS):
            own = {n for n in shapes if n.rpartition(".")[0] == ".".join(module.path)}
            found.update({n: NO_KERNEL for n in own if n not in found})
        return call(*args, **kwargs)

    with linen.intercept_methods(note):
        run()
    return _known(found, shapes)


def _linen_layout(module: Any, kind: Any, shape: tuple[int, ...], args: tuple, kwargs: dict) -> Layout | None:
    kernel = meta.unbox(module.get_variable("params", kind.kernel))
    if kernel is None:
        return None
    if kind.name == "general":
        batch, axis = len(tuple(module.batch_dims)), module.axis
        summed = tuple(range(batch, batch + (1 if isinstance(axis, int) else len(tuple(axis)))))
    elif kind.name == "einsum":
        given = kwargs.get("einsum_str", args[1] if len(args) > 1 else None)
        summed = kernel_letters_summed(given or module.einsum_str)
    else:
        summed = summed_axes(kind.name, kernel.ndim)
    return stacked(kind.name, summed, shape, kernel.ndim)


def _known(found: Mapping[str, Layout | None], names: Iterable[str]) -> dict[str, Layout]:
    """The layouts that are known; a bias or scale of any other module is no kernel either."""
    plain = {name: NO_KERNEL for name in names if name.rpartition(".")[2] in NEVER}
    return plain | {name: layout for name, layout in found.items() if layout is not None}
