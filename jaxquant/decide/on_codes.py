"""Which layers run on codes under a scheme, on integer inputs where it names inputs, and why others do not (DEC-18)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax

from jaxquant.decide.layouts import NO_INPUTS, Layout
from jaxquant.flax import Recipe, Rule
from jaxquant.flax.site import resolve
from jaxquant.flax.trial import in_short
from jaxquant.qat import Trained
from jaxquant.qat.straight import fake_values
from jaxquant.qtensor import QTensor
from refquant.files.quantized import Plan
from refquant.granularity import PerAxis, PerGroup
from refquant.schemes import TensorScheme
from refquant.spec import QuantSpec

Weight = TypeVar("Weight", QTensor, Trained)
UNKNOWN = Layout("other", floats="parameters of no layer of Flax's own")


@dataclass(frozen=True)
class OnCodes:
    """What one scheme makes of a model's layers.

    Attributes:
      inputs: how their inputs are quantized; None: they stay in float.
      layers: name of a kernel → the spec of its codes, of one layer where several are stacked; the file's axes.
      kept: name of another quantized kernel → why its layer keeps float inputs.
    """

    inputs: TensorScheme | None
    layers: Mapping[str, QuantSpec]
    kept: Mapping[str, str]


@dataclass(frozen=True)
class Among:
    """A rule's predicate: paths by name.

    Attributes:
      paths: of modules.
    """

    paths: frozenset[str]

    def __call__(self, path: str, module: object) -> bool:
        """Whether the path is one of them."""
        return path in self.paths


def on_codes(
    plans: Sequence[Plan], layouts: Mapping[str, Layout], names: Iterable[str], inputs: TensorScheme | None
) -> OnCodes:
    """By the layer contract, which every layer of its own kinds follows (specs/60-layers.md).

    Args:
      plans: what becomes of each tensor.
      layouts: what the module tree knows of it.
      names: of the tensors that a run reads.
      inputs: the scheme's.
    """
    layers, kept, names = {}, {}, frozenset(names)
    for plan in (plan for plan in plans if plan.scheme and plan.info.name in names):
        name, layout = plan.info.name, layouts.get(plan.info.name, UNKNOWN)
        try:
            layers[name] = _spec(plan, layout, inputs)
        except ValueError as error:
            told = layout.layer == "embed" or plan.kind != "embedding"  # any other table is looked up in
            if told and layout.floats != NO_INPUTS:
                kept[name] = in_short(error)
    return OnCodes(inputs, layers, kept)


def _spec(plan: Plan, layout: Layout, inputs: TensorScheme | None) -> QuantSpec:
    """The spec of one layer's codes.

    Raises:
      ValueError: the layer, or a layer with such codes, cannot take integer inputs.
    """
    name, extra = plan.info.name, layout.stacked
    if layout.floats or not layout.summed:
        raise ValueError(f"{name}: {layout.floats or UNKNOWN.floats}")
    rule = Rule("**", weights=_of_one(plan.spec, extra), inputs=inputs)
    summed = tuple(axis - extra for axis in layout.summed)
    return resolve(rule, layout.layer, plan.info.shape[extra:], summed=summed, path=name).weights


def _of_one(spec: QuantSpec, extra: int) -> QuantSpec:
    """The spec of one of the layers that are stacked along leading axes."""
    grain = spec.granularity
    if not extra:
        return spec
    if isinstance(grain, PerAxis):
        axes = tuple(axis - extra for axis in grain.axes if axis >= extra)
        return replace(spec, granularity=PerAxis(axes[0] if len(axes) == 1 else axes))
    if isinstance(grain, PerGroup):
        return replace(spec, granularity=PerGroup(grain.axis - extra, grain.size))
    raise ValueError(f"stacked: layers stacked with scales a {grain}, need scales of their own")


def recipe_of(places: Mapping[str, Iterable[str]], on: OnCodes, *, turned: Iterable[str] = ()) -> Recipe:
    """The recipe under which exactly those layers run on codes.

    Args:
      places: name of a kernel → the paths of its layers, parts joined by "/".
      on: which layers.
      turned: names of kernels that the file holds transposed.
    """
    turned, paths = frozenset(turned), {}
    for name, spec in on.layers.items():
        paths.setdefault(turned_spec(spec) if name in turned else spec, []).extend(places[name])
    rules = [Rule(Among(frozenset(at)), weights=spec, inputs=on.inputs) for spec, at in paths.items()]
    return Recipe(*rules)


def laid_out(weight: Weight, spec: QuantSpec, *, turned: bool = False) -> Weight:
    """The same codes and scales, or values in training, as a layer reads them.

    Args:
      weight: as it lies in the file.
      spec: of one layer, in the file's axes.
      turned: whether the file holds the kernel's transpose.
    """
    if turned:
        weight, spec = jax.tree.map(lambda v: v.T, weight), turned_spec(spec)
    return replace(weight, spec=spec)


def real_values(weight: Any) -> Any:
    """A weight as a float array: a Trained by its codes of this moment."""
    return fake_values(weight, "float32") if isinstance(weight, Trained) else weight


def turned_spec(spec: QuantSpec) -> QuantSpec:
    """The spec of the transpose of a matrix."""
    turned = {PerAxis: lambda g: PerAxis(1 - g.axis % 2), PerGroup: lambda g: PerGroup(1 - g.axis % 2, g.size)}
    grain = turned.get(type(spec.granularity), lambda g: g)(spec.granularity)
    return replace(spec, granularity=grain)
