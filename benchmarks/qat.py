"""A training step of a small transformer: float, jaxquant's QAT and qwix's, in one run.

  python benchmarks/qat.py                 a table of ratios to float's step
  python benchmarks/qat.py --json PATH     also recorded, as benchmarks/results/qat.json is

time: milliseconds of a compiled step (Adam included), the functions taking turns; compile: seconds of tracing, lowering
and compiling, the median of turns; bytes: XLA's own count of bytes accessed; temp: bytes that the step needs beside its
arguments and results; lines: of the step's StableHLO.

qwix takes part where it is installed, twice.  Its rules pass the gradient through the product of the float operands,
which is another function's than the one that ran; "of codes" is the same with use_original_residuals=False, the
gradient of the product of codes, as jaxquant's is (LAY-13).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import optax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jaxquant.flax import Recipe, Rule, linen_api  # noqa: E402
from refquant.files import atomic_path  # noqa: E402

SCHEMES = {"w8a8": ("int8", "int8"), "w4a8": ("int4", "int8"), "w4": ("int4", None), "w2": ("int2", None)}
COMPILES = 5  # turns
VOCABULARY, WIDTH, HEADS, LAYERS, LENGTH, BATCH = 512, 128, 4, 4, 64, 16


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm."""

    @nn.compact
    def __call__(self, x: jax.Array, _: Any = None) -> tuple[jax.Array, None]:
        """The carry of a scan over layers."""
        x = x + nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(x))
        return x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x)))), None


class Transformer(nn.Module):
    """Embedding, a scan over blocks, logits."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of each place."""
        x = nn.Embed(VOCABULARY, WIDTH)(tokens)
        layers = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS)
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(layers()(x)[0]))


def step_of(apply: Callable) -> Callable:
    """One step of Adam on the cross entropy of the next token."""

    def step(params: Any, state: Any, tokens: jax.Array) -> tuple[Any, Any, jax.Array]:
        def loss(params: Any) -> jax.Array:
            logits = apply({"params": params}, tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = ADAM.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


ADAM = optax.adam(1e-3)


def ours(model: nn.Module, params: Any, tokens: jax.Array, weights: str, inputs: str | None) -> tuple[Callable, Any]:
    """The apply function and the parameters of jaxquant's model."""
    dense = Rule("**", weights=weights, inputs=None if inputs is None else f"{inputs}:token")
    qmodel = linen_api.Quantized(model, Recipe(Rule("*Embed*", keep="qwix leaves it too"), dense))
    params, _ = linen_api.prepare(qmodel, params, tokens[:, :-1])
    return qmodel.apply, params


def theirs(model: nn.Module, params: Any, weights: str, inputs: str | None, *, of_codes: bool) -> tuple[Callable, Any]:
    """The same of qwix, with its own gradient or with that of the product of codes."""
    from qwix import QtProvider, QtRule, quantize_model

    rule = QtRule(
        module_path=".*", weight_qtype=weights, act_qtype=inputs, op_names=("dot_general",),
        additional_qt_config={"use_original_residuals": False} if of_codes else None,
    )  # fmt: skip
    return quantize_model(model, QtProvider([rule])).apply, params


class Candidate:
    """A compiled step with its own parameters."""

    def __init__(self, apply: Callable, params: Any, tokens: jax.Array):
        self.apply = apply
        self.arguments = (params, ADAM.init(params))
        self.tokens = tokens
        self.compiles: list[float] = []
        lowered = self.compile()
        text = lowered.as_text()
        self.lines, self.loops = len(text.splitlines()), text.count("stablehlo.while")
        self.bytes = self.compiled.cost_analysis()["bytes accessed"]
        self.temp = self.compiled.memory_analysis().temp_size_in_bytes
        self.times: list[float] = []

    def compile(self) -> Any:
        """From nothing to a compiled step, timed; the lowered one."""
        jax.clear_caches()
        started = time.perf_counter()
        lowered = jax.jit(step_of(self.apply)).lower(*self.arguments, self.tokens)
        self.compiled = lowered.compile()
        self.compiles.append(time.perf_counter() - started)
        return lowered

    def run(self) -> None:
        """One step, timed."""
        started = time.perf_counter()
        *arguments, _ = jax.block_until_ready(self.compiled(*self.arguments, self.tokens))
        self.times.append(1000 * (time.perf_counter() - started))
        self.arguments = tuple(arguments)

    def numbers(self) -> dict[str, float]:
        """What is printed."""
        return {
            "milliseconds": statistics.median(self.times), "compile": statistics.median(self.compiles),
            "bytes": self.bytes,
            "temp": float(self.temp), "lines": float(self.lines),
        }  # fmt: skip


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """The numbers of every candidate."""
    model = Transformer()
    tokens = jax.random.randint(jax.random.key(0), (BATCH, LENGTH + 1), 0, VOCABULARY)
    params = model.init(jax.random.key(1), tokens[:, :-1])["params"]
    candidates = {"float": Candidate(model.apply, params, tokens)}
    for name, (weights, inputs) in SCHEMES.items():
        candidates[f"jaxquant {name}"] = Candidate(*ours(model, params, tokens, weights, inputs), tokens)
        if importlib.util.find_spec("qwix"):
            for way, of_codes in (("qwix", False), ("qwix of codes", True)):
                made = theirs(model, params, weights, inputs, of_codes=of_codes)
                candidates[f"{way} {name}"] = Candidate(*made, tokens)
    for _ in range(COMPILES - 1):
        for candidate in candidates.values():
            candidate.compile()
    for _ in range(rounds):
        for candidate in candidates.values():
            candidate.run()
    return {name: candidate.numbers() for name, candidate in candidates.items()}


def main() -> int:
    """Print the ratios to float's step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of taking turns")
    options = parser.parse_args()
    found = measure(options.rounds)
    print(f"{'':20}{'time':>8}{'compile':>9}{'bytes':>8}{'temp':>8}{'lines':>8}   (times float's)")
    for name, numbers in found.items():
        ratios = {key: value / found["float"][key] for key, value in numbers.items()}
        print(
            f"{name:20}{ratios['milliseconds']:8.2f}{ratios['compile']:9.2f}{ratios['bytes']:8.2f}"
            f"{ratios['temp']:8.2f}{ratios['lines']:8.2f}"
        )
    plain = found["float"]
    print(
        f"float: {plain['milliseconds']:.1f} ms a step, {plain['compile']:.1f} s to compile, {plain['lines']:.0f} lines"
    )
    if options.json:
        with atomic_path(options.json, overwrite=True) as path:
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
