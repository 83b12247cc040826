"""Straight-through estimators as data: which gradient a quantizer has, and which numbers it learns.

Frozen and hashable, so static under jit; no arithmetic on arrays (specs/62-estimators.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from refquant.formats import Format, IntFormat
from refquant.granularity import Granularity, Shape
from refquant.options import check_options

#: The magnitude that a learned scale or bound has at least, where it is used (EST-1).
FLOOR = 2.0**-60

Mask = Literal["rounded", "ratio"]
GradientScale = Literal["per_scale", "features", "numel", "none"]


@dataclass(frozen=True)
class Ste:
    """Clip-STE; nothing is learned: the scale is the tensor's own (dynamic) or a constant (static).

    Attributes:
      mask: which elements let the gradient pass: "rounded" judges after rounding, "ratio" before it (STE-2).
    """

    mask: Mask = "rounded"

    def __post_init__(self) -> None:
        check_options(self, "STE-2")


@dataclass(frozen=True)
class Lsq:
    """Learned step size: one learned scale a tile (LSQ-1..LSQ-3).

    Attributes:
      gradient_scale: what the scale's gradient is multiplied by, 1 / sqrt(N * qmax): "per_scale", N elements share a
        scale; "features", the same of one example (axis 0 counts once); "numel", N elements in all; "none", 1.
      mask: which elements let the gradient pass (EST-3).
    """

    gradient_scale: GradientScale = "per_scale"
    mask: Mask = "ratio"

    def __post_init__(self) -> None:
        check_options(self, "EST-3, EST-5")


@dataclass(frozen=True)
class LsqPlus:
    """LSQ with a learned real offset beside the scale; in an integer layer it becomes a zero point (LSP-1..LSP-6).

    Attributes:
      gradient_scale: as for Lsq; of both gradients.
      mask: which elements let the gradient pass (EST-3).
    """

    gradient_scale: GradientScale = "per_scale"
    mask: Mask = "ratio"

    def __post_init__(self) -> None:
        check_options(self, "EST-3, EST-5")


@dataclass(frozen=True)
class Pact:
    """A learned upper bound of an unsigned format; the scale is bound / qmax, without a zero point (PCT-1..PCT-3)."""


Estimator = Ste | Lsq | LsqPlus | Pact


def learned_names(estimator: Estimator) -> tuple[str, ...]:
    """What an estimator learns, in the order of its tuple: (), ("scale",), ("scale", "offset") or ("alpha",)."""
    if isinstance(estimator, LsqPlus):
        return ("scale", "offset")
    return {Ste: (), Lsq: ("scale",), Pact: ("alpha",)}[type(estimator)]


def gradient_scale(estimator: Estimator, fmt: IntFormat, shape: Shape, granularity: Granularity) -> float:
    """What a learned scale's gradient is multiplied by: the binary32 number nearest to 1 / sqrt(N * qmax) (EST-5).

    Args:
      estimator: Lsq or LsqPlus choose N; of any other the answer is 1.
      fmt: the format of the codes; its qmax counts (a qmax of 0 as 1).
      shape: of x.
      granularity: of x; a ragged tile has the N of a whole one.
    Returns:
      A binary32 number; 1.0 for "none".
    """
    kind = estimator.gradient_scale if isinstance(estimator, Lsq | LsqPlus) else "none"
    if kind == "none":
        return 1.0
    sizes = [min(n, t) for n, t in zip(shape, granularity.tile(shape), strict=True)] if kind != "numel" else shape
    count = math.prod(sizes[1:] if kind == "features" else sizes)
    return reciprocal_root(max(count, 1) * max(fmt.qmax, 1))


def reciprocal_root(n: int) -> float:
    """The binary32 number nearest to 1 / sqrt(n), n from 1 up; by integers, so the same everywhere (EST-5)."""
    shift = 26 + n.bit_length() // 2
    twice = math.isqrt((1 << 2 * shift) // n)
    extra = twice.bit_length() - 25  # no quotient of this kind lies midway, so the bits below one half do not count
    return math.ldexp((twice >> extra) + 1 >> 1, extra + 1 - shift)


def check_learned(function: str, estimator: Estimator, fmt: Format, kind: type | None = None) -> IntFormat:
    """The format, where it and a learned estimator (of a kind, if one is asked for) fit.

    Raises:
      TypeError: another estimator, or a format that is not an integer one.
      ValueError: a signed format with Pact.
    """
    if not isinstance(estimator, kind or Lsq | LsqPlus | Pact):
        need = f"{kind.__name__}" if kind else "Lsq, LsqPlus or Pact"
        raise TypeError(f"{function}: estimator is {estimator!r}, need {need} (what it learns decides, EST-1)")
    fmt = check_integer(function, fmt)
    if isinstance(estimator, Pact) and fmt.qmin != 0:
        raise ValueError(f"{function}: fmt is {fmt.name} with qmin {fmt.qmin}, need qmin 0 (Pact clips at 0, PCT-1)")
    return fmt


def check_integer(function: str, fmt: Format) -> IntFormat:
    """The format, where it is an integer one.

    Raises:
      TypeError: another kind, or a name.
    """
    if not isinstance(fmt, IntFormat):
        name = getattr(fmt, "name", repr(fmt))
        raise TypeError(f"{function}: fmt is {name}, need an integer format (these rules count steps, EST-2)")
    return fmt


def check_float32(function: str, argument: str, dtype: object) -> None:
    """What is learned is binary32.

    Raises:
      TypeError: any other dtype.
    """
    if str(dtype) != "float32":
        raise TypeError(f"{function}: {argument} has dtype {dtype}, need float32 (it is learned in binary32, EST-1)")


def check_count(function: str, estimator: Estimator, learned: Sequence[object]) -> None:
    """The tuple of learned arrays has one for each name.

    Raises:
      TypeError: no tuple.
      ValueError: another number.
    """
    names = learned_names(estimator)
    need = f"{len(names)} ({', '.join(names)})"
    if not isinstance(learned, tuple | list):
        kind = type(learned).__name__
        raise TypeError(f"{function}: learned is of type {kind}, need a tuple of {need} (what {estimator!r} learns)")
    if len(learned) != len(names):
        raise ValueError(f"{function}: learned has {len(learned)} arrays, need {need} (what {estimator!r} learns)")


def check_zero(function: str, zero: str) -> None:
    """A learned zero point is an integer, so a convention with a real offset has no place for it.

    Raises:
      ValueError: zero is "bias".
    """
    if zero == "bias":
        raise ValueError(f"{function}: the convention's zero is 'bias', need 'int', 'add' or 'fma' (LSP-3)")
