"""What one layer does: the specs of its kernel and its inputs, resolved from a rule and the layer's axes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from jaxquant.flax.rule import Quantizer, Rule, learned
from refquant.estimators import Estimator, Lsq, LsqPlus, Pact, Ste
from refquant.granularity import Granularity, PerAxis, PerGroup, PerTensor, PerToken, Shape
from refquant.layer_checks import check_layer, check_sums
from refquant.schemes import TensorScheme, grain_granularity
from refquant.spec import QuantSpec

KINDS = ("linear", "general", "einsum", "conv", "conv_transpose", "embed")


@dataclass(frozen=True)
class LayerSpec:
    """Everything static that one layer does; hashable, the same for layers that do the same.

    Attributes:
      weights: the spec of the kernel; None in the site of an attention's products.
      inputs: the spec of the inputs; PerToken() stands for every axis that is not summed (`inputs_for`).
      weight_estimator: how the gradient passes the kernel's quantizer.
      input_estimator: likewise for the inputs.
      static: whether the inputs' scale is a constant of the layer.
      calibration: how that scale follows from data.
      start: the first step that quantizes; None: always (the layer has no step).
      freeze_scales: the first step that trains no scale; None: never.
      folded: whether a batch norm is folded into the kernel.
    """

    weights: QuantSpec | None
    inputs: QuantSpec | None = None
    weight_estimator: Estimator = Ste()
    input_estimator: Estimator = Ste()
    static: bool = False
    calibration: str = "minmax"
    start: int | None = None
    freeze_scales: int | None = None
    folded: bool = False

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The learned parameters of the kernel's quantizer."""
        return {Lsq: ("kernel_scale",), LsqPlus: ("kernel_scale", "kernel_offset")}.get(type(self.weight_estimator), ())

    @property
    def input_names(self) -> tuple[str, ...]:
        """The learned or calibrated parameters of the inputs' quantizer."""
        if not self.static:
            return ()
        if isinstance(self.input_estimator, LsqPlus):
            return ("inputs_scale", "inputs_offset")
        if isinstance(self.input_estimator, Lsq | Pact) or self.inputs.scale.zero == "none":
            return ("inputs_scale",)
        return ("inputs_scale", "inputs_zero_point")

    @property
    def has_step(self) -> bool:
        """Whether the layer counts steps."""
        return self.start is not None

    @property
    def state_names(self) -> tuple[str, ...]:
        """Every leaf beside the kernel and the bias."""
        return (*self.weight_names, *self.input_names, *(("step",) if self.has_step else ()))

    def inputs_for(self, rank: int, summed: Iterable[int]) -> QuantSpec | None:
        """The spec of an input of that rank whose summed axes are given; a token is all that is not summed."""
        if self.inputs is None or not isinstance(self.inputs.granularity, PerToken):
            return self.inputs
        summed = {axis % rank for axis in summed}
        if summed == {rank - 1}:
            return self.inputs
        kept = tuple(axis for axis in range(rank) if axis not in summed)
        return replace(self.inputs, granularity=PerAxis(kept) if kept else PerTensor())

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.weights_text, self.inputs_text)))

    @property
    def weights_text(self) -> str:
        """The kernel's part in a report."""
        return "" if self.weights is None else spec_text(self.weights) + estimator_text(self.weight_estimator)

    @property
    def inputs_text(self) -> str:
        """The inputs' part in a report."""
        if self.inputs is None:
            return "float"
        how = f" static ({self.calibration})" if self.static and not learned(self.input_estimator) else ""
        return spec_text(self.inputs) + (how if self.static else " dynamic") + estimator_text(self.input_estimator)


def resolve(
    rule: Rule,
    kind: str,
    kernel_shape: Shape,
    *,
    summed: tuple[int, ...] | None = None,
    path: str = "",
    schedule: object | None = None,
) -> LayerSpec:
    """What a layer does by a rule.

    Args:
      rule: one with weights.
      kind: "linear", "general", "einsum", "conv", "conv_transpose" or "embed".
      kernel_shape: of one layer's kernel (without the axes of layers stacked for a scan).
      summed: the kernel's summed axes; None: those of the kind (linear 0, embed 1, convolutions all but the last).
      path: of the layer, for the message.
      schedule: the recipe's, or None.
    Raises:
      ValueError: the granularity does not fit the axes, or the sums might not fit int32.
    """
    shape = tuple(kernel_shape)
    name = f"{path or kind} (rule {rule.label})"
    axes = summed_axes(kind, len(shape)) if summed is None else tuple(axis % len(shape) for axis in summed)
    weights = _spec(name, rule.weights, _weight_grain(name, path, rule.weights, shape, axes))
    inputs = None if rule.inputs is None else _spec(name, rule.inputs, _input_grain(rule.inputs))
    _check(name, path, weights, inputs, shape, axes)
    weights = replace(weights, granularity=_counted(weights.granularity, len(shape)))
    start, freeze = (schedule.start, schedule.freeze_scales) if schedule is not None else (None, None)
    static = rule.input_scale == "static"
    return LayerSpec(
        weights, inputs, rule.weight_estimator, rule.input_estimator, static, rule.calibration, start, freeze,
        folded=rule.fold is not None,
    )  # fmt: skip


def resolve_attention(rule: Rule) -> LayerSpec:
    """What the products of an attention do by a rule: both operands of both by the same spec, dynamic."""
    return LayerSpec(None, _spec(rule.label, rule.attention, _input_grain(rule.attention)))


def summed_axes(kind: str, rank: int) -> tuple[int, ...]:
    """The summed axes of a kernel whose kind alone tells them."""
    if kind in ("conv", "conv_transpose"):
        return tuple(range(rank - 1))
    return {"linear": (0,), "embed": (1,)}[kind]


def kernel_letters_summed(subscripts: str) -> tuple[int, ...]:
    """The summed axes of the kernel in "x,kernel->result"."""
    left, _, out = subscripts.replace(" ", "").partition("->")
    return tuple(axis for axis, letter in enumerate(left.partition(",")[2]) if letter not in out)


def mirrored_axes(rank: int) -> tuple[int, ...]:
    """The summed axes of a kernel (*taps, out, in): of a transposed convolution with transpose_kernel."""
    return (*range(rank - 2), rank - 1)


def spec_text(spec: QuantSpec) -> str:
    """A spec as a scheme writes it, with the axes of its granularity."""
    options = str(TensorScheme(spec.fmt, "tensor", spec.scale)).split(":")[2:]
    return ":".join([spec.fmt.name, str(spec.granularity), *options])


def ragged_text(spec: QuantSpec, shape: Shape) -> str:
    """What a report adds where groups do not divide the axis that they run along; nothing where they do.

    Args:
      spec: of a kernel.
      shape: of one layer's kernel.
    """
    if not isinstance(spec.granularity, PerGroup):
        return ""
    rest = shape[spec.granularity.axis] % spec.granularity.size
    return f"; last group of {rest}" if rest else ""


def estimator_text(estimator: Estimator) -> str:
    """An estimator in a report, with what differs from its defaults; nothing for the plain one."""
    if estimator == Ste():
        return ""
    given = [f"{f.name}={v!r}" for f in fields(estimator) if (v := getattr(estimator, f.name)) != f.default]
    return f" {type(estimator).__name__}({', '.join(given)})"


def _spec(name: str, quantizer: Quantizer, grain: Granularity) -> QuantSpec:
    if isinstance(quantizer, QuantSpec):
        return quantizer
    return QuantSpec(quantizer.fmt, grain, quantizer.scale)


def _input_grain(quantizer: Quantizer) -> Granularity:
    return PerToken() if isinstance(quantizer, TensorScheme) and quantizer.grain == "token" else PerTensor()


def _weight_grain(name: str, path: str, quantizer: Quantizer, shape: Shape, summed: tuple[int, ...]) -> Granularity:
    if isinstance(quantizer, QuantSpec):
        return quantizer.granularity
    kept = tuple(axis for axis in range(len(shape)) if axis not in summed)
    if quantizer.grain == "channel":
        return PerAxis(kept[0] if len(kept) == 1 else kept) if kept else PerTensor()
    if quantizer.grain[0] == "g":
        _check_groups(name, path, quantizer.fmt.name, shape, summed)
    return grain_granularity(quantizer.grain, 0, summed[0] if summed else 0)


def _counted(grain: Granularity, rank: int) -> Granularity:
    """The same with its axes counted from the first: specs that mean the same are equal, and have one mark."""
    if isinstance(grain, PerAxis):
        axes = tuple(axis % rank for axis in grain.axes)
        return PerAxis(axes if isinstance(grain.axis, tuple) else axes[0])
    return PerGroup(grain.axis % rank, grain.size) if isinstance(grain, PerGroup) else grain


def _check_groups(name: str, path: str, fmt: str, shape: Shape, summed: tuple[int, ...]) -> None:
    if len(summed) != 1:
        raise ValueError(
            f"{name}: weights in groups, but the kernel of shape {shape} has {len(summed)} summed axes {summed}, need "
            f"one (a group is a run along the one summed axis, LAY-3): put Rule({path!r}, weights='{fmt}:channel', "
            "...) before"
        )


def _check(
    name: str, path: str, weights: QuantSpec, inputs: QuantSpec | None, shape: Shape, summed: tuple[int, ...]
) -> None:
    weights.granularity.scale_shape(shape)
    if isinstance(weights.granularity, PerGroup) and weights.granularity.axis % len(shape) not in summed:
        raise ValueError(
            f"{name}: groups along axis {weights.granularity.axis}, need the summed one of {summed} (LAY-3)"
        )
    if inputs is None:
        return
    if isinstance(weights.granularity, PerGroup):
        _check_groups(name, path, weights.fmt.name, shape, summed)
    check_layer(name, weights, replace(inputs, granularity=PerTensor()), len(shape), summed, 1, (0,))
    centred = inputs.scale.zero == "int", weights.scale.zero == "int"
    check_sums(name, math.prod(shape[axis] for axis in summed), weights, inputs, centred=centred)
