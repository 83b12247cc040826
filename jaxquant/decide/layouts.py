"""What a module tree says about a weight: whether it is a kernel, of which kind, which axes are summed, what it can do.

Names and shapes alone would take an attention's bias [heads, dim] for a matrix, and its kernel for a convolution's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from refquant.files import TensorInfo
from refquant.files.quantized import QUANTIZABLE, Channels, Kind, Plan, plan
from refquant.granularity import Shape
from refquant.schemes import Scheme

Layer = Literal["linear", "general", "einsum", "conv", "conv_transpose", "embed", "none", "other"]
PLAN_KINDS: Mapping[Layer, Kind] = {"conv": "conv", "conv_transpose": "conv", "embed": "embedding"}  # else "linear"
NEVER = ("bias", "scale")  # last part of a name that is no kernel, whatever its shape


@dataclass(frozen=True)
class Layout:
    """One weight as its module uses it.

    Attributes:
      layer: the kind of module; "none": no kernel, stays in float; "other": no layer of Flax's own, so that name and
        shape decide.
      summed: the kernel's summed axes.
      stacked: how many axes in front count layers.
      floats: why the layer's inputs stay in float under any scheme; "" where they need not.
    """

    layer: Layer
    summed: tuple[int, ...] = ()
    stacked: int = 0
    floats: str = ""

    @property
    def kind(self) -> Kind:
        """Which part of a scheme it falls under."""
        return "other" if self.layer == "none" else PLAN_KINDS.get(self.layer, "linear")

    def axes(self, rank: int) -> tuple[Channels, int]:
        """(the axes with scales of their own under `channel`, the axis along which groups run: the last summed)."""
        kept = tuple(axis for axis in range(rank) if axis not in self.summed)
        return kept[0] if len(kept) == 1 else kept, max(self.summed)


NO_KERNEL = Layout("none")
NO_INPUTS = "a table that is only looked up in"
NOT_CALLED = "a kernel whose layer is not called"


def kernel_layout(layer: Layer, summed: Iterable[int], shape: Shape, one: Shape, floats: str = "") -> Layout:
    """The layout of a kernel, which may have more axes in front than its layer has (layers stacked for a scan).

    Args:
      layer: its kind.
      summed: the summed axes of one layer's kernel.
      shape: as it is.
      one: of one layer's kernel.
      floats: why its inputs stay in float.
    Returns:
      "other" where a kernel without kept or summed axes leaves nothing to tell.
    """
    extra = len(shape) - len(one)
    axes = tuple(axis % len(one) + extra for axis in summed)
    if extra < 0 or not 0 < len(axes) < len(shape):
        return Layout("other", floats=floats or "a kernel without axes that are summed, or that are kept")
    if tuple(shape[extra:]) != tuple(one):
        floats = floats or "layers stacked along another axis than the first"
    return Layout(layer, axes, extra, floats)


def planned(infos: Iterable[TensorInfo], scheme: Scheme, layouts: Mapping[str, Layout]) -> tuple[Plan, ...]:
    """What a scheme makes of each tensor; names and shapes decide where no layout is known (FIL-1, DEC-14)."""
    return tuple(_one(info, scheme, layouts.get(info.name)) for info in infos)


def _one(info: TensorInfo, scheme: Scheme, layout: Layout | None) -> Plan:
    if layout is None or layout.layer == "other":
        return plan([info], scheme)[0]
    chosen = scheme.embeddings if layout.kind == "embedding" else scheme.weights
    if layout.layer == "none":
        return Plan(info, "other", None, "no kernel")
    if chosen is None:
        return Plan(info, layout.kind, None, f"the scheme leaves {layout.kind} tensors in float")
    if info.dtype not in QUANTIZABLE:
        return Plan(info, layout.kind, None, f"dtype {info.dtype}, need one of {', '.join(QUANTIZABLE)}")
    if chosen.grain == "token":
        return plan([info], scheme)[0]  # which refuses it
    return Plan(info, layout.kind, chosen, given=layout.axes(len(info.shape)))
