"""quantize, dequantize and fake_quantize of a 4096 x 4096 float32 array, as ratios to the cheapest jitted operation.

  python benchmarks/elementwise.py                 a table of ratios
  python benchmarks/elementwise.py --json PATH     also recorded, as benchmarks/results/elementwise.json is

"cheapest" is the cheapest jitted operation with the same input and output types in the same run: a donated negation
for float32 to float32, a cast for float32 to int8 and int8 to float32.  speed = its time / our time: 1.0 is memory
bandwidth.  Peers (torch, torchao, qwix, gguf) take part where they are installed.  All take turns, round after round.
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

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jaxquant  # noqa: E402
import refquant  # noqa: E402
from refquant.files import atomic_path  # noqa: E402
from refquant.formats import ALL  # noqa: E402
from refquant.granularity import PerAxis, PerGroup, PerTensor  # noqa: E402

INT8 = ALL["int8"]
GRAINS = {"tensor": PerTensor(), "channel": PerAxis(0), "group 128": PerGroup(1, 128)}
Way = Callable[[], object]


class Arrays:
    """Inputs; a donated call gives its output back as the next call's input, so that nothing is copied in between."""

    def __init__(self, size: int):
        values = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
        self.numpy = values
        self.x = jnp.asarray(values)
        self.cotangent = jnp.asarray(values[::-1].copy())
        self.donated = {}

    def scale(self, grain: str) -> jax.Array:
        low, high = jaxquant_scales().range_of(self.x, granularity=GRAINS[grain])
        return jaxquant_scales().choose_scale(low, high, fmt=INT8, rule=refquant.ScaleRule())[0]


def jaxquant_scales():
    from jaxquant import scales

    return scales


def chained(function: Callable, first: jax.Array) -> Way:
    """A call that donates its own last output."""
    jitted = jax.jit(function, donate_argnums=0)
    state = [jnp.array(first)]

    def call() -> object:
        state[0] = jitted(state[0])
        return state[0]

    return call


def ours(arrays: Arrays, grain: str) -> dict[str, tuple[str, Way]]:
    """Our operations: name → (the cheapest operation it is compared with, way)."""
    scale, granularity = arrays.scale(grain), GRAINS[grain]
    options = {"fmt": INT8, "granularity": granularity}
    codes = jaxquant.quantize(arrays.x, scale, **options)

    def fake(x: jax.Array) -> jax.Array:
        return jaxquant.fake_quantize(x, scale, **options)

    def backward(g: jax.Array, x: jax.Array) -> jax.Array:
        return jax.vjp(fake, x)[1](g)[0]

    quantize = jax.jit(lambda x: jaxquant.quantize(x, scale, **options))
    dequantize = jax.jit(lambda q: jaxquant.dequantize(q, scale, **options))
    back = jax.jit(backward, donate_argnums=0)
    state = [jnp.array(arrays.cotangent)]

    def call_backward() -> object:
        state[0] = back(state[0], arrays.x)
        return state[0]

    return {
        f"fake_quantize, {grain}": ("float32 to float32", chained(fake, arrays.x)),
        f"fake_quantize backward, {grain}": ("two float32 to float32", call_backward),
        f"quantize, {grain}": ("float32 to int8", lambda: quantize(arrays.x)),
        f"dequantize, {grain}": ("int8 to float32", lambda: dequantize(codes)),
    }


def cheapest(arrays: Arrays) -> dict[str, Way]:
    """The cheapest operation of each pair of types."""
    cast, widen = jax.jit(lambda x: x.astype(jnp.int8)), jax.jit(lambda q: q.astype(jnp.float32))
    select = jax.jit(lambda g, x: jnp.where(x > 0, g, 0), donate_argnums=0)
    codes = cast(arrays.x)
    state = [jnp.array(arrays.cotangent)]

    def call_select() -> object:
        state[0] = select(state[0], arrays.x)
        return state[0]

    return {
        "float32 to float32": chained(lambda x: -x, arrays.x),
        "two float32 to float32": call_select,
        "float32 to int8": lambda: cast(arrays.x),
        "int8 to float32": lambda: widen(codes),
    }


def peers(arrays: Arrays) -> dict[str, tuple[str, Way]]:
    """Other people's operation → (ours that it is compared with, way); only what is installed."""
    found: dict[str, tuple[str, Way]] = {}
    scale = float(arrays.scale("tensor"))
    if importlib.util.find_spec("torch"):
        import torch

        x = torch.from_numpy(arrays.numpy.copy())
        found["torch.fake_quantize_per_tensor_affine"] = (
            "fake_quantize, tensor",
            lambda: torch.fake_quantize_per_tensor_affine(x, scale, 0, -128, 127),
        )
        found["torch.quantize_per_tensor"] = (
            "quantize, tensor",
            lambda: torch.quantize_per_tensor(x, scale, 0, torch.qint8),
        )
    if importlib.util.find_spec("torchao"):
        found |= _torchao(arrays, scale)
    if importlib.util.find_spec("qwix"):
        from qwix._src.core import qarray

        how = qarray.HowToQuantize(qtype=jnp.int8, channelwise_axes=(0,), calibration_method="absmax")
        run = jax.jit(lambda x: qarray.quantize(x, how).qvalue)
        found["qwix quantize (range included)"] = ("range + quantize, channel", lambda: run(arrays.x))
    if importlib.util.find_spec("gguf"):
        from gguf import quants
        from gguf.constants import GGMLQuantizationType

        small = arrays.numpy[:1024]
        found["gguf-py Q8_0, NumPy (range included)"] = (
            "refquant range + quantize, groups of 32",
            lambda: quants.quantize(small, GGMLQuantizationType.Q8_0),
        )
    return found


def _torchao(arrays: Arrays, scale: float) -> dict[str, tuple[str, Way]]:
    import torch
    from torchao.quantization.quant_primitives import quantize_affine

    x, s, z = torch.from_numpy(arrays.numpy.copy()), torch.tensor([scale]), torch.zeros(1, dtype=torch.int32)
    shape = tuple(x.shape)
    return {
        "torchao quantize_affine": (
            "quantize, tensor",
            lambda: quantize_affine(x, shape, s, z, torch.int8, -128, 127),
        )
    }


def extra(arrays: Arrays) -> dict[str, Way]:
    """Ours with the range included, as some peers do it."""
    spec = refquant.QuantSpec(INT8, PerAxis(0))
    groups = refquant.QuantSpec(INT8, PerGroup(1, 32), refquant.ScaleRule(storage="float16"))
    run = jax.jit(lambda x: jaxquant.quantize_tensor(x, spec))
    small = arrays.numpy[:1024]
    return {
        "range + quantize, channel": lambda: run(arrays.x).codes,
        "refquant range + quantize, groups of 32": lambda: refquant.quantize_tensor(small, groups),
    }


def timed(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, taking turns; the first call of each is not counted."""
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            jax.block_until_ready(way())
            seen[name].append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(times[1:]) for name, times in seen.items()}


def measure(size: int, rounds: int) -> dict:
    """Everything in one run."""
    arrays = Arrays(size)
    mine = {k: v for grain in GRAINS for k, v in ours(arrays, grain).items()}
    others, base, more = peers(arrays), cheapest(arrays), extra(arrays)
    ways = base | more | {k: w for k, (_, w) in mine.items()} | {k: w for k, (_, w) in others.items()}
    times = timed(ways, rounds)
    rows = [
        {"what": name, "against": against, "milliseconds": times[name], "speed": times[against] / times[name]}
        for name, (against, _) in mine.items()
    ]
    versus = [
        {"peer": name, "ours": our, "milliseconds": times[name], "peer_over_ours": times[name] / times[our]}
        for name, (our, _) in others.items()
    ]
    device = jax.devices()[0]
    return {
        "size": size,
        "rounds": rounds,
        "device": f"{device.platform}: {device.device_kind}",
        "jax": jax.__version__,
        "cheapest": {name: times[name] for name in base},
        "ours": rows,
        "peers": versus,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    found = measure(options.size, options.rounds)
    print(f"{found['device']}, JAX {found['jax']}, {options.size} x {options.size} float32, median of {options.rounds}")
    for row in found["ours"]:
        share = f"{100 * row['speed']:5.0f} % of the speed of {row['against']}"
        print(f"  {row['what']:<34} {row['milliseconds']:8.2f} ms   {share}")
    for row in found["peers"]:
        ratio = f"{row['peer_over_ours']:5.2f} x the time of our {row['ours']}"
        print(f"  {row['peer']:<40} {row['milliseconds']:8.2f} ms   {ratio}")
    if options.json:
        with atomic_path(options.json, overwrite=True) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
