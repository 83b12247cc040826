"""Accuracy on scikit-learn's digits at 4, 3 and 2 bits: PTQ and QAT by jaxquant, and by qwix where it is installed.

  python benchmarks/qat_accuracy.py                a table: mean and spread over five seeds
  python benchmarks/qat_accuracy.py --json PATH    also recorded, as benchmarks/results/qat_accuracy.json is

A perceptron 64-64-64-10; every seed has its own split (1,400 to train on, 397 to test) and its own start.  All QAT
starts from the float weights and takes the same steps of the same Adam on the same batches; scales per channel, the
largest magnitude over qmax + 1/2 as qwix has it (int4:channel:half).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jaxquant.flax import Lsq, Recipe, Rule, linen_api  # noqa: E402
from refquant.files import atomic_path  # noqa: E402

BITS = (4, 3, 2)
SEEDS = range(5)
FLOAT_STEPS, QAT_STEPS, BATCH = 600, 400, 50  # qwix takes an input of the shape of a kernel for one


class Perceptron(nn.Module):
    """64-64-64-10."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""
        for width in (64, 64):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class Data:
    """One seed's split, and the batches of a run."""

    def __init__(self, seed: int):
        digits = load_digits()
        order = np.random.default_rng(seed).permutation(len(digits.target))
        x, y = jnp.asarray(digits.data[order] / 16, jnp.float32), jnp.asarray(digits.target[order])
        self.train, self.test = (x[:1400], y[:1400]), (x[1400:], y[1400:])
        self.seed = seed

    def batches(self, steps: int) -> tuple[jax.Array, jax.Array]:
        """Inputs and labels of every step."""
        picks = np.random.default_rng(self.seed + 1).integers(0, 1400, (steps, BATCH))
        return self.train[0][picks], self.train[1][picks]


def trained(apply: Callable, params: Any, data: Data, steps: int, rate: float, labels: Any = None) -> Any:
    """The parameters after some steps; a scan, so that only one program is compiled."""
    adam = optax.adam(optax.cosine_decay_schedule(rate, steps))
    slow = optax.adam(optax.cosine_decay_schedule(rate / 10, steps))
    groups = {"weights": adam, "scales": slow, "frozen": optax.set_to_zero()}
    optimizer = adam if labels is None else optax.multi_transform(groups, labels)

    def step(carry: tuple, batch: tuple) -> tuple:
        params, state = carry

        def loss(p: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(apply({"params": p}, batch[0]), batch[1]).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda p, batches: jax.lax.scan(step, (p, optimizer.init(p)), batches)[0][0])
    return run(params, data.batches(steps))


def accuracy(apply: Callable, params: Any, data: Data) -> float:
    """The share of right answers on the test part."""
    x, y = data.test
    return float((jax.jit(apply)({"params": params}, x).argmax(-1) == y).mean())


def of_seed(seed: int) -> dict[str, float]:
    """Every candidate's accuracy."""
    data, model = Data(seed), Perceptron()
    floats = model.init(jax.random.key(seed), data.train[0][:1])["params"]
    floats = trained(model.apply, floats, data, FLOAT_STEPS, 3e-3)
    found = {"float": accuracy(model.apply, floats, data)}
    for bits in BITS:
        for name, estimator in (("", {}), (" LSQ", {"weight_estimator": Lsq()})):
            qmodel = linen_api.Quantized(model, Recipe(Rule("**", weights=f"int{bits}:channel:half", **estimator)))
            params, _ = linen_api.prepare(qmodel, floats, data.train[0])
            if not name:
                found[f"int{bits} PTQ jaxquant"] = accuracy(qmodel.apply, params, data)
            params = trained(qmodel.apply, params, data, QAT_STEPS, 3e-3, linen_api.labels)
            found[f"int{bits} QAT jaxquant{name}"] = accuracy(qmodel.apply, params, data)
        if importlib.util.find_spec("qwix"):
            apply = qwix_model(model, bits).apply
            found[f"int{bits} PTQ qwix"] = accuracy(apply, floats, data)
            found[f"int{bits} QAT qwix"] = accuracy(apply, trained(apply, floats, data, QAT_STEPS, 3e-3), data)
    return found


def qwix_model(model: nn.Module, bits: int) -> nn.Module:
    """The same in qwix."""
    import qwix

    return qwix.quantize_model(
        model, qwix.QtProvider([qwix.QuantizationRule(module_path=".*", weight_qtype=f"int{bits}")])
    )


def main() -> int:
    """Print mean, standard deviation and range over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    seeds = [of_seed(seed) for seed in SEEDS]
    found = {name: [seed[name] for seed in seeds] for name in seeds[0]}
    print(f"{'accuracy, n = 397 a seed, 5 seeds':34}{'mean':>8}{'sd':>7}{'lowest':>8}{'highest':>9}")
    for name, values in found.items():
        v = 100 * np.asarray(values)
        print(f"{name:34}{v.mean():7.2f}%{v.std(ddof=1):7.2f}{v.min():7.2f}%{v.max():8.2f}%")
    if options.json:
        with atomic_path(options.json, overwrite=True) as path:
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
