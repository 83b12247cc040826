"""What all layers share: codes of the inputs, centred codes, and the steps from an int32 sum to the result."""

from dataclasses import dataclass

import numpy as np

from refquant import checks
from refquant.arguments import as_array, as_real, real_result, shape_of
from refquant.bits import flush
from refquant.contractions import Contraction
from refquant.estimators import Estimator, LsqPlus, Ste
from refquant.formats import Format, IntFormat
from refquant.layer_checks import check_learned, check_static, integers, magnitude
from refquant.qat.learned import effective
from refquant.qtensor import QTensor, coded, quantize_tensor
from refquant.spec import QuantSpec

Number = np.ndarray | np.generic | float


@dataclass(frozen=True, eq=False)
class Operand:
    """One side of a sum of products.

    Attributes:
      values: code − zero point, an integer dtype; float32 where inputs stay in float.
      scale: float32.
      bound: the largest |value| that the format allows.
    """

    values: np.ndarray
    scale: np.ndarray
    bound: int


def real_input(function: str, x: object) -> np.ndarray:
    """The input as an array of a real dtype; there is no layer of a plain number."""
    return as_real(function, "x", x)


def result_dtype(function: str, dtype: np.dtype | type | str) -> np.dtype:
    """The dtype of a layer's result."""
    return real_result(function, dtype)


def given(
    function: str,
    x: np.ndarray,
    inputs: QuantSpec | None,
    scale: Number | None,
    zero_point: Number | None,
    estimator: Estimator,
) -> tuple | None:
    """The static scale and zero point as arrays, those that a learned one stands for, None if dynamic (LAY-4, LAY-12).

    Raises:
      TypeError: a dtype does not fit.
      ValueError: a shape does not fit, or one without the other.
    """
    shape, zero_shape = (None if v is None else shape_of(v) for v in (scale, zero_point))
    check_learned(function, estimator, inputs, scale is not None, zero_point is not None)
    check_static(function, inputs, x.shape, shape, zero_shape)
    if scale is None or inputs is None:
        return None
    scale = as_array(scale, np.float32)
    checks.scale_dtype(function, scale.dtype)
    zero_point = _zero_point(function, zero_point, inputs.fmt, isinstance(estimator, LsqPlus))
    if isinstance(estimator, Ste):
        return scale, zero_point
    return effective(estimator, tuple(v for v in (scale, zero_point) if v is not None), inputs.fmt)


def _zero_point(function: str, value: Number | None, fmt: Format, real: bool) -> np.ndarray | None:
    """A zero point as int32, or a learned offset as float32."""
    if value is None:
        return None
    if not real:
        checks.int32_value(function, "zero_point", value)
    value = as_array(value, np.float32 if real else np.int32)
    checks.zero_point(function, value.dtype, "bias" if real else "int", fmt)
    return value


@np.errstate(all="ignore")
def input_operand(x: np.ndarray, inputs: QuantSpec, static: tuple | None) -> Operand:
    """The inputs' codes, by the static scale or by one from their own range (LAY-4)."""
    if static is None:
        q = quantize_tensor(x, inputs)  # LAY-4
        return centred(q.codes, q.zero_point, q.scale, integers(inputs))
    scale, zero_point = static
    return centred(coded(x, scale, zero_point, inputs).codes, zero_point, scale, integers(inputs))


def centred(codes: np.ndarray, zero_point: np.ndarray | None, scale: np.ndarray, fmt: IntFormat) -> Operand:
    """The difference code − zero point; a zero point outside the format counts as its nearest code (LAY-1)."""
    if zero_point is None:
        return Operand(codes, scale, magnitude(fmt, False))
    zero = np.clip(zero_point, fmt.qmin, fmt.qmax)  # LAY-1
    return Operand(codes.astype(np.int32) - zero, scale, magnitude(fmt, True))


def weight_operand(weight: QTensor) -> Operand:
    """The weight's centred codes; zero points of groups repeat along their axis (GRA-3)."""
    zero = weight.zero_point
    if zero is not None and zero.ndim:
        tile = weight.spec.granularity.tile(weight.codes.shape)
        for axis, size in enumerate(tile):
            zero = np.repeat(zero, size, axis).take(range(weight.codes.shape[axis]), axis)
    return centred(weight.codes, zero, weight.scale, integers(weight.spec))


@np.errstate(all="ignore")
def scaled_sums(acc: np.ndarray, scale: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """rounded(float32(acc) · s_w), an int32 bias added to the sum first, modulo 2^32 (LAY-1, LAY-9)."""
    if bias is not None and bias.dtype == np.int32:
        acc = acc + bias  # LAY-9
    return acc.astype(np.float32) * scale  # LAY-1


@np.errstate(all="ignore")
def finished(y: np.ndarray, scale: np.ndarray, bias: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    """rounded(y · s_x) + bias, flushed, then the one cast (LAY-1)."""
    y = y * scale  # LAY-1
    if bias is not None and bias.dtype != np.int32:
        y = flush(y + flush(bias.astype(np.float32)))  # LAY-1
    return np.asarray(y).astype(dtype)  # LAY-1


def present(scale: np.ndarray) -> np.ndarray:
    """The scale, or 1 where an empty tensor has none (GRA-2, LAY-1)."""
    return scale if scale.size else np.ones((), np.float32)


def aligned(values: np.ndarray, order: tuple[int, ...], plan: Contraction, *, of_x: bool) -> np.ndarray:
    """Scales of an operand (one element where it is summed) laid along the axes of the result."""
    values = present(values)
    if values.ndim == 0:
        return values
    batch = [values.shape[axis] for axis in order[: plan.batch]]
    kept = [a for a in order[plan.batch :] if a not in (plan.x_summed if of_x else plan.weight_summed)]
    outer = [values.shape[axis] for axis in kept]
    shape = (*batch, *outer, *[1] * plan.columns) if of_x else (*batch, *[1] * plan.rows, *outer)
    return values.transpose(order).reshape(shape).transpose(plan.out)
