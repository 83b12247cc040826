"""The seam: every step that XLA would otherwise change.  Nothing else in jaxquant divides, fuses or sums floats.

A guard is empirical: it holds for the compilers that its witness, named in its docstring, runs on (most of them are in
tests/test_exact_seam.py).  All guards are elementwise, so they fuse and cost no pass over memory.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxquant._constants import as_dtype, bitcast, select

#: Numbers of NumPy, and lax beside them: a function of jnp and a Python number would each be converted anew, which is
#: most of what tracing a layer costs.
NAN = np.int32(0x7FC00000)
INF = np.int32(0x7F800000)
MAGNITUDE = np.int32(0x7FFFFFFF)
MIN_NORMAL = np.int32(0x00800000)
NEGATIVE_ZERO = np.int32(-0x80000000)


def bits(x: jax.Array) -> jax.Array:
    """The pattern of a binary32 array as int32.  Witness: test_bits_differential."""
    return x.view(np.int32) if isinstance(x, np.float32) else bitcast(x, jnp.int32)


def _made(x: jax.Array) -> jax.Array:
    """`bits` of what is made of guarded bits: no constant.  Witness: test_transposed_constant_differential."""
    return lax.bitcast_convert_type(x, jnp.int32)


def from_bits(pattern: jax.Array) -> jax.Array:
    """The binary32 array of an int32 pattern.  Witness: test_bits_differential."""
    return lax.bitcast_convert_type(pattern, jnp.float32)


def shift_left(pattern: jax.Array, by: jax.Array | int) -> jax.Array:
    """Shift left in the dtype of the pattern, also where a Python int has 64 bits.  Witness: test_x64_differential."""
    return lax.shift_left(pattern, as_dtype(by, pattern.dtype))


def shift_right(pattern: jax.Array, by: jax.Array | int) -> jax.Array:
    """Shift right, filled with zeros, in the dtype of the pattern.  Witness: test_x64_differential."""
    return lax.shift_right_logical(pattern, as_dtype(by, pattern.dtype))


def is_nan(x: jax.Array) -> jax.Array:
    """Where x is NaN, from the bits; no compiler flag can assume it away.  Witness: test_is_nan_differential."""
    return lax.gt(lax.bitwise_and(bits(x), MAGNITUDE), INF)


def flush(x: jax.Array) -> jax.Array:
    """GEN-9: a subnormal counts as the zero of its sign, in eager, compiled and folded code alike.

    Witness: test_flush_differential.
    """
    return from_bits(_flushed(bits(x)))


def _flushed(pattern: jax.Array) -> jax.Array:
    small = lax.lt(lax.bitwise_and(pattern, MAGNITUDE), MIN_NORMAL)
    return lax.select(small, lax.bitwise_and(pattern, NEGATIVE_ZERO), pattern)


def rounded(product: jax.Array) -> jax.Array:
    """The value as its own binary32 rounding, whatever made it and whatever is done with it.

    XLA:CPU contracts a*b + c into one FMA, and the simplifier merges (a*c1)*c2 and (a/b)/c; optimization_barrier and
    reduce_precision do not prevent the first, and a float select is folded away when the product comes from an
    integer code.  An integer minimum on the bits, which changes nothing but the payload of a positive NaN, holds and
    is one instruction.  Witness: test_rounded_differential.
    """
    return from_bits(lax.min(bits(product), NAN))


def add(a: jax.Array, b: jax.Array) -> jax.Array:
    """a + b of a rounded a, b flushed, which rounds it too, the sum flushed (GEN-9); a zero has the sign of a sum.

    XLA simplifies a + 0 to a, which leaves -0 where the sum is +0, so a sum of zeros is set on the bits.
    Witness: test_add_differential.
    """
    left, right = _made(a), _flushed(bits(b))
    zeros = lax.eq(lax.bitwise_and(left | right, MAGNITUDE), np.int32(0))
    return from_bits(lax.select(zeros, left & right, _flushed(_made(a + from_bits(right)))))


def div(x: jax.Array, divisor: jax.Array) -> jax.Array:
    """GEN-2: x / divisor, correctly rounded once.

    XLA rewrites A / broadcast(s) and A / constant to A * (1/s), (A / B) / C to A / (B * C), 1 / sqrt to rsqrt.  A zero
    that it cannot see through covers both.  A barrier on the divisor fails under vmap, a select on x != x where x is
    constant or a quotient.  The quotient has one reader only, or XLA:CPU would write it to memory before its use.
    Witness: test_div_differential.
    """
    pattern, below = bits(x), bits(divisor)
    zero = _zero(pattern | below)
    quotient = lax.div(from_bits(pattern ^ zero), from_bits(below ^ zero))
    return from_bits(lax.min(_made(quotient), NAN))  # as in `rounded`


@jax.custom_batching.custom_vmap
def _zero(pattern: jax.Array) -> jax.Array:
    """A count of at most 32 leading zeros, shifted right by 6, which no simplifier folds: it depends on the pattern, or
    it would not be there for a constant divisor, and on the place along every axis, those of a vmap too, or it would be
    a broadcast.

    No part of it depends on places alone: XLA would take that out of loops, where equal ones are no longer merged.
    LLVM sees through it, XLA does not: nothing of it is left where it would cost time.
    """
    for axis in (axis for axis, size in enumerate(pattern.shape) if size > 1):
        pattern = lax.bitwise_or(pattern, lax.broadcasted_iota(np.int32, pattern.shape, axis))
    return shift_right(lax.clz(pattern), np.int32(6))


@_zero.def_vmap
def _zero_of_a_batch(_: int, batched: list[bool], pattern: jax.Array) -> tuple[jax.Array, bool]:
    return _zero(pattern), batched[0]


def reciprocal(x: jax.Array) -> jax.Array:
    """1 / x, correctly rounded once.  Witness: test_div_differential."""
    return div(jnp.ones_like(x), x)


def widen(x: jax.Array) -> jax.Array:
    """GEN-1: float16 or bfloat16 to binary32, exactly, of the *rounded* value; binary32 stays.

    XLA elides the rounding of a bfloat16 producer before a conversion back.  A step on the 16 bits in between holds,
    and fuses where a barrier would materialise.  Witness: test_widen_differential.
    """
    if x.dtype == jnp.bfloat16:
        pattern = bitcast(x, jnp.uint16).astype(jnp.int32)
        return from_bits(shift_left(pattern, np.int32(16)))
    if x.dtype == jnp.float16:
        return _seal16(x).astype(jnp.float32)
    return x


def narrow(x: jax.Array, dtype: str) -> jax.Array:
    """DEQ-4: binary32 to `dtype`, ties to even, overflow to inf; the rounding stays whatever follows.

    bfloat16 is rounded on the bits (some CPUs flush its subnormals).  Witness: test_narrow_differential.
    """
    if dtype == "float32":
        return rounded(x)
    if dtype == "float16":
        return _seal16(x.astype(jnp.float16))
    pattern = bits(x)
    kept = shift_right(pattern + 0x7FFF + (shift_right(pattern, np.int32(16)) & 1), np.int32(16))
    kept = select((pattern & MAGNITUDE) > INF, np.int32(NAN >> 16), kept)
    return lax.bitcast_convert_type(kept.astype(jnp.uint16), jnp.bfloat16)


def cast(x: jax.Array, dtype: str) -> jax.Array:
    """`narrow` of what no step after it reaches into: a sum, or what is rounded.  Witness: test_cast_differential."""
    return x if dtype == "float32" else narrow(x, dtype)


def _seal16(x: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(jnp.minimum(bitcast(x, jnp.int16), np.int16(0x7E00)), x.dtype)  # as in `rounded`


def tree_sum(x: jax.Array, axis: int) -> jax.Array:
    """SUM-1: the sum over one axis in the fixed order of adjacent pairs; a zero result is +0.

    A library reduction has an order of its own, also one over pairs (the simplifier merges two such steps); x + 0 is
    simplified to x, so the sign of zero is cleared on the bits.  The pairs are split off by a reshape in place, which
    keeps sharded sums local; a barrier every four levels bounds what is fused into one loop.
    Witness: test_tree_sum_differential.
    """
    axis %= x.ndim
    count = x.shape[axis]
    if count == 0:
        return jnp.zeros((*x.shape[:axis], *x.shape[axis + 1 :]), jnp.float32)
    levels = (count - 1).bit_length()
    x, more = rounded(x), (1 << levels) - count
    if more:
        x = lax.pad(x, np.float32(-0.0), [(0, more if i == axis else 0, 0) for i in range(x.ndim)])
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    for level in range(levels):
        pairs = x.reshape(*before, 1 << (levels - level - 1), 2, *after)
        x = lax.slice_in_dim(pairs, 0, 1, axis=axis + 1) + lax.slice_in_dim(pairs, 1, 2, axis=axis + 1)
        x = lax.optimization_barrier(x) if level % 4 == 3 else x
    return _without_minus_zero(x.reshape(*before, *after))


def tree_sum_of(parts: list[jax.Array]) -> jax.Array:
    """`tree_sum` of separate arrays of one shape, at least one, none of which is copied next to the others.

    Each sum is rounded on its bits: XLA makes x + (c1 + c2) of (x + c1) + c2.  Witness: test_tree_sum_differential.
    """
    parts = [rounded(part) for part in parts]
    while len(parts) > 1:
        pairs = [rounded(a + b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    return _without_minus_zero(parts[0])


def _without_minus_zero(x: jax.Array) -> jax.Array:
    pattern = _made(x)
    return from_bits(select(lax.eq(pattern, NEGATIVE_ZERO), 0, pattern))


def scalb(x: jax.Array, exponent: jax.Array) -> jax.Array:
    """BIT-2: x * 2**exponent on the bits, rounded once (ties to even) in the subnormals too.

    A product with 2**-127 is flushed, and a split power is folded back.  Witness: test_scalb_differential.
    """
    pattern = bits(x)
    magnitude = pattern & MAGNITUDE
    field, significand = significand_of(magnitude)
    target = field + jnp.clip(exponent, -600, 600)
    shift = jnp.clip(1 - target, 0, 25)
    below = shift_left(jnp.ones_like(shift), jnp.maximum(shift - 1, 0)) - 1
    bump = jnp.where(shift > 0, below + (shift_right(significand, shift) & 1), 0)
    scaled = shift_right(significand + bump, shift) + shift_left(jnp.clip(target, 1, 255) - 1, 23)
    scaled = jnp.where(target >= 255, INF, scaled)
    kept = (magnitude == 0) | (magnitude >= INF)
    return from_bits(jnp.where(kept, pattern, scaled | (pattern & NEGATIVE_ZERO)))


def small_integer(x: jax.Array, most: np.floating | None = None) -> jax.Array:
    """int32 of a binary32 value below 2**22 in magnitude, ties to even; a few times cheaper than rint and a cast.

    Adding 1.5 * 2**23 leaves the integer in the low bits.  A number `most`, not negative, above which nothing (but NaN)
    goes, costs nothing: it takes the place of the NaN in `rounded`.  Witness: test_small_integer_differential.
    """
    seal = NAN if most is None else np.float32(most).view(np.int32)
    return lax.sub(_made(lax.add(from_bits(lax.min(bits(x), seal)), np.float32(12582912))), np.int32(0x4B400000))


def significand_of(magnitude: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(exponent field, 24-bit significand) of a finite non-zero magnitude; the field of a subnormal goes below 1."""
    zeros = lax.clz(jnp.maximum(magnitude, 1)) - 8
    subnormal = magnitude < MIN_NORMAL
    field = jnp.where(subnormal, 1 - zeros, shift_right(magnitude, 23))
    normal = (magnitude & 0x7FFFFF) | MIN_NORMAL
    return field, jnp.where(subnormal, shift_left(magnitude, jnp.maximum(zeros, 0)), normal)


def square_root(x: jax.Array) -> jax.Array:
    """The binary32 root of a number that is not negative, correctly rounded, as no backend promises it.

    An estimate that may be 16 units of its 25 digits off, made exact by its remainder: the last 32 bits of a product of
    50 tell that.  A root of 25 digits is never midway between two of 24, so the last digit decides the rounding
    (LSP-5).  Digit by digit it would be a chain of 25 steps, which the LLVM of JAX 0.12 never comes to the end of.
    Witness: test_square_root_differential.
    """
    pattern = bits(x) & MAGNITUDE
    field, significand = significand_of(pattern)
    odd = (field & 1) == 1  # then the exponent field - 150 is odd as well
    whole = jnp.where(odd, significand, significand + significand)  # times 2^25: 49 or 50 digits
    estimate = jnp.sqrt(whole.astype(jnp.float32) * jnp.float32(2**25))
    root = estimate.astype(jnp.int32)
    missing = _remainder(whole, root).astype(jnp.float32) / (estimate + estimate)
    root = root + jnp.floor(missing).astype(jnp.int32)  # a cast alone would leave it 2 above where it goes down
    rest = _remainder(whole, root)
    root = root + (rest > root + root).astype(jnp.int32) - (rest < 0).astype(jnp.int32)
    rounded = shift_right(root + 1, 1) + shift_left((jnp.where(odd, field - 175, field - 176) >> 1) + 150, 23)
    return from_bits(jnp.where((pattern == 0) | (pattern >= INF), pattern, rounded))


def _remainder(whole: jax.Array, root: jax.Array) -> jax.Array:
    """whole · 2^25 - root², exact where it is less than 2^31 in size."""
    return shift_left(whole, 25) - root * root
