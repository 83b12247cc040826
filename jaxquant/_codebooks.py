"""Codebooks: nearest value by thresholds on ordered keys (specs/10-formats.md, FMT-7, FMT-8, ENC-7)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxquant import _exact, bits
from refquant.conventions import Cast
from refquant.formats import CodebookFormat

SELECT_LIMIT = 16


def encode(x: jax.Array, fmt: CodebookFormat, cast: Cast) -> jax.Array:
    """ENC-7 of a binary32 array, codes as int32."""
    key = bits.key_of(x)
    thresholds = fmt.threshold_keys
    rank = _count(key, thresholds) if len(thresholds) < SELECT_LIMIT else _search(key, thresholds)
    code = lookup(rank, np.array(fmt.ordered_codes, np.int32))
    nan = fmt.values.index(fmt.max_value) if cast.nan == "max" else fmt.zero_code
    return jnp.where(_exact.is_nan(x), nan, code)


def decode(codes: jax.Array, fmt: CodebookFormat) -> jax.Array:
    """DCD-1 and FMT-8 of int32 codes."""
    index = codes & ((1 << fmt.bits) - 1)
    if len(fmt.values) < 1 << fmt.bits:
        index = index % len(fmt.values)
    pattern = np.array(fmt.values, np.float32).view(np.int32)
    return _exact.from_bits(lookup(index, pattern))


def lookup(index: jax.Array, table: np.ndarray) -> jax.Array:
    """table[index] for an index in range: selects for a small table (they fuse and vectorise), else a gather."""
    if np.array_equal(table, np.arange(table.size)):
        return index
    if table.size > SELECT_LIMIT:
        return jnp.asarray(table)[index]
    rows = [jnp.int32(v) for v in table]
    bit = 1
    while len(rows) > 1:
        odd = (index & bit) != 0
        pairs = [rows[i : i + 2] for i in range(0, len(rows), 2)]
        rows = [jnp.where(odd, pair[1], pair[0]) if len(pair) == 2 else pair[0] for pair in pairs]
        bit <<= 1
    return jnp.broadcast_to(rows[0], index.shape)


def _count(key: jax.Array, thresholds: tuple[int, ...]) -> jax.Array:
    rank = jnp.zeros_like(key)
    for threshold in thresholds:
        rank = rank + (key >= threshold).astype(jnp.int32)
    return rank


def _search(key: jax.Array, thresholds: tuple[int, ...]) -> jax.Array:
    """How many thresholds are at most the key, by halving."""
    size = 1 << len(thresholds).bit_length()
    table = jnp.asarray(np.pad(np.array(thresholds, np.int32), (0, size - len(thresholds)), constant_values=2**31 - 1))
    rank = jnp.zeros_like(key)
    step = size // 2
    while step:
        rank = jnp.where(key >= table[rank + (step - 1)], rank + step, rank)
        step //= 2
    return rank
