"""No hole in the matrix: each layer has refquant's bits, in training and converted, in every context (LAY-12)."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import assert_same
from layers_support import jax_weight
from matrix_support import (
    ALL_POINTS,
    LAYERS,
    POINTS,
    Point,
    arrays,
    converted,
    in_context,
    in_training,
    of_kind,
    run_all,
    wanted,
    weight_name,
)

from refquant import qat, qtensor

jax = pytest.importorskip("jax")
jnp = jax.numpy


def test_matrix_property_every_combination_runs_or_is_refused() -> None:
    """What `Point.refused` says is what refquant says; a combination that falls out of the matrix changes a number."""
    assert (len(ALL_POINTS), len(POINTS)) == (1800, 1032)
    for point in set(ALL_POINTS) - set(POINTS):
        x = np.zeros(LAYERS[point.kind][0], np.int32 if point.kind == "embed" else np.float32)
        with pytest.raises((TypeError, ValueError)):
            point.run(qat, x, converted(point), None)


@functools.cache
def operands(kind: str) -> tuple[dict, Any, dict, Any]:
    """x by name, the master parameter, the codes that jaxquant makes of it, the bias; codes and scales compared."""
    found = {name: jnp.asarray(value) for name, value in arrays(kind).items()}
    points = of_kind(kind)
    make = jax.jit(lambda w: {name: t.quantized() for name, t in in_training(points, w).items()})
    codes = make(found["master"])
    for point in points:
        for got, want in zip(jax.tree.leaves(codes[weight_name(point)]), fields(converted(point)), strict=True):
            assert_same(np.asarray(got), want, call=f"converted {point}")
    xs = {name: value for name, value in found.items() if name not in ("master", "bias")}
    return xs, found["master"], codes, found["bias"]


def fields(weight: qtensor.QTensor) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax_weight(weight))]


def assert_wanted(points: list[Point], got: list, call: str) -> None:
    assert len(got) == len(points)
    for point, value in zip(points, got, strict=True):
        assert_same(np.asarray(value), wanted(point), call=f"{call} {point}")


@pytest.mark.parametrize("kind", LAYERS)
def test_matrix_differential_trained_is_converted_is_refquant(kind: str) -> None:
    points, (xs, master, codes, bias) = of_kind(kind), operands(kind)
    both = jax.jit(lambda xs, *weights: [run_all(points, xs, w, bias) for w in weights])
    trained, stored = both(xs, master, codes)
    assert_wanted(points, trained, "jit, in training")
    assert_wanted(points, stored, "jit, converted")


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "embed"])
def test_matrix_differential_weights_only_on_any_x(kind: str) -> None:
    """Here no bits of refquant are promised (LAY-7), those of the conversion are."""
    points, (xs, master, codes, bias) = [p for p in of_kind(kind) if p.mode == "float"], operands(kind)
    xs = {point.x: xs[point.x.replace("float ", "dynamic ")] for point in points}
    both = jax.jit(lambda xs, *weights: [run_all(points, xs, w, bias) for w in weights])
    trained, stored = both(xs, master, codes)
    for point, got, want in zip(points, trained, stored, strict=True):
        assert_same(np.asarray(got), np.asarray(want), call=str(point))


def pairs(xs: dict) -> dict:
    """Another x on a new first axis before each."""
    return jax.tree.map(lambda x: jnp.stack([x[::-1], x]), xs)


def loss(f: Callable) -> Callable:
    def total(*arguments: Any) -> tuple:
        found = f(*arguments)
        return sum(jnp.sum(y.astype(jnp.float32)) for y in found), found

    return total


#: What is done with a function of (xs, weights) and its arguments.
CONTEXTS: dict[str, Callable] = {
    "vmap": lambda f, xs, w: [y[1] for y in jax.jit(jax.vmap(f, (0, None)))(pairs(xs), w)],
    "scan": lambda f, xs, w: [
        y[1] for y in jax.jit(lambda xs, w: jax.lax.scan(lambda c, x: (c, f(x, w)), 0, xs)[1])(pairs(xs), w)
    ],
    "remat": lambda f, xs, w: jax.jit(lambda xs, w: jax.vjp(jax.checkpoint(f), xs, w)[0])(xs, w),
    "value_and_grad": lambda f, xs, w: jax.jit(jax.value_and_grad(loss(f), 1, has_aux=True))(xs, w)[0][1],
    "constants": lambda f, xs, w: jax.jit(lambda xs: f(xs, w))(xs),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_matrix_differential_in_every_context(kind: str) -> None:
    """Every weight in every context, every way to treat x in one of them; MATRIX=all: in every one."""
    xs, master, codes, bias = operands(kind)
    for number, (context, way) in enumerate(CONTEXTS.items()):
        points = of_kind(kind) if os.environ.get("MATRIX") == "all" else in_context(kind, number)
        layers = lambda xs, w, points=points: run_all(points, xs, w, bias)  # noqa: E731
        weights = codes if context == "constants" else master
        assert_wanted(points, way(layers, {point.x: xs[point.x] for point in points}, weights), context)


def test_matrix_property_the_contexts_meet_every_combination() -> None:
    met = [point for kind in LAYERS for number in range(len(CONTEXTS)) for point in in_context(kind, number)]
    assert len(met) == len(CONTEXTS) * 180 == 900
    assert {astuple(p)[:4] for p in met} == {astuple(p)[:4] for p in POINTS}
    assert {(p.kind, p.mode, p.dtype) for p in met} == {(p.kind, p.mode, p.dtype) for p in POINTS}


@pytest.mark.parametrize("kind", ["dense", "conv", "embed"])
def test_matrix_differential_without_jit(kind: str) -> None:
    points, (xs, master, codes, bias) = in_context(kind, 0)[::4], operands(kind)
    for weights in (master, codes):
        assert_wanted(points, run_all(points, xs, weights, bias), "eager")


def test_matrix_differential_sharded_over_eight_devices() -> None:
    """Every kind: data, rows, columns, fully sharded.  A table split by rows gave +0 for -0 in training (LAY-6)."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / "sharded_matrix.py")],
        capture_output=True,
        text=True,
        cwd=here.parent,
        env={"PYTHONPATH": f"{here}:{here.parent}", "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
        timeout=900,
        check=False,
    )
    assert done.stdout == "same bits: 440 layers of 11 kinds in 4 layouts\n", done.stderr[-3000:]
