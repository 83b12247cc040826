"""What cannot be compared is refused before the first row: weights, float outputs, and scores without meaning."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxquant.decide.bars import Bar, refuse_unreachable
from jaxquant.decide.means import span_of
from jaxquant.decide.targets import Target
from jaxquant.decide.verdict import Verdict
from jaxquant.decide.workloads import Answers, Workload, number_of


def refuse_weights(target: Target) -> None:
    """Every weight that a run reads must be finite; what else is saved may hold infinities (a mask), but no NaN.

    Raises:
      ValueError: with the first tensor that is not so, and its first bad element.

    Spec: DEC-15 (specs/70-decide.md).
    """
    for name in [info.name for info in target.infos]:
        value = target.tensor(name)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            continue
        bad = ~np.isfinite(value) if name in target.names else np.isnan(value)
        if bad.any():
            index = tuple(int(k) for k in np.argwhere(bad)[0])
            raise ValueError(
                f"decide: the source model's {name}{list(index) if index else ''} is {float(value[index])} "
                f"({int(bad.sum()):,} of {value.size:,} there are not finite), need finite weights, or nothing can be "
                "compared"
            )


def refuse_outputs(answers: Answers, workload: Workload) -> None:
    """The float model's answers are the reference of every row, so each example must have one.

    Raises:
      ValueError: with the user's number of the first example without.

    Spec: DEC-15 (specs/70-decide.md).
    """
    if answers.broken.any():
        first = number_of(workload, int(np.flatnonzero(answers.broken)[0]))
        raise ValueError(
            f"decide: the float model's output of example {first} has a NaN or nothing finite (as "
            f"{int(answers.broken.sum()):,} of {len(answers.broken):,} have), need finite outputs, or nothing can be "
            "compared (-inf as a mask is allowed)"
        )


def refuse_scores(answers: Answers, workload: Workload, bar: Bar) -> None:
    """The float scores must have a meaning for the bar (DEC-5): what `judge` would say after the first row is printed.

    Raises:
      ValueError: points of a score outside [0, 1], with the user's number of the example; a bar beyond the score; a
        bar on unchanged answers where outputs hold none.
    """
    outside = np.flatnonzero((answers.score < 0) | (answers.score > 1))
    if bar.kind == "points" and outside.size:
        number, score = number_of(workload, int(outside[0])), float(answers.score[outside[0]])
        raise ValueError(
            f"decide: bar is '{bar}' and the score of example {number} is {score}, need scores in [0, 1] (or a bar "
            "score>=...)"
        )
    if bar.kind == "same" and not answers.led:
        raise ValueError(
            f"decide: bar is '{bar}' and outputs hold no choice, need at least two values along their last axis to "
            "have an answer (the largest one), or a bar on the score, as in lose<=2 or score>=0.8"
        )
    refuse_unreachable(bar, *span_of(answers.score))


def in_points(answers: Answers, bar: Bar) -> Answers:
    """A quantized model's answers; under a bar in points a score outside [0, 1] counts as the nearer end.

    Float's own are refused (`refuse_scores`); these come when rows are known already, which must not be lost.

    Spec: DEC-5 (specs/70-decide.md).
    """
    return replace(answers, score=np.clip(answers.score, 0.0, 1.0)) if bar.kind == "points" else answers


def noted(verdict: Verdict, answers: Answers, given: np.ndarray) -> Verdict:
    """The verdict with a note on outputs of the quantized model that are no answers, and on scores without points.

    Args:
      verdict: of the answers.
      answers: as judged.
      given: the scores before `in_points`.

    Spec: DEC-5, DEC-15 (specs/70-decide.md).
    """
    n, broken, beyond = len(given), int(answers.broken.sum()), np.abs(given - answers.score)
    none = f"NaN or nothing finite in {broken:,} of {n:,} outputs, which count as wrong and changed" if broken else ""
    cut = int(np.count_nonzero(beyond))
    ends = f"{cut:,} of {n:,} scores outside [0, 1], as far as {given[np.argmax(beyond)]:.4g}, count as the nearer end"
    return replace(verdict, note="; ".join(filter(None, [verdict.note, none, ends if cut else ""])))
