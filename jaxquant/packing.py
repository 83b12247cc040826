"""Codes to bytes and back (specs/15-packing.md)."""

import math
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from jaxquant import _exact, _inputs, _sharding
from refquant import checks
from refquant.formats import Format, IntFormat
from refquant.granularity import Shape
from refquant.kinds import kinds


@kinds
def pack(codes: jax.Array, *, fmt: Format) -> jax.Array:
    """Codes end to end, least significant bit first.

    Args:
      codes: of dtype `fmt.storage`, any shape.
      fmt: any format; `fmt.bits` bits of each code are kept.
    Returns:
      uint8 vector of ceil(n * bits / 8) bytes.
    Raises:
      TypeError: codes have another dtype.

    Spec: PCK-1, PCK-2, PCK-4 (specs/15-packing.md).  Class: exact.
    """
    return _pack(_inputs.codes("pack", codes, fmt), width=fmt.bits)


@kinds
def unpack(packed: jax.Array, shape: Shape, *, fmt: Format) -> jax.Array:
    """The inverse of `pack`.

    Args:
      packed: uint8 vector of ceil(n * bits / 8) bytes.
      shape: shape of the codes.
      fmt: any format.
    Returns:
      Codes of dtype `fmt.storage` and that shape.
    Raises:
      TypeError: packed is not uint8.  ValueError: another byte count.

    Spec: PCK-3 (specs/15-packing.md).  Class: exact.
    """
    packed, shape = _inputs.array(packed), checks.shape("unpack", shape)
    need = -(-math.prod(shape) * fmt.bits // 8)
    checks.packed("unpack", packed.dtype, packed.shape, need, shape, fmt)
    return _unpack(packed, shape=shape, fmt=fmt)


@partial(_sharding.jit, static_argnames="width")
def _pack(codes: jax.Array, *, width: int) -> jax.Array:
    flat = codes.reshape(-1).astype(jnp.int32) & ((1 << width) - 1)
    eights = jnp.pad(flat, (0, -flat.size % 8)).reshape(-1, 8)
    columns = [_gather(eights, width, 8, place, 8) for place in range(width)]
    return jnp.stack(columns, axis=1).astype(jnp.uint8).reshape(-1)[: -(-codes.size * width // 8)]


@partial(_sharding.jit, static_argnames=("shape", "fmt"))
def _unpack(packed: jax.Array, *, shape: Shape, fmt: Format) -> jax.Array:
    width = fmt.bits
    rows = jnp.pad(packed, (0, -packed.size % width)).reshape(-1, width).astype(jnp.int32)
    columns = [_gather(rows, 8, width, place, width) for place in range(8)]
    codes = jnp.stack(columns, axis=1).reshape(-1)[: math.prod(shape)]
    if isinstance(fmt, IntFormat) and fmt.signed:
        codes = lax.shift_right_arithmetic(_exact.shift_left(codes, jnp.int32(32 - width)), jnp.int32(32 - width))
    return codes.astype(fmt.storage).reshape(shape)


def _gather(fields: jax.Array, width: int, count: int, place: int, size: int) -> jax.Array:
    """Bits place*size up to (place+1)*size of a stream of `count` fields of `width` bits, per row."""
    start = place * size
    parts = []
    for i in range(count):
        shift = i * width - start
        if -width < shift < size:
            field = fields[:, i]
            parts.append(
                _exact.shift_left(field, jnp.int32(shift))
                if shift >= 0
                else _exact.shift_right(field, jnp.int32(-shift))
            )
    return reduce(jnp.bitwise_or, parts) & ((1 << size) - 1)
