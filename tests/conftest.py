"""The `backend` fixture: one test body, two packages, results in NumPy."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

HAVE_JAX = importlib.util.find_spec("jax") is not None
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a default, not a demand: JAX_PLATFORMS=cuda tests a GPU

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def to_numpy(value: object) -> object:
    """Arrays inside tuples, lists, dicts and dataclasses become NumPy arrays; the rest stays."""
    if isinstance(value, tuple | list):
        return type(value)(map(to_numpy, value))
    if isinstance(value, dict):
        return {k: to_numpy(v) for k, v in value.items()}
    return np.asarray(value) if hasattr(value, "dtype") and hasattr(value, "shape") else value


class Module:
    """A module whose functions give NumPy arrays."""

    def __init__(self, name: str):
        self.module = importlib.import_module(name)

    def __getattr__(self, name: str) -> object:
        found = getattr(self.module, name)
        if not callable(found) or isinstance(found, type):
            return found

        @functools.wraps(found)
        def call(*args: object, **kwargs: object) -> object:
            return to_numpy(found(*args, **kwargs))

        return call


class Backend:
    """`backend.affine.quantize(...)` calls the package's own module."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __getattr__(self, name: str) -> Module:
        return Module(f"{self.name}.{name}")


BACKENDS = [
    Backend("refquant"),
    pytest.param(
        Backend("jaxquant"), marks=pytest.mark.skipif(not HAVE_JAX, reason="JAX is not installed: the NumPy-only lane")
    ),
]


@pytest.fixture(params=BACKENDS, ids=["refquant", "jaxquant"], scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """refquant, then jaxquant."""
    return request.param
