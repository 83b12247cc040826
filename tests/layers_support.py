"""Layers as data for the tests: a case builds its arrays once, and each package runs it."""

from __future__ import annotations

import functools
import itertools
import zlib
from dataclasses import dataclass

import numpy as np
from strategies import SPECIAL, halves

from refquant import qat, qtensor
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup, PerTensor, PerToken
from refquant.spec import QuantSpec, ScaleRule

ASYM = ScaleRule(zero="int")
SUBSCRIPTS = {"dense": "...k,kn->...n", "attend": "...f,vf->...v"}


def spec(name: str, granularity: object = PerTensor(), asym: bool = False) -> QuantSpec:
    return QuantSpec(ALL[name], granularity, ASYM if asym or name.startswith("uint") else ScaleRule())


#: operation -> (shape of x, shape of the weight, channel granularity, summed axis, granularity of "token", options)
KINDS = {
    "dense": ((3, 4, 37), (37, 6), PerAxis(1), 0, PerToken(), {}),
    "attend": ((3, 4, 37), (6, 37), PerAxis(0), 1, PerToken(), {}),
    "heads": ((2, 3, 37), (2, 37, 2, 3), PerAxis((0, 2, 3)), 1, PerToken(), {"subscripts": "bqd,bdhe->hbqe"}),
    "joined": ((2, 3, 4, 9), (4, 9, 5), PerAxis(-1), None, PerAxis((0, 1)), {"subscripts": "...hd,hde->...e"}),
    "conv": ((2, 7, 6, 4), (3, 2, 4, 6), PerAxis(3), None, PerAxis(0), {"strides": (2, 1)}),
    "pointwise": ((2, 3, 4, 5), (1, 1, 5, 3), PerAxis(3), None, PerAxis(0), {}),
    "grouped": ((2, 9, 6), (3, 3, 4), PerAxis(-1), None, PerAxis(0), {"feature_group_count": 2, "kernel_dilation": 2}),
    "depthwise": ((2, 5, 5, 4), (3, 3, 1, 8), PerAxis(-1), None, PerAxis(0), {"feature_group_count": 4}),
    "transposed": (
        (2, 4, 3), (4, 3, 5), PerAxis(2), None, PerAxis(0), {"input_dilation": 2, "padding": ((2, -1),)},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A layer and what it runs on.

    Attributes:
      kind: a key of KINDS.
      weights: format of the weight.
      asym: whether the weight has zero points.
      grain: "tensor", "channel" or "g16" (ragged where the operation has groups, else "channel").
      inputs: format of the inputs.
      mode: "tensor", "token" (dynamic) or "static".
      dtype: of the result.
      x_dtype: of the inputs.
      bias: "none", "float" or "int" (static only, no groups).
    """

    kind: str
    weights: str = "int8"
    asym: bool = False
    grain: str = "channel"
    inputs: str = "int8"
    mode: str = "token"
    dtype: str = "float32"
    x_dtype: str = "float32"
    bias: str = "float"

    @property
    def operation(self) -> str:
        options = KINDS[self.kind][5]
        return "einsum" if "subscripts" in options else self.kind if self.kind in ("dense", "attend") else "conv"

    @property
    def input_spec(self) -> QuantSpec:
        return spec(self.inputs, PerTensor() if self.mode in ("tensor", "static") else KINDS[self.kind][4])

    def options(self) -> dict:
        return {k: v for k, v in KINDS[self.kind][5].items() if k != "subscripts"} | {
            "inputs": self.input_spec, "dtype": self.dtype,
        }  # fmt: skip


@functools.cache
def arrays(case: Case) -> tuple[np.ndarray, qtensor.QTensor, np.ndarray | None, dict]:
    """x, weight, bias, and the static scale and zero point."""
    rng = np.random.default_rng(zlib.crc32(repr(case).encode()))
    x_shape, w_shape, channel, summed, _, _ = KINDS[case.kind]
    groups = case.grain == "g16" and summed is not None
    grain = PerTensor() if case.grain == "tensor" else PerGroup(summed, 16) if groups else channel
    weight = qtensor.quantize_tensor(
        (rng.standard_normal(w_shape) * 0.1 + 0.02).astype(np.float32), spec(case.weights, grain, case.asym)
    )
    scale, static = np.float32(0.0371), {}
    if case.mode == "static":
        zero = {"int8": None, "uint8": 117, "int16": None}[case.inputs]
        static = {"input_scale": scale} | ({} if zero is None else {"input_zero_point": np.int32(zero)})
    with np.errstate(all="ignore"):
        x = inputs(rng, x_shape, scale, special=case.mode == "static").astype(case.x_dtype)
    count = weight.codes.shape[0] if case.kind == "attend" else weight.codes.shape[-1]
    bias = rng.standard_normal(count).astype(np.float32)
    if case.bias == "int" and case.mode == "static" and not groups:
        bias = rng.integers(-(2**20), 2**20, count, np.int32)
    return x, weight, None if case.bias == "none" else bias, static


def covering(fields: dict[str, tuple], seed: int = 0) -> list[tuple]:
    """Few points that hold every pair of values of every two fields; the best of some random ones at a time."""
    rng, names, chosen = np.random.default_rng(seed), list(fields), []
    left = {((a, u), (b, v)) for a, b in itertools.combinations(names, 2) for u in fields[a] for v in fields[b]}
    while left:
        (a, u), (b, v) = next(iter(sorted(left, key=repr)))
        drawn = [{n: fields[n][rng.integers(len(fields[n]))] for n in names} | {a: u, b: v} for _ in range(40)]
        held = [set(itertools.combinations(point.items(), 2)) & left for point in drawn]
        best = max(range(len(drawn)), key=lambda i: len(held[i]))
        chosen.append(tuple(drawn[best].values()))
        left -= held[best]
    return chosen


def inputs(rng: np.random.Generator, shape: tuple, scale: np.float32, *, special: bool) -> np.ndarray:
    """Values within 2 ulp of halves of the scale and a few specials, only small ones where they set the scale."""
    pool = halves(float(scale), -130, 130)
    odd = SPECIAL if special else SPECIAL[~(np.abs(SPECIAL) > 1e3)]
    return np.where(rng.random(shape) < 0.06, rng.choice(odd, shape), rng.choice(pool, shape)).astype(np.float32)


def arguments(case: Case) -> tuple:
    """Positional arguments before x."""
    subscripts = KINDS[case.kind][5].get("subscripts")
    return () if subscripts is None else (subscripts,)


def reference(case: Case) -> np.ndarray:
    """What refquant gives."""
    x, weight, bias, static = arrays(case)
    return getattr(qat, case.operation)(*arguments(case), x, weight, bias, **case.options(), **static)


def jax_weight(weight: qtensor.QTensor) -> object:
    """The same QTensor in jaxquant."""
    import jax.numpy as jnp

    from jaxquant.qtensor import QTensor

    zero = None if weight.zero_point is None else jnp.asarray(weight.zero_point)
    return QTensor(jnp.asarray(weight.codes), jnp.asarray(weight.scale), zero, weight.spec)


def jax_layer(case: Case) -> tuple:
    """A function of (x, weight, bias, static) in jaxquant and its arguments."""
    import jax.numpy as jnp

    from jaxquant import qat as jax_qat

    x, weight, bias, static = arrays(case)
    function = getattr(jax_qat, case.operation)

    def layer(x: object, weight: object, bias: object, static: dict) -> object:
        return function(*arguments(case), x, weight, bias, **case.options(), **static)

    return layer, (jnp.asarray(x), jax_weight(weight), None if bias is None else jnp.asarray(bias), static)
