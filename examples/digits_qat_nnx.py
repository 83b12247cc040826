"""8, 4, 3 and 2 bits on handwritten digits, in Flax NNX: when is rounding enough, and when must it be trained?

    python examples/digits_qat_nnx.py            # five seeds, about a minute
    python examples/digits_qat_nnx.py 1 2        # one seed, 2 bits

Every step between the layers is exact (relu, max-pool, a residual sum), so the whole model promises its bits: in
training, converted, and from its file in NumPy.
"""

from collections import defaultdict

import _digits as digits
import optax
from flax import nnx
from flax.traverse_util import flatten_dict

from jaxquant import store
from jaxquant.flax import nnx_api


class Net(nnx.Module):
    """8 x 8 pixels to 10 digits."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.block = nnx.Conv(16, 16, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(256, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.stem(x)), (2, 2), (2, 2))
        x = x + nnx.relu(self.block(x))
        return self.head(nnx.relu(self.hidden(x.reshape(len(x), -1))))


# Learned scales get a learning rate of their own: plain Adam would drive many of them through zero.
GROUPS = {"weights": optax.adam(2e-3), "scales": optax.adam(1e-3), "frozen": optax.set_to_zero()}
OPTIMIZER = optax.multi_transform(GROUPS, nnx_api.labels)


@nnx.jit
def step(model, optimizer, x, y):
    optimizer.update(model, nnx.grad(lambda model: digits.loss(model(x), y))(model))


@nnx.jit
def run(model, x):
    return model(x)


def train(model: Net, seed: int, first: int, count: int) -> None:
    """Float or quantized: the same steps."""
    optimizer = nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param)
    for x, y in digits.batches(seed, first, count):
        step(model, optimizer, x, y)


def trained(seed: int) -> Net:
    """A float model."""
    model = Net(nnx.Rngs(0))
    nnx.update(model, digits.start(seed))
    train(model, seed, 0, digits.FLOAT_STEPS)
    return model


def main(seeds: int, bits: tuple[int, ...]) -> None:
    scores, wrong, total = defaultdict(list), 0, 0
    for seed in range(seeds):
        *_, x, y = digits.split(seed)
        model = trained(seed)
        for b in bits:
            for way, recipe in digits.recipes(b).items():
                qmodel, report = nnx_api.prepare(model, recipe, x)
                scores[way, b].append(digits.score(run(nnx_api.convert(qmodel), x), y))
            train(qmodel, seed, digits.FLOAT_STEPS, digits.QAT_STEPS)
            imodel = nnx_api.convert(qmodel)
            scores["QAT", b].append(digits.score(run(imodel, x), y))
            path = f"digits-nnx-int{b}.safetensors"
            size = store.save(path, flatten_dict(nnx.to_pure_dict(nnx.state(imodel)), sep="/"), overwrite=True)
            found = digits.differing(run(qmodel, x), run(imodel, x), digits.numpy_net(store.load(path), x))
            wrong, total = wrong + found[0], total + found[1]
        train(model, seed, digits.FLOAT_STEPS, digits.QAT_STEPS)
        scores["float", 32].append(digits.score(run(model, x), y))
    print(report, digits.table(scores, bits, seeds), sep="\n\n")
    print(f"\n{path}: {size:,} bytes.  Trained, converted, in NumPy from the file: {wrong} of {total:,} outputs differ")
    assert wrong == 0


if __name__ == "__main__":
    main(*digits.arguments())
