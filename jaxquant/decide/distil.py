"""Distillation: a quantized model trained to answer as its float original does, without labels (DEC-10..DEC-12).

The loss is taken through the codes of each moment, as the row will run them, so the trained model is the converted one.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxquant import qat
from jaxquant.decide.draws import Draws
from jaxquant.decide.interrupts import interruptible
from jaxquant.decide.on_codes import OnCodes
from jaxquant.decide.targets import Target
from jaxquant.decide.training import Course, Training, Watcher
from jaxquant.decide.workloads import Material
from refquant.files.quantized import QUANTIZABLE, Plan

Weights = dict[str, jax.Array]
RECENT = 20  # steps whose median time foretells the rest


class Distillation:
    """One training of one scheme.

    Attributes:
      plans: what the scheme makes of each tensor.
      tensors: name → the trained master values, in the file's layout; of weights that stay in float, in their dtype.
      training: what it was.
    """

    def __init__(self, target: Target, plans: Sequence[Plan], on: OnCodes | None, material: Material, course: Course):
        """Nothing runs before `run`.

        Raises:
          ValueError: no weight that the model reads is quantized, or no material.
        """
        if not material.pools:
            raise ValueError("decide: no examples are left to train on, need at least one that is not judged")
        self.target, self.on, self.course = target, on, course
        self.specs = {p.info.name: p.spec for p in plans if p.scheme and p.info.name in target.names}
        if not self.specs:
            raise ValueError("decide: QAT finds no weight to train, need a scheme that quantizes one the model reads")
        kept = {p.info.name for p in plans if p.kind == "other" and p.info.dtype in QUANTIZABLE} & target.names
        self.draws = Draws(material, course.rows, course.seed)
        names = [p.info.name for p in plans if p.info.name in {*self.specs, *kept}]
        self._start: Weights = {n: jnp.asarray(np.asarray(target.tensor(n), np.float32)) for n in names}
        self._float = target.forward({})
        self._check_outputs(self.draws.probe)
        self._step = _stepper(self._loss, self._optimizer(), frozenset(self.specs))

    def run(self, watcher: Watcher) -> tuple[dict[str, np.ndarray], Training]:
        """Trains; Ctrl-C ends it early, a second one ends the program.

        Returns:
          (tensors, what the training was).
        Raises:
          ValueError: the outputs are no finite floats, or no gradient reaches a quantized weight.
        """
        state = jax.tree.map(jnp.copy, (self._start, self._optimizer().init(self._start)))  # steps consume it
        with interruptible() as stopped:
            began = time.perf_counter()
            first, each = self._rehearse(state)
            announced, started = each * self.course.steps, time.perf_counter()
            watcher.announce(self.course.steps, announced, each, started - began)
            state, losses, ended = self._train(state, stopped, watcher, each)
            seconds = time.perf_counter() - started
        last = self._try(state, *self.draws.probe)[0] if losses else first
        course = self.course
        training = Training(
            len(losses), course.steps, ended, self.draws.count, self.draws.rows, announced, each, seconds, first, last,
            tuple(losses), course.seed, course.rate,
        )  # fmt: skip
        return self._tensors(state[0]), training

    def _rehearse(self, state: Any) -> tuple[float, float]:
        """Compiles for every shape without a step taken; the loss at the start, and seconds a step."""
        loss, size = self._try(state, *self.draws.probe)
        if not (math.isfinite(loss) and math.isfinite(size)):
            raise ValueError(f"decide: QAT starts with a loss of {loss} and a gradient of {size}, need finite numbers")
        if loss > 0 and size == 0:
            raise ValueError(
                "decide: no gradient reaches a quantized weight, need outputs that follow the weights smoothly (an "
                "argmax, a rounding or a stop_gradient hides them)"
            )
        seconds = 0.0
        for share, batch in self.draws.samples():
            self._try(state, *batch)
            seconds += share * self._timed(state, batch)
        return loss, seconds

    def _timed(self, state: Any, batch: tuple[Any, ...]) -> float:
        """Seconds of one step on a copy of the state, as the training makes it."""
        copied = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        started = time.perf_counter()
        jax.block_until_ready(self._step(copied, self.target.state, batch, self._float(*batch)))
        return time.perf_counter() - started

    def _check_outputs(self, batch: tuple[Any, ...]) -> None:
        found = jax.eval_shape(self._float, *batch)
        dtypes = [getattr(leaf, "dtype", None) for leaf in jax.tree.leaves(found)]
        if len(dtypes) != 1 or not jnp.issubdtype(dtypes[0], jnp.floating):
            raise ValueError(
                f"decide: the model returns {', '.join(map(str, dtypes))}, need one float array (QAT follows the float "
                "model's outputs)"
            )

    def _try(self, state: Any, *batch: Any) -> tuple[float, float]:
        """Loss and gradient's size on a batch; the step is not taken."""
        _, loss, size = self._step(jax.tree.map(jnp.copy, state), self.target.state, batch, self._float(*batch))
        return float(loss), float(size)

    def _train(self, state: Any, stopped: Callable[[], bool], watcher: Watcher, each: float) -> tuple[Any, list, str]:
        losses: list[float] = []
        last, steps, times = time.perf_counter(), self.course.steps, deque([each] * 3, RECENT)
        for batch in self.draws.batches(steps):
            if stopped():
                return state, losses, "interrupted"
            state, loss, size = self._step(state, self.target.state, batch, self._float(*batch))
            if not (math.isfinite(loss) and math.isfinite(size)):
                return state, losses, "not finite"
            losses.append(float(loss))
            now = time.perf_counter()
            times.append(now - last)
            last = now
            # the median: a step that compiles or waits for the machine says nothing of those to come
            watcher.step(len(losses), steps, losses[-1], statistics.median(times) * (steps - len(losses)))
        return state, losses, "finished"

    def _loss(self, masters: Weights, state: Any, batch: tuple[Any, ...], wanted: jax.Array) -> jax.Array:
        """The quantized model's squared distance from the float one, as a share of the latter's outputs."""
        weights = {n: qat.Trained(v, spec=self.specs[n]) if n in self.specs else v for n, v in masters.items()}
        got = self.target.training_pass(state, weights, batch, self.on)
        got, wanted = (jnp.asarray(v, jnp.float32) for v in (got, wanted))
        size = jnp.maximum(jnp.vdot(wanted, wanted), jnp.finfo(jnp.float32).tiny)
        return jnp.vdot(got - wanted, got - wanted) / size

    def _optimizer(self) -> Any:
        import optax

        steps, rate = self.course.steps, self.course.rate
        warm = max(steps // 10, 1)
        rising, falling = optax.linear_schedule(rate / warm, rate, warm), optax.linear_schedule(rate, 0, steps - warm)
        rates = optax.join_schedules([rising, falling], [warm])
        return optax.chain(optax.scale_by_adam(), optax.scale_by_param_block_rms(), optax.scale_by_learning_rate(rates))

    def _tensors(self, masters: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
        kept = {n: v for n, v in masters.items() if n not in self.specs}
        found = {n: np.asarray(v) for n, v in masters.items()}
        return found | {n: np.asarray(v).astype(self.target.tensor(n).dtype) for n, v in kept.items()}


def _stepper(loss: Callable, optimizer: Any, quantized: frozenset[str]) -> Callable:
    """(state, arrays of the model, batch, float outputs) → (state, loss, size of the quantized weights' gradient)."""

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, arrays: Any, batch: Any, wanted: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        import optax

        masters, moments = state
        value, grads = jax.value_and_grad(loss)(masters, arrays, batch, wanted)
        updates, moved = optimizer.update(grads, moments, masters)
        made = (optax.apply_updates(masters, updates), moved)
        good = jnp.isfinite(value) & jnp.isfinite(_size(grads))
        taken = jax.tree.map(lambda new, old: jnp.where(good, new, old), made, state)
        return taken, value, _size({n: g for n, g in grads.items() if n in quantized})

    return step


def _size(grads: Weights) -> jax.Array:
    """The length of a gradient; optax has it under different names in its versions."""
    return jnp.sqrt(sum(jnp.vdot(g, g) for g in grads.values()))
