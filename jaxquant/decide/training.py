"""What a training of a rung is: how it is run, what is told of it while it runs, and what it was.  No JAX here."""

import math
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Course:
    """How long and how fast to train.

    Attributes:
      steps: of the optimizer.
      rows: examples a step.
      rate: the largest step of a weight, as a share of its tensor's root mean square; rises over the first tenth of the
        steps, then falls linearly to zero.
      seed: of the order of the examples.
    """

    steps: int = 200
    rows: int = 32
    rate: float = 4e-3
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """What a training was.

    Attributes:
      steps: that were made.
      planned: that were meant to be made.
      ended: "finished", "interrupted", or "not finite" (the step that gave it was not taken).
      examples: to draw from.
      rows: examples a step.
      announced_seconds: as foreseen from one measured step.
      seconds_per_step: of that step, after compiling.
      seconds: that it took, compiling left out.
      loss_start: of the quantized model on one batch before the first step: Σ(output − float's)² / Σ(float's)².
      loss_end: on the same batch after the last step.
      losses: of each step, on its own batch.
      seed: of the order of the examples.
      rate: see Course.
    """

    steps: int
    planned: int
    ended: str
    examples: int
    rows: int
    announced_seconds: float
    seconds_per_step: float
    seconds: float
    loss_start: float
    loss_end: float
    losses: tuple[float, ...]
    seed: int
    rate: float

    def as_dict(self) -> dict[str, Any]:
        """The fields as a JSON-friendly dict."""
        losses = {"loss_start": _finite(self.loss_start), "loss_end": _finite(self.loss_end)}
        return vars(self) | losses | {"losses": list(self.losses), "optimizer": "Adam, relative to each tensor's size"}

    @property
    def told(self) -> str:
        """How it ended, for the row."""
        if self.ended == "finished":
            return f"trained for {self.steps} steps without labels"
        why = {"interrupted": "ended by Ctrl-C", "not finite": "ended by a loss that is not finite"}[self.ended]
        return f"{why} at {self.steps} of {self.planned} steps"


class Watcher(Protocol):
    """Who is told of a training while it runs."""

    def announce(self, steps: int, seconds: float, seconds_per_step: float, compiling: float, /) -> None:
        """Before it starts: how long it will take, and how long compiling took."""

    def step(self, done: int, steps: int, loss: float, seconds_left: float, /) -> None:
        """After each step."""


class Silent:
    """A watcher who says nothing."""

    def announce(self, *_: float) -> None:
        """Nothing."""

    def step(self, *_: float) -> None:
        """Nothing."""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
