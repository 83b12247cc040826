"""Which calls of Linen modules are layers with a kernel, and what a recipe says about each."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from flax import linen as nn
from flax.core import meta

from jaxquant.flax.layers import frozen_site
from jaxquant.flax.mark import check_left, check_mark, is_mark, wrong_codes, wrong_leaf
from jaxquant.flax.names import named
from jaxquant.flax.recipe import Place, Recipe
from jaxquant.flax.report import Row
from jaxquant.flax.rule import Rule
from jaxquant.flax.site import LayerSpec, kernel_letters_summed, mirrored_axes, ragged_text, resolve
from jaxquant.qtensor import QTensor
from refquant.estimators import Ste

#: Leaves that a layer may have beside its kernel and its bias.
LEAVES = ("kernel_scale", "kernel_offset", "inputs_scale", "inputs_zero_point", "inputs_offset", "step", "kernel_dtype")
#: What marks the scopes of a quantized run, its lifted and compiled parts included.
FLAG = "jaxquant"
#: The path of a module among its scope's flags: nn.jit shares traces between modules that differ in the name alone.
PLACE = "jaxquant path"

Path = tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A class of Linen layers that can run on codes.

    Attributes:
      name: as in `site.KINDS`.
      kernel: the name of its kernel among the parameters.
      hooks: fields that put a user's function in place of an operation.
      methods: those that use the kernel.
    """

    name: str
    kernel: str = "kernel"
    hooks: tuple[str, ...] = ("promote_dtype",)
    methods: tuple[str, ...] = ("__call__",)


DOT = ("dot_general", "dot_general_cls", "promote_dtype")
#: Exact classes only: a subclass may compute something else.
KINDS = {
    nn.Dense: Kind("linear", hooks=DOT),
    nn.DenseGeneral: Kind("general", hooks=DOT),
    nn.Einsum: Kind("einsum", hooks=("promote_dtype", "preferred_element_type")),
    nn.Conv: Kind("conv", hooks=("promote_dtype", "conv_general_dilated", "conv_general_dilated_cls", "mask")),
    nn.ConvTranspose: Kind("conv_transpose", hooks=("promote_dtype", "preferred_element_type", "mask")),
    nn.Embed: Kind("embed", kernel="embedding", methods=("__call__", "attend")),
}


NORMS = (nn.BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm, nn.WeightNorm, nn.SpectralNorm)


@dataclass(frozen=True)
class Layer:
    """One call of a layer that the recipe quantizes, with access to its parameters.

    Attributes:
      module: bound to its scope.
      kind: what it is.
      site: what it does.
      method: "__call__" or "attend".
      args: of the call.
      kwargs: likewise.
      note: told every (path, name) that is put.
      fold: the name of the batch norm behind it that is folded into it.
      given: kernel and bias in place of its own.
      dtypes: in place of its own.
    """

    module: nn.Module
    kind: Kind
    site: LayerSpec
    method: str
    args: tuple
    kwargs: dict
    note: Callable[[Path], None] = field(repr=False)
    fold: str | None = None
    given: tuple | None = None
    dtypes: Any = None

    @property
    def path(self) -> str:
        """Its place in the model, parts joined by "/"."""
        return "/".join(self.module.path)

    @property
    def x(self) -> Any:
        """The input."""
        return self.args[0] if self.args else next(self.kwargs[k] for k in ("inputs", "query") if k in self.kwargs)

    @property
    def kernel(self) -> Any:
        """The master kernel or a QTensor."""
        return meta.unbox(self.boxed_kernel) if self.given is None else self.given[0]

    @property
    def boxed_kernel(self) -> Any:
        """The kernel as it stands among the parameters."""
        return self.module.get_variable("params", self.kind.kernel)

    @property
    def bias(self) -> Any:
        """The bias, None where the layer has none."""
        if self.given is not None:
            return self.given[1]
        own = getattr(self.module, "use_bias", False) or (self.fold and isinstance(self.boxed_kernel, QTensor))
        return self.get("bias") if own else None

    @property
    def subscripts(self) -> str:
        """Of an einsum: the call's own before the module's."""
        given = self.kwargs.get("einsum_str", self.args[1] if len(self.args) > 1 else None)
        return (given or self.module.einsum_str).replace(" ", "")

    def get(self, name: str) -> Any:
        """A parameter, None where there is none."""
        return meta.unbox(self.module.get_variable("params", name))

    def state(self) -> dict[str, Any]:
        """The leaves beside kernel and bias."""
        return {name: self.get(name) for name in LEAVES if self.module.has_variable("params", name)}

    def put(self, name: str, value: Any) -> None:
        """Set a leaf beside the kernel; inside nn.scan and nn.vmap Flax stacks it as it does the kernel.

        Raises:
          ValueError: the parameters are computed there (WeightNorm, SpectralNorm, map_variables).
        """
        if not self.module.is_mutable_collection("params"):
            raise ValueError(
                f"{named(self.path)}: its parameters are computed by a transform around it, need a rule that keeps it "
                "(nothing can be stored beside a kernel that is not stored)"
            )
        self.module.put_variable("params", name, value)
        self.note((*self.module.path, name))


def layer_at(recipe: Recipe, module: nn.Module, method: str, args: tuple, kwargs: dict, note: Any) -> Layer | None:
    """The layer that a call of a module in KINDS is, None where the recipe leaves it in float."""
    kind = KINDS[type(module)]
    rule = rule_of(recipe, module)
    if rule is None or rule.keep is not None:
        variables = module.variables.get("params", {})
        check_left("/".join(module.path), kind.kernel, meta.unbox(variables.get(kind.kernel)), variables)
        return None
    check_hooks(module, kind)
    kernel = module.get_variable("params", kind.kernel)
    if kernel is None:
        return None
    shape, path = meta.unbox(kernel).shape, "/".join(module.path)
    _check_own(module, kind, path, tuple(shape))
    if rule.fold and kind.name not in ("linear", "conv", "conv_transpose"):
        raise ValueError(f"{named(path)}: fold for a {kind.name} layer, need linear, conv or conv_transpose")
    if rule.fold and getattr(module, "transpose_kernel", False):
        raise ValueError(f"{named(path)}: fold with transpose_kernel, need a rule without fold (channels are not last)")
    call = Layer(module, kind, None, method, args, kwargs, note, rule.fold)
    site = resolve(rule, kind.name, shape, summed=summed_of(call), path=path, schedule=recipe.schedule)
    return replace(call, site=site)


def left_alone(module: nn.Module) -> str | None:
    """Why a module has no operation on codes, None where it has."""
    if type(module) in KINDS:
        return None
    base = next((cls for cls in type(module).__mro__ if cls in KINDS), None)
    if base is not None:
        return f"a subclass of {base.__name__}: only Flax's own classes are known"
    return "a norm" if isinstance(module, NORMS) else "parameters of a class that is not Flax's own layer"


def rule_of(recipe: Recipe, module: nn.Module) -> Rule | None:
    """The rule that decides about a layer."""
    return recipe.rule_for(place_of(module))


def place_of(module: nn.Module) -> Place:
    """What a rule sees of a layer."""
    return Place("/".join(module.path), module)


def check_hooks(module: nn.Module, kind: Kind) -> None:
    """Refuse a layer whose operation the user has replaced.

    Raises:
      ValueError: a hook is set.
    """
    for name in kind.hooks:
        default = type(module).__dataclass_fields__[name].default if name in type(module).__dataclass_fields__ else None
        if getattr(module, name, default) is not default:
            raise ValueError(
                f"{named('/'.join(module.path))}: {type(module).__name__} has {name} set, need its default or a rule "
                "that keeps the layer in float (quantization would replace it)"
            )


def _check_own(module: nn.Module, kind: Kind, path: str, shape: tuple[int, ...]) -> None:
    """Refuse a kernel and a bias that Flax's own layer would refuse; what x decides of a shape the operation checks."""
    need = _own_shape(module, kind, shape)
    if shape != need:
        raise ValueError(
            f"{named(path)}: the {kind.kernel} has shape {shape}, need {need} (parameters of another model)"
        )
    if getattr(module, "use_bias", False) and not module.has_variable("params", "bias"):
        raise ValueError(
            f"{named(path)}: there is no bias beside the {kind.kernel}, need one or use_bias=False (parameters of "
            "another model)"
        )


def _own_shape(module: nn.Module, kind: Kind, shape: tuple[int, ...]) -> tuple[int, ...]:
    if kind.name in ("embed", "einsum"):
        return shape if kind.name == "embed" else tuple(module.shape)  # nn.Embed has checked its own in setup
    features = (module.features,) if isinstance(module.features, int) else tuple(module.features)
    if kind.name in ("linear", "general"):
        return (*shape[: len(shape) - len(features)], *features)
    size = (module.kernel_size,) if isinstance(module.kernel_size, int) else tuple(module.kernel_size)
    if getattr(module, "transpose_kernel", False):
        return (*size, *features, *shape[-1:])
    return (*size, *shape[-2:-1], *features)


def check_leaves(layer: Layer) -> None:
    """Refuse parameters that were made for another recipe.

    Raises:
      ValueError: a leaf is missing, is too many, or a converted kernel has another spec.
    """
    kernel, site = layer.boxed_kernel, layer.site
    converted = isinstance(kernel, QTensor)
    if converted and kernel.spec != site.weights:
        raise ValueError(wrong_codes(layer.path, layer.kind.kernel, kernel.spec, site.weights))
    need = set(frozen_site(site).input_names) if converted and takes_codes(layer) else set(input_leaves(layer))
    if not converted:
        need |= {*site.weight_names, *(("step",) if site.has_step else ())}
    there = {name for name in LEAVES if layer.module.has_variable("params", name)}
    may = {*site.state_names, "inputs_zero_point", *(("kernel_dtype",) if converted else ())}
    wrong = sorted(need - there) + sorted(there - need - may)
    if wrong:
        raise ValueError(wrong_leaf(layer.path, layer.kind.kernel, wrong[0], need))
    names = layer.module.variables["params"]
    check_mark(layer.path, layer.kind.kernel, site_of(layer), names, needed=bool(need))


def site_of(layer: Layer) -> LayerSpec:
    """What the layer does: once converted, its scales are constants."""
    return frozen_site(layer.site) if isinstance(layer.boxed_kernel, QTensor) else layer.site


def is_leaf(name: str) -> bool:
    """Whether a parameter of that name stands beside a kernel by a recipe."""
    return name in LEAVES or is_mark(name)


def multiplies(layer: Layer) -> bool:
    """Whether the call multiplies its input: a look-up has ids."""
    return layer.kind.name != "embed" or layer.method == "attend"


def takes_codes(layer: Layer) -> bool:
    """Whether the call quantizes its input."""
    return layer.site.inputs is not None and multiplies(layer)


def input_leaves(layer: Layer) -> tuple[str, ...]:
    """The leaves of the input's quantizer; beside a constant scale there is always a zero point, which tells it."""
    if not (takes_codes(layer) and layer.site.static):
        return ()
    if isinstance(layer.site.input_estimator, Ste):
        return ("inputs_scale", "inputs_zero_point")
    return layer.site.input_names


def row_of(layer: Layer, why: str) -> Row:
    """The layer's line of a report."""
    inputs = layer.site.inputs_text if multiplies(layer) else "ids"
    why += ragged_text(layer.site.weights, meta.unbox(layer.boxed_kernel).shape)
    return Row(layer.path, type(layer.module).__name__, layer.site.weights_text, inputs, why)


def summed_of(layer: Layer) -> tuple[int, ...] | None:
    """The summed axes of the kernel where the kind alone does not tell them."""
    if getattr(layer.module, "transpose_kernel", False):
        return mirrored_axes(len(meta.unbox(layer.boxed_kernel).shape))
    if layer.kind.name == "general":
        batch, axis = len(tuple(layer.module.batch_dims)), layer.module.axis
        return tuple(range(batch, batch + (1 if isinstance(axis, int) else len(tuple(axis)))))
    return kernel_letters_summed(layer.subscripts) if layer.kind.name == "einsum" else None
