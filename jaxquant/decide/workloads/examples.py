"""The user's own examples as a workload: `--on module:examples [--score module:score]`.

An example is what the model takes: an array, or a tuple of arrays (several arguments); with a score function it may
be (inputs, whatever the score needs).  Without one the score is agreement with the float model's answers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxquant.decide.users import code_of_the_user
from jaxquant.decide.workloads import (
    AGREEMENT,
    FLOATS,
    NO_ANSWER,
    Answers,
    ApplyFn,
    Batch,
    Material,
    checked_count,
    is_broken,
    number_of,
)
from jaxquant.decide.workloads.trial import check_inputs, try_examples
from refquant.options import told

BATCH = 32
TRAINED = 3  # every third example trains where training is asked for, and is not judged


@dataclass(frozen=True)
class Examples:
    """Examples of equal shape are run together, at most 32 at a time.

    The first evaluation is the float model's; without a score function the later ones are scored by their agreement
    with it, the share of equal answers in each example's output.

    Attributes:
      numbers: of the examples, as the user counts them from 0; None: all from the first on.
      about: which of the user's they are; "": all.
      least: the lowest score of the float model once it is known, or 0 if that is lower: of an output without answer.
    """

    name: str
    n: int
    metric: str
    examples: tuple[Any, ...]
    score: Callable[[Any, Any], Any] | None = None
    reference: list[np.ndarray] = field(default_factory=list)
    numbers: tuple[int, ...] | None = None
    about: str = ""
    least: list[float] = field(default_factory=list)

    @property
    def at_once(self) -> int:
        """How many examples are run together at most."""
        return min(BATCH, self.n)

    def describe(self) -> str:
        """One line for the reader."""
        what = "scored by your function" if self.score else "scored by agreement with the float model"
        return f"{self.about or f'{self.n} examples of your own'}, {what}"

    def split(self) -> tuple["Examples", Material]:
        """Every third example trains, without its label; those left are judged (DEC-10).

        An example that equals a judged one bit for bit trains nothing.

        Raises:
          ValueError: nothing is left to train on.
        """
        judged = [i for i in range(self.n) if i % TRAINED != TRAINED - 1]
        seen = {self._key(i) for i in judged}
        train = [i for i in range(TRAINED - 1, self.n, TRAINED) if self._key(i) not in seen]
        if not train:
            why = "each of them equals a judged one" if self.n >= TRAINED else f"need at least {TRAINED}"
            raise ValueError(
                f"decide: of {self.n} examples none is left to train on (QAT takes every {TRAINED}rd, which is then "
                f"not judged; {why})"
            )
        about = f"{len(train)} of your {self.n} examples, every {TRAINED}rd, none of which is judged"
        if equal := self.n - len(judged) - len(train):
            about += f"; {equal} more equal a judged one and are left out"
        groups = self._groups(train).values()
        pools = tuple(_stack([self.inputs(i) for i in group]) for group in groups)
        kept = tuple(self.examples[i] for i in judged)
        part = f"{len(judged)} of your {self.n} examples, held out ({'' if equal else 'the other '}{len(train)} train)"
        rest = replace(self, n=len(judged), examples=kept, reference=[], least=[], numbers=tuple(judged), about=part)
        return rest, Material(pools, about)

    def check(self, apply_fn: ApplyFn) -> None:
        """Tries model and score on the examples, before anything is printed.

        Raises:
          ValueError: they do not fit; examples with labels that have no score function are told from several inputs.
        """
        try_examples(self, apply_fn)

    def judged(self, index: int, output: np.ndarray) -> float:
        """The score of one output; without a score function only whether it has an answer: 1."""
        return self._scored(index, output) if self.score is not None else float(_picked(output).size > 0)

    def _key(self, index: int) -> tuple:
        arrays = [np.asarray(value) for value in self.inputs(index)]
        return tuple((a.shape, a.dtype.str, a.tobytes()) for a in arrays)

    def _number(self, index: int) -> int:
        return number_of(self, index)

    def evaluate(self, apply_fn: ApplyFn, *, count: int | None = None, progress: Callable | None = None) -> Answers:
        """Outputs of the model on the first `count` examples, as answers and scores.

        Raises:
          ValueError: a score is no finite number, or outputs give no answer and there is no score function.
        """
        count = checked_count(count, self.n)
        outputs = self._outputs(apply_fn, count, progress)
        broken = np.array([is_broken(output) for output in outputs])
        picked = _choices(outputs, needed=self.score is None)
        if not self.reference:
            self.reference.extend(picked)
        if self.score is None:
            agreement = [np.mean(a == b) for a, b in zip(picked, self.reference, strict=False)]
            scores = np.where(broken, 0.0, agreement)
        else:
            scores = self._scores(outputs, broken)
        if not picked:
            return Answers(np.where(broken, np.nan, scores), scores, scores, broken, "")
        leads = np.array([_lead(o, answer) for o, answer in zip(outputs, self.reference, strict=False)])
        return Answers(_hashes(picked, broken), scores, leads, broken, FLOATS)

    def _scores(self, outputs: list[np.ndarray], broken: np.ndarray) -> np.ndarray:
        """The user's score of each output; one without an answer is not shown to it, its argmax would be 0."""
        known = [None if bad else self._scored(i, outputs[i]) for i, bad in enumerate(broken)]
        if not self.least:
            self.least.append(min([0.0, *(score for score in known if score is not None)]))
        return np.array([self.least[0] if score is None else score for score in known])

    def _scored(self, i: int, output: np.ndarray) -> float:
        with code_of_the_user(f"the score function {self.metric}, on example {self._number(i)},"):
            score = self.score(output, self.examples[i])
        return _number(score, self._number(i))

    def show(self, i: int) -> dict[str, str]:
        """What a reader sees of an example."""
        return {"question": f"example {self._number(i)}: {_short(self.examples[i])}", "expected": ""}

    def answer_text(self, answer: Any) -> str:
        """An answer as it is."""
        none = np.issubdtype(np.asarray(answer).dtype, np.integer) and answer == NO_ANSWER
        return "no answer (not a number)" if none or str(answer) in ("", "nan") else str(answer)

    def batches(self, count: int | None = None) -> list[Batch]:
        """At most `count` batches, one of each shape, for the outlier map and for speed."""
        return [batch for _, batch in self.stacked()[:count]]

    def stacked(self) -> list[tuple[int, Batch]]:
        """The first batch of each shape, as `evaluate` stacks it, and the index of its first example."""
        groups = self._groups(range(self.n)).values()
        return [(group[0], _stack([self.inputs(i) for i in group[:BATCH]])) for group in groups]

    def told(self, index: int) -> str:
        """`example 3, float32[8, 8, 1]`: what the model was given, without the batch."""
        return f"example {self._number(index)}, {_short(self.inputs(index))}"

    def inputs(self, index: int) -> tuple[Any, ...]:
        """What of an example goes to the model."""
        example = self.examples[index]
        inputs = example[0] if self.score is not None and isinstance(example, tuple) else example
        return inputs if isinstance(inputs, tuple) else (inputs,)

    def _groups(self, indices: Iterable[int]) -> dict[Any, list[int]]:
        groups: dict[Any, list[int]] = {}
        for i in indices:
            groups.setdefault(tuple((np.shape(a), np.asarray(a).dtype) for a in self.inputs(i)), []).append(i)
        return groups

    def _outputs(self, apply: ApplyFn, count: int, progress: Callable | None) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for group in self._groups(range(count)).values():
            for start in range(0, len(group), BATCH):
                part = group[start : start + BATCH]
                padded = part + [part[-1]] * (min(BATCH, len(group)) - len(part))  # one shape, one compilation
                with code_of_the_user(f"the model, on {self.told(part[0])}{' ff.' if part[1:] else ''},"):
                    result = np.asarray(apply(*_stack([self.inputs(i) for i in padded])))
                found.update(zip(part, result[: len(part)], strict=True))
                if progress:
                    progress(len(found), count)
        return [found[i] for i in range(count)]


def open_examples(
    examples: Iterable[Any], score: Callable[[Any, Any], Any] | None = None, *, source: str = "examples"
) -> Examples:
    """The workload of a finite sequence of examples.

    Args:
      examples: inputs, or with a score (inputs, whatever the score needs).
      score: float from (output, example); None: agreement.
      source: what an error calls the examples.
    Raises:
      TypeError: the score is no function; before any example is made.
      ValueError: there are none, or making them raises.
    """
    if score is not None and not callable(score):
        raise TypeError(
            f"decide: score is {told(score)}, need a function (output, example) -> float, higher is better "
            "(None: agreement with the float model)"
        )
    with code_of_the_user(source):
        found = tuple(examples)
    if not found:
        raise ValueError("decide: examples is empty, need at least one (a few hundred decide most bars)")
    metric = getattr(score, "__name__", "score") if score is not None else AGREEMENT
    work = Examples("examples", len(found), metric, found, score)
    for i, example in enumerate(found):
        check_inputs(i, example, work.inputs(i))
    return work


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
        given = f"an array of shape {value.shape}" if value.ndim else repr(score)
        raise ValueError(f"decide: score gave {given} for example {i}, need one finite number (higher is better)")
    return float(value)


def _choices(outputs: list[np.ndarray], *, needed: bool) -> list[np.ndarray]:
    """The largest value's place in each output; where no choice is needed and some output has none: empty."""
    if not needed and not all(o.ndim and o.shape[-1] > 1 for o in outputs):
        return []
    return [_picked(output) for output in outputs]


def _hashes(picked: list[np.ndarray], broken: np.ndarray) -> np.ndarray:
    if all(p.ndim == 0 for p in picked):
        return np.where(broken, NO_ANSWER, [int(p) for p in picked])
    return np.where(broken, "", [p.tobytes().hex() for p in picked])


def _lead(output: np.ndarray, answer: np.ndarray) -> float:
    """How far an answer is ahead of the best other one, the least over an output's answers; NaN where nothing is."""
    values, place = np.array(output, np.float32), np.asarray(answer)[..., None]
    mine = np.take_along_axis(values, place, -1)[..., 0]
    np.put_along_axis(values, place, -np.inf, -1)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf: neither is ahead
        return float(np.min(mine - np.max(values, -1)))


def _short(example: Any) -> str:
    """Inputs by dtype and shape, a label by its value: `float32[8, 8, 1], 4`."""
    if isinstance(example, tuple):
        return ", ".join(map(_short, example))
    value = np.asarray(example)
    return f"{value.dtype}{list(value.shape)}" if value.ndim else str(value)
