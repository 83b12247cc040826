"""assert_same: equality of bits, and a failure that says where, by how much and how to see it again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def bits_of(values: object) -> np.ndarray:
    """The bit patterns of an array, as unsigned integers of the same width."""
    array = np.ascontiguousarray(np.asarray(values)).reshape(np.shape(values))
    return array.view(UNSIGNED[array.dtype.itemsize]) if array.dtype != bool else array.astype(np.uint8)


def is_float(dtype: object) -> bool:
    return np.dtype(dtype).kind == "f" or str(dtype) == "bfloat16"


def float32(bits: object) -> np.ndarray:
    """Binary32 values from patterns."""
    return np.asarray(bits, np.uint32).view(np.float32)


def differs(got: np.ndarray, want: np.ndarray, *, payload: bool = False) -> np.ndarray:
    """Where the bits differ; any NaN equals any NaN unless `payload`."""
    wrong = bits_of(got) != bits_of(want)
    if is_float(got.dtype) and not payload:
        wrong &= ~(np.isnan(got) & np.isnan(want))
    return wrong


def assert_same(
    got: object,
    want: object,
    *,
    payload: bool = False,
    inputs: Mapping[str, object] | None = None,
    call: str = "",
) -> None:
    """Demand equal dtypes, shapes and bits.

    Args:
      got: an array.
      want: what it must be.
      payload: compare the payload and sign of NaNs too.
      inputs: arrays that broadcast to the shape of `want`; their worst element stands in the message.
      call: a line of Python that names `inputs`, as the reproduction.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype, f"dtype is {got.dtype}, want {want.dtype}: {call}"
    assert got.shape == want.shape, f"shape is {got.shape}, want {want.shape}: {call}"
    wrong = differs(got, want, payload=payload)
    if wrong.any():
        raise AssertionError(report(got, want, wrong, inputs or {}, call))


def report(got: np.ndarray, want: np.ndarray, wrong: np.ndarray, inputs: Mapping[str, object], call: str) -> str:
    """Count, worst element, bits of both in hex, one line to run."""
    at = worst(got, want, wrong)
    digits = 2 * got.dtype.itemsize
    lines = [
        f"{int(wrong.sum()):,} of {wrong.size:,} elements differ; the worst is {list(map(int, at))}",
        f"  got  {got[at]!r}  0x{int(bits_of(got)[at]):0{digits}x}",
        f"  want {want[at]!r}  0x{int(bits_of(want)[at]):0{digits}x}",
    ]
    return "\n".join(lines + reproduction(inputs, want.shape, at, call))


def reproduction(inputs: Mapping[str, object], shape: tuple[int, ...], at: tuple, call: str) -> list[str]:
    """`x = np.uint32(0x...).view(np.float32); call`."""
    parts = []
    for name, values in inputs.items():
        value = np.broadcast_to(np.asarray(values), shape)[at]
        kind = UNSIGNED[value.dtype.itemsize].__name__
        parts.append(f"{name} = np.{kind}(0x{int(bits_of(value)):x}).view({str(value.dtype)!r})")
    return ["  again: " + "; ".join([*parts, call])] if parts or call else []


def worst(got: np.ndarray, want: np.ndarray, wrong: np.ndarray) -> tuple:
    """The index of the wrong element that is farthest off."""
    with np.errstate(all="ignore"):
        distance = np.abs(got.astype(np.float64) - want.astype(np.float64))
    distance = np.where(np.isnan(distance), np.inf, distance)
    return np.unravel_index(np.argmax(np.where(wrong, distance, -1)), wrong.shape)
