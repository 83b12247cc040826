"""What both digits examples share: the data, the schedule, the same net in NumPy, the table."""

import sys
from collections.abc import Mapping

import numpy as np
import optax
from scipy import stats
from sklearn.datasets import load_digits

from jaxquant.flax import Lsq, Recipe, Rule
from refquant import PerAxis, PerToken, QTensor, QuantSpec, qat
from refquant.formats import ALL

BITS = (8, 4, 3, 2)
TEST, BATCH, FLOAT_STEPS, QAT_STEPS = 797, 64, 500, 120

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)


def recipe(bits: int, **weights) -> Recipe:
    """Every layer: weights of one scale a channel, inputs int8 with a scale of their own for each image."""
    return Recipe(Rule("**", weights=f"int{bits}:channel", inputs="int8:token", **weights))


def recipes(bits: int) -> dict[str, Recipe]:
    """A scale from the range of the weights, and one from the mean of their magnitudes, from which LSQ trains it."""
    return {"range": recipe(bits), "mean": recipe(bits, weight_estimator=Lsq())}


def split(seed: int):
    """Training images, training labels, test images, test labels: another split for each seed."""
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[TEST:], order[:TEST]
    return images[train], labels[train], images[test], labels[test]


def batches(seed: int, first: int, count: int):
    """Random (images, labels) of the training part: from the given one on, so that training goes on with new ones."""
    x, y, *_ = split(seed)
    order = np.random.default_rng(seed).integers(0, len(x), (first + count, BATCH))
    for chosen in order[first:]:
        yield x[chosen], y[chosen]


def start(seed: int) -> dict:
    """Float parameters to start from, the same for both APIs."""
    shapes = {"stem": (3, 3, 1, 16), "block": (3, 3, 16, 16), "hidden": (256, 64), "head": (64, 10)}
    rng = np.random.default_rng(seed)

    def layer(shape):
        spread = np.sqrt(2 / np.prod(shape[:-1]))
        kernel = (rng.normal(size=shape) * spread).astype(np.float32)
        return {"kernel": kernel, "bias": np.zeros(shape[-1], np.float32)}

    return {name: layer(shape) for name, shape in shapes.items()}


def loss(logits, wanted):
    """Mean cross entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean()


def score(logits, wanted) -> float:
    """Percent right."""
    return 100 * float(np.mean(np.argmax(logits, axis=1) == wanted))


def numpy_net(tensors: Mapping, x: np.ndarray) -> np.ndarray:
    """The converted net in NumPy: the same layers from a file's codes and scales, every step exact."""
    int8 = ALL["int8"]

    def weight(name):
        q = tensors[f"{name}/kernel"]
        return QTensor(np.asarray(q.codes), np.asarray(q.scale), None, q.spec)

    def conv(name, x):
        return qat.conv(x, weight(name), tensors[f"{name}/bias"], inputs=QuantSpec(int8, PerAxis(0)))

    def dense(name, x):
        return qat.dense(x, weight(name), tensors[f"{name}/bias"], inputs=QuantSpec(int8, PerToken()))

    x = np.maximum(conv("stem", x), 0)
    x = x.reshape(len(x), 4, 2, 4, 2, 16).max(axis=(2, 4))
    x = x + np.maximum(conv("block", x), 0)
    return dense("head", np.maximum(dense("hidden", x.reshape(len(x), -1)), 0))


def differing(*outputs) -> tuple[int, int]:
    """(how many numbers have not the same bits in all arrays, how many there are)."""
    first, *others = (np.asarray(v).view(np.uint32) for v in outputs)
    return int(np.count_nonzero(np.any([first != other for other in others], axis=0))), first.size


def spread(values: list[float]) -> str:
    """Mean [lowest, highest]."""
    return f"{np.mean(values):5.1f} [{min(values):.1f}, {max(values):.1f}]"


def gap(values: list[float], base: list[float]) -> str:
    """Mean difference in pairs, with the 95 % t interval over seeds."""
    gaps = np.subtract(values, base)
    if len(gaps) < 2:
        return f"{gaps.mean():+.1f} (one seed: no interval)"
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return f"{gaps.mean():+.1f} [{gaps.mean() - half:+.1f}, {gaps.mean() + half:+.1f}]"


def table(scores: dict, bits: tuple[int, ...], seeds: int) -> str:
    """What each way gives, in percent of right digits."""
    base = scores["float", 32]
    lines = [
        f"right digits in %, mean [lowest, highest] of {seeds} seeds, {TEST} test images each; all inputs int8",
        f"{'weights':8}  {'rounded, by range':20}  {'rounded, by mean':20}  {'trained (QAT)':20}  QAT - float [95 %]",
        f"{'float':8}  {'':20}  {'':20}  {spread(base):20}  (trained for as many steps)",
    ]
    for b in bits:
        cells = [f"{spread(scores[way, b]):20}" for way in ("range", "mean", "QAT")]
        lines.append("  ".join([f"int{b:<5}", *cells, gap(scores["QAT", b], base)]))
    return "\n".join(lines)


def arguments() -> tuple[int, tuple[int, ...]]:
    """Seeds and bits from the command line: `5 8 4 3 2` unless told."""
    seeds, *bits = [int(word) for word in sys.argv[1:]] or [5]
    return seeds, tuple(bits) or BITS
