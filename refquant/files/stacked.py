"""Layers stacked along leading axes: the spec of one of them, and that of the tensor as it lies in a file (FIL-8)."""

from dataclasses import replace

from refquant.granularity import Granularity, PerAxis, PerGroup, PerTensor, Shape
from refquant.spec import QuantSpec


def stacked_axes(spec: QuantSpec, shape: Shape, scale_shape: Shape) -> int:
    """How many leading axes count layers: the fewest with which the scales are those of the spec; 0 where none fits.

    Args:
      spec: of one layer.
      shape: of the codes.
      scale_shape: of the scales, the axes of layers in front.
    """
    for count in range(len(shape)):
        try:
            if scale_shape == of_layers(spec.granularity, shape, count):
                return count
        except ValueError:  # an axis that one layer would not have
            break
    return 0


def of_layers(granularity: Granularity, shape: Shape, count: int) -> Shape:
    """The shape of the scales of layers that are stacked along the first `count` axes of a shape."""
    return (*shape[:count], *granularity.scale_shape(shape[count:]))


def told_axes(count: object, spec: QuantSpec, shape: Shape) -> int:
    """The number of axes that a file says count layers.

    Raises:
      ValueError: it is none that the spec and the shape allow.
    """
    if type(count) is not int or not 0 <= count < max(len(shape), 1):
        raise ValueError("stacked must be a number of leading axes")
    of_layers(of_one(spec, count).granularity, shape, count)  # one layer has the axes that its spec names
    return count


def whole(spec: QuantSpec, count: int) -> QuantSpec:
    """The spec of the tensor in which layers of a spec are stacked along `count` leading axes: it scales them apart."""
    grain = spec.granularity
    if not count:
        return spec
    if isinstance(grain, PerTensor):
        return replace(spec, granularity=PerAxis(tuple(range(count))))
    if isinstance(grain, PerAxis):
        return replace(spec, granularity=PerAxis((*range(count), *(_moved(axis, count) for axis in grain.axes))))
    if isinstance(grain, PerGroup):
        return replace(spec, granularity=PerGroup(_moved(grain.axis, count), grain.size))
    return spec  # tokens and blocks count from the last axis


def of_one(spec: QuantSpec, count: int) -> QuantSpec:
    """The other way: the spec of one layer.

    Raises:
      ValueError: the layers have scales in common.
    """
    if not count:
        return spec
    grain = spec.granularity
    if isinstance(grain, PerAxis):
        axes = tuple(_moved(axis, -count) for axis in grain.axes[count:])
        grain = PerTensor() if not axes else PerAxis(axes[0] if len(axes) == 1 else axes)
    elif isinstance(grain, PerGroup):
        grain = PerGroup(_moved(grain.axis, -count), grain.size)
    one = replace(spec, granularity=grain)
    if whole(one, count) != spec:
        raise ValueError(f"{count} axes count layers, need scales of their own for each (not {spec.granularity!r})")
    return one


def _moved(axis: int, by: int) -> int:
    """An axis after others came in front, or went; one that counts from the end stays.

    Raises:
      ValueError: it is one of those that went.
    """
    if 0 <= axis < -by:
        raise ValueError(f"axis {axis} counts layers, need one of a layer's own")
    return axis if axis < 0 else axis + by
