"""The steps of affine quantization inside a trace, on arrays laid out so that scales broadcast (specs/20-affine.md)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxquant import _double, _exact, _fused, _inside, _minifloats, _own_range, bits, codec, rounding
from jaxquant._constants import at_least, at_most
from jaxquant._plan import Plan
from refquant.conventions import CAST, Affine
from refquant.formats import CodebookFormat, IntFormat

MAGIC = 12582912
MAGIC_BITS = 0x4B400000
NO_PARTS = np.float32(0), np.int32(0)  # NumPy's numbers are literals of the program, JAX's are values of it
Mask = Callable[[], jax.Array]


def quantized(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: jax.Array | None) -> tuple[jax.Array, Mask]:
    """(int32 codes, STE mask) of widened x."""
    scale = scale if plan.convention.op == "div" else _sealed(scale)  # a quotient is taken of the scale's bits
    zero_point = _sealed(zero_point)
    if isinstance(plan.fmt, IntFormat):
        integers = _wide_integers if plan.convention.prec == "f64" else _integers
        return integers(plan, x, scale, zero_point)
    ratio = _exact.flush(_ratio(_exact.flush(x), scale, plan.convention))
    return codec.codes_of(ratio, plan.fmt, plan.cast), lambda: _real_inside(plan, ratio)


def has_bounds(plan: Plan, size: int, tiles: int) -> bool:
    """Whether `bounds` gives the mask, and for less than a quotient an element."""
    convention = plan.convention
    monotone = convention.op == "div" and convention.prec == "f32" and convention.zero == "int"
    exact = isinstance(plan.fmt, IntFormat) and monotone and _rounds_when_cast(convention)
    return exact and plan.mask == "rounded" and (plan.own or size >= 32 * tiles)


def bounds(plan: Plan, scale: jax.Array, zero_point: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """STE-2 "rounded" as the interval of x inside, one a tile."""
    if plan.own:
        return _own_range.bounds(plan.fmt)
    coarse, fine = NO_PARTS if zero_point is None else _parts(zero_point)
    low, high = (plan.fmt.qmin - fine).astype(jnp.float32), (plan.fmt.qmax - fine).astype(jnp.float32)

    def judge(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        size, zero, first, last = map(_inside.beside, (jnp.abs(scale), coarse, low, high))
        placed = _whole(_exact.div(x, size), plan.convention) + zero
        return placed >= first, placed <= last

    return _inside.bounds(judge, low - coarse, high - coarse, scale)


def dequantized(plan: Plan, codes: jax.Array, scale: jax.Array, zero_point: jax.Array | None) -> jax.Array:
    """DEQ-1..DEQ-3 of int32 codes, binary32."""
    fmt = plan.fmt
    scale, zero_point = _sealed(scale), _sealed(zero_point)
    if not isinstance(fmt, IntFormat):
        return _exact.flush(_exact.flush(codec.values_of(codes, fmt)) * scale)
    if zero_point is None:
        return codes.astype(jnp.float32) * scale
    if zero_point.dtype == jnp.float32:
        return _exact.add(_exact.rounded((codes - fmt.qmin).astype(jnp.float32) * scale), zero_point)
    return (codes - zero_point).astype(jnp.float32) * scale


def _sealed(value: jax.Array | None) -> jax.Array | None:
    """GEN-3: a product that makes a scale or an offset in the same program is rounded before it is used."""
    return _exact.rounded(value) if value is not None and value.dtype == jnp.float32 else value


def _half(convention: Affine) -> Callable[[jax.Array], jax.Array]:
    """The rounding of a step's precision.

    A binary16 step is the binary32 step rounded again, which is innocuous: 24 >= 2 * 11 + 2.
    """
    return (lambda v: _exact.widen(_exact.narrow(v, "float16"))) if convention.prec == "f16" else _exact.rounded


def _operands(x: jax.Array, scale: jax.Array, convention: Affine) -> tuple[jax.Array, jax.Array]:
    half = _half(convention)
    x, scale = half(x), half(scale)
    return x, lax.optimization_barrier(half(_exact.reciprocal(scale))) if convention.op == "inv" else scale


def _ratio(x: jax.Array, scale: jax.Array, convention: Affine) -> jax.Array:
    """AFF-2, as binary32 (AFF-6)."""
    if convention.prec == "f64":
        return _double.to_float32(_double.rounded(_double.ratio(x, scale, convention.op)))
    if convention.op == "div" and convention.prec == "f32":
        return _exact.div(x, scale)  # rounds x, and no rewrite reaches a quotient from outside
    x, factor = _operands(x, scale, convention)
    return _half(convention)(_exact.div(x, factor) if convention.op == "div" else x * factor)


def _integers(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: jax.Array | None) -> tuple[jax.Array, Mask]:
    """AFF-3..AFF-5.  The zero point is coarse + fine, coarse exact in binary32, so that every int32 is exact."""
    fmt, convention = plan.fmt, plan.convention
    x, zero_point = _without_offset(plan, x, zero_point)
    ratio = _ratio(x, scale, convention)
    zero = NO_PARTS[1] if zero_point is None else zero_point
    before = convention.zero in ("add", "fma")
    real = _shifted(ratio, x, scale, zero, convention) if before and zero_point is not None else ratio
    fast = not (after := zero_point is not None and not before) and _rounds_when_cast(convention)
    whole = real if fast else _whole(real, convention)
    coarse, fine = _parts(zero) if after else NO_PARTS
    added = zero if after else NO_PARTS[1]
    if convention.overflow == "magic":
        placed, fine = _exact.select(_exact.is_nan(real), real, _magic(real, added)), NO_PARTS[1]
    elif convention.overflow == "wrap32":
        placed, fine = _wrapped(whole, added), NO_PARTS[1]
    else:
        placed = whole + coarse if after else whole
    low, high = (fmt.qmin - fine).astype(jnp.float32), (fmt.qmax - fine).astype(jnp.float32)
    middle = zero.astype(jnp.float32) if before or convention.overflow == "magic" else coarse
    codes = _nearest(placed, low, high, convention, middle)
    codes = codes + fine if after else codes
    if plan.mask == "rounded":
        judged = placed if convention.overflow != "wrap32" else _exact.select(_exact.is_nan(real), real, placed)
        return codes, lambda: _between(_whole(placed, convention) if fast else judged, low, high)
    return codes, lambda: _ratio_inside(_compared(plan, ratio), zero, fmt)


def _without_offset(plan: Plan, x: jax.Array, zero_point: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """AFF-7: x without a real offset, and the zero point, which is then qmin."""
    x = _compared(plan, x)
    if plan.convention.zero != "bias":
        return x, zero_point
    x = x if zero_point is None else _compared(plan, _exact.rounded(x) - zero_point)
    return x, np.int32(plan.fmt.qmin)


def _compared(plan: Plan, value: jax.Array) -> jax.Array:
    """STE-2 "ratio" compares with 0, so subnormals count as zeros."""
    return _exact.flush(value) if plan.mask == "ratio" else value


def _rounds_when_cast(convention: Affine) -> bool:
    """Clamping to integers first commutes with ties to even, and `small_integer` rounds so."""
    return convention.ties == "even" and convention.overflow == "sat"


def _between(value: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    return (value >= low) & (value <= high)


def _shifted(ratio: jax.Array, x: jax.Array, scale: jax.Array, zero: jax.Array, convention: Affine) -> jax.Array:
    """AFF-3 "add" and "fma": the real number that is rounded to an integer."""
    half = _half(convention)
    zero = half(zero.astype(jnp.float32))
    if convention.zero == "add":
        return half(ratio + zero)
    x, factor = _operands(x, scale, convention)
    if convention.op == "div":
        return _quotient_and(ratio, x, factor, zero, convention)
    if convention.prec == "f32":
        return _fused.fma(x, factor, zero)
    product = _exact.rounded(x * factor)  # exact: 22 bits
    total = _exact.rounded(product + zero)
    exact = _fused.to_odd(*_fused.two_sum(product, zero))
    return half(jnp.where((_exact.bits(total) & _exact.MAGNITUDE) >= _exact.INF, total, exact))


def _quotient_and(ratio: jax.Array, x: jax.Array, divisor: jax.Array, zero: jax.Array, convention: Affine) -> jax.Array:
    """AFF-3 "fma" of a quotient: x / divisor, exact, plus an integer below 2**31 in size, rounded once."""
    infinite = (_exact.bits(zero) & _exact.MAGNITUDE) == _exact.INF  # beyond binary16
    size = jnp.where(infinite, 0, jnp.abs(zero)).astype(jnp.uint32)
    total = _double.plus(_double.ratio(x, divisor, "div"), size, zero < 0)
    half = convention.prec == "f16"
    return jnp.where(infinite, ratio + zero, _half(convention)(_double.to_float32(total, odd=half)))


def _wide_integers(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: jax.Array | None) -> tuple[jax.Array, Mask]:
    """AFF-3..AFF-5 in binary64."""
    fmt, convention = plan.fmt, plan.convention
    x, zero_point = _without_offset(plan, x, zero_point)
    exact = _double.ratio(_exact.rounded(x), scale, convention.op)
    ratio, zero = _double.rounded(exact), jnp.asarray(NO_PARTS[1] if zero_point is None else zero_point)
    before = convention.zero in ("add", "fma")
    value = ratio
    if before:
        size = jnp.where(zero < 0, -zero, zero).astype(jnp.uint32)
        value = _double.rounded(_double.plus(ratio if convention.zero == "add" else exact, size, zero < 0))
    added = jnp.zeros_like(zero) if before else zero
    if convention.overflow == "magic":
        number = _magic(_double.to_float32(value), added)
    else:
        number = _double.placed(value, added, convention.ties, convention.overflow)
    judged = jnp.where(value.nan, np.float32(np.nan), number)
    low, high = np.float32(fmt.qmin), np.float32(fmt.qmax)
    placed = number if convention.overflow == "wrap32" else judged
    codes = _nearest(placed, low, high, convention, zero.astype(jnp.float32))
    if plan.mask == "rounded":
        return codes, lambda: _between(judged, low, high)
    return codes, lambda: _double.within(ratio, zero, fmt.qmin, fmt.qmax)


def _whole(real: jax.Array, convention: Affine) -> jax.Array:
    """RND-1 and the casts of AFF-4."""
    whole = rounding.to_integer(real, convention.ties)
    if convention.overflow in ("sat", "magic"):
        return whole
    limit = np.float32(2.0**63 if convention.overflow == "i64" else 2.0**31)
    return jnp.where((whole >= limit) | (whole < -limit), -limit, whole)


def _magic(real: jax.Array, zero: jax.Array) -> jax.Array:
    """AFF-4 "magic": the wrapped integer plus the zero point, in binary32, right wherever it is below 2**24."""
    wrapped = _exact.bits(_exact.rounded(real) + np.float32(MAGIC)) - MAGIC_BITS
    total = wrapped + zero
    over = ((wrapped ^ total) & (zero ^ total)) < 0
    total = jnp.where(over, jnp.where(wrapped < 0, -(1 << 24), 1 << 24), total)
    return jnp.clip(total, -(1 << 24), 1 << 24).astype(jnp.float32)


def _wrapped(whole: jax.Array, zero: jax.Array) -> jax.Array:
    """AFF-4 "wrap32": the int32 plus the zero point, wrapping, right wherever it is below 2**24; NaN is -2**31."""
    integer = jnp.where(_exact.is_nan(whole), np.float32(-(2.0**31)), whole).astype(jnp.int32)
    return jnp.clip(integer + zero, -(1 << 24), 1 << 24).astype(jnp.float32)


def _parts(zero: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(coarse, fine): an int32 as a binary32 number and a small rest."""
    small = jnp.clip(zero, -(1 << 24), 1 << 24)
    fine = jnp.where(zero == small, 0, zero & 0xFF)
    return (zero - fine).astype(jnp.float32), fine


def _nearest(placed: jax.Array, low: jax.Array, high: jax.Array, convention: Affine, zero: jax.Array) -> jax.Array:
    """AFF-4 and AFF-5: the integer of what is clamped into low..high, NaN by the convention.

    The clamp that comes first decides about NaN.
    """
    if convention.nan == "zero" and convention.zero != "bias":
        placed = jnp.where(_exact.is_nan(placed), zero, placed)
    if convention.nan == "qmax":
        return _exact.small_integer(at_least(at_most(placed, high), low))
    placed = at_least(placed, low)
    if isinstance(high, np.floating) and high >= 0:
        return _exact.small_integer(placed, high)
    return _exact.small_integer(at_most(placed, high))


def _ratio_inside(ratio: jax.Array, zero: jax.Array, fmt: IntFormat) -> jax.Array:
    """STE-2 "ratio": qmin - z <= ratio <= qmax - z, compared exactly on whole parts, for every int32 z."""
    coarse, fine = _parts(zero)
    low, high = (fmt.qmin - fine).astype(jnp.float32), (fmt.qmax - fine).astype(jnp.float32)
    return (jnp.floor(ratio) + coarse >= low) & (jnp.ceil(ratio) + coarse <= high)


def _real_inside(plan: Plan, ratio: jax.Array) -> jax.Array:
    """STE-3, on ordered keys and magnitudes; NaN is outside."""
    fmt = plan.fmt
    if isinstance(fmt, CodebookFormat):
        key = bits.key_of(ratio)
        low, high = (bits.key_of(np.float32(v)) for v in (min(fmt.values), max(fmt.values)))
        return (key >= low) & (key <= high) & ~_exact.is_nan(ratio)
    magnitude, negative = _exact.bits(ratio) & _exact.MAGNITUDE, _exact.bits(ratio) < 0
    code = _minifloats.unbounded_code(magnitude, negative, fmt, CAST)
    if plan.mask == "ratio":
        return magnitude <= _exact.bits(np.float32(fmt.max_value))
    return (code <= fmt.max_code) & (magnitude <= _exact.INF)
