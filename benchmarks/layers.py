"""Integer layers against float twins in one run: `python benchmarks/layers.py [--json] [--only NAME] [--rounds N]`.

Each round times float, the integer sum alone (codes given) and the whole layer (the input quantized on the fly) one
after the other, several calls each; a time is the smallest of the rounds' medians.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxquant import qat
from jaxquant.qat import convolve
from jaxquant.qtensor import quantize_tensor
from refquant import qat as reference
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup, PerTensor, PerToken
from refquant.qtensor import QTensor
from refquant.spec import QuantSpec

INT8 = ALL["int8"]
DENSE = [(512, 1024, 1024), (2048, 384, 1536), (2048, 1536, 384), (1, 1024, 1024), (8, 1024, 1024)]
#: name, batch and space and channels, kernel (taps, taps, in / groups, out), groups
CONVS = [
    ("conv 3x3 64>64", (8, 32, 32, 64), (3, 3, 64, 64), 1),
    ("conv 1x1 64>64", (8, 32, 32, 64), (1, 1, 64, 64), 1),
    ("conv 3x3 depthwise 64", (8, 32, 32, 64), (3, 3, 1, 64), 64),
    ("conv 3x3 4 groups 64>64", (8, 32, 32, 64), (3, 3, 16, 64), 4),
    ("conv 3x3 256>256", (2, 16, 16, 256), (3, 3, 256, 256), 1),
]


def arrays(*shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def timed(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds: the smallest of the medians of `rounds` rounds, the functions taking turns."""
    best = dict.fromkeys(functions, float("inf"))
    for function in functions.values():
        jax.block_until_ready(function())
    for _ in range(rounds):
        for name, function in functions.items():
            best[name] = min(best[name], float(np.median([once(function) for _ in range(5)])))
    return best


def once(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return (time.perf_counter() - start) * 1e3


def dense_row(rows: int, depth: int, columns: int, group: int | None) -> dict[str, Callable[[], object]]:
    x, w = arrays((rows, depth), (depth, columns))
    token = QuantSpec(INT8, PerToken())
    weight = quantize_tensor(w, QuantSpec(INT8, PerGroup(0, group) if group else PerAxis(1)))
    a = quantize_tensor(x, token).codes
    twin = jax.jit(lambda x, w: jnp.dot(x, w, precision=lax.Precision.HIGHEST))
    functions = {"float": lambda: twin(x, w)}
    if not group:
        sums = jax.jit(functools.partial(qat.matmul, max_a=128, max_b=128))
        functions["sum"] = lambda: sums(a, weight.codes)
    static = jnp.float32(0.03)
    given = jax.jit(lambda x, w, s: qat.dense(x, w, inputs=QuantSpec(INT8, PerTensor()), input_scale=s))
    layer = jax.jit(lambda x, w: qat.dense(x, w, inputs=token))
    return functions | {"static": lambda: given(x, weight, static), "layer": lambda: layer(x, weight)}


def conv_row(shape: tuple[int, ...], kernel: tuple[int, ...], groups: int) -> dict[str, Callable[[], object]]:
    x, w = arrays(shape, kernel)
    tensor = QuantSpec(INT8, PerTensor())
    weight = quantize_tensor(w, QuantSpec(INT8, PerAxis(-1)))
    a = quantize_tensor(x, tensor).codes
    order = ("NHWC", "HWIO", "NHWC")
    twin = jax.jit(
        functools.partial(
            lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=order,
            feature_group_count=groups,
        )
    )  # fmt: skip
    sums = jax.jit(functools.partial(convolve, feature_group_count=groups, max_a=128, max_b=128))
    static = jnp.float32(0.03)
    options = {"inputs": tensor, "feature_group_count": groups}
    given = jax.jit(lambda x, w, s: qat.conv(x, w, input_scale=s, **options))
    layer = jax.jit(lambda x, w: qat.conv(x, w, **options))
    return {
        "float": lambda: twin(x, w),
        "sum": lambda: sums(a, weight.codes),
        "static": lambda: given(x, weight, static),
        "layer": lambda: layer(x, weight),
    }


def numpy_row() -> dict[str, Callable[[], object]]:
    """The reference: its exact product against NumPy's float one and NumPy's integer one."""
    x, w = (np.asarray(v) for v in arrays((256, 1024), (1024, 512)))
    a, b = np.clip(x * 30, -127, 127).astype(np.int8), np.clip(w * 30, -127, 127).astype(np.int8)
    weight = QTensor(b, np.float32(0.03), None, QuantSpec(INT8))
    return {
        "float": lambda: x @ w,
        "sum": lambda: reference.matmul(a, b, max_a=128, max_b=128),
        "static": lambda: reference.dense(x, weight, inputs=QuantSpec(INT8), input_scale=0.03),
        "layer": lambda: reference.dense(x, weight, inputs=QuantSpec(INT8)),
    }


def rows() -> dict[str, Callable[[], dict[str, Callable[[], object]]]]:
    """Every row by name, its arrays made when it is run."""
    found = {f"dense {m}x{k}x{n}": functools.partial(dense_row, m, k, n, None) for m, k, n in DENSE}
    found |= {f"dense {m}x{k}x{n} g128": functools.partial(dense_row, m, k, n, 128) for m, k, n in DENSE[:3]}
    found |= {name: functools.partial(conv_row, *rest) for name, *rest in CONVS}
    return found | {"NumPy dense 256x1024x512": numpy_row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    results = {}
    for name, make in rows().items():
        if options.only not in name:
            continue
        times = timed(make(), options.rounds)
        results[name] = {"float_ms": times["float"]} | {k: v / times["float"] for k, v in times.items() if k != "float"}
        if not options.json:
            cells = "  ".join(f"{key} {value:5.2f}" for key, value in results[name].items())
            sys.stdout.write(f"{name:28s} {cells}\n")
            sys.stdout.flush()
    if options.json:
        sys.stdout.write(json.dumps({"device": jax.devices()[0].device_kind, "jax": jax.__version__, **results}) + "\n")


if __name__ == "__main__":
    main()
