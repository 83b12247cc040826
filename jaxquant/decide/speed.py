"""Speed as measured on this device, in this run, side by side: no speed-up is promised that was not seen.

The contenders take turns, so that a machine that slows down slows all of them; the median of each is kept.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

SECONDS, MOST = 1.0, 201  # short calls are timed so long, or so often


@dataclass(frozen=True)
class Timing:
    """One way of running the model at one batch size.

    Attributes:
      what: the way, as a reader knows it.
      batch: examples at once.
      milliseconds: median of one call.
      ratio: of its time to float's at that batch size; above 1 it is slower.
      weight_bytes: bytes of weights it reads a call (codes and scales, or floats).
      rounds: timed calls.
      faster: rounds in which its call took less time than float's.
    """

    what: str
    batch: int
    milliseconds: float
    ratio: float
    weight_bytes: int
    rounds: int
    faster: int

    @property
    def gains(self) -> bool:
        """A speed-up that calls do not vary by: 5 % in the median, and in nine rounds of ten."""
        return self.ratio <= 0.95 and self.faster >= 0.9 * self.rounds

    def as_dict(self) -> dict[str, Any]:
        """The fields as a JSON-friendly dict."""
        return dict(vars(self))


def measure(
    ways: Mapping[str, tuple[Callable[..., Any], int]], inputs: tuple[Any, ...], *, rounds: int
) -> list[Timing]:
    """Times every way on the same inputs, in turns; the first way is what the others are compared with.

    Args:
      ways: name → (function of the inputs, weight bytes).
      inputs: arrays whose first axis is the batch.
      rounds: timed calls of each at least, after one untimed call that compiles; more where they are short, or one
        moment in which the machine is busy would decide.
    """
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for run, _ in ways.values():
        jax.block_until_ready(run(*inputs))
    began, done = time.perf_counter(), 0
    while done < rounds or (done < MOST and time.perf_counter() - began < SECONDS):
        done += 1
        for name, (run, _) in ways.items():
            started = time.perf_counter()
            jax.block_until_ready(run(*inputs))
            seen[name].append(time.perf_counter() - started)
    return timed(seen, ways, int(inputs[0].shape[0]))


def timed(
    seen: Mapping[str, list[float]], ways: Mapping[str, tuple[Callable[..., Any], int]], batch: int
) -> list[Timing]:
    """The timings of rounds in seconds, name → one a round; the first name is what the others are compared with."""
    base = next(iter(seen.values()))
    found = []
    for name, times in seen.items():
        ratio = statistics.median(times) / statistics.median(base)
        faster = sum(own < floats for own, floats in zip(times, base, strict=True))
        found.append(Timing(name, batch, statistics.median(times) * 1000, ratio, ways[name][1], len(times), faster))
    return found


def summary(timings: list[Timing]) -> str:
    """One sentence: where smaller is slower, or what was gained, with the numbers."""
    base = timings[0].what
    quantized = [t for t in timings if t.what != base]
    best, worst = (pick(quantized, key=lambda t: t.ratio) for pick in (min, max))
    spread = " to ".join(f"{t.ratio:.2f} x ({t.what}, batch {t.batch})" for t in (best, worst))
    if not any(t.gains for t in quantized):
        varied = f" (faster in {best.faster} of {best.rounds} calls: not a gain)" if best.ratio < 1 else ""
        return (
            f"No speed-up on this device: {spread} {base}'s time{varied}. Smaller is not faster without a fused native "
            "kernel."
        )
    slow = " Elsewhere smaller is slower." if worst.ratio > 1.05 else ""
    return f"From {spread} {base}'s time on this device.{slow}"
