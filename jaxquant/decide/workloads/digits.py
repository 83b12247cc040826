"""Fallback workload: scikit-learn's digits and a small net trained on them at run time, for where the real model lacks.

1,797 images of 8 x 8 (E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, 1998, UCI).  Every third is
scored, the others train; order, start and step count are fixed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxquant.decide.workloads import Answers, ApplyFn, Batch, Material, Progress, answers_of, checked_count

ROWS = 128
WIDTH, STEPS, RATE = 64, 200, 5e-3
_SHADES = " .:-=+*#%@"


@dataclass(frozen=True)
class Digits:
    """Scored images, their labels, and training images for calibration.

    Attributes:
      n: how many images are scored.
      images: float32 [n, 64], pixels 0 to 1.
      labels: int64 [n].
      spare: float32 [more, 64], images outside the scored set.
      reason: why this is what runs.
    """

    n: int
    images: np.ndarray
    labels: np.ndarray
    spare: np.ndarray
    reason: str
    name: str = "digits"
    metric: str = "accuracy"

    @property
    def at_once(self) -> int:
        """How many examples are run together at most."""
        return ROWS

    def describe(self) -> str:
        """That this is the fallback and why, then what is asked and how it is scored."""
        return (
            f"FALLBACK: a small net on scikit-learn's digits, because {self.reason}\n"
            f"digits: {self.n} images of 8 x 8, a net of three dense layers trained here on {len(self.spare)} more\n"
            "score: accuracy, the share of images whose own class has the largest logit; a tie counts as wrong"
        )

    def evaluate(self, apply_fn: ApplyFn, *, count: int | None = None, progress: Progress | None = None) -> Answers:
        """Answers for the first `count` images; an answer is a class.

        Args:
          apply_fn: (images float32 [B, 64]) → logits float32 [B, 10].
          count: how many images, 1 to n (None: all).
          progress: called as progress(batches done, batches in all).

        Raises:
          ValueError: count is outside 1 to n, or the logits have another shape.
        """
        count = checked_count(count, self.n)
        batches, found = _batches(self.images[:count]), []
        for done, batch in enumerate(batches, 1):
            found.append(np.asarray(apply_fn(*batch), np.float32))
            if found[-1].shape != (ROWS, 10):
                raise ValueError(f"evaluate: logits have shape {found[-1].shape}, need {(ROWS, 10)}")
            if progress:
                progress(done, len(batches))
        return answers_of(np.concatenate(found)[:count], self.labels[:count])

    def batches(self, count: int | None = None) -> list[Batch]:
        """At most `count` batches of training images, in the shape of `evaluate`; none of them is scored."""
        return _batches(self.spare)[:count]

    def split(self) -> tuple["Digits", Material]:
        """All scored images stay; those to train on are the net's own training images (DEC-10)."""
        about = f"{len(self.spare):,} images outside the scored ones, those that the float net was trained on"
        return self, Material(((self.spare,),), about)

    def show(self, i: int) -> dict[str, str]:
        """Image i in characters, and its class."""
        shades = (self.images[i].reshape(8, 8) * (len(_SHADES) - 1)).astype(int)
        return {
            "question": "\n".join("".join(_SHADES[shade] * 2 for shade in row) for row in shades),
            "expected": self.answer_text(int(self.labels[i])),
        }

    def answer_text(self, answer: int) -> str:
        """The digit."""
        return "no answer (not a number)" if answer < 0 else f"the digit {answer}"


def open_workload(reason: str) -> tuple[Digits, Any]:
    """The workload and the float net (an NNX module), trained in about two seconds.

    Args:
      reason: why the real model is not what runs, as `docstrings.locate_minilm` gives it.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, scored = np.float32(images) * np.float32(0.0625), np.arange(len(labels)) % 3 == 2
    workload = Digits(int(scored.sum()), images[scored], labels[scored].astype(np.int64), images[~scored], reason)
    return workload, train(images[~scored], labels[~scored].astype(np.int32))


def train(images: np.ndarray, labels: np.ndarray) -> Any:
    """A 64-64-64-10 net fitted to all images at once by Adam, a fixed number of steps from a fixed start.

    Args:
      images: float32 [n, 64].
      labels: int32 [n], 0 to 9.
    """
    import jax
    import optax
    from flax import nnx

    model = _net()
    graphdef, params = nnx.split(model)
    optimizer = optax.adam(RATE)

    def loss(params: Any, images: Any, labels: Any) -> Any:
        logits = nnx.merge(graphdef, params)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def fit(params: Any, images: Any, labels: Any) -> Any:
        def step(_: int, carry: tuple) -> tuple:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, images, labels), state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, STEPS, step, (params, optimizer.init(params)))[0]

    nnx.update(model, fit(params, images, labels))
    return model


def _net() -> Any:
    """Three dense layers with relu between, so that the whole model is exact between its integer layers."""
    from flax import nnx

    rngs = nnx.Rngs(0)
    sizes = (64, WIDTH, WIDTH, 10)
    dense = [nnx.Linear(size_in, size_out, rngs=rngs) for size_in, size_out in zip(sizes, sizes[1:], strict=False)]
    return nnx.Sequential(dense[0], nnx.relu, dense[1], nnx.relu, dense[2])


def _batches(images: np.ndarray) -> list[Batch]:
    """Batches of one shape; the last is filled up with copies of its own last image."""
    starts = range(0, len(images), ROWS)
    return [(images[np.minimum(np.arange(start, start + ROWS), len(images) - 1)],) for start in starts]
