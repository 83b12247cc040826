"""One row of the ladder, and what its evaluation gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxquant.decide.intervals import Interval
from jaxquant.decide.training import Training
from jaxquant.decide.verdict import Verdict


@dataclass(frozen=True)
class Row:
    """One scheme on one model and workload.

    Attributes:
      scheme: its text, with " + QAT" where the model was trained; "float" for the reference row.
      about: what a reader knows it as.
      bytes: of the file it would write, scales, embeddings and header included.
      bits_per_weight: bits of its weights and scales over the number of weights, embeddings included.
      score: the workload's score, a mean over n examples.
      n: examples.
      lost, won: answers that became wrong, that became right (None where scores are not 0/1).
      same: share of unchanged answers with its interval (None for the reference row, and where outputs hold no choice).
      verdict: against the bar (None for the reference row).
      codes: how many codes, scales and zero points NumPy and JAX were compared on.
      differing: how many of them differed in any bit.
      float_inputs: layers with codes whose inputs stay in float though the scheme names inputs.
      seconds: evaluation time of the workload on this device, compilation and training included.
      training: what the training was (None where there was none).
      float_told: those layers in words, by kind; "" without any.
      batch_told: of inputs with one range for a whole batch, in words; "" where an example is judged by itself.
      own: the interval of the reference row's own score (None for others, whose change is paired, and for agreement).
    """

    scheme: str
    about: str
    bytes: int
    bits_per_weight: float
    score: float
    n: int
    lost: int | None = None
    won: int | None = None
    same: Interval | None = None
    verdict: Verdict | None = None
    codes: int = 0
    differing: int = 0
    float_inputs: int = 0
    seconds: float = 0.0
    training: Training | None = None
    float_told: str = ""
    batch_told: str = ""
    own: Interval | None = None

    @property
    def told(self) -> tuple[str, ...]:
        """What a reader must know of its inputs."""
        return tuple(filter(None, (self.float_told, self.batch_told)))

    @property
    def result(self) -> str:
        """PASS, FAIL, UNSURE, or "" for the reference row."""
        return self.verdict.result if self.verdict else ""

    def as_dict(self) -> dict[str, Any]:
        """The fields as a JSON-friendly dict."""
        nested = {"same": self.same, "verdict": self.verdict, "training": self.training, "own": self.own}
        return vars(self) | {key: value.as_dict() if value else None for key, value in nested.items()}


def cancelled(rows: Sequence[Row]) -> str:
    """What one benchmark number hides, told of the row where most lost and won answers cancel out; "" without any.

    Rows that fail are named only where no other row has both: their number alone shows the damage.

    Args:
      rows: those with a verdict.

    Spec: DEC-16 (specs/70-decide.md).
    """
    both = [row for row in rows if row.lost and row.won and row.same]
    if not both:
        return ""
    row = max(both, key=lambda row: (row.result != "FAIL", min(row.lost, row.won)))
    changed = round((1 - row.same.estimate) * row.n)
    return (
        f"{row.scheme}: {100 * (row.won - row.lost) / row.n:+.1f} points net is {row.lost} lost and {row.won} won; "
        f"{changed:,} answers changed: one benchmark number hides that."
    )
