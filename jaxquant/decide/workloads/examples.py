"""The user's own examples as a workload: `--on module:examples [--score module:score]`.

An example is what the model takes: an array, or a tuple of arrays (several arguments); with a score function it may
be (inputs, whatever the score needs).  Without one the score is agreement with the float model's answers.
"""

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxquant.decide.workloads import Answers, ApplyFn, Batch, checked_count

BATCH = 32


@dataclass(frozen=True)
class Examples:
    """Examples of equal shape are run together, at most 32 at a time.

    The first evaluation is the float model's; without a score function the later ones are scored by their agreement
    with it, the share of equal answers in each example's output.
    """

    name: str
    n: int
    metric: str
    examples: tuple[Any, ...]
    score: Callable[[Any, Any], Any] | None = None
    reference: list[np.ndarray] = field(default_factory=list)

    def describe(self) -> str:
        """One line for the reader."""
        what = "scored by your function" if self.score else "scored by agreement with the float model"
        return f"{self.n} examples of your own, {what}"

    def evaluate(self, apply_fn: ApplyFn, *, count: int | None = None, progress: Callable | None = None) -> Answers:
        """Outputs of the model on the first `count` examples, as answers and scores.

        Raises:
          ValueError: a score is no finite number, or outputs give no answer and there is no score function.
        """
        count = checked_count(count, self.n)
        outputs = self._outputs(apply_fn, count, progress)
        if self.score is not None:
            scores = np.array([self._scored(i, output) for i, output in enumerate(outputs)])
            return Answers(_answers(outputs, scores), scores, _margins(outputs))
        picked = [_picked(output) for output in outputs]
        if not self.reference:
            self.reference.extend(picked)
        agreement = np.array([np.mean(a == b) for a, b in zip(picked, self.reference, strict=False)])
        return Answers(_hashes(picked), agreement, _margins(outputs))

    def _scored(self, i: int, output: np.ndarray) -> float:
        try:
            score = self.score(output, self.examples[i])
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            raise ValueError(f"decide: the score function failed on example {i}: {told}") from error
        return _number(score, i)

    def show(self, i: int) -> dict[str, str]:
        """What a reader sees of an example."""
        return {"question": f"example {i}: {_short(self.examples[i])}", "expected": ""}

    def answer_text(self, answer: Any) -> str:
        """An answer as it is."""
        return str(answer)

    def batches(self, count: int | None = None) -> list[Batch]:
        """At most `count` batches, one of each shape, for the outlier map and for speed."""
        groups = list(self._groups(self.n).values())[:count]
        return [_stack([self._inputs(i) for i in group[:BATCH]]) for group in groups]

    def _inputs(self, index: int) -> tuple[Any, ...]:
        example = self.examples[index]
        inputs = example[0] if self.score is not None and isinstance(example, tuple) else example
        return inputs if isinstance(inputs, tuple) else (inputs,)

    def _groups(self, count: int) -> dict[Any, list[int]]:
        groups: dict[Any, list[int]] = {}
        for i in range(count):
            groups.setdefault(tuple((np.shape(a), np.asarray(a).dtype) for a in self._inputs(i)), []).append(i)
        return groups

    def _outputs(self, apply: ApplyFn, count: int, progress: Callable | None) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for group in self._groups(count).values():
            for start in range(0, len(group), BATCH):
                part = group[start : start + BATCH]
                padded = part + [part[-1]] * (min(BATCH, len(group)) - len(part))  # one shape, one compilation
                result = np.asarray(apply(*_stack([self._inputs(i) for i in padded])))
                found.update(zip(part, result[: len(part)], strict=True))
                if progress:
                    progress(len(found), count)
        return [found[i] for i in range(count)]


def open_examples(examples: Iterable[Any], score: Callable[[Any, Any], Any] | None = None) -> Examples:
    """The workload of a finite sequence of examples.

    Raises:
      ValueError: there are none.
    """
    found = tuple(examples)
    if not found:
        raise ValueError("decide: examples is empty, need at least one (a few hundred decide most bars)")
    metric = getattr(score, "__name__", "score") if score else "agreement with float"
    return Examples("examples", len(found), metric, found, score)


def _picked(output: np.ndarray) -> np.ndarray:
    if output.ndim == 0 or output.shape[-1] < 2:
        raise ValueError(
            f"decide: an output has shape {output.shape}, need at least two values along its last axis to have an "
            "answer (the largest one); for other outputs give a score function"
        )
    return np.argmax(output, axis=-1)


def _stack(inputs: list[tuple[Any, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.stack([np.asarray(one[k]) for one in inputs]) for k in range(len(inputs[0])))


def _number(score: Any, i: int) -> float:
    try:
        value = np.asarray(score, np.float64)
    except (TypeError, ValueError):
        value = np.array(np.nan)
    if value.ndim or not np.isfinite(value):
        raise ValueError(f"decide: score gave {score!r} for example {i}, need one finite number (higher is better)")
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
