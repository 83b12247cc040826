"""Answers that changed between two models on the same examples, worst first."""

import math
from typing import Any

import numpy as np

from jaxquant.decide.intervals import is_binary
from jaxquant.decide.workloads import Answers, Workload, number_of


def worst_first(base: Answers, answers: Answers) -> list[tuple[float, float, int]]:
    """Which answers changed: lost before changed before won, each by the margin's drop.

    Args:
      base: of the model that is compared with, such as float.
      answers: of the other one, on the same examples.
    Returns:
      (-1, 0 or 1 as the score fell, stayed or rose; minus the drop; index) of each, sorted by the first two.

    Spec: DEC-16 (specs/70-decide.md).
    """
    drop, better = np.nan_to_num(_drop(base, answers), nan=np.inf), np.sign(answers.score - base.score)
    found = [(float(better[i]), -float(drop[i]), int(i)) for i in np.flatnonzero(~answers.same_as(base))]
    return sorted(found, key=lambda row: row[:2])


def change(work: Workload, base: Answers, answers: Answers, i: int) -> dict[str, Any]:
    """What a reader sees of one change, JSON-friendly; was_right is None where scores are no right and wrong."""
    scores = {"score_was": float(base.score[i]), "score_is": float(answers.score[i])}
    right = is_binary(base.score, answers.score)
    drop = float(_drop(base, answers)[i])
    return {
        "example": number_of(work, i),
        "drop": drop if math.isfinite(drop) else None,
        **work.show(i),
        "float": work.answer_text(base.answers[i]),
        "quantized": work.answer_text(answers.answers[i]),
        **scores,
        "was_right": scores["score_was"] > 0 if right else None,
        "is_right": scores["score_is"] > 0 if right else None,
    }


def _drop(base: Answers, answers: Answers) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a masked rival in both
        return base.margin - answers.margin
