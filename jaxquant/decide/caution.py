"""A word of caution where float itself may be guessing: a model at chance passes as easily as a good one (DEC-17)."""

import numpy as np

from jaxquant.decide.intervals import is_binary, share_interval
from jaxquant.decide.workloads import Answers


def caution(answers: Answers) -> str:
    """One sentence where float's share of right answers is not shown to beat a guess, else "".

    Args:
      answers: of the float model; a guess among k different ones is right once in k where all are as frequent.

    Spec: DEC-17 (specs/70-decide.md).
    """
    if not answers.led or not is_binary(answers.score, answers.score):
        return ""
    kinds, n = len(set(answers.answers.tolist())), len(answers.score)
    if kinds == 1 and n > 1:
        return f"Caution: float gives one and the same answer to all {n:,} examples; a PASS then says little."
    if answers.score.all():  # agreement with itself
        return ""
    found = share_interval(int(np.count_nonzero(answers.score)), n)
    if found.low > 1 / kinds:
        return ""
    return (
        f"Caution: float's own score, {100 * found.estimate:.1f} % (95 % interval {100 * found.low:.1f} to "
        f"{100 * found.high:.1f}), is not shown to be better than a guess among the {kinds} answers that it gives "
        f"({100 / kinds:.1f} %); a model that guesses passes as easily as a good one."
    )
