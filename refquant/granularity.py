"""Granularity: which elements share a scale.  Shape arithmetic on ints (specs/20-affine.md, GRA-1..GRA-3).

Every granularity is a *tile*: a block shape laid over the array from its origin, one scale a tile; the last
tile of an axis may be ragged and still has a scale of its own.
"""

import math
from dataclasses import dataclass
from operator import index
from typing import SupportsIndex

Shape = tuple[int, ...]


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole array, of shape ()."""

    def tile(self, shape: Shape) -> Shape:
        """The whole array."""
        return tuple(max(n, 1) for n in shape)

    def scale_shape(self, shape: Shape) -> Shape:
        """Always ()."""
        return ()

    def __str__(self) -> str:
        return "tensor"


class _Tiled:
    """Scale shape = number of tiles along each axis (a ragged last tile counts)."""

    def tile(self, shape: Shape) -> Shape:
        raise NotImplementedError

    def scale_shape(self, shape: Shape) -> Shape:
        """Tiles along each axis, same rank as the array."""
        return tuple(math.ceil(n / t) for n, t in zip(shape, self.tile(shape), strict=True))


@dataclass(frozen=True)
class PerAxis(_Tiled):
    """One scale for each index of one axis (or of each combination of indices of several axes)."""

    axis: int | tuple[int, ...]

    def __post_init__(self) -> None:
        axes = tuple(_whole("PerAxis: axis", a, "an integer or a tuple of integers") for a in self.axes)
        object.__setattr__(self, "axis", axes if isinstance(self.axis, tuple) else axes[0])

    @property
    def axes(self) -> tuple[int, ...]:
        """The kept axes, always a tuple."""
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)

    def tile(self, shape: Shape) -> Shape:
        """1 along the kept axes, whole along the others."""
        kept = {_axis(a, shape, self) for a in self.axes}
        return tuple(1 if i in kept else max(n, 1) for i, n in enumerate(shape))

    def __str__(self) -> str:
        return "axis" + "_".join(map(str, self.axes))


@dataclass(frozen=True)
class PerToken(_Tiled):
    """One scale for each vector along the last axis."""

    def tile(self, shape: Shape) -> Shape:
        """1 everywhere but along the last axis."""
        _axis(-1, shape, self)
        return (1,) * (len(shape) - 1) + (max(shape[-1], 1),)

    def __str__(self) -> str:
        return "token"


@dataclass(frozen=True)
class PerGroup(_Tiled):
    """One scale for each run of `size` elements along one axis; a ragged last run counts as one."""

    axis: int
    size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", _whole("PerGroup: axis", self.axis, "an integer"))
        object.__setattr__(self, "size", _whole("PerGroup: size", self.size, "an int from 1 up"))
        if self.size < 1:
            raise ValueError(f"PerGroup: size is {self.size!r}, need an int from 1 up (elements that share a scale)")

    def tile(self, shape: Shape) -> Shape:
        """`size` along the axis, 1 along the others."""
        at = _axis(self.axis, shape, self)
        return tuple(self.size if i == at else 1 for i in range(len(shape)))

    def __str__(self) -> str:
        return f"g{self.size}"


@dataclass(frozen=True)
class PerBlock(_Tiled):
    """One scale for each block of the trailing axes; ragged last blocks count."""

    shape: Shape

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple):
            raise TypeError(f"PerBlock: shape is {self.shape!r}, need a tuple of integers")
        object.__setattr__(self, "shape", tuple(_whole("PerBlock: size", n, "an integer") for n in self.shape))
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"PerBlock: shape is {self.shape}, need positive sizes (elements that share a scale)")

    def tile(self, shape: Shape) -> Shape:
        """The block along the trailing axes, 1 along the leading ones."""
        if len(shape) < len(self.shape):
            raise ValueError(f"{self!r}: array has shape {shape}, need at least {len(self.shape)} axes")
        return (1,) * (len(shape) - len(self.shape)) + self.shape

    def __str__(self) -> str:
        return "b" + "x".join(map(str, self.shape))


Granularity = PerTensor | PerAxis | PerToken | PerGroup | PerBlock


def blocked_shape(shape: Shape, tile: Shape) -> tuple[Shape, Shape, Shape]:
    """How to lay tiles out as axes of their own.

    Args:
      shape: the array's shape.
      tile: `granularity.tile(shape)`.
    Returns:
      (padding at the end of each axis, shape (tiles, tile, tiles, tile, ...), shape (tiles, 1, tiles, 1, ...)).
    """
    counts = [math.ceil(n / t) for n, t in zip(shape, tile, strict=True)]
    padding = tuple(c * t - n for n, c, t in zip(shape, counts, tile, strict=True))
    blocked = tuple(v for c, t in zip(counts, tile, strict=True) for v in (c, t))
    scales = tuple(v for c in counts for v in (c, 1))
    return padding, blocked, scales


def _whole(argument: str, value: SupportsIndex, need: str) -> int:
    """An integer as Python's own: one of NumPy's is equal, but JSON does not take it.

    Raises:
      TypeError: True or 1.0, which are equal to 1 and told otherwise, or anything else.
    """
    try:
        if not isinstance(value, bool):
            return index(value)
    except TypeError:
        pass
    raise TypeError(f"{argument} is {value!r}, need {need}")


def _axis(axis: int, shape: Shape, granularity: object) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{granularity!r}: array has shape {shape}, need axis {axis} to exist (rank {len(shape)})")
    return axis % len(shape)
