"""How an int32 accumulator becomes a code.  DATA (specs/50-requantize.md, RSC-1..RSC-9)."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from refquant.conventions.preset import Preset, table
from refquant.options import check_options

FRACTION_BITS = {"q31": 31, "q15": 15, "q8": 8}
INT_MAX = 2**31 - 1


@dataclass(frozen=True)
class Rescale:
    """One semantics of code = clamp(round(accumulator * multiplier) + zero_point).

    Attributes:
      multiplier: how the real multiplier is held.  "f32", "f64": a float of that precision; "q31", "q15": a fixed-point
        number in [0.5, 1) with that many fraction bits and a power of two; "q8": eight fraction bits, no power.
      steps: "single" rounds once; "double" (q31 only) rounds the high half of the product, then the right shift.
      ties: how the last rounding treats a value midway between two integers.
      overflow: floats only; "sat" clamps before any cast; "i32" casts first, out of range gives the smallest int32.

    Raises:
      ValueError: a field is none of its options, or they have no meaning together.
    """

    multiplier: Literal["f32", "f64", "q31", "q15", "q8"] = "f32"
    steps: Literal["single", "double"] = "single"
    ties: Literal["even", "away", "up"] = "even"
    overflow: Literal["sat", "i32"] = "sat"

    def __post_init__(self) -> None:
        check_options(self, "RSC-1")
        fixed = self.multiplier in FRACTION_BITS
        if self.steps == "double" and self.multiplier != "q31":
            raise ValueError(f"Rescale: steps is 'double' with multiplier {self.multiplier!r}, need 'q31' (RSC-4)")
        if fixed and self.ties == "even":
            raise ValueError(
                f"Rescale: ties is 'even' with multiplier {self.multiplier!r}, need 'away' or 'up' (RSC-4)"
            )
        if fixed and self.overflow != "sat":
            raise ValueError(f"Rescale: overflow is {self.overflow!r} with multiplier {self.multiplier!r}, need 'sat'")

    def __str__(self) -> str:
        return " ".join((self.multiplier, self.steps, self.ties, self.overflow))


RUN = "measured"
RESCALE = Rescale()
DOUBLE_AWAY = Rescale("q31", "double", "away")
DOUBLE_UP = Rescale("q31", "double", "up")
LEFT = "left shifts wrap (an undefined product of C++): only where |acc * multiplier| leaves int32"

#         name                    point                                     source, version, note
RESCALES = table(
    Preset("onnxruntime",         Rescale("f32", "single", "even"),          RUN, "1.32.0",
           "QLinearConv, QLinearMatMul; the multiplier is f32(f32(s_in * s_weight) / s_out)"),
    Preset("xnnpack",             Rescale("f32", "single", "even"),          RUN, "LiteRT 2.3.0",
           "FULLY_CONNECTED int8 with the default delegate; the same multiplier as onnxruntime"),
    Preset("litert_reference",    Rescale("f64", "single", "away", "i32"),   RUN, "LiteRT 2.3.0",
           "FULLY_CONNECTED int8, and int16 by int8 in all kernels; the multiplier is s_in * s_weight / s_out in "
           "binary64"),
    Preset("litert_builtin",      DOUBLE_UP,                                 RUN, "LiteRT 2.3.0",
           "FULLY_CONNECTED int8 without delegates (ruy) and REQUANTIZE int8; " + LEFT),
    Preset("gemmlowp",            DOUBLE_AWAY,                               RUN, "LiteRT 2.3.0",
           "REQUANTIZE int8 in the reference kernels: rounding high product, then rounding shift; so does "
           "FULLY_CONNECTED int8 of tflite-micro 0.dev20261023; " + LEFT),
    Preset("xnnpack_requantize",  Rescale("q8", "single", "up"),             RUN, "LiteRT 2.3.0",
           "REQUANTIZE int8 with the default delegate; the multiplier is f32(s_in / s_out)"),
    Preset("cmsis_nn_single",     Rescale("q31", "single", "up"),            "read, not run: CMSIS-NN source",
           "7.0", "also LiteRT built with TFLITE_SINGLE_ROUNDING; the same point is run as tosa"),
    Preset("litert_16x8",         Rescale("q15", "single", "up"),            RUN, "LiteRT 2.3.0",
           "CONV_2D and DEPTHWISE_CONV_2D int16 by int8 with an int64 bias, all kernels: the multiplier reduced to 16 "
           "bits; there the accumulator may be 48 bits wide, here it is int32; past int32 the rounded product wraps; "
           "FULLY_CONNECTED of tflite-micro 0.dev20261023 too, but LiteRT's is litert_reference"),
    Preset("tosa",                Rescale("q31", "single", "up"),            RUN, "tosa-tools 2026.8.0",
           "RESCALE with scale32 and SINGLE_ROUND in the reference model; DOUBLE_ROUND is gemmlowp; its "
           "shift is 31 - shift, and it requires |acc| < 2**(30 - shift), so no result leaves int32"),
)  # fmt: skip


def fixed_point(multiplier: float, rescale: Rescale) -> tuple[int, int]:
    """A real multiplier as an integer and a shift (RSC-3): about integer * 2**(shift - fraction bits).

    Args:
      multiplier: the real multiplier, a binary64 number, finite.
      rescale: whose `multiplier` is "q31", "q15" or "q8".
    Returns:
      (q, shift); shift > 0 shifts left.  (0, 0) where shift would be below -31; the largest pair of a single rounding
      where no fraction bit would be left to shift out.

    Spec: RSC-3.  Class: exact.
    Example:
      >>> fixed_point(0.75, Rescale("q31", ties="up"))
      (1610612736, 0)
    """
    if rescale.multiplier == "q8":
        return max(-INT_MAX, min(INT_MAX, round(math.ldexp(multiplier, 8)))), 0
    fraction, shift = math.frexp(multiplier)
    q = _half_away(math.ldexp(fraction, 31))
    if abs(q) == 1 << 31:
        q, shift = q // 2, shift + 1
    if shift < -31 or q == 0:
        return 0, 0
    q = q if rescale.multiplier == "q31" else _reduced(q)
    bits = FRACTION_BITS[rescale.multiplier]
    if rescale.steps == "single" and shift >= bits:
        return ((1 << bits) - 1) * (1 if q > 0 else -1), bits - 1
    return q, shift


def _half_away(value: float) -> int:
    """RND-1 "away" of a binary64 number below 2**52 in size, where value + 0.5 is exact."""
    return math.floor(value + 0.5) if value >= 0 else -math.floor(-value + 0.5)


def _reduced(q: int) -> int:
    """The 16-bit multiplier of a 31-bit one: rounded half up, never 2**15."""
    return (q + (1 << 15)) >> 16 if q < 0x7FFF0000 else 0x7FFF  # 2**15 would not fit int16


def multipliers(function: str, multiplier: Any, rescale: Rescale) -> tuple[float, ...]:
    """The real multipliers of a fixed-point or binary64 rescale, as a flat tuple of Python floats.

    They are numbers of the model, known before anything is traced, so their values can be refused.

    Args:
      function: the caller's name, for the message.
      multiplier: a number, or what `tolist()` or iteration turns into numbers.
      rescale: for the message.
    Raises:
      TypeError: no numbers.
      ValueError: not finite.
    """
    array = hasattr(multiplier, "ravel") and not isinstance(multiplier, type)
    flat: list[Any] = multiplier.ravel().tolist() if array else [multiplier]
    try:
        numbers = tuple(float(number) for number in flat)
    except (TypeError, ValueError):
        kind = type(multiplier).__name__
        raise TypeError(f"{function}: multiplier is of type {kind}, need real numbers (RSC-3)") from None
    bad = next((number for number in numbers if not math.isfinite(number)), None)
    if bad is not None:
        raise ValueError(
            f"{function}: multiplier has {bad}, need finite numbers (it is held as {rescale.multiplier!r}, RSC-3)"
        )
    return numbers


def check_accumulator(function: str, dtype: object) -> None:
    """An accumulator is int32.

    Raises:
      TypeError: any other dtype.
    """
    if str(dtype) != "int32":
        raise TypeError(f"{function}: acc has dtype {dtype}, need int32 (an accumulator of integer products, RSC-1)")


def check_fixed(function: str, rescale: Rescale) -> None:
    """A fixed-point multiplier belongs to a fixed-point rescale.

    Raises:
      ValueError: a float one.
    """
    if rescale.multiplier not in FRACTION_BITS:
        need = ", ".join(FRACTION_BITS)
        raise ValueError(f"{function}: rescale is '{rescale}', need a fixed-point one: {need} (RSC-3)")


def check_multiplier(function: str, dtype: object) -> None:
    """The multiplier of an "f32" rescale is float32.

    Raises:
      TypeError: any other dtype.
    """
    if str(dtype) != "float32":
        raise TypeError(f"{function}: multiplier has dtype {dtype}, need float32 (the rescale is 'f32', RSC-2)")


def check_zero_point(function: str, dtype: object) -> None:
    """The zero point of a rescale is int32.

    Raises:
      TypeError: any other dtype.
    """
    if str(dtype) != "int32":
        raise TypeError(f"{function}: zero_point has dtype {dtype}, need int32 (it is added to integers, RSC-8)")


def check_part(function: str, argument: str, dtype: object) -> None:
    """The parts of a multiplier in fixed point are int32.

    Raises:
      TypeError: any other dtype.
    """
    if str(dtype) != "int32":
        raise TypeError(f"{function}: {argument} has dtype {dtype}, need int32 (a multiplier in fixed point, RSC-7)")


def check_broadcast(function: str, argument: str, shape: tuple[int, ...], acc_shape: tuple[int, ...]) -> None:
    """An operand broadcasts to the accumulator's shape.

    Raises:
      ValueError: it does not.
    """
    fits = len(shape) <= len(acc_shape) and all(
        n in (1, m) for n, m in zip(reversed(shape), reversed(acc_shape), strict=False)
    )
    if not fits:
        raise ValueError(
            f"{function}: {argument} has shape {tuple(shape)}, need one that broadcasts to {tuple(acc_shape)} "
            "(the shape of acc)"
        )


def check_integer(function: str, name: str, integer: bool) -> None:
    """Codes of a rescale are integers.

    Raises:
      ValueError: a float format or a codebook.
    """
    if not integer:
        raise ValueError(f"{function}: fmt is {name}, need an integer format (an accumulator becomes an integer code)")
