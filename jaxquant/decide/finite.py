"""What cannot be compared is refused before the first row: weights and float outputs that are not finite (DEC-15)."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

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


def noted(verdict: Verdict, answers: Answers) -> Verdict:
    """The verdict with a note on the outputs of the quantized model that are no answers.

    Spec: DEC-15 (specs/70-decide.md).
    """
    count = int(answers.broken.sum())
    if not count:
        return verdict
    told = f"NaN or nothing finite in {count:,} of {len(answers.broken):,} outputs, which count as wrong and changed"
    return replace(verdict, note="; ".join(filter(None, [verdict.note, told])))
