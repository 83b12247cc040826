"""8, 4, 3 and 2 bits on handwritten digits, in Flax Linen: when is rounding enough, and when must it be trained?

    python examples/digits_qat_linen.py          # five seeds, about a minute
    python examples/digits_qat_linen.py 1 2      # one seed, 2 bits

The net, the steps and the data are those of digits_qat_nnx.py.  Every step between the layers is exact (relu, max-pool,
a residual sum), so the whole model promises its bits: in training, converted, and from its file in NumPy.
"""

from collections import defaultdict
from functools import partial

import _digits as digits
import jax
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict

from jaxquant import store
from jaxquant.flax import linen_api


class Net(nn.Module):
    """8 x 8 pixels to 10 digits."""

    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(16, (3, 3), name="stem")(x)), (2, 2), (2, 2))
        x = x + nn.relu(nn.Conv(16, (3, 3), name="block")(x))
        x = nn.relu(nn.Dense(64, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="head")(x)


# Learned scales get a learning rate of their own: plain Adam would drive many of them through zero.
GROUPS = {"weights": optax.adam(2e-3), "scales": optax.adam(1e-3), "frozen": optax.set_to_zero()}
OPTIMIZER = optax.multi_transform(GROUPS, linen_api.labels)


@partial(jax.jit, static_argnums=0)
def step(model, params, state, x, y):
    grads = jax.grad(lambda params: digits.loss(model.apply({"params": params}, x), y))(params)
    updates, state = OPTIMIZER.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@partial(jax.jit, static_argnums=0)
def run(model, params, x):
    return model.apply({"params": params}, x)


def train(model, params: dict, seed: int, first: int, count: int) -> dict:
    """Float or quantized: the same steps."""
    state = OPTIMIZER.init(params)
    for x, y in digits.batches(seed, first, count):
        params, state = step(model, params, state, x, y)
    return params


def main(seeds: int, bits: tuple[int, ...]) -> None:
    scores, wrong, total, model = defaultdict(list), 0, 0, Net()
    for seed in range(seeds):
        *_, x, y = digits.split(seed)
        params = train(model, digits.start(seed), seed, 0, digits.FLOAT_STEPS)
        for b in bits:
            for way, recipe in digits.recipes(b).items():
                qmodel = linen_api.Quantized(model, recipe)
                qparams, report = linen_api.prepare(qmodel, params, x)
                scores[way, b].append(digits.score(run(qmodel, linen_api.convert(qmodel, qparams), x), y))
            qparams = train(qmodel, qparams, seed, digits.FLOAT_STEPS, digits.QAT_STEPS)
            iparams = linen_api.convert(qmodel, qparams)
            scores["QAT", b].append(digits.score(run(qmodel, iparams, x), y))
            path = f"digits-linen-int{b}.safetensors"
            size = store.save(path, flatten_dict(iparams, sep="/"), overwrite=True)
            outputs = run(qmodel, qparams, x), run(qmodel, iparams, x), digits.numpy_net(store.load(path), x)
            found = digits.differing(*outputs)
            wrong, total = wrong + found[0], total + found[1]
        params = train(model, params, seed, digits.FLOAT_STEPS, digits.QAT_STEPS)
        scores["float", 32].append(digits.score(run(model, params, x), y))
    print(report, digits.table(scores, bits, seeds), sep="\n\n")
    print(f"\n{path}: {size:,} bytes.  Trained, converted, in NumPy from the file: {wrong} of {total:,} outputs differ")
    assert wrong == 0


if __name__ == "__main__":
    main(*digits.arguments())
