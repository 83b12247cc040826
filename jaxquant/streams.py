"""A tensor quantized run by run of its rows, by either package, to the bits that it has as a whole (FIL-9)."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from refquant.files.runs import PIECE, runs, spans, unit
from refquant.granularity import Shape
from refquant.spec import QuantSpec

Read = Callable[[int, int], Any]


def quantized_runs(
    qtensor: ModuleType, scales: ModuleType, read: Read, shape: Shape, spec: QuantSpec, *, elements: int = PIECE
) -> Iterator[tuple[Any, Any]]:
    """Each run with its QTensor; where tiles have rows of several runs, all are read once more, for their ranges.

    Args:
      qtensor: that module of refquant or of jaxquant.
      scales: of the same package.
      read: gives the rows from the first to the one after the last.
      shape: the tensor's.
      spec: format, granularity, scale rule and convention.
      elements: of a run.
    Returns:
      Iterator of (rows, QTensor); with ranges of several runs each QTensor has the scales of the whole tensor.

    Spec: FIL-9 (specs/65-files.md), SCL-1 (specs/30-scales.md).  Class: exact.
    """
    parts = list(runs(shape, unit(shape, spec.granularity), elements))
    if len(parts) == 1 or not spans(shape, spec.granularity):
        for part in parts:
            x = read(*part)
            yield x, qtensor.quantize_tensor(x, spec)
        return
    low = high = np.float32(0)  # SCL-1: zero is in every range
    for part in parts:
        ends = scales.range_of(read(*part), granularity=spec.granularity)
        low, high = np.minimum(low, ends[0]), np.maximum(high, ends[1])
    scale, zero_point = scales.choose_scale(low, high, fmt=spec.fmt, rule=spec.scale)
    for part in parts:
        x = read(*part)
        yield x, qtensor.coded(x, scale, zero_point, spec)
