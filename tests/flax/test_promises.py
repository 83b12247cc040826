"""What is promised of whole models: sharded, resumed, batch by batch, in NumPy, and what a step costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant.flax import Lsq, Recipe, Rule, Schedule, linen_api, nnx_api
from refquant import qat
from refquant.qtensor import QTensor as Reference
from tests.flax import linen_models, nnx_models
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import Stack, full_init, inputs

X = inputs(8, 6, 8)
LEARNED = Recipe(
    Rule("**", weights="int4", inputs="int8:tensor", weight_estimator=Lsq(), input_estimator=Lsq()),
    schedule=Schedule(start=2, freeze_scales=5),
)


@pytest.mark.parametrize("script", ["sharded_training.py", "explicit_models.py"])
def test_sharded_differential_every_layout_has_the_bits_of_one_device(script: str) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "tests" / "flax" / script)],
        capture_output=True,
        text=True,
        cwd=root,
        env={"PYTHONPATH": f"{root / 'tests'}:{root}", "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
        timeout=900,
        check=False,
    )
    assert done.stdout == "same bits\n", done.stderr[-3000:]


def in_numpy(tensors: dict, x: np.ndarray, options: dict) -> np.ndarray:
    """The same model by refquant alone, on the codes of the converted one."""

    def layer(name: str) -> tuple:
        q = tensors[f"{name}/kernel"]
        weight = Reference(np.asarray(q.codes), np.asarray(q.scale), None, q.spec)
        scale = tensors.get(f"{name}/inputs_scale")
        given = {} if scale is None else {"input_scale": np.asarray(scale)}
        return weight, np.asarray(tensors[f"{name}/bias"]), given

    weight, bias, given = layer("conv")
    x = np.maximum(qat.conv(x, weight, bias, inputs=options["conv"], **given), np.float32(0))
    weight, bias, given = layer("dense")
    x = x + qat.dense(x, weight, bias, inputs=options["dense"], **given)
    pooled = np.maximum(x[:, 0::2], x[:, 1::2])
    weight, bias, given = layer("head")
    return qat.dense(pooled, weight, bias, inputs=options["dense"], **given)


@pytest.mark.parametrize("static", [False, True])
def test_model_contract_differential_any_batch_any_context_and_numpy(api: Any, static: bool) -> None:  # noqa: F811
    rule = Rule(
        "**",
        weights="int4",
        inputs="int8:tensor" if static else "int8:token",
        input_scale="static" if static else "dynamic",
    )
    trained = api.prepare(api.float_model("Exact", X), Recipe(rule), X)
    if static:
        trained = trained.calibrated(X)
    fixed = trained.converted()
    want = np.asarray(trained.run(X))
    for trial in (trained, fixed):
        apply = lambda x, trial=trial: trial.run(x, jit=False)  # noqa: E731
        assert_same(np.asarray(apply(X)), want, call="eager")
        assert_same(np.asarray(jax.jit(apply)(X)), want, call="weights as constants")
        assert_same(np.concatenate([trial.run(X[i : i + 1]) for i in range(8)]), want, call="batch 1")
        stacked = jax.jit(jax.vmap(lambda x, apply=apply: apply(x[None])[0]))
        assert_same(np.asarray(stacked(X)), want, call="vmap")
    assert_same(in_numpy(fixed.tensors(), X, inputs_of(rule)), want, call="refquant")


def inputs_of(rule: Rule) -> dict:
    """How each layer quantizes its inputs."""
    from refquant.granularity import PerAxis, PerTensor, PerToken
    from refquant.spec import QuantSpec

    fmt = rule.inputs.fmt
    if rule.inputs.grain == "tensor":
        return {"conv": QuantSpec(fmt, PerTensor()), "dense": QuantSpec(fmt, PerTensor())}
    return {"conv": QuantSpec(fmt, PerAxis(0)), "dense": QuantSpec(fmt, PerToken())}


def test_scales_property_have_a_group_of_their_own(api: Any) -> None:  # noqa: F811
    """Plain AdamW would drive learned scales to zero with the weights."""
    labels = api.prepare(api.own_model("Stack", X, "sequential"), LEARNED, X).labels()
    assert set(labels.values()) == {"weights", "scales", "frozen"}
    assert all("scale" in path for path, label in labels.items() if label == "scales")


def test_step_property_costs_of_a_small_transformer() -> None:
    """XLA's own count of bytes at most 1.15 times float's, scans stay scans, and the program stays short."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        import qat as benchmark
    finally:
        sys.path.pop(0)
    model = benchmark.Transformer()
    tokens = jax.random.randint(jax.random.key(0), (16, 65), 0, benchmark.VOCABULARY)
    params = model.init(jax.random.key(1), tokens[:, :-1])["params"]
    plain = benchmark.Candidate(model.apply, params, tokens)
    for scheme, lines in (("w4", 2.7), ("w8a8", 2.7)):
        step = benchmark.Candidate(*benchmark.ours(model, params, tokens, *benchmark.SCHEMES[scheme]), tokens)
        assert step.bytes <= 1.15 * plain.bytes, scheme
        assert step.lines <= lines * plain.lines, scheme
        assert step.temp <= 1.1 * plain.temp, scheme
        assert step.loops == plain.loops == 2, scheme  # over the layers, there and back


class Unrolled(nn.Module):
    """The same layers as a scan, one after the other."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        over = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": 3, "unroll": 3}
        return nn.scan(linen_models.Block, **over)(name="layers")(x, None)[0]


def lowered(model: object, params: dict | None = None) -> str:
    """The StableHLO of a gradient, of an NNX model or of a Linen one with its parameters."""
    if params is None:
        return nnx.jit(nnx.grad(lambda m: (m(X) ** 2).sum())).lower(model).as_text()
    return jax.jit(jax.grad(lambda p: (model.apply({"params": p}, X) ** 2).sum())).lower(params).as_text()


@pytest.mark.parametrize("rule", [{"weights": "int4:g4"}, {"weights": "int8", "inputs": "int8:token"}], ids=str)
@pytest.mark.parametrize("kind", ["scan", "scan of remat"])
def test_scans_property_stay_loops(kind: str, rule: dict) -> None:
    """A loop there and one back, as the float model has; laid out one after the other there would be none."""
    floats, loops = full_init(Stack(kind), X), {}
    for name, model in (("Linen", Stack(kind)), ("unrolled", Unrolled())):
        qmodel = linen_api.Quantized(model, Recipe(Rule("**", **rule)))
        params, _ = linen_api.prepare(qmodel, floats, X)
        loops[name] = lowered(model, floats), lowered(qmodel, params)
    model = nnx_models.Stack(kind)
    loops["NNX"] = lowered(model), lowered(nnx_api.prepare(model, Recipe(Rule("**", **rule)))[0])
    found = {name: [text.count("stablehlo.while") for text in texts] for name, texts in loops.items()}
    assert found == {"Linen": [2, 2], "unrolled": [0, 0], "NNX": [2, 2]}
