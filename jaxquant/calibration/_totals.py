"""Sums of 64-bit numbers in pieces (`_wide.Pair`), in integer steps only, of at most 2**16 numbers of the last axis."""

import jax.numpy as jnp
from jax import Array, lax

from jaxquant._wide import Pair


def running(values: Pair) -> Pair:
    """The running sum mod 2**64."""
    return _joined([lax.cumsum(piece, axis=piece.ndim - 1) for piece in _pieces(values)])


def total(values: Pair) -> Pair:
    """The sum mod 2**64."""
    return _joined([lax.reduce(piece, jnp.uint32(0), lax.add, (piece.ndim - 1,)) for piece in _pieces(values)])


def running_counts(counts: Array) -> Pair:
    """The running sum of non-negative int32, without the pieces that are zero: XLA would fold their sums, slowly."""
    low = lax.optimization_barrier(counts).astype(jnp.uint32)  # counts of a state that has seen nothing are constants
    sums = [lax.cumsum(piece, axis=piece.ndim - 1) for piece in (low & 0xFFFF, low >> 16)]
    upper = sums[1] + (sums[0] >> 16)
    return (upper >> 16).astype(jnp.int32), (upper << 16) | (sums[0] & 0xFFFF)


def last(values: Pair) -> Pair:
    """The last number of the last axis: of a running sum, the whole."""
    return values[0][..., -1], values[1][..., -1]


def counted(counts: Array) -> Pair:
    """Non-negative int32 as pairs."""
    return jnp.zeros_like(counts), counts.astype(jnp.uint32)


def _pieces(values: Pair) -> list[Array]:
    high, low = values[0].astype(jnp.uint32), values[1]
    return [low & 0xFFFF, low >> 16, high & 0xFFFF, high >> 16]


def _joined(sums: list[Array]) -> Pair:
    for i in range(3):
        sums[i + 1] = sums[i + 1] + (sums[i] >> 16)  # below 2**32: 2**16 numbers of 16 bits, and a carry
    high = (sums[3] << 16) | (sums[2] & 0xFFFF)
    return high.astype(jnp.int32), (sums[1] << 16) | (sums[0] & 0xFFFF)
