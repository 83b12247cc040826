"""Numeric hazards of a device and a JAX version: the plain expression against NumPy, then the guarded one.

A guard is empirical: it holds for the compilers it was tried on.  This runs the trial on the device at hand.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxquant import _exact, affine, codec
from jaxquant.decide.bits import differing
from refquant.formats import ALL


@dataclass(frozen=True)
class Hazard:
    """One way in which compiled floats differ from NumPy's.

    Attributes:
      name: the expression.
      why: what the compiler does.
      reference: NumPy's result from (x, s).
      plain: JAX's, unguarded.
      guarded: jaxquant's.
    """

    name: str
    why: str
    reference: Callable[[Any, Any], Any]
    plain: Callable[[Any, Any], Any]
    guarded: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Finding:
    """How many elements of a probe differ from NumPy."""

    name: str
    why: str
    elements: int
    plain: int
    guarded: int


def _reference_sum(x: Any, s: Any) -> Any:
    while x.shape[-1] > 1:
        x = x[..., 0::2] + x[..., 1::2]
    return x[..., 0] + np.float32(0)


def _rows(x: Any) -> Any:
    return x.reshape(-1, 256)


def _half(x: Any) -> Any:
    return (jax.lax.bitcast_convert_type(x, jnp.uint32) >> 16).astype(jnp.uint16)


def _bf16(x: Any) -> Any:
    return jax.lax.bitcast_convert_type(_half(x), jnp.bfloat16)


def _bf16_sum(x: Any, s: Any) -> Any:
    """A bfloat16 sum in NumPy: the exact binary32 sum of two bfloat16 numbers, rounded to bfloat16."""
    import ml_dtypes

    half = (x.view(np.uint32) >> 16).astype(np.uint16).view(ml_dtypes.bfloat16)
    return (half + half[::-1]).astype(np.float32)


def _reference_table() -> np.ndarray:
    return np.arange(1, 257, dtype=np.float32).reshape(8, 32)


def _table() -> Any:
    """A constant of the program that is one after a first look only."""
    return jnp.where(np.ones((8, 32), bool), _reference_table(), 0)


def _inner(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of the program, to whose argument something is done."""
    return jax.jit(lambda t: function(t) + 0)


INT8 = ALL["int8"]
HAZARDS = (
    Hazard(
        "x / s, one scale",
        "division by a broadcast becomes a product with the reciprocal",
        lambda x, s: x / s,
        lambda x, s: x / s,
        _exact.div,
    ),
    Hazard(
        "x / 127",
        "division by a constant becomes a product with its reciprocal",
        lambda x, s: x / np.float32(127),
        lambda x, s: x / 127.0,
        lambda x, s: _exact.div(x, jnp.float32(127)),
    ),
    Hazard(
        "x * s + x",
        "product and sum are contracted to one fused step",
        lambda x, s: x * s + x,
        lambda x, s: x * s + x,
        lambda x, s: _exact.rounded(x * s) + x,
    ),
    Hazard(
        "bfloat16 sum, widened",
        "the rounding to bfloat16 is left out",
        _bf16_sum,
        lambda x, s: (_bf16(x) + _bf16(x)[::-1]).astype(jnp.float32),
        lambda x, s: _exact.widen(_bf16(x) + _bf16(x)[::-1]),
    ),
    Hazard(
        "sum of 256",
        "the order of a sum is the compiler's",
        lambda x, s: _reference_sum(_rows(x), s),
        lambda x, s: jnp.sum(_rows(x), axis=-1),  # the hazard itself
        lambda x, s: _exact.tree_sum(_rows(x), 1),
    ),
    Hazard(
        "bits of a constant's .T",
        "a compile-time constant that a function gets transposed has its bits taken in the order of memory",
        lambda x, s: np.ascontiguousarray(_reference_table().T).view(np.int32),
        lambda x, s: _inner(lambda t: jax.lax.bitcast_convert_type(t, jnp.int32))(_table().T),
        lambda x, s: _inner(_exact.bits)(_table().T),
    ),
    Hazard(
        "encode to e4m3fn",
        "overflow is NaN in JAX's cast, 448 in ONNX and here",
        lambda x, s: _refquant().encode(x, fmt=ALL["e4m3fn"]),
        lambda x, s: jax.lax.bitcast_convert_type(x.astype(jnp.float8_e4m3fn), jnp.uint8),
        lambda x, s: codec.encode(x, fmt=ALL["e4m3fn"]),
    ),
    Hazard(
        "quantize to int8",
        "all of the above",
        lambda x, s: _refquant().quantize(x, s, fmt=INT8),
        lambda x, s: jnp.clip(jnp.rint(x / s), -128, 127).astype(jnp.int8),
        lambda x, s: affine.quantize(x, s, fmt=INT8),
    ),
    Hazard(
        "subnormals",
        "subnormal operands and results count as zero; rules say where that matters",
        lambda x, s: (x * np.float32(2.0**-140)).astype(np.float32),
        lambda x, s: x * jnp.float32(2.0**-70) * jnp.float32(2.0**-70),
        lambda x, s: _exact.scalb(x, -140),
    ),
)  # fmt: skip


def _refquant() -> Any:
    import refquant

    return refquant


def probe(size: int) -> tuple[np.ndarray, np.float32]:
    """Near-boundary inputs: half are within two units in the last place of (k + 1/2) · s, half are random bits."""
    scale = np.float32(0.013671875 * 1.2345)
    random = np.random.Generator(np.random.PCG64(1))
    count = max(size // 512 * 512, 512)
    steps = random.integers(-140, 140, count // 2) + 0.5
    near = (steps * np.float64(scale)).astype(np.float32).view(np.int32) + random.integers(-2, 3, count // 2, np.int32)
    wide = random.normal(size=count - count // 2).astype(np.float32) * np.float32(2) ** random.integers(
        -6, 10, count - count // 2
    )
    return np.concatenate([near.view(np.float32), wide.astype(np.float32)]), scale


def examine(size: int) -> list[Finding]:
    """Every hazard on this device."""
    x, scale = probe(size)
    found = []
    with np.errstate(all="ignore"):
        for hazard in HAZARDS:
            want = hazard.reference(x, scale)
            plain, guarded = (np.asarray(jax.jit(f)(x, scale)) for f in (hazard.plain, hazard.guarded))
            found.append(Finding(hazard.name, hazard.why, want.size, differing(plain, want), differing(guarded, want)))
    return found


def doctor_command(size: int, *, as_json: bool) -> int:
    """Runs the verb: 0 where every guard holds, 5 where one does not.

    Raises:
      ValueError: fewer than 512 elements.
    """
    if size < 512:
        raise ValueError(f"doctor: size is {size}, need at least 512 (two rows of the sum)")
    device = jax.devices()[0]
    found = examine(size)
    healthy = all(row.guarded == 0 for row in found)
    if as_json:
        print(
            json.dumps(
                {
                    "device": device.device_kind,
                    "jax": jax.__version__,
                    "healthy": healthy,
                    "hazards": [vars(f) for f in found],
                },
                indent=1,
            )
        )
        return 0 if healthy else 5
    print(f"{device.platform} ({device.device_kind}), JAX {jax.__version__}, NumPy {np.__version__}")
    print(f"\n{'expression':<24} {'elements':>9} {'plain JAX':>10} {'guarded':>8}  differing from NumPy, and why")
    for row in found:
        print(f"{row.name:<24} {row.elements:>9,} {row.plain:>10,} {row.guarded:>8,}  {row.why}")
    told = (
        "every guard holds here"
        if healthy
        else "A GUARD DOES NOT HOLD HERE: please report this; codes may differ from refquant's"
    )
    print(f"\n{told}")
    return 0 if healthy else 5
