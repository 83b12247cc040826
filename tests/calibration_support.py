"""What the tests of calibration share: streams of batches, states side by side."""

import importlib
from dataclasses import fields

import numpy as np
import strategies as some
from bits import assert_same, bits_of, float32

from refquant.spec import ScaleRule

RNG = np.random.default_rng(7)
KINDS = ("minmax", "ema", "histogram", "linear")
INT = ScaleRule(zero="int")


def bits(x) -> list[int]:  # noqa: ANN001
    return [int(b) for b in bits_of(np.asarray(x, np.float32)).reshape(-1)]


def leaves(state) -> list:  # noqa: ANN001
    """The arrays of a state, in order."""
    found = []
    for item in fields(state):
        value = getattr(state, item.name)
        found += leaves(value) if hasattr(value, "__dataclass_fields__") and item.name == "seen" else [value]
    return found


def assert_same_state(got, want) -> None:  # noqa: ANN001
    for a, b in zip(leaves(got), leaves(want), strict=True):
        assert_same(np.asarray(a), np.asarray(b)) if hasattr(b, "dtype") else assert_(a == b)


def assert_(truth: bool) -> None:
    assert truth


def observe(backend, kind: str, batches, **options):  # noqa: ANN001, ANN003, ANN201
    module = getattr(backend, f"calibration.{kind}")
    state = module.init(**options)
    for x in batches:
        state = module.update(state, x)
    return state


def edges(seed: int) -> list[np.ndarray]:
    """Batches around the edges of bins of every width, with specials, growing in range."""
    rng = np.random.default_rng(seed)
    batches = []
    for power in rng.permutation([-140, -120, -3, 0, 1, 5, 60, 127]):
        top = np.ldexp(1.0, int(power))
        at = top * rng.integers(0, 4096, 12) / 2048
        with np.errstate(over="ignore"):
            near = some.neighbours(np.concatenate([at, -at]).astype(np.float32))
            near = np.concatenate([near, some.neighbours((top * rng.integers(128, 256, 6) / 128).astype(np.float32))])
        batches.append(np.where(np.isinf(near), np.float32(1), near))
    return batches


STREAMS = {
    "empty": [np.zeros((0,), np.float32)],
    "nan": [np.float32([np.nan, np.nan])],
    "zeros": [np.float32([0.0, -0.0])],
    "specials": [some.SPECIAL],
    "finite": [some.SPECIAL[np.isfinite(some.SPECIAL)], np.float32([-7.0])],
    "subnormal": [float32([1, 0x80000003, 0x00400000, 0x807FFFFF])],
    "relu": [np.maximum(RNG.standard_normal(300), 0).astype(np.float32)],
    "normal": list(RNG.standard_normal((4, 200)).astype(np.float32)),
    "heavy": list(np.tan(np.linspace(-1.55, 1.55, 400)).astype(np.float32).reshape(4, 100)),
    "grows": [np.float32(2.0**k) * RNG.standard_normal(60).astype(np.float32) for k in (-130, -20, 0, 1, 13, 90)],
    "edges": edges(0),
    "edges without extremes": edges(1)[:5],
}


#: Batches of one size (JAX compiles once a shape): longer ones are cut off, shorter ones begin again.
STREAMS = {name: [np.resize(x, 120) if x.size else x for x in batches] for name, batches in STREAMS.items()}


PACKAGES = ("refquant", "jaxquant")


class Package:
    """A package outside the fixture, for tests that hold two side by side."""

    def __init__(self, name: str):
        self.name = name

    def __getattr__(self, name: str):  # noqa: ANN204
        return importlib.import_module(f"{self.name}.{name}")
