"""A small transformer on the docstrings of your own Python: float, rounded to 4 and 3 bits, and trained at them.

    python examples/text_qat.py             # about two minutes
    python examples/text_qat.py 30 20 3     # 30 float steps, 20 of QAT, 3 bits only

Training at few bits goes on from the float parameters: nothing is quantized in its first steps, the learned scales have
a learning rate of their own and stand still at the end (a schedule).  A checkpoint is taken half way, and a run that is
resumed from it ends with the same bits.
"""

import ast
import sys
import sysconfig
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from scipy import stats

from jaxquant.flax import Lsq, Recipe, Rule, Schedule, Ste, nnx_api

LENGTH, BATCH, WIDTH, HEADS, DEPTH, BYTES = 64, 32, 64, 4, 2, 128
GROUPS = {"weights": optax.adam(2e-3), "scales": optax.adam(3e-4), "frozen": optax.set_to_zero()}
OPTIMIZER = optax.multi_transform(GROUPS, nnx_api.labels)
KEPT = (Rule("embed", keep="a table of 128 rows"), Rule("head", keep="sensitive"))


class Block(nnx.Module):
    """Causal attention and a feed-forward net."""

    def __init__(self, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.wide = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.narrow = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norms[0](x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.narrow(nnx.gelu(self.wide(self.norms[1](x))))


class Model(nnx.Module):
    """The next byte of a text."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(BYTES, WIDTH, rngs=rngs)
        self.place = nnx.Param(0.02 * rngs.normal((LENGTH, WIDTH)))
        self.blocks = nnx.List([Block(rngs) for _ in range(DEPTH)])
        self.norm, self.head = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.Linear(WIDTH, BYTES, rngs=rngs)

    def __call__(self, ids):
        x = self.embed(ids) + self.place[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def texts() -> dict[str, np.ndarray]:
    """The docstrings of each module of the standard library as windows of bytes."""
    found = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(path.read_bytes())
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        text = "\n\n".join(filter(None, map(ast.get_docstring, nodes))).encode("ascii", "replace")
        if count := len(text) // (LENGTH + 1):
            found[path.stem] = np.frombuffer(text, np.uint8)[: count * (LENGTH + 1)].reshape(count, -1).astype(np.int32)
    return found


def losses(model, windows):
    """Bits of every byte but the first."""
    nats = optax.softmax_cross_entropy_with_integer_labels(model(windows[:, :-1]), windows[:, 1:])
    return nats / np.log(2)


@nnx.jit
def step(model, optimizer, windows):
    optimizer.update(model, nnx.grad(lambda model: losses(model, windows).mean())(model))
    nnx_api.advance(model)  # the schedule counts


@nnx.jit
def bits(model, windows):
    return losses(model, windows).sum(axis=1)


def train(model, optimizer, windows: np.ndarray, steps: range) -> None:
    """Step i sees the same batch in every run."""
    for i in steps:
        step(model, optimizer, windows[np.random.default_rng(i).integers(0, len(windows), BATCH)])


def held_out(model, pages: list[np.ndarray]) -> np.ndarray:
    """Bits per byte of each page."""
    lengths = [len(page) for page in pages]
    found = np.concatenate([bits(model, windows) for windows in batched(np.concatenate(pages))])[: sum(lengths)]
    return np.array([part.mean() / LENGTH for part in np.split(found, np.cumsum(lengths)[:-1])])


def batched(windows: np.ndarray) -> list[np.ndarray]:
    """Batches of one shape; the last is filled up."""
    filled = np.concatenate([windows, np.zeros((-len(windows) % 256, LENGTH + 1), np.int32)])
    return np.split(filled, len(filled) // 256)


def line(name: str, found: np.ndarray, base: np.ndarray) -> str:
    """Mean bits per byte, and the 95 % t interval of its difference to float in pairs."""
    gap, half = found - base, stats.t.ppf(0.975, len(base) - 1) * (found - base).std(ddof=1) / np.sqrt(len(base))
    return f"{name:22} {found.mean():.3f}  {gap.mean():+.3f} [{gap.mean() - half:+.3f}, {gap.mean() + half:+.3f}]"


def recipe(width: int, steps: int | None = None) -> Recipe:
    """Attention's projections and the feed-forward nets at so many bits, inputs in int8; to be trained: LSQ."""
    estimator = Ste() if steps is None else Lsq()
    schedule = None if steps is None else Schedule(start=steps // 10, freeze_scales=steps - steps // 5)
    rule = Rule("**", weights=f"int{width}:channel", inputs="int8:token", weight_estimator=estimator)
    return Recipe(*KEPT, rule, schedule=schedule)


def save(folder: Path, *parts) -> None:
    """The states of model and optimizer: weights, scales, steps, moments."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, [nnx.to_pure_dict(nnx.state(part)) for part in parts])


def restore(folder: Path, *parts) -> None:
    """Into a model prepared by the same recipe, and its optimizer."""
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(folder, [nnx.to_pure_dict(nnx.state(part)) for part in parts])
    for part, values in zip(parts, found, strict=True):
        nnx.update(part, values)


def fresh(model: Model, width: int, steps: int) -> tuple[nnx.Module, nnx.Optimizer]:
    """The float model prepared for training, and its optimizer: always made after `prepare`, which adds the scales."""
    qmodel, _ = nnx_api.prepare(model, recipe(width, steps))
    return qmodel, nnx.Optimizer(qmodel, OPTIMIZER, wrt=nnx.Param)


def resumed(model: Model, width: int, windows: np.ndarray, steps: range, like: tuple) -> str:
    """Train half way, save, restore into new objects, train on: how many of all arrays differ from one run's."""
    half = len(steps) // 2
    with tempfile.TemporaryDirectory() as folder:
        first, second = (fresh(model, width, len(steps)) for _ in range(2))
        train(*first, windows, steps[:half])
        save(Path(folder) / "half", *first)
        restore(Path(folder) / "half", *second)
    train(*second, windows, steps[half:])
    pairs = zip(arrays(*second), arrays(*like), strict=True)
    different = [not np.array_equal(a.view(np.uint32), b.view(np.uint32)) for a, b in pairs]
    assert not any(different)
    return f"int{width}: saved half way and resumed, {sum(different)} of {len(different)} arrays differ"


def arrays(*parts) -> list[np.ndarray]:
    return [np.asarray(leaf) for part in parts for leaf in jax.tree.leaves(nnx.state(part))]


def main(float_steps: int = 500, qat_steps: int = 160, *widths: int) -> None:
    pages = texts()
    held = [page for i, page in enumerate(pages.values()) if i % 6 == 0]
    windows = np.concatenate([page for i, page in enumerate(pages.values()) if i % 6])
    model = Model(nnx.Rngs(0))
    train(model, nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param), windows, range(float_steps))
    steps = range(float_steps, float_steps + qat_steps)
    longer = nnx.clone(model)
    train(longer, nnx.Optimizer(longer, OPTIMIZER, wrt=nnx.Param), windows, steps)
    base = held_out(longer, held)
    print(f"{len(held)} held-out modules, {sum(map(len, held)) * LENGTH:,} bytes.  Bits per byte; difference to float, "
          "95 % interval over modules")  # fmt: skip
    print(line("float, as many steps", base, base))
    for width in widths or (4, 3):
        rounded, _ = nnx_api.prepare(model, recipe(width))
        print(line(f"int{width}, rounded", held_out(nnx_api.convert(rounded), held), base))
        qmodel, optimizer = fresh(model, width, qat_steps)
        train(qmodel, optimizer, windows, steps)
        trained, converted = held_out(qmodel, held), held_out(nnx_api.convert(qmodel), held)
        assert np.array_equal(trained, converted)
        print(line(f"int{width}, trained (QAT)", converted, base))
    print(resumed(model, width, windows, steps, (qmodel, optimizer)))
    print(f"\n{nnx_api.prepare(model, recipe(width, qat_steps), windows[:1, :-1])[1]}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
