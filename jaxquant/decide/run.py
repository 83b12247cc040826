"""The main job: every rung of the ladder evaluated on the workload, then the decision.

`climb` is a generator of rows, so that a reader sees each as soon as it is known; it holds no printing.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxquant.decide.bars import Bar
from jaxquant.decide.bits import Checked, Quantizer
from jaxquant.decide.distil import Distillation
from jaxquant.decide.finite import in_points, noted, refuse_outputs, refuse_scores
from jaxquant.decide.intervals import count_pairs, is_binary, share_interval
from jaxquant.decide.ladder import Rung, timely
from jaxquant.decide.layouts import Layout, planned
from jaxquant.decide.means import score_interval
from jaxquant.decide.on_codes import OnCodes, on_codes
from jaxquant.decide.rows import Row
from jaxquant.decide.targets import Target
from jaxquant.decide.training import Course, Silent, Training, Watcher
from jaxquant.decide.verdict import judge
from jaxquant.decide.workloads import AGREEMENT, Answers, Material, Workload
from jaxquant.qtensor import dequantize_tensor
from refquant.files.quantized import Plan, predicted_bytes
from refquant.schemes import Scheme

LEVEL = 0.95


@dataclass(frozen=True)
class Made:
    """What a row is made of: the model with its weights (trained ones under QAT), what becomes of them, their codes."""

    target: Target
    plans: tuple[Plan, ...]
    checked: Mapping[str, Checked]


class Ladder:
    """A model, a workload and a bar; the float answers are the reference of every row.

    Attributes:
      target: the model.
      workload: what it must answer.
      bar: what a row must keep.
      quantizer: the checked weights of every rung so far.
      answers: label of a row → Answers, "float" first.
      made: label of a row → Made.
      course: how rungs with QAT are trained.
      watcher: who is told of it.
    """

    def __init__(
        self,
        target: Target,
        workload: Workload,
        bar: Bar,
        material: Material | None = None,
        *,
        course: Course | None = None,
        watcher: Watcher | None = None,
    ):
        """Nothing runs before `climb`.

        Args:
          target: the model.
          workload: what it must answer.
          bar: what a row must keep.
          material: what rungs with QAT train on; None: there are none.
          course: how.
          watcher: who is told.
        """
        self.target, self.workload, self.bar = target, workload, bar
        self.material = material or Material((), "")
        self.course, self.watcher = course or Course(), watcher or Silent()
        self.quantizer = Quantizer(target)
        self.answers: dict[str, Answers] = {}
        self.made: dict[str, Made] = {}

    def climb(self, rungs: Sequence[Rung]) -> Iterator[Row]:
        """The float row, then one row a rung, in the order of `timely`; what forbids a training is told first."""
        trained = {rung: self._distillation(rung) for rung in rungs if rung.qat}
        yield self._float_row()
        for rung in timely(rungs):
            yield self._row(rung, trained.pop(rung, None))

    def distinct(self, rungs: Sequence[Rung]) -> list[Rung]:
        """The rungs that differ on this model: a scheme for embeddings or inputs that it lacks changes nothing."""
        first: dict[object, Rung] = {}
        for rung in rungs:
            schemes, on = tuple(str(one.scheme) for one in self.plans(rung.parsed)), self._integers(rung.parsed)
            first.setdefault((schemes, str(on.inputs) if on and on.layers else None, rung.qat), rung)
        return list(first.values())

    @cached_property
    def layouts(self) -> Mapping[str, Layout]:
        """What the model's modules know of its tensors."""
        return self.target.layouts(lambda: self.workload.batches(1)[0])

    def on_codes(self, plans: Sequence[Plan], scheme: Scheme) -> OnCodes:
        """Which layers run on codes, and why the others do not."""
        return on_codes(plans, self.layouts, self.target.names, scheme.inputs)

    def _integers(self, scheme: Scheme) -> OnCodes | None:
        """The same where the scheme names inputs; None: float passes."""
        return self.on_codes(self.plans(scheme), scheme) if scheme.inputs else None

    def plans(self, scheme: Scheme) -> tuple[Plan, ...]:
        """What the scheme makes of each tensor."""
        return planned(self.target.infos, scheme, self.layouts)

    def _float_row(self) -> Row:
        started = time.perf_counter()
        answers = self.workload.evaluate(self.target.forward({}))
        self.answers["float"] = answers
        refuse_outputs(answers, self.workload)
        refuse_hopeless(answers)
        refuse_scores(answers, self.workload, self.bar)
        plans = self.plans(Scheme())
        size, bits, n = predicted_bytes(plans, self.target.source.metadata), bits_per_weight(plans), len(answers.score)
        own = None if self.workload.metric == AGREEMENT else score_interval(answers.score, level=LEVEL)
        seconds = time.perf_counter() - started
        return Row("float", "as it is", size, bits, _mean(answers), n, seconds=seconds, own=own)

    def _distillation(self, rung: Rung) -> Distillation:
        scheme = rung.parsed
        return Distillation(self.target, self.plans(scheme), self._integers(scheme), self.material, self.course)

    def _make(self, plans: tuple[Plan, ...], distillation: Distillation | None) -> tuple[Made, Training | None]:
        """The codes of a row; those of a trained model are of its trained weights, by both packages."""
        if distillation is None:
            return Made(self.target, plans, self.quantizer(plans)), None
        tensors, training = distillation.run(self.watcher)
        target = self.target.replaced(tensors)
        return Made(target, plans, Quantizer(target)(plans)), training

    def _row(self, rung: Rung, distillation: Distillation | None) -> Row:
        started = time.perf_counter()
        scheme = rung.parsed
        plans, on = self.plans(scheme), self._integers(scheme)
        made, training = self._make(plans, distillation)
        checked = made.checked
        given = self.workload.evaluate(forward(made.target, checked, on))
        answers = in_points(given, self.bar)
        self.answers[rung.label], self.made[rung.label] = answers, made
        base = self.answers["float"]
        same = answers.same_as(base)
        verdict = judge(self.bar, float_scores=base.score, quantized_scores=answers.score, same=same, level=LEVEL)
        pairs = count_pairs(base.score, answers.score) if is_binary(base.score, answers.score) else None
        kept = Counter(on.kept.values() if on else ())
        told = _kept(kept), _shared(scheme, self.workload.at_once)
        return Row(
            rung.label,
            "; ".join(filter(None, (rung.about + (f", {training.told}" if training else ""), *told))),
            predicted_bytes(plans, self.target.source.metadata),
            bits_per_weight(plans),
            _mean(answers),
            len(same),
            pairs.lost if pairs else None,
            pairs.won if pairs else None,
            share_interval(int(np.count_nonzero(same)), len(same), level=LEVEL) if base.led else None,
            noted(verdict, answers, given.score),
            sum(c.compared for c in checked.values()),
            sum(c.differing for c in checked.values()),
            kept.total(),
            time.perf_counter() - started,
            training,
            *told,
        )


def _kept(layers: Counter[str]) -> str:
    each = ", ".join(f"{count} x {what}" for what, count in layers.items())
    count = layers.total()
    return f"{count} layer{'s keep' if count > 1 else ' keeps'} float inputs: {each}" if layers else ""


def _shared(scheme: Scheme, at_once: int) -> str:
    if scheme.inputs is None or scheme.inputs.grain != "tensor" or at_once == 1:
        return ""
    return f"one range for all examples run together, here up to {at_once}: in other batches answers may differ"


def refuse_hopeless(answers: Answers) -> None:
    """A float model that is never right cannot lose anything, so every row would pass.

    Raises:
      ValueError: every score is zero.
    """
    if not np.any(answers.score):
        raise ValueError(
            f"decide: the float model scores 0 on all {len(answers.score)} examples, need some right answers to lose "
            "(are the labels or the score function wrong?)"
        )


def forward(target: Target, checked: Mapping[str, Checked], on: OnCodes | None) -> Callable[..., Any]:
    """The model under a scheme: dequantized weights in the float pass, or codes in its layers (`on`)."""
    quantized = {name: entry.q for name, entry in checked.items()}
    if on is not None:
        return target.forward_quantized(quantized, on)
    return target.forward({name: dequantize_tensor(q) for name, q in quantized.items()})


def bits_per_weight(plans: Sequence[Plan]) -> float:
    """Stored bits over weights, of all floating tensors: matrices, embeddings and what stays in float."""
    weights = sum(math.prod(p.info.shape) for p in plans)
    return sum(p.bits for p in plans) / max(weights, 1)


def _mean(answers: Answers) -> float:
    return float(np.mean(answers.score))
