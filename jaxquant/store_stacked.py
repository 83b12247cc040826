"""Layers stacked for a scan or a vmap: a QTensor of one layer's spec, and the same as one whole tensor (FIL-8)."""

from dataclasses import replace
from typing import Any

from jaxquant.qtensor import QTensor
from refquant.files import TensorInfo
from refquant.files.quantized import Plan, plan_of
from refquant.files.stacked import of_layers, of_one, stacked_axes, whole


def axes_of(q: QTensor) -> int:
    """How many leading axes of a QTensor count layers."""
    return stacked_axes(q.spec, q.shape, tuple(q.scale.shape))


def as_whole(q: QTensor) -> QTensor:
    """A QTensor of stacked layers as one whose spec is that of all its axes; `dequantize_tensor` takes it.

    Args:
      q: such as the kernel of a scanned layer in a converted model; one that is not stacked is returned as it is.
    """
    count = axes_of(q)
    spec = whole(q.spec, count)
    return _with_scales(q, spec, spec.granularity.scale_shape(q.shape)) if count else q


def as_layers(q: QTensor, count: int) -> QTensor:
    """The other way: the QTensor of one layer's spec, with `count` axes of layers in front."""
    spec = of_one(q.spec, count)
    return _with_scales(q, spec, of_layers(spec.granularity, q.shape, count)) if count else q


def plan_of_layers(name: str, q: QTensor) -> Plan:
    """What becomes of a QTensor in a file.

    Raises:
      ValueError: a spec that the file does not tell (FIL-3, FIL-8).
    """
    count = axes_of(q)
    spec = whole(q.spec, count)
    made, one = plan_of(TensorInfo(name, "F32", q.shape, 0, 0), spec), of_one(spec, count)
    if one != q.spec:
        raise ValueError(
            f"save: {name!r} has layers stacked with {q.spec.granularity!r}, need {one.granularity!r} (the same "
            "scales; FIL-8: a file does not tell them apart)"
        )
    return replace(made, stacked=count)


def _with_scales(q: QTensor, spec: Any, shape: tuple[int, ...]) -> QTensor:
    """The spec, and scales and zero points of that shape: only axes of length 1 come or go."""
    zero = q.zero_point
    if zero is not None and zero.shape == q.scale.shape:  # else the zero point is wrong, and check_stored says so
        zero = zero.reshape(shape)
    return replace(q, scale=q.scale.reshape(shape), zero_point=zero, spec=spec)
