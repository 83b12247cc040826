"""LoRA on a converted base: int4 codes stay as they are, small float adapters beside them learn a new task.

    python examples/lora.py

The base reads upright digits; the adapters teach it to read them in a mirror.
"""

import hashlib

import _digits as digits
import jax
import numpy as np
import optax
from flax import nnx

from jaxquant.flax import Recipe, Rule, nnx_api

RANK, STEPS = 8, 200
BASE = Recipe(Rule("**", weights="int4:channel", inputs="int8:token"))


class Net(nnx.Module):
    """64 pixels to 10 digits."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(64, 96, rngs=rngs)
        self.second = nnx.Linear(96, 96, rngs=rngs)
        self.head = nnx.Linear(96, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.second(nnx.relu(self.first(x.reshape(len(x), -1))))))


def train(model: nnx.Module, kind: type[nnx.Param], x: np.ndarray, y: np.ndarray) -> tuple[nnx.Optimizer, list[float]]:
    """Steps on the parameters of one kind alone; (optimizer, the loss of each step)."""
    optimizer = nnx.Optimizer(model, optax.adam(5e-3), wrt=kind)

    @nnx.jit
    def step(model, optimizer, x, y):
        found, grads = nnx.value_and_grad(lambda m: digits.loss(m(x), y), argnums=nnx.DiffState(0, kind))(model)
        optimizer.update(model, grads)
        return found

    return optimizer, [float(step(model, optimizer, x, y)) for _ in range(STEPS)]


def adapted(model: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
    """The model with an adapter around each of its layers; their second factor starts at 0, so nothing changes yet."""
    for name in ("first", "second", "head"):
        layer = getattr(model, name)
        size = (layer.in_features, RANK, layer.out_features)
        setattr(model, name, nnx.LoRA(*size, base_module=layer, rngs=rngs))
    return model


def digest(model: nnx.Module) -> str:
    """Of all codes, scales and biases."""
    leaves = jax.tree.leaves(nnx.state(model, nnx.Not(nnx.LoRAParam)))
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()[:16]


def main() -> None:
    x, y, x_test, y_test = digits.split(0)
    mirrored, mirrored_test = x[:, :, ::-1], x_test[:, :, ::-1]
    model = Net(nnx.Rngs(0))
    train(model, nnx.Param, x, y)
    qmodel, _ = nnx_api.prepare(model, BASE, x)
    base = nnx_api.convert(qmodel)
    before, plain = digest(base), base(mirrored_test)
    model = adapted(base, nnx.Rngs(1))
    assert np.array_equal(model(mirrored_test), plain)
    optimizer, losses = train(model, nnx.LoRAParam, mirrored, y)

    adapters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.LoRAParam)))
    moments = sum(leaf.size for leaf in jax.tree.leaves(optimizer.opt_state[0].mu))
    right = [f"{digits.score(logits, y_test):.1f} %" for logits in (plain, model(mirrored_test))]
    print(f"mirrored digits, {len(y_test)} test images: {right[0]} right by the base, {right[1]} with adapters")
    print(f"loss of {STEPS} steps: {losses[0]:.2f} to {losses[-1]:.3f}")
    print(f"the optimizer knows {moments:,} numbers, the adapters have {adapters:,}")
    print(f"codes, scales and biases of the base: sha256 {before} before, {digest(model)} after")
    assert moments == adapters
    assert digest(model) == before and losses[-1] < losses[0]


if __name__ == "__main__":
    main()
