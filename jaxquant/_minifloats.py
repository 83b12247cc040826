"""Float formats on the bits of binary32 (specs/10-formats.md, FMT-3..FMT-6, DCD-1, ENC-2..ENC-6)."""

import jax
import jax.numpy as jnp

from jaxquant import _exact
from refquant.conventions import Cast
from refquant.formats import FloatFormat


def encode(x: jax.Array, fmt: FloatFormat, cast: Cast) -> jax.Array:
    """ENC-2..ENC-6 of a binary32 array, codes as int32."""
    pattern = _exact.bits(x)
    magnitude = pattern & _exact.MAGNITUDE
    negative = pattern < 0
    code = unbounded_code(magnitude, negative, fmt, cast)
    over = code > fmt.max_code
    becomes_nan = jnp.zeros_like(over)
    if cast.overflow != "saturate":
        special = over if cast.overflow == "special" else magnitude == _exact.INF
        if fmt.inf_code is not None:
            code = jnp.where(special, fmt.inf_code, jnp.where(over, fmt.max_code, code))
        elif fmt.nan_code is not None:
            becomes_nan = special
            code = jnp.where(over, fmt.max_code, code)
    if cast.overflow == "saturate" or (fmt.inf_code is None and fmt.nan_code is None):
        code = jnp.where(over, fmt.max_code, code)
    if fmt.signed:
        code = _with_sign(code, negative, fmt, cast)
    else:
        code, refused = _unsigned(code, magnitude, negative, fmt, cast)
        becomes_nan = becomes_nan | refused
    if fmt.nan_code is not None:
        code = jnp.where(becomes_nan, _nan(negative, fmt, cast), code)
    return jnp.where(magnitude > _exact.INF, _nan_input(negative, fmt, cast), code)


def unbounded_code(magnitude: jax.Array, negative: jax.Array, fmt: FloatFormat, cast: Cast) -> jax.Array:
    """ENC-2: the magnitude's code in the format extended upward without limit."""
    drop = 23 - fmt.mantissa_bits
    offset = 127 - fmt.bias
    if offset == 0 and fmt.zero:  # the grids of binary32 and the format coincide, subnormals included
        return _shift(magnitude, jnp.int32(drop), 0, negative, fmt, cast)
    if offset > 0:
        field = jnp.maximum(_exact.shift_right(magnitude, 23), 1)
        hidden = jnp.where(magnitude >= _exact.MIN_NORMAL, _exact.MIN_NORMAL, 0)
        significand = (magnitude & 0x7FFFFF) | hidden
    else:
        field, significand = _exact.significand_of(magnitude)
    target = field - offset
    if fmt.zero:
        shift = drop + jnp.clip(1 - target, 0, 25 - drop)
        base = _exact.shift_left(jnp.maximum(target, 1) - 1, fmt.mantissa_bits)
    else:
        shift = jnp.int32(drop)
        base = _exact.shift_left(target - 1, fmt.mantissa_bits)
    code = _shift(significand, shift, base, negative, fmt, cast) + base
    return code if fmt.zero else jnp.where(magnitude == 0, 0, jnp.maximum(code, 0))


def decode(codes: jax.Array, fmt: FloatFormat) -> jax.Array:
    """DCD-1 of int32 codes."""
    magnitude = codes & ((1 << (fmt.bits - fmt.signed)) - 1)
    pattern = _exact.bits(_magnitude_value(magnitude, fmt))
    if fmt.inf_code is not None:
        pattern = jnp.where(magnitude == fmt.inf_code, _exact.INF, pattern)
    if fmt.signed:
        pattern = jnp.where((codes & fmt.sign_bit) != 0, pattern | _exact.NEGATIVE_ZERO, pattern)
    if fmt.specials == "fnuz":
        nan = (codes & ((1 << fmt.bits) - 1)) == fmt.nan_code
    else:
        nan = magnitude > (fmt.max_code if fmt.inf_code is None else fmt.inf_code)
    return _exact.from_bits(pattern if fmt.nan_code is None else jnp.where(nan, _exact.NAN, pattern))


def _magnitude_value(magnitude: jax.Array, fmt: FloatFormat) -> jax.Array:
    mantissa_bits, offset = fmt.mantissa_bits, 127 - fmt.bias
    mantissa = magnitude & ((1 << mantissa_bits) - 1)
    shifted = _exact.shift_left(magnitude, 23 - mantissa_bits)
    if fmt.zero and offset == 0:
        return _exact.from_bits(shifted)
    if fmt.zero and 1 - fmt.bias - mantissa_bits >= -126:
        normal = _exact.from_bits(shifted + (offset << 23))
        tiny = mantissa.astype(jnp.float32) * jnp.float32(2.0 ** (1 - fmt.bias - mantissa_bits))
        return jnp.where(magnitude < (1 << mantissa_bits), tiny, normal)
    exponent = _exact.shift_right(magnitude, mantissa_bits)
    hidden = jnp.where(exponent > 0, 1 << mantissa_bits, 0) if fmt.zero else 1 << mantissa_bits
    power = jnp.maximum(exponent, 1) if fmt.zero else exponent
    return _exact.scalb((mantissa + hidden).astype(jnp.float32), power - fmt.bias - mantissa_bits)


def _shift(
    value: jax.Array, shift: jax.Array, base: jax.Array | int, negative: jax.Array, fmt: FloatFormat, cast: Cast
) -> jax.Array:
    """The value over 2**shift, rounded to nearest; `base` is what is added after, so that "even" means an even code."""
    ties = cast.ties or fmt.ties
    odd = (_exact.shift_right(value, shift) + base) & 1 if fmt.mantissa_bits == 0 else None
    tie = {
        "even": lambda: _exact.shift_right(value, shift) & 1 if odd is None else odd,
        "away": lambda: 1,
        "zero": lambda: 0,
        "up": lambda: jnp.where(negative, 0, 1),
        "down": lambda: jnp.where(negative, 1, 0),
    }[ties]()
    below = _exact.shift_left(jnp.ones_like(shift), shift - 1) - 1
    return _exact.shift_right(value + (below + tie), shift)


def _with_sign(code: jax.Array, negative: jax.Array, fmt: FloatFormat, cast: Cast) -> jax.Array:
    if not (fmt.negative_zero and cast.zero == "keep"):
        negative = negative & (code != 0)
    return jnp.where(negative, code | fmt.sign_bit, code)


def _unsigned(
    code: jax.Array, magnitude: jax.Array, negative: jax.Array, fmt: FloatFormat, cast: Cast
) -> tuple[jax.Array, jax.Array]:
    """ENC-6: (code with refused values 0, which values are NaN where the format has one)."""
    refused = negative & (code != 0 if fmt.zero else magnitude != 0)
    code = jnp.where(refused, 0, code)
    if not fmt.zero and cast.overflow == "special":
        refused = refused | (magnitude == 0)
    return code, refused


def _nan(negative: jax.Array, fmt: FloatFormat, cast: Cast) -> jax.Array | int:
    """ENC-4: the format's NaN, with the sign of x under "signed"."""
    if cast.nan == "signed" and fmt.signed and fmt.specials != "fnuz":
        return jnp.where(negative, fmt.nan_code | fmt.sign_bit, fmt.nan_code)
    return fmt.nan_code


def _nan_input(negative: jax.Array, fmt: FloatFormat, cast: Cast) -> jax.Array | int:
    if cast.nan == "max":
        return fmt.max_code
    return 0 if cast.nan == "zero" or fmt.nan_code is None else _nan(negative, fmt, cast)
