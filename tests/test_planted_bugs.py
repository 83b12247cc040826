"""Does the suite see mistakes?  Each known one is planted, and a check of the suite must turn red."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
import test_affine
import test_codec
import test_packing
import test_rounding
import test_scales
import test_sums
from plants import planted, replaced

from refquant import affine, bits, codec, packing, rounding, scales, sums
from refquant.conventions import Affine, Cast
from refquant.formats import ALL
from refquant.granularity import PerGroup
from refquant.spec import ScaleRule

Check = Callable[[], None]
THIRD = 1 / 3


def quantize(name: str, zero_point: object = None, convention: Affine | None = None, scale: float = THIRD) -> Check:
    return functools.partial(
        test_affine.check_quantize, affine, ALL[name], scale, zero_point, convention or Affine(), count=250
    )


def mask(name: str, kind: str = "rounded", zero_point: object = None) -> Check:
    return functools.partial(test_affine.check_mask, affine, ALL[name], THIRD, zero_point, Affine(), kind)


def dequantize(name: str, zero_point: object = None, dtype: str = "float32") -> Check:
    return functools.partial(test_affine.check_dequantize, affine, ALL[name], THIRD, zero_point, dtype)


def encode(name: str, cast: Cast | None = None) -> Check:
    return functools.partial(test_codec.check_encode, codec, ALL[name], cast or Cast(), 700)


def decode(name: str) -> Check:
    return functools.partial(test_codec.check_decode, codec, ALL[name])


def choose(name: str, *rule: str) -> Check:
    return functools.partial(test_scales.check_choose, scales, ALL[name], ScaleRule(*rule))


def rounds(ties: str) -> Check:
    return functools.partial(test_rounding.check_round, rounding, ties)


ragged = functools.partial(test_affine.check_layout, affine, (5, 6), PerGroup(1, 4), ALL["int8"])
ranges = functools.partial(test_scales.check_range, scales, (12, 25), PerGroup(1, 4))
stochastic = functools.partial(test_rounding.check_stochastic, rounding)
int4_bytes = functools.partial(test_packing.check_pack, packing, ALL["int4"])
order = functools.partial(test_sums.check_tree_sum, sums)
powers = functools.partial(test_rounding.check_scalb, bits)
FIVE, SEVEN, MIDDLE = np.int32(5), np.int32(7), np.int32(128)
STEPS, FLOATS, CODEC, AFFINE = "refquant.affine_steps", "refquant.floats", "refquant.codec", "refquant.affine"

#: what goes wrong: (module, snippet, with the mistake, the check that must see it)
PLANTS = {
    "reciprocal for division": (
        STEPS, 'return x / factor if convention.op == "div" else',
        'return x * (np.float32(1) / factor) if convention.op == "div" else', quantize("int8")),
    "division for reciprocal": (
        STEPS, 'return x / factor if convention.op == "div" else x * factor',
        "return x / scale", quantize("int8", None, Affine(op="inv"))),
    "zero point before rounding": (
        STEPS, "real, after = ratio(x, scale, convention), zero  # AFF-3",
        "real, after = ratio(x, scale, convention) + zero, np.int32(0)", quantize("uint8", FIVE)),
    "zero point after rounding": (
        STEPS, "real, after = ratio(x, scale, convention) + zero.astype(dtype), np.int32(0)  # AFF-3",
        "real, after = ratio(x, scale, convention), zero", quantize("uint8", FIVE, Affine(zero="add"))),
    "zero point subtracted": (
        STEPS, "return rounded + after.astype(wide)", "return rounded - after.astype(wide)", quantize("uint8", FIVE)),
    "fused step rounded twice": (
        STEPS, "return step(x, factor, addend, PRECISION[convention.prec])",
        "return (x / factor if convention.op == 'div' else x * factor) + addend",
        quantize("uint8", MIDDLE, Affine(op="inv", zero="fma"))),
    "offset divided by itself": (
        STEPS, "real, after = ratio(x - zero, scale, convention), np.int32(fmt.qmin)",
        "real, after = ratio(x, scale, convention) - zero / scale, np.int32(fmt.qmin)",
        quantize("uint8", np.float32(-0.37), Affine(zero="bias"))),
    "cast before clip": (
        STEPS, "return np.clip(value, value.dtype.type(fmt.qmin), value.dtype.type(fmt.qmax)).astype(fmt.storage)",
        "return np.clip(value.astype(np.int32), fmt.qmin, fmt.qmax).astype(fmt.storage)", quantize("int8")),
    "no clip": (
        STEPS, "return np.clip(value, value.dtype.type(fmt.qmin), value.dtype.type(fmt.qmax)).astype(fmt.storage)",
        "return value.astype(np.int64).astype(fmt.storage)", quantize("int4")),
    "qmin off by one": (
        STEPS, "np.clip(value, value.dtype.type(fmt.qmin)", "np.clip(value, value.dtype.type(fmt.qmin + 1)",
        quantize("int8")),
    "NaN to zero": (
        STEPS, "is_nan, _nan_value(zero, fmt, convention).astype(value.dtype), value)",
        "is_nan, value.dtype.type(0), value)",
        quantize("int8")),
    "NaN of qmax ignored": (
        STEPS, '"qmax": np.int32(fmt.qmax)', '"qmax": np.int32(fmt.qmin)', quantize("int8", None, Affine(nan="qmax"))),
    "i32 saturates by sign": (
        STEPS, "np.where(outside, -limit,", "np.where(outside, np.copysign(limit, rounded),",
        quantize("int8", None, Affine(overflow="i32"))),
    "wrap32 saturates the sum": (
        STEPS, "return _wrapped(rounded + after)  # AFF-4", "return rounded + after",
        quantize("int8", np.int32(-37), Affine(overflow="wrap32"))),
    "wrap32: NaN stays below": (
        STEPS, "return _wrapped(np.asarray(after - 2.0**31))", "return np.asarray(after - 2.0**31)",
        quantize("int8", np.int32(-37), Affine(overflow="wrap32"))),
    "flushed ratio forgotten": (
        STEPS, "return flush(ratio(flush(x), scale, convention).astype(np.float32))",
        "return ratio(x, scale, convention).astype(np.float32)", quantize("bfloat16", scale=0.7)),
    "half away for half even": (
        "refquant.rounding", "return np.rint(x)", "return np.copysign(np.floor(np.abs(x) + x.dtype.type(0.5)), x)",
        rounds("even")),
    "half even in the code": (
        "refquant.rounding", "return np.rint(x)", "return np.copysign(np.floor(np.abs(x) + x.dtype.type(0.5)), x)",
        quantize("int8", scale=0.5)),
    "half toward zero for half away": (
        "refquant.rounding", '"away": (fraction >= 0.5, fraction <= -0.5)', '"away": (fraction > 0.5, fraction < -0.5)',
        rounds("away")),
    "up means away": (
        "refquant.rounding", '"up": (fraction >= 0.5, fraction < -0.5)', '"up": (fraction >= 0.5, fraction <= -0.5)',
        rounds("up")),
    "sign of a rounded zero lost": (
        "refquant.rounding", "return np.copysign(whole + up - down, x)", "return whole + up - down + np.float32(0)",
        rounds("away")),
    "stochastic: an integer moves": (
        "refquant.rounding", "np.where(fraction > threshold,", "np.where(fraction >= threshold,", stochastic),
    "stochastic: fraction in binary32": (
        "refquant.rounding", "fraction = x.astype(np.float64) - floor", "fraction = x - floor", stochastic),
    "subnormals flushed in encode": (
        CODEC, "lambda part: codes_of(part.astype(np.float32), fmt, cast)",
        "lambda part: codes_of(np.where(np.abs(part) < 2.0**-126, 0, part).astype(np.float32), fmt, cast)",
        encode("bfloat16")),
    "overflow before rounding": (
        FLOATS, '"special": steps > fmt.max_code', '"special": np.abs(x) > fmt.max_value',
        encode("e4m3fn", Cast("special"))),
    "overflow at the largest value": (
        FLOATS, '"special": steps > fmt.max_code', '"special": steps >= fmt.max_code', encode("e5m2", Cast("special"))),
    "inf saturates where it should not": (
        FLOATS, '"finite": infinite,', '"finite": np.zeros_like(infinite),', encode("e5m2", Cast("finite"))),
    "-0 lost": (FLOATS, "keeps = (code > 0) |", "keeps = (code > 0) & ", encode("e4m3fn")),
    "-0 is NaN in fnuz": (
        FLOATS, "code = code | np.where(keeps, sign, 0)", "code = code | sign", encode("e4m3fnuz")),
    "E8M0 ties to even": (
        FLOATS, "rounded_position(x, fmt, cast.ties or fmt.ties)", 'rounded_position(x, fmt, cast.ties or "even")',
        encode("e8m0fnu")),
    "E8M0 takes |x|": (
        FLOATS, "refused = (x < 0) & ((steps > 0) | (not fmt.zero))",
        "refused = (x < 0) & (steps < 0)", encode("e8m0fnu")),
    "no subnormals in the format": (
        FLOATS, "exponent = np.maximum(exponent, lowest)", "exponent = np.maximum(exponent, -200)", encode("e4m3fn")),
    "sign of NaN kept": (
        FLOATS, 'return fmt.nan_code | np.where(cast.nan == "signed", sign, 0)\n\n\ndef _unsigned',
        "return fmt.nan_code | sign\n\n\ndef _unsigned", encode("e4m3fn")),
    "codebook tie to the upper value": (
        CODEC, 'ordered_key(x), side="right")', 'ordered_key(x) + 1, side="right")', encode("dynamic8")),
    "codebook: NaN is the first code": (
        CODEC, "else np.uint8(fmt.zero_code)", "else np.uint8(0)", encode("nf4")),
    "codebook searched in code order": (
        CODEC, "codes = ordered[np.searchsorted",
        "codes = np.arange(256, dtype=np.uint8)[np.searchsorted", encode("fp4_bnb")),
    "integer NaN to qmin": (
        CODEC, 'fmt.qmax if cast.nan == "max" else 0', 'fmt.qmax if cast.nan == "max" else fmt.qmin', encode("int8")),
    "upper bits of a code count": (
        CODEC, "value_table(fmt)[codes & ((1 << fmt.bits) - 1)]",
        'np.take(value_table(fmt), codes, mode="clip")', decode("e2m1fn")),
    "mask strict": (
        AFFINE, "return (value >= fmt.qmin) & (value <= fmt.qmax)  # STE-2",
        "return (value > fmt.qmin) & (value < fmt.qmax)", mask("int4")),
    "mask of the unrounded value": (
        AFFINE, "return (value >= fmt.qmin) & (value <= fmt.qmax)  # STE-2",
        "return _inside_ratio(x, scale, zero, fmt, convention)", mask("int4")),
    "ratio mask rounds": (
        AFFINE, "value = ratio(flush(x - zero) if bias else x, scale, convention)",
        "value = np.rint(ratio(flush(x - zero) if bias else x, scale, convention))", mask("int4", "ratio")),
    "ratio mask sees subnormals": (
        AFFINE, "x = flush(x)  # STE-2", "pass", mask("uint8", "ratio", np.int32(0))),
    "NaN passes the mask": (
        AFFINE, "return (steps <= fmt.max_code) & ~np.isnan(value)", "return steps <= fmt.max_code", mask("e4m3fn")),
    "gradient multiplied by the mask": (
        AFFINE, "return np.where(passes, cotangent, np.zeros((), cotangent.dtype))",
        "return passes * cotangent", mask("int4")),
    "dequantize distributes": (
        AFFINE, "return (part.astype(np.int32) - zero).astype(np.float32) * scale  # DEQ-1",
        "return part.astype(np.float32) * scale - zero.astype(np.float32) * scale", dequantize("uint8", SEVEN)),
    "dequantize wraps in the storage": (
        AFFINE, "return (part.astype(np.int32) - zero).astype(np.float32) * scale  # DEQ-1",
        "return (part - zero.astype(part.dtype)).astype(np.float32) * scale", dequantize("uint8", SEVEN)),
    "real offset without qmin": (
        AFFINE, "steps = (part.astype(np.int32) - np.int32(fmt.qmin)).astype(np.float32)",
        "steps = part.astype(np.float32)", dequantize("int8", np.float32(-0.7))),
    "product in half precision": (
        AFFINE, "return (part.astype(np.int32) - zero).astype(np.float32) * scale  # DEQ-1",
        "return (part.astype(np.int32) - zero).astype(result) * np.asarray(scale, result)",
        dequantize("int8", SEVEN, "float16")),
    "ragged group shares the previous scale": (
        "refquant.blocks", "return scale.reshape(blocked_shape(shape, granularity.tile(shape))[2])",
        "scale = np.concatenate([scale[..., :-1], scale[..., -2:-1]], -1)\n"
        "    return scale.reshape(blocked_shape(shape, granularity.tile(shape))[2])", ragged),
    "scale floor missing": (
        "refquant.scales", "np.clip(np.abs(scale), smallest, largest)", "np.minimum(np.abs(scale), largest)",
        choose("int8")),
    "scale ceiling missing": (
        "refquant.scales", "np.clip(np.abs(scale), smallest, largest)", "np.maximum(np.abs(scale), smallest)",
        choose("int8", "none", "half_range")),
    "signed absmax: a tie is negative": (
        "refquant.scales", "np.where(-low > high, -largest, largest)", "np.where(-low >= high, -largest, largest)",
        choose("int8", "none", "signed_absmax")),
    "zero point of the unstored scale": (
        "refquant.scales", 'zero_points(low, scale, fmt) if rule.zero == "int"',
        'zero_points(low, width / np.float32(fmt.qmax - fmt.qmin), fmt) if rule.zero == "int"',
        choose("uint8", "int", "qmax", "pow2")),
    "power of two downward": (
        "refquant.scales", "(bits + np.uint32(0x007FFFFF))", "bits", choose("int8", "none", "qmax", "e8m0fnu")),
    "an exact power of two moves": (
        "refquant.scales", "np.uint32(0x007FFFFF)", "np.uint32(0x00800000)",
        choose("e2m1fn", "none", "qmax", "pow2")),
    "inf in the range": (
        "refquant.scales", "np.asarray(np.maximum(low, -FLT_MAX) + ZERO)", "np.asarray(low + ZERO)", ranges),
    "sum in halves": (
        "refquant.sums", "sums = x[..., 0:-1:2] + x[..., 1::2]",
        "half = x.shape[-1] // 2; sums = x[..., :half] + x[..., half : 2 * half]", order),
    "high nibble first": (
        "refquant.packing", "<< np.uint64(bits * place)  # PCK-1", "<< np.uint64(bits * (place ^ 1))", int4_bytes),
    "no sign extension": (
        "refquant.packing", "return ((flat ^ sign) - sign).view(fmt.storage)",
        "return flat.view(fmt.storage)", int4_bytes),
    "powers of two flush": (
        "refquant.bits", "exact.astype(np.float32))",
        "np.where(np.abs(exact) < 2.0**-126, 0, exact).astype(np.float32))", powers),
}  # fmt: skip


@functools.cache
def green(check: Check) -> bool:
    """The check passes without the mistake (once for each check)."""
    check()
    return True


@pytest.mark.parametrize("name", list(PLANTS))
def test_planted_bug_is_seen(name):
    """AFF, ENC, DCD, STE, DEQ, SCL, SUM, PCK, RND, BIT: a mistake in the reference is red."""
    module, old, new, check = PLANTS[name]
    assert green(check)
    with planted(module, old, new), pytest.raises((AssertionError, IndexError)):
        check()


def test_at_least_twenty_five():
    """The list only grows."""
    assert len(PLANTS) >= 55


def jax_plants() -> dict[str, tuple[str, str, object, Check]]:
    """What goes wrong in jaxquant: (module, attribute, the mistake, check)."""
    import jax
    import jax.numpy as jnp
    import test_contexts
    import test_double
    import test_transposed_constants

    from jaxquant import _double, _exact, affine, codec, packing, rounding, scales, sums
    from jaxquant import bits as jax_bits

    gather, narrow, division = packing._gather, _exact.narrow, _double._long_division
    int8 = {"fmt": ALL["int8"]}
    return {
        "XLA's division": (
            "jaxquant._exact", "div", lambda x, s: x / s,
            functools.partial(test_contexts.check_context, "constant scale", int8)),
        "product not rounded": (
            "jaxquant._exact", "rounded", lambda p: p, test_contexts.test_bait_fma_after_dequantize),
        "bits of a constant in the order of memory": (
            "jaxquant._exact", "bitcast", jax.lax.bitcast_convert_type,
            lambda: test_transposed_constants.test_transposed_constant_differential("ordered_key", "selected")),
        "rounding of bfloat16 elided": (
            "jaxquant._exact", "widen", lambda x: x.astype(jnp.float32),
            functools.partial(test_contexts.test_bait_elided_rounding_of_the_producer, "bfloat16")),
        "bfloat16 truncated": (
            "jaxquant._exact", "narrow",
            lambda x, d: (_exact.from_bits(_exact.bits(x) & -65536).astype(d) if d == "bfloat16" else narrow(x, d)),
            functools.partial(test_affine.check_dequantize, affine, ALL["int8"], THIRD, None, "bfloat16")),
        "half away for half even": (
            "jaxquant.rounding", "to_integer", lambda x, ties: jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5),
            functools.partial(test_rounding.check_round, rounding, "even")),
        "XLA's sum": (
            "jaxquant._exact", "tree_sum", lambda x, axis: jnp.sum(x, axis),
            functools.partial(test_sums.check_tree_sum, sums)),
        "binary64 not rounded": (
            "jaxquant._double", "rounded", lambda number: number, test_double.check_hard_ties),
        "quotient of 48 bits": (
            "jaxquant._double", "_long_division",
            lambda a, b: (lambda d, rest: ([d[0], d[1], d[2] & -512, 0 * d[3], 0 * d[4]], rest))(*division(a, b)),
            test_double.check_hard_ties),
        "scalb by a product": (
            "jaxquant._exact", "scalb", lambda x, k: x * 2.0 ** k.astype(jnp.float32),
            functools.partial(test_rounding.check_scalb, jax_bits)),
        "high nibble first": (
            "jaxquant.packing", "_gather", lambda fields, *rest: gather(fields[:, ::-1], *rest),
            functools.partial(test_packing.check_pack, packing, ALL["int4"])),
        "gradient of -0 outside": (
            "jaxquant.affine", "_pass", lambda inside, cotangent: jnp.where(inside, cotangent, -0.0),
            functools.partial(test_affine.check_mask, affine, ALL["int4"], THIRD, None, Affine(), "rounded")),
        "keys of raw bits": (
            "jaxquant.bits", "key_of", lambda x: jax.lax.bitcast_convert_type(x, jnp.int32),
            functools.partial(test_codec.check_encode, codec, ALL["nf4"], Cast(), 300)),
        "zero points unclamped": (
            "jaxquant.scales", "_zero_point",
            lambda low, scale, fmt: jnp.int32(fmt.qmin) - jnp.rint(low / scale).astype(jnp.int32) + 1,
            functools.partial(test_scales.check_choose, scales, ALL["uint8"], ScaleRule("int"), slice(0, 40))),
    }  # fmt: skip


HAVE_JAX = importlib.util.find_spec("jax") is not None


@pytest.mark.parametrize("name", list(jax_plants()) if HAVE_JAX else [])
def test_planted_bug_in_jax_is_seen(name):
    """GEN-1..GEN-3, DEQ-4, RND-1, SUM-1, BIT-2, PCK-1, STE-1, BIT-1, SCL-7: a mistake in the mirror is red."""
    module, attribute, mistake, check = jax_plants()[name]
    check()
    with replaced(module, attribute, mistake), pytest.raises(AssertionError):
        check()
