"""StepFunction: a whole function of 2**32 inputs as a list of steps.  DATA and integer arithmetic (specs/25, CNV-2)."""

import bisect
from dataclasses import dataclass
from typing import Literal

from refquant.options import check_options

Domain = Literal["float32", "int32"]

LOWEST, HIGHEST = -(2**31), 2**31 - 1
INSIDE = 0x13C6EF  # the golden section of a quarter of an octave: an odd number far from both ends
INF_KEY = 0x7F800000
NEED_STEPS = "a StepFunction such as thresholds(PRESETS['onnx'].affine, fmt, scale) gives (of a Preset, its .point)"


@dataclass(frozen=True)
class StepFunction:
    """The code of every 32-bit input: key k has the code of the last start at or below k (CNV-2).

    Attributes:
      starts: ascending keys; the first is -2**31.  A key is the total-order key of a binary32 pattern, or the int32
        accumulator itself.
      codes: the code from each start on; neighbours differ.
      domain: "float32" or "int32", what the keys stand for.
      storage: name of the dtype that holds a code.

    Raises:
      ValueError: another domain.
    """

    starts: tuple[int, ...]
    codes: tuple[int, ...]
    domain: Domain
    storage: str

    def __post_init__(self) -> None:
        check_options(self, "CNV-2")

    def code_at(self, key: int) -> int:
        """The code of one key."""
        return self.codes[bisect.bisect_right(self.starts, key) - 1]

    @property
    def nan_code(self) -> int:
        """The code of the positive quiet NaN 0x7FC00000 ("float32" only)."""
        return self.code_at(0x7FC00000)


def total_key(bits: int) -> int:
    """The place of a binary32 pattern in the total order: -NaN < -inf < ... < -0 < +0 < ... < +inf < +NaN (CNV-2).

    Args:
      bits: 0..2**32 - 1.
    Returns:
      -2**31..2**31 - 1; -0 is -1 and +0 is 0.

    Spec: CNV-2.  Class: exact.
    Example:
      >>> total_key(0x80000000), total_key(0x3F800000)
      (-1, 1065353216)
    """
    return bits if bits < 1 << 31 else (bits ^ 0x7FFFFFFF) - (1 << 32)


def key_bits(key: int) -> int:
    """The binary32 pattern at a place of the total order; the inverse of `total_key`."""
    return key if key >= 0 else (key ^ 0x7FFFFFFF) + (1 << 32)


def seed_keys() -> tuple[int, ...]:
    """Keys between which every convention is monotone or changes once: quarters of every octave, both signs (CNV-3).

    One key inside each quarter shows a function that wraps: at multiples of a power of two it has the codes of zero.
    """
    up = [*range(0, 1 << 31, 1 << 21), *range(INSIDE, 1 << 31, 1 << 21), 1, INF_KEY + 1, HIGHEST]
    return tuple(sorted({*up, *(-1 - key for key in up)}))


def distance(a: StepFunction, b: StepFunction) -> int:
    """How many of the 2**32 inputs have different codes (CNV-4).

    Args:
      a: one step function.
      b: another, of the same domain.
    Returns:
      0..2**32.
    Raises:
      TypeError: one is no step function.
      ValueError: the domains differ.

    Spec: CNV-4.  Class: exact.
    """
    _need_steps("distance", a=a, b=b)
    return sum(stop - start for start, stop in differences(a, b))


def differences(a: StepFunction, b: StepFunction) -> tuple[tuple[int, int], ...]:
    """The ranges of keys [start, stop) on which two step functions differ, ascending (CNV-4).

    Raises:
      TypeError: one is no step function.
      ValueError: the domains differ.
    """
    _need_steps("differences", a=a, b=b)
    if a.domain != b.domain:
        raise ValueError(
            f"differences: domain is {a.domain!r} and {b.domain!r}, need the same (keys must mean the same)"
        )
    edges = sorted({*a.starts, *b.starts})
    stops = [*edges[1:], HIGHEST + 1]
    apart = [(start, stop) for start, stop in zip(edges, stops, strict=True) if a.code_at(start) != b.code_at(start)]
    return tuple(apart)


def probe_keys(*steps: StepFunction) -> tuple[int, ...]:
    """Every start of every candidate and the keys beside it: the inputs that tell the candidates apart (CNV-5).

    Returns:
      ascending keys inside the domain.

    Raises:
      TypeError: one is no step function.

    Spec: CNV-5.  Class: exact.
    """
    _need_steps("probes", **{f"steps[{k}]": one for k, one in enumerate(steps)})
    keys = {start + by for step in steps for start in step.starts for by in (-1, 0, 1)}
    return tuple(sorted(key for key in keys if LOWEST <= key <= HIGHEST))


def check_storage(lost: list[object], storage: str) -> None:
    """A table holds every code of the function that is tabulated.

    Args:
      lost: codes that storage does not hold.
      storage: name of a dtype.
    Raises:
      ValueError: there are any.
    """
    if lost:
        raise ValueError(f"tabulate: storage is {storage!r}, need a dtype that holds the code {lost[0]} (CNV-3)")


def _need_steps(function: str, **arguments: object) -> None:
    for name, value in arguments.items():
        if not isinstance(value, StepFunction):
            raise TypeError(f"{function}: {name} is a {type(value).__name__}, need {NEED_STEPS}")
