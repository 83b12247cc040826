"""The user's own examples as a workload: `--on module:examples [--score module:score]`.

An example is what the model takes: an array, or a tuple of arrays (several arguments); with a score function it may
be (inputs, whatever the score needs).  Without one the score is agreement with the float model's answers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxquant.decide.workloads import Answers

BATCH = 32


class Examples:
    """Examples of equal shape are run together, at most 32 at a time.

    Attributes:
      name: what the reader calls it.
      n: how many examples.
    """

    def __init__(self, examples: Sequence[Any], score: Callable[[Any, Any], Any] | None = None, name: str = "examples"):
        """Takes any finite sequence; refuses an empty one.

        Raises:
          ValueError: there are no examples.
        """
        self.name, self._score = name, score
        self._examples = list(examples)
        self.n = len(self._examples)
        self._reference: list[np.ndarray] | None = None
        if not self.n:
            raise ValueError("decide: examples is empty, need at least one (a few hundred decide most bars)")

    def describe(self) -> str:
        """One line for the reader."""
        what = "scored by your function" if self._score else "scored by agreement with the float model"
        return f"{self.n} examples of your own, {what}"

    def evaluate(self, apply: Callable[..., Any]) -> Answers:
        """Outputs of the model on every example, as answers and scores.

        Raises:
          ValueError: a score is no number in the function's result, or outputs give no answer and there is no score.
        """
        outputs = self._outputs(apply)
        if self._score is not None:
            scores = np.array([_number(self._score(o, e)) for o, e in zip(outputs, self._examples, strict=True)])
            return Answers(_answers(outputs, scores), scores, _margins(outputs))
        picked = [self._picked(output) for output in outputs]
        if self._reference is None:
            self._reference = picked
        agreement = np.array([np.mean(a == b) for a, b in zip(picked, self._reference, strict=True)])
        return Answers(_hashes(picked), agreement, _margins(outputs))

    def show(self, index: int) -> dict[str, str]:
        """What a reader sees of an example."""
        return {"example": f"number {index}: {_short(self._examples[index])}"}

    def batches(self, count: int) -> list[tuple[Any, ...]]:
        """A few batches of model inputs, for the outlier map and for speed."""
        groups = list(self._groups().values())
        return [_stack([self._inputs(i) for i in group[:BATCH]]) for group in groups[:count]]

    def _inputs(self, index: int) -> tuple[Any, ...]:
        example = self._examples[index]
        inputs = example[0] if self._score is not None and isinstance(example, tuple) else example
        return inputs if isinstance(inputs, tuple) else (inputs,)

    def _groups(self) -> dict[Any, list[int]]:
        groups: dict[Any, list[int]] = {}
        for i in range(self.n):
            groups.setdefault(tuple((np.shape(a), np.asarray(a).dtype) for a in self._inputs(i)), []).append(i)
        return groups

    def _outputs(self, apply: Callable[..., Any]) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for group in self._groups().values():
            for start in range(0, len(group), BATCH):
                part = group[start : start + BATCH]
                padded = part + [part[-1]] * (min(BATCH, len(group)) - len(part))  # one shape, one compilation
                result = np.asarray(apply(*_stack([self._inputs(i) for i in padded])))
                found.update(zip(part, result[: len(part)], strict=True))
        return [found[i] for i in range(self.n)]

    def _picked(self, output: np.ndarray) -> np.ndarray:
        if output.ndim == 0 or output.shape[-1] < 2:
            raise ValueError(
                f"decide: an output has shape {output.shape}, need at least two values along its last axis to have an "
                "answer (the largest one); for other outputs give a score function"
            )
        return np.argmax(output, axis=-1)


def _stack(inputs: list[tuple[Any, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.stack([np.asarray(one[k]) for one in inputs]) for k in range(len(inputs[0])))


def _number(score: Any) -> float:
    value = np.asarray(score, np.float64)
    if value.ndim or not np.isfinite(value):
        raise ValueError(f"decide: score gave {score!r}, need one finite number an example (higher is better)")
    return float(value)


def _answers(outputs: list[np.ndarray], scores: np.ndarray) -> np.ndarray:
    """What counts as the same answer: the largest output where there is a choice, else the score itself."""
    if all(o.ndim and o.shape[-1] > 1 for o in outputs):
        return _hashes([np.argmax(o, axis=-1) for o in outputs])
    return scores


def _hashes(picked: list[np.ndarray]) -> np.ndarray:
    if all(p.ndim == 0 for p in picked):
        return np.array([int(p) for p in picked])
    return np.array([p.tobytes().hex() for p in picked])


def _margins(outputs: list[np.ndarray]) -> np.ndarray:
    """How far the first choice is ahead of the second (0 where there is none)."""
    def one(output: np.ndarray) -> float:
        if output.ndim == 0 or output.shape[-1] < 2:
            return 0.0
        top = np.sort(np.asarray(output, np.float32), axis=-1)
        return float(np.min(top[..., -1] - top[..., -2]))

    return np.array([one(output) for output in outputs])


def _short(example: Any) -> str:
    shapes = [np.shape(a) for a in (example if isinstance(example, tuple) else (example,))]
    return ", ".join(map(str, shapes))
