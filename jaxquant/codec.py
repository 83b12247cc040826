"""Real value to code point and back, without a scale (specs/10-formats.md)."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxquant import _codebooks, _exact, _inputs, _minifloats, _sharding, rounding
from refquant.conventions import CAST, Cast
from refquant.formats import CodebookFormat, Format, IntFormat
from refquant.kinds import kinds


@kinds
def encode(x: jax.Array, *, fmt: Format, cast: Cast = CAST) -> jax.Array:
    """The code of each value.

    Args:
      x: float32, float16 or bfloat16, any shape.
      fmt: any format.
      cast: overflow, ties, NaN and signed zero where the format leaves a choice.
    Returns:
      Codes of dtype `fmt.storage`, shape of x.
    Raises:
      TypeError: x has another dtype.

    Spec: ENC-1..ENC-8 (specs/10-formats.md).  Class: exact.
    """
    return _encode(_inputs.real("encode", "x", x), fmt=fmt, cast=cast)


@kinds
def decode(codes: jax.Array, *, fmt: Format) -> jax.Array:
    """The exact value of each code.

    Args:
      codes: of dtype `fmt.storage`, any shape.
      fmt: any format.
    Returns:
      float32, shape of codes; NaN codes give 0x7FC00000.
    Raises:
      TypeError: codes have another dtype.

    Spec: DCD-1, DCD-2 (specs/10-formats.md).  Class: exact.
    """
    return _decode(_inputs.codes("decode", codes, fmt), fmt=fmt)


def codes_of(x: jax.Array, fmt: Format, cast: Cast) -> jax.Array:
    """ENC-1..ENC-8 inside a trace: x already widened, codes as int32."""
    if isinstance(fmt, IntFormat):
        return _integer(x, fmt, cast)
    if isinstance(fmt, CodebookFormat):
        return _codebooks.encode(x, fmt, cast)
    return _minifloats.encode(x, fmt, cast)


def values_of(codes: jax.Array, fmt: Format) -> jax.Array:
    """DCD-1, DCD-2 inside a trace: codes of any integer dtype."""
    codes = codes.astype(jnp.int32)
    if isinstance(fmt, IntFormat):
        return codes.astype(jnp.float32)
    if isinstance(fmt, CodebookFormat):
        return _codebooks.decode(codes, fmt)
    return _minifloats.decode(codes, fmt)


@partial(_sharding.jit, static_argnames=("fmt", "cast"))
def _encode(x: jax.Array, *, fmt: Format, cast: Cast) -> jax.Array:
    return codes_of(_exact.widen(x), fmt, cast).astype(fmt.storage)


@partial(_sharding.jit, static_argnames="fmt")
def _decode(codes: jax.Array, *, fmt: Format) -> jax.Array:
    return values_of(codes, fmt)


def _integer(x: jax.Array, fmt: IntFormat, cast: Cast) -> jax.Array:
    low, high = jnp.float32(fmt.qmin), jnp.float32(fmt.qmax)
    whole = rounding.to_integer(x, cast.ties or "even")
    special = high if cast.nan == "max" else jnp.clip(jnp.float32(0), low, high)
    whole = jnp.where(_exact.is_nan(x), special, whole)
    return jnp.clip(whole, low, high).astype(jnp.int32)
