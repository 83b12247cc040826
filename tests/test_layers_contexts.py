"""The layers' bits do not depend on how they are run, and their errors not on the package (specs/60-layers.md)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bits import assert_same
from layers_support import Case, arrays, jax_layer, jax_weight, reference, spec

from refquant import qtensor
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor, PerToken
from refquant.spec import QuantSpec, ScaleRule

jax = pytest.importorskip("jax")
jnp = jax.numpy

CASES = [
    Case("dense", "int4", asym=True, grain="g16", inputs="uint8", mode="token", dtype="bfloat16", x_dtype="bfloat16"),
    Case("dense", "int8", grain="channel", mode="static", bias="int"),
    Case("grouped", "int8", grain="channel", inputs="uint8", mode="tensor"),
]


def stacked(run: Callable, arguments: tuple) -> object:
    """Two copies of x on a new first axis."""
    x, *rest = arguments
    return run(jnp.stack([x, x]), *rest)


CONTEXTS: dict[str, Callable] = {
    "jit": lambda f, args: jax.jit(f)(*args),
    "constants": lambda f, args: jax.jit(lambda: f(*args))(),
    "constant weights": lambda f, args: jax.jit(lambda x: f(x, *args[1:]))(args[0]),
    "constant input": lambda f, args: jax.jit(lambda *rest: f(args[0], *rest))(*args[1:]),
    "vmap x": lambda f, args: stacked(jax.vmap(f, (0, None, None, None)), args)[1],
    "vmap jit x": lambda f, args: stacked(jax.jit(jax.vmap(f, (0, None, None, None))), args)[1],
    "scan": lambda f, args: stacked(lambda xs, *r: jax.lax.scan(lambda c, x: (c, f(x, *r)), 0, xs)[1], args)[1],
    "remat": lambda f, args: jax.jit(jax.checkpoint(f))(*args),
    "while": lambda f, args: jax.jit(lambda *a: jax.lax.fori_loop(0, 2, lambda _, y: f(*a), jnp.zeros_like(f(*a))))(
        *args
    ),
    "added": lambda f, args: jax.jit(lambda *a: jnp.stack([f(*a), f(*a) + 1]))(*args)[0],
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.grain}")
def test_layer_differential_in_every_context(case: Case, context: str) -> None:
    layer, arguments = jax_layer(case)
    assert_same(np.asarray(CONTEXTS[context](layer, arguments)), reference(case), call=f"{context} {case}")


def test_layer_differential_without_jit() -> None:
    case = CASES[1]
    layer, arguments = jax_layer(case)
    with jax.disable_jit():
        assert_same(np.asarray(layer(*arguments)), reference(case))


def test_layer_differential_weights_batched() -> None:
    case = CASES[0]
    layer, (x, weight, bias, static) = jax_layer(case)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (weight, bias))
    got = jax.jit(jax.vmap(layer, (None, 0, 0, None)))(x, *two, static)
    assert_same(np.asarray(got)[1], reference(case))


@pytest.mark.parametrize(("depth", "size"), [(33, 8), (70, 8), (130, 2), (17, 1), (531, 8)])
def test_grouped_differential_in_tiles_of_rows_and_branches_of_groups(
    depth: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxquant.qat import grouped

    monkeypatch.setattr(grouped, "AT_ONCE", 50)
    rng = np.random.default_rng(0)
    weight = qtensor.quantize_tensor(
        rng.standard_normal((depth, 7)).astype(np.float32), spec("int4", PerGroup(0, size))
    )
    x, inputs = rng.standard_normal((3, 5, depth)).astype(np.float32), spec("int8", PerToken())
    from jaxquant import qat as jax_qat
    from refquant import qat

    for rows in (x, x[0, :1]):
        got = jax_qat.dense(rows, jax_weight(weight), inputs=inputs)
        assert_same(np.asarray(got), qat.dense(rows, weight, inputs=inputs))


def test_grouped_differential_of_a_batch_of_matrices() -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((2, 41, 5)).astype(np.float32)
    weight = qtensor.quantize_tensor(w, spec("int8", PerGroup(1, 4)))
    x, inputs = rng.standard_normal((2, 3, 41)).astype(np.float32), spec("int8", PerToken())
    from jaxquant import qat as jax_qat
    from refquant import qat

    got = jax_qat.einsum("bmk,bkn->bmn", x, jax_weight(weight), inputs=inputs)
    assert_same(np.asarray(got), qat.einsum("bmk,bkn->bmn", x, weight, inputs=inputs))


@pytest.mark.parametrize("subscripts", ["bmk,nbk->bnm", "bmk,nbk->bmn"])
def test_one_group_differential_of_a_constant_that_is_transposed(subscripts: str, monkeypatch: object) -> None:
    """LAY-3: in a loop over tiles XLA:CPU took the scales of other columns (8,355,144 of 8,388,608 sums were wrong)."""
    from jaxquant import qat as jax_qat
    from jaxquant.qat import grouped
    from refquant import qat

    monkeypatch.setattr(grouped, "AT_ONCE", 1)
    rng = np.random.default_rng(0)
    weight = qtensor.quantize_tensor(rng.standard_normal((4, 2, 33)).astype(np.float32), spec("int8", PerGroup(2, 33)))
    x, constant = rng.standard_normal((2, 3, 33)).astype(np.float32), jax_weight(weight)
    got = jax.jit(lambda x: jax_qat.einsum(subscripts, x, constant, inputs=spec("int8")))(x)
    assert_same(np.asarray(got), qat.einsum(subscripts, x, weight, inputs=spec("int8")))


@pytest.mark.parametrize("script", ["sharded_layers.py", "explicit_axes.py"])
def test_layer_differential_sharded_over_eight_devices(script: str) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / script)],
        capture_output=True,
        text=True,
        cwd=here.parent,
        env={"PYTHONPATH": f"{here}:{here.parent}", "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
        timeout=900,
        check=False,
    )
    assert done.stdout == "same bits\n", done.stderr[-3000:]


def test_dense_property_one_compilation_for_equal_shapes() -> None:
    from jaxquant import qat as jax_qat

    weight = jax_weight(arrays(CASES[1])[1])
    x = jnp.ones((2, 37))
    scales = (0.5, np.float32(0.25), jnp.float32(0.125))
    run = lambda scale: jax_qat.dense(x, weight, inputs=spec("int8"), input_scale=scale)  # noqa: E731
    run(1.0)
    seen: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: seen.append(event))
    for scale in scales:
        run(scale)
    assert not [event for event in seen if "backend_compile" in event]


INT8, TOKEN = spec("int8"), spec("int8", PerToken())
X = np.ones((2, 4), np.float32)


def weight(shape: tuple, granularity: object = PerTensor(), fmt: str = "int8") -> qtensor.QTensor:
    return qtensor.quantize_tensor(np.ones(shape, np.float32), spec(fmt, granularity))


W, WIDE = weight((4, 3)), weight((70000, 1), fmt="int16")
KERNEL = weight((3, 3, 2, 4))
IMAGE = np.ones((1, 5, 5, 2), np.float32)
REAL = qtensor.quantize_tensor(X.T, QuantSpec(ALL["uint4"], PerTensor(), ScaleRule(zero="float")))

#: name of the operation, positional arguments, options, error, part of its text
WRONG = [
    ("dense", (X, weight((5, 3))), {}, ValueError, "dense: x has shape (2, 4) and weight (5, 3), need (..., K) and"),
    ("dense", (np.float32(1), W), {}, ValueError, "need (..., K) and (K, N)"),
    ("dense", (X.astype(np.float64), W), {}, TypeError, "dense: x has dtype float64, need float32"),
    ("dense", (X, W), {"dtype": "int8"}, TypeError, "dense: dtype is int8, need float32, float16 or bfloat16"),
    ("dense", (X, W, np.ones(4, np.float32)), {}, ValueError, "dense: bias has shape (4,), need (3,)"),
    ("dense", (X, W, np.ones(3, np.int8)), {}, TypeError, "dense: bias has dtype int8"),
    ("dense", (X, W, np.ones(3, np.int32)), {"inputs": INT8}, ValueError, "a static input_scale and weights without"),
    ("dense", (X, W), {"input_scale": 1.0}, ValueError, "dense: input_scale with inputs None"),
    ("dense", (X, W), {"inputs": INT8, "input_zero_point": 1}, ValueError, "input_zero_point without input_scale"),
    ("dense", (X, W), {"inputs": TOKEN, "input_scale": 1.0}, ValueError, "input_scale has shape (), need (2, 1)"),
    ("dense", (X, W), {"inputs": spec("int8", PerAxis(1))}, ValueError, "dense: inputs of rank 2 with PerAxis(axis=1)"),
    ("dense", (X, weight((4, 3), PerAxis(0))), {"inputs": INT8}, ValueError, "need PerTensor(), one scale for indices"),
    ("dense", (X, weight((4, 3), PerBlock((2, 1)))), {"inputs": INT8}, ValueError, "weight of rank 2 with PerBlock"),
    ("dense", (X, weight((4, 3), fmt="e4m3fn")), {"inputs": INT8}, ValueError, "weight has format e4m3fn with zero"),
    ("dense", (X, REAL), {"inputs": INT8}, ValueError, "weight has format uint4 with zero 'float'"),
    ("dense", (np.ones((1, 70000), np.float32), WIDE), {"inputs": INT8}, ValueError, "can reach 293601280000, need at"),
    ("einsum", ("ab,bc", X, W), {}, ValueError, "need 'x,weight->result'"),
    ("einsum", ("aa,ab->b", X, W), {}, ValueError, "need each letter at most once in a term"),
    ("einsum", ("ab,bc->c", X, W), {}, ValueError, "need every letter of one operand alone in the result"),
    ("einsum", ("ab,...c->ac", X, W), {}, ValueError, "need each letter at most once"),
    ("einsum", ("ab,bcd->acd", X, W), {}, ValueError, "einsum: weight has shape (4, 3), need rank 3"),
    ("einsum", ("ab,ac->bc", X, W), {}, ValueError, "need 2 for 'a' of 'ab,ac->bc'"),
    ("einsum", ("ab,bc->ac", X, W, np.ones((3, 1), np.float32)), {}, ValueError, "or a shape that broadcasts to it"),
    ("conv", (IMAGE, weight((3, 2, 4))), {}, ValueError, "conv: x has shape (1, 5, 5, 2) and weight (3, 2, 4), need"),
    ("conv", (IMAGE, weight((3, 3, 1, 4))), {}, ValueError, "need in = weight's 1 * feature_group_count 1"),
    ("conv", (IMAGE, KERNEL), {"strides": 0}, ValueError, "conv: strides is 0, need a number from 1 on, or 2 of them"),
    ("conv", (IMAGE, KERNEL), {"padding": "FULL"}, ValueError, "need 'SAME', 'SAME_LOWER', 'VALID' or numbers"),
    ("conv", (IMAGE, KERNEL), {"padding": (1, 2, 3)}, ValueError, "need a number or 2 numbers or pairs"),
    ("conv", (IMAGE, KERNEL), {"input_dilation": 2}, ValueError, "padding is 'SAME' with input_dilation (2, 2)"),
    ("conv", (IMAGE, KERNEL), {"inputs": TOKEN}, ValueError, "conv: inputs of rank 4 with PerToken()"),
    ("embed", (X, W), {}, TypeError, "embed: ids have dtype float32, need integers"),
    ("embed", (np.array([0]), KERNEL), {}, ValueError, "embed: table has shape (3, 3, 2, 4), need (V, F)"),
    ("attend", (X, W), {}, ValueError, "attend: x has shape (2, 4) and table (4, 3), need (..., F) and (V, F)"),
]


@pytest.mark.parametrize(("name", "arguments", "options", "error", "text"), WRONG, ids=lambda v: str(v)[:40])
def test_layer_errors_have_the_same_text(name: str, arguments: tuple, options: dict, error: type, text: str) -> None:
    import jaxquant.qat
    import refquant.qat

    told = []
    for package in (refquant, jaxquant):
        own = [jax_weight(a) if package is jaxquant and isinstance(a, qtensor.QTensor) else a for a in arguments]
        with pytest.raises(error) as caught:
            getattr(package.qat, name)(*own, **options)
        told.append(str(caught.value))
    assert text in told[0]
    assert told[0] == told[1]
