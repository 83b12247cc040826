"""Workloads: questions with known answers, on which a float model and its quantized variants are compared in pairs.

Importing this package imports NumPy alone; JAX, Flax, scikit-learn and tokenizers are imported where they are used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

ApplyFn = Callable[..., Any]
Progress = Callable[[int, int], None]
Batch = tuple[np.ndarray, ...]
NO_ANSWER = -1
AGREEMENT = "agreement with float"  # the metric without right answers: float's own is 1 by definition
RIGHT, FLOATS = "the right answer", "the float model's answer"


@dataclass(frozen=True)
class Answers:
    """What a model answered, one element an example, in the workload's order.

    Attributes:
      answers: [n], the answers themselves (a page, a class); `NO_ANSWER` where the model gave a NaN.
      score: float64 [n], higher is better; 0 or 1 where answers are right or wrong.
      margin: [n], how far an answer, `led`, leads the best other one (of RIGHT: a score of 1 is margin > 0).
      broken: bool [n], where the output has a NaN, or nothing finite at all: no answer, and the score of a wrong one.
      led: whose lead the margin is: RIGHT, FLOATS where the right answer is unknown, or "" (the margin is the score).
    """

    answers: np.ndarray
    score: np.ndarray
    margin: np.ndarray
    broken: np.ndarray
    led: str = RIGHT

    def same_as(self, other: "Answers") -> np.ndarray:
        """Where both gave the same answer: bool [n]; two outputs without an answer are not the same (DEC-15)."""
        return (self.answers == other.answers) & ~self.broken & ~other.broken


@dataclass(frozen=True)
class Material:
    """Inputs to train on without labels; none of them is judged (DEC-10).

    Attributes:
      pools: the arrays of each static shape, examples along the first axis.
      about: what they are, and how they are kept apart from the judged ones.
    """

    pools: tuple[Batch, ...]
    about: str

    @property
    def count(self) -> int:
        """How many examples there are."""
        return sum(len(pool[0]) for pool in self.pools)


class Workload(Protocol):
    """Examples with a score.

    Attributes:
      name: what a reader calls it.
      n: how many examples are scored.
      metric: what a score is: AGREEMENT where there are no right answers.
      at_once: how many examples are run together at most.
    """

    name: str
    n: int
    metric: str
    at_once: int

    def describe(self) -> str:
        """What is asked, of what, how it is scored; a fallback says in its first line that it is one, and why."""

    def evaluate(self, apply_fn: ApplyFn, /) -> Answers:
        """The answers of a model, called on the arrays of one batch; batches come in few static shapes."""

    def show(self, index: int, /) -> dict[str, str]:
        """What a reader sees of an example."""

    def batches(self, count: int, /) -> list[Batch]:
        """At most `count` batches of model inputs: for calibration, activation maps, speed."""

    def split(self) -> "tuple[Workload, Material]":
        """The workload to judge on, and inputs to train on that are not in it (DEC-10)."""


def is_broken(output: np.ndarray) -> bool:
    """Whether an output gives no answer: a NaN, or no finite value (-inf beside finite values is a mask).

    Args:
      output: numbers of any shape and dtype.

    Spec: DEC-15 (specs/70-decide.md).  Class: exact.
    """
    return bool(np.isnan(output).any() or not np.isfinite(output).any())


def number_of(workload: "Workload", index: int) -> int:
    """The user's own number, from 0, of a judged example."""
    numbers = getattr(workload, "numbers", None)
    return int(numbers[index] if numbers else index)


def answers_of(scores: np.ndarray, right: np.ndarray) -> Answers:
    """Answers from the scores of all candidates; a tie with the right one counts as wrong.

    Args:
      scores: float32 [n, candidates], at least two candidates.
      right: int64 [n], the right candidate of each example.
    """
    rows = np.arange(len(scores))
    others = np.array(scores, np.float32)
    others[rows, right] = -np.inf
    rival = np.argmax(others, axis=1)
    with np.errstate(invalid="ignore"):  # inf - inf is a NaN margin, hence a wrong answer
        margin = (scores[rows, right] - others[rows, rival]).astype(np.float32)
    broken = np.isnan(scores).any(axis=1)
    answers = np.where(broken, NO_ANSWER, np.where(margin > 0, right, rival))
    return Answers(answers.astype(np.int64), (answers == right).astype(np.float64), margin, broken)


def checked_count(count: int | None, n: int) -> int:
    """How many examples to evaluate; ValueError unless 1 to n (None: all n)."""
    if count is not None and not 1 <= count <= n:
        raise ValueError(f"evaluate: count is {count}, need 1 to {n} (the examples of this workload)")
    return n if count is None else int(count)


@dataclass(frozen=True)
class Opened:
    """A workload, and the float model it is for: a folder to open (real), or an NNX module trained here (fallback)."""

    workload: Workload
    folder: Path | None = None
    model: Any = None


def open_default() -> Opened:
    """The real model on docstrings; where its package cannot be had, a small net on digits, which says why."""
    from jaxquant.decide.workloads import digits, docstrings

    folder, reason = docstrings.locate_minilm()
    if folder is None:
        workload, model = digits.open_workload(reason)
        return Opened(workload, model=model)
    return Opened(docstrings.open_workload(folder), folder)
