"""Learned scales as an integer layer uses them: scale and zero point forward, exact vjps backward."""

from typing import NamedTuple

import numpy as np

from refquant import checks
from refquant.affine import fake_quantize_vjp, quantize
from refquant.arguments import as_real
from refquant.bits import flush
from refquant.conventions import DEFAULT, Affine
from refquant.estimators import (
    Estimator,
    Lsq,
    LsqPlus,
    Pact,
    Ste,
    check_count,
    check_learned,
    check_zero,
    gradient_scale,
    learned_names,
)
from refquant.formats import Format, IntFormat
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds
from refquant.qat import _tiles

TENSOR = PerTensor()
Learned = tuple[np.ndarray, ...]


@kinds
@np.errstate(all="ignore")
def effective(estimator: Estimator, learned: Learned, fmt: Format) -> tuple[np.ndarray, np.ndarray | None]:
    """The scale and the zero point that an integer layer uses for what an estimator has learned.

    Args:
      estimator: Lsq, LsqPlus or Pact.
      learned: float32 arrays of one shape: (scale,), (scale, offset) or (alpha,).
      fmt: an integer format; with Pact one whose qmin is 0.
    Returns:
      (scale, zero_point): float32 and at least 2^-60; int32 in qmin..qmax for LsqPlus, else None.
    Raises:
      TypeError: the estimator learns nothing, another kind of format, a dtype that is not float32.
      ValueError: another number of learned arrays, arrays of two shapes, or a signed format with Pact.

    Spec: EST-1, LSP-3, PCT-1 (specs/62-estimators.md).  Class: exact.
    Example:
      >>> from refquant.formats import ALL
      >>> scale, zero_point = effective(LsqPlus(), (np.float32(-0.5), np.float32(-1.2)), ALL["uint4"])
      >>> float(scale), int(zero_point)
      (0.5, 2)
    """
    fmt = check_learned("effective", estimator, fmt)
    first, *rest = _learned("effective", estimator, learned)
    if isinstance(estimator, Pact):
        return np.asarray(_tiles.used(first, fmt.qmax) / np.float32(fmt.qmax)), None  # PCT-1
    if not rest:
        return _tiles.used(first), None  # EST-1
    found = _placed(fmt, first, rest[0])
    return found.scale, found.zero_point


@kinds
def learned_vjp(
    estimator: Estimator,
    x: np.ndarray,
    learned: Learned,
    cotangent: np.ndarray,
    *,
    fmt: Format,
    granularity: Granularity = TENSOR,
    convention: Affine = DEFAULT,
) -> tuple[np.ndarray, Learned]:
    """What a gradient of the quantized values means for x and for what an estimator has learned.

    Args:
      estimator: Lsq, LsqPlus or Pact.
      x: float32, float16 or bfloat16, any shape.
      learned: float32 arrays of shape `granularity.scale_shape(x.shape)`: (scale,), (scale, offset) or (alpha,).
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: an integer format; with Pact one whose qmin is 0.
      granularity: which elements share a scale.
      convention: how the layer's codes are computed; not with zero "bias".
    Returns:
      (gradient of x: dtype and shape of cotangent; gradients of `learned`: float32, its shapes).
    Raises:
      TypeError: the estimator learns nothing, another kind of format, a dtype does not fit.
      ValueError: a shape or a convention does not fit.

    Spec: EST-2..EST-6, LSQ-2, LSP-4, PCT-3 (specs/62-estimators.md).  Class: exact.
    """
    return gradients(
        "learned_vjp", estimator, x, learned, cotangent, fmt=fmt, granularity=granularity, convention=convention
    )


@np.errstate(all="ignore")
def gradients(
    name: str,
    estimator: Estimator,
    x: np.ndarray,
    learned: Learned,
    cotangent: np.ndarray,
    *,
    fmt: Format,
    granularity: Granularity,
    convention: Affine = DEFAULT,
) -> tuple[np.ndarray, Learned]:
    """`learned_vjp` for a function of another name (EST-2..EST-6)."""
    fmt = check_learned(name, estimator, fmt)
    check_zero(name, convention.zero)
    x, arrays = as_real(name, "x", x), _learned(name, estimator, learned)
    for argument, value in zip(learned_names(estimator), arrays, strict=True):
        checks.scale_shape(name, argument, value.shape, x.shape, granularity)
    cotangent = as_real(name, "cotangent", cotangent)
    checks.same_shape(name, "cotangent", cotangent.shape, x.shape, "x")
    mask = "ratio" if isinstance(estimator, Ste | Pact) else estimator.mask
    factor = gradient_scale(estimator, fmt, x.shape, granularity)
    plan = _Plan(fmt, granularity, convention, mask, factor)
    return VJPS[type(estimator)](plan, x, arrays, cotangent)


def _learned(function: str, estimator: Estimator, learned: Learned) -> list[np.ndarray]:
    """The learned arrays, float32 and of one shape."""
    check_count(function, estimator, learned)
    names = learned_names(estimator)
    arrays = [_tiles.as_learned(function, *pair) for pair in zip(names, learned, strict=True)]
    checks.same_shape(function, names[-1], arrays[-1].shape, arrays[0].shape, "scale")
    return arrays


class _Plan(NamedTuple):
    """What decides a gradient besides the arrays."""

    fmt: IntFormat
    granularity: Granularity
    convention: Affine
    mask: str
    factor: float


class _Placed(NamedTuple):
    """A learned scale and offset as an integer layer uses them, and whether the zero point follows the offset."""

    scale: np.ndarray
    zero_point: np.ndarray
    real: np.ndarray
    follows: np.ndarray


def _placed(fmt: IntFormat, scale: np.ndarray, offset: np.ndarray) -> _Placed:
    """LSP-3."""
    step = _tiles.used(scale)
    real = _tiles.ratio(-offset, step)  # LSP-3
    zero_point = np.rint(np.clip(np.where(np.isnan(real), np.float32(0), real), fmt.qmin, fmt.qmax))  # LSP-3
    follows = (real >= fmt.qmin) & (real <= fmt.qmax)  # LSP-4
    step = np.where(np.isnan(real), real, step)  # LSP-3
    return _Placed(np.asarray(step), np.asarray(zero_point.astype(np.int32)), real, follows)


def _judged(
    plan: _Plan, x: np.ndarray, step: np.ndarray, zero_point: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(code - zero point as binary32, ratio, inside) of each element."""
    factor = np.float32(1) / step if plan.convention.op == "given" else step  # QTN-2
    options = {"fmt": plan.fmt, "granularity": plan.granularity, "convention": plan.convention}
    codes = quantize(x, factor, zero_point, **options).astype(np.int32)
    ones = np.ones(x.shape, np.float32)
    inside = fake_quantize_vjp(x, factor, zero_point, ones, **options, mask=plan.mask) == 1  # EST-3
    zero = np.int32(0) if zero_point is None else _tiles.spread(zero_point, x.shape, plan.granularity)
    ratio = _tiles.ratio(x, _tiles.spread(step, x.shape, plan.granularity))  # EST-2
    return (codes - zero).astype(np.float32), ratio, inside


def _lsq(plan: _Plan, x: np.ndarray, learned: list, cotangent: np.ndarray) -> tuple[np.ndarray, Learned]:
    (scale,) = learned
    steps, ratio, inside = _judged(plan, x, _tiles.used(scale), None)
    weight = np.where(inside, steps - ratio, steps)  # LSQ-2
    total = _tiles.summed(_tiles.counted(weight * cotangent.astype(np.float32)), plan.granularity)  # EST-4
    return _tiles.passed(inside, cotangent), (_tiles.finished(total, plan.factor, scale),)


def _lsq_plus(plan: _Plan, x: np.ndarray, learned: list, cotangent: np.ndarray) -> tuple[np.ndarray, Learned]:
    placed, wide = _placed(plan.fmt, *learned), cotangent.astype(np.float32)
    steps, ratio, inside = _judged(plan, x, placed.scale, placed.zero_point)
    real, follows = (_tiles.spread(v, x.shape, plan.granularity) for v in (placed.real, placed.follows))
    outside = np.where(follows, steps + real, steps)  # LSP-4
    terms = np.where(inside, steps - ratio, outside) * wide  # LSP-4
    shifts = np.where(~inside & follows, wide, np.float32(0))  # LSP-4
    to_scale, to_offset = (_tiles.summed(_tiles.counted(v), plan.granularity) for v in (terms, shifts))  # EST-4
    found = (_tiles.finished(to_scale, plan.factor, learned[0]), _tiles.finished(to_offset, plan.factor))
    return _tiles.passed(inside, cotangent), found


def _pact(plan: _Plan, x: np.ndarray, learned: list, cotangent: np.ndarray) -> tuple[np.ndarray, Learned]:
    (alpha,) = learned
    bound = _tiles.spread(_tiles.used(alpha, plan.fmt.qmax), x.shape, plan.granularity)  # PCT-1
    wide = flush(x.astype(np.float32))  # PCT-2
    terms = np.where(wide >= bound, cotangent.astype(np.float32), np.float32(0))  # PCT-3
    total = _tiles.summed(_tiles.counted(terms), plan.granularity)  # EST-4
    inside = (wide >= 0) & (wide < bound)  # PCT-2
    return _tiles.passed(inside, cotangent), (_tiles.finished(total, 1.0, alpha),)


VJPS = {Lsq: _lsq, LsqPlus: _lsq_plus, Pact: _pact}
