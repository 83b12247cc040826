"""A tensor in runs of whole rows, so that memory does not grow with it.  Shapes alone (specs/65-files.md, FIL-9)."""

import math
from collections.abc import Iterator
from types import EllipsisType

from refquant.granularity import Granularity, PerTensor, Shape

PIECE = 1 << 20  # elements of a run, where its numbers are added up


def runs(shape: Shape, unit: int = 1, elements: int = PIECE) -> Iterator[tuple[int, int]]:
    """The first row of each run and the row after its last; a scalar is one row.

    Args:
      shape: the tensor's.
      unit: rows that stay together, as `unit` gives them.
      elements: how many a run has at most, or as many as one unit has.

    Spec: FIL-9 (specs/65-files.md).
    Example:
      >>> list(runs((10, 4), 2, 16))
      [(0, 4), (4, 8), (8, 10)]
    """
    rows, row = (shape or (1,))[0], math.prod(shape[1:])
    step = max(1, elements // max(unit * row, 1)) * unit
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def unit(shape: Shape, grain: Granularity) -> int:
    """How many rows stay together: whole tiles, if any ends before the last row, and whole bytes at every width.

    Args:
      shape: the tensor's.
      grain: which of its elements share a scale.

    Example:
      >>> from refquant.granularity import PerAxis, PerGroup
      >>> unit((64, 3), PerAxis(0)), unit((64, 3), PerGroup(0, 12)), unit((64, 8), PerAxis(1))
      (8, 24, 1)
    """
    whole_bytes = 8 // math.gcd(8, math.prod(shape[1:]))
    return whole_bytes if spans(shape, grain) else math.lcm(whole_bytes, grain.tile(shape)[0])


def spans(shape: Shape, grain: Granularity) -> bool:
    """Whether a tile has all rows, so that its scale is known once all runs were read."""
    return not shape or isinstance(grain, PerTensor) or grain.tile(shape)[0] >= shape[0]


def scales_of(shape: Shape, grain: Granularity, start: int, stop: int) -> slice | EllipsisType:
    """Which rows of the scales belong to a run of rows of the tensor."""
    if spans(shape, grain):
        return ...
    tile = grain.tile(shape)[0]
    return slice(start // tile, -(-stop // tile))
