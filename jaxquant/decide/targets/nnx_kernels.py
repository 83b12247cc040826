"""Which weights of an NNX model are kernels, and of what: read off the module tree."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
from flax import nnx

from jaxquant.decide.layouts import NEVER, NO_INPUTS, NO_KERNEL, NOT_CALLED, Layout, kernel_layout
from jaxquant.decide.on_codes import Among
from jaxquant.flax import Recipe, nnx_api, nnx_walk
from jaxquant.flax.nnx_magnitudes import magnitudes
from jaxquant.flax.site import summed_axes
from jaxquant.flax.trial import smallest


@dataclass(frozen=True)
class Held:
    """One place where a module holds a parameter.

    Attributes:
      entry: the module.
      key: the parameter's path in it.
      variable: the parameter.
    """

    entry: nnx_walk.Found
    key: str
    variable: nnx.Variable

    @property
    def paths(self) -> list[str]:
        """Every way that leads to it, parts joined by "/"."""
        return ["/".join(filter(None, (path, self.key))) for path in self.entry.paths]

    @property
    def is_kernel(self) -> bool:
        """Whether it is the kernel of a layer of Flax's own."""
        return type(self.entry.module) in nnx_walk.KINDS and self.key == self.entry.kernel_name

    @property
    def layout(self) -> Layout:
        """What the module knows of it."""
        module, kind = self.entry.module, nnx_walk.KINDS.get(type(self.entry.module))
        floats = (self.entry.reason or "").partition(": ")[0]
        if kind is None and not isinstance(module, nnx_walk.NORMS):
            return NO_KERNEL if self.key.rpartition("/")[2] in NEVER else Layout("other", floats=floats)
        if not self.is_kernel:
            return NO_KERNEL
        if kind == "einsum" and module.einsum_str is None:
            return Layout("other", floats=floats)
        if hook := nnx_walk.hook_set(module):
            floats = floats or f"{type(module).__name__} has {hook} set"
        one, summed = nnx_walk.expected_shape(module), nnx_walk.summed(module)
        summed = summed_axes(kind, len(one)) if summed is None else summed
        return kernel_layout(kind, summed, self.variable[...].shape, one, floats)


def held(model: nnx.Module, names: Mapping[str, str]) -> dict[str, list[Held]]:
    """Every place of each parameter: a shared one has several.

    Args:
      model: any NNX module.
      names: path of a parameter, parts joined by "/" → its name.
    """
    each = [Held(one, *item) for one in nnx_walk.find(model) for item in nnx_walk.variables(one.module)]
    known = {id(one.variable): names[path] for one in each for path in one.paths if path in names}
    found: dict[str, list[Held]] = {}
    for one in (one for one in each if id(one.variable) in known):
        found.setdefault(known[id(one.variable)], []).append(one)
    return found


def layout_of(places: list[Held]) -> Layout:
    """What the modules that hold a parameter know of it: a layer before others, and what forbids one forbids all."""
    layouts = [one.layout for one in places]
    best = next((one for one in layouts if one.layer not in ("none", "other")), layouts[0])
    return replace(best, floats=next((one.floats for one in layouts if one.floats), ""))


def module_paths(places: Iterable[Held]) -> list[str]:
    """Every path of the modules."""
    return [path for one in places for path in one.entry.paths]


def on_trial(model: nnx.Module, layouts: Mapping[str, Layout], places: Mapping[str, list[Held]]) -> nnx.Module | None:
    """The model prepared for codes in every layer that may have them; None where there is none."""
    able = [name for name, layout in layouts.items() if layout.summed and not layout.floats]
    paths = frozenset(path for name in able for path in module_paths(places[name]))
    return nnx_api.prepare(model, Recipe(smallest(Among(paths))))[0] if paths else None


def tried(
    model: nnx.Module | None, layouts: Mapping[str, Layout], places: Mapping[str, list[Held]], args: tuple[Any, ...]
) -> dict[str, Layout]:
    """The layouts after a call: whether a layer is called at all, and can do on such inputs what it is asked to.

    Args:
      model: on trial.
      layouts: as the module tree tells.
      places: of each parameter.
      args: of the model; only shapes and dtypes count.
    """
    fed, refused = _trial(model, args) if model is not None else ((), {})

    def after(name: str, layout: Layout) -> Layout:
        paths = [one.entry.path for one in places[name]]
        idle = NO_INPUTS if layout.layer == "embed" else NOT_CALLED
        told = next((refused[path] for path in paths if path in refused), "" if {*fed} & {*paths} else idle)
        return replace(layout, floats=layout.floats or told) if layout.summed else layout

    return {name: after(name, layout) for name, layout in layouts.items()}


def _trial(model: nnx.Module, args: tuple[Any, ...]) -> tuple[Iterable[str], dict[str, str]]:
    graph, state = nnx.split(model)
    refused: dict[str, str] = {}

    def run(state: nnx.State, args: tuple[Any, ...]) -> dict[str, Any]:
        seen, why = magnitudes(nnx.merge(graph, state), args)
        refused.update(why)
        return seen

    return jax.eval_shape(run, state, args), refused
