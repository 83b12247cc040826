"""Is 4-bit good enough for *your* Flax model?  A small net, its own test images, its own score.

The same from the command line, from this folder:
  jaxquant decide decide_on_your_own_model:build --on decide_on_your_own_model:examples \
      --score decide_on_your_own_model:score
"""

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import jaxquant

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
TRAIN = 1000


class Net(nnx.Module):
    """64 pixels to 10 digits."""

    def __init__(self, rngs: nnx.Rngs):
        self.inner = nnx.Linear(64, 48, rngs=rngs)
        self.outer = nnx.Linear(48, 10, rngs=rngs)

    def __call__(self, x):
        return self.outer(jax.nn.relu(self.inner(x)))


def build() -> Net:
    """The trained float model; `jaxquant decide` calls this."""
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            logits = model(images[:TRAIN])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[:TRAIN]).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(120):
        step(model, optimizer)
    return model


def examples() -> list:
    """(input, label) pairs that the model has not seen; an input is one image, without a batch axis."""
    return list(zip(images[TRAIN:], labels[TRAIN:], strict=True))


def score(output, example) -> float:
    """1 for the right digit, 0 for a wrong one."""
    return float(np.argmax(output) == example[1])


if __name__ == "__main__":
    result = jaxquant.decide(build(), examples(), score, bar="lose<=2", name="digits net")
    print(result["decision"]["sentence"])
