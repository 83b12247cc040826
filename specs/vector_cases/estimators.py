"""Cases of specs/62-estimators.md: learned scales, offsets and bounds with their gradients, random rounding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

from refquant.conventions import DEFAULT, Affine
from refquant.estimators import Lsq, LsqPlus, Pact
from refquant.formats import ALL, IntFormat
from refquant.granularity import Granularity, PerAxis, PerBlock, PerGroup, PerTensor, PerToken, Shape
from specs.vector_cases.arrays import Array, array, scalar
from specs.vector_cases.case import Case, VectorFile, vector_file
from specs.vector_cases.inputs import SPECIALS, Ints, f32, near, value

CHAPTER = "62-estimators"
SCALES = (0x3DCCCCCD, 0x3EAAAAAB, 0x3F800000, 0x3C010204, 0xBDCCCCCD)  # 0.1, 1/3, 1, 1/127, -0.1
ODD = {
    "zero": 0,
    "minus_zero": 0x80000000,
    "subnormal": 0x80000005,
    "below": 0x215FFFFF,
    "negative": 0xBEAAAAAB,
    "inf": 0x7F800000,
    "nan": 0x7FC00000,
}
LAYOUTS: tuple[tuple[Shape, Granularity], ...] = (
    ((5, 7), PerTensor()), ((5, 7), PerAxis(1)), ((5, 7), PerGroup(1, 3)), ((3, 4, 5), PerAxis((0, 2))),
    ((4, 5), PerBlock((2, 3))), ((3, 5), PerToken()), ((0, 3), PerTensor()), ((), PerTensor()),
)  # fmt: skip
VARIANTS = tuple(itertools.product(("per_scale", "features", "numel", "none"), ("ratio", "rounded")))
CONVENTIONS = (Affine(op="inv"), Affine(op="given"), Affine(zero="add"), Affine(ties="away", overflow="i32"))
Args = dict[str, Array]


def files() -> list[VectorFile]:
    return [
        vector_file(CHAPTER, "lsq", "EST-1, LSQ-1", _lsq()),
        vector_file(CHAPTER, "lsq_vjp", "EST-1..EST-6, LSQ-2", _lsq_vjp()),
        vector_file(CHAPTER, "lsq_init", "LSQ-3", _initial("lsq_init", "LSQ-3")),
        vector_file(CHAPTER, "lsq_plus", "EST-1, LSP-1", _plus("lsq_plus", "LSP-1")),
        vector_file(CHAPTER, "lsq_plus_vjp", "EST-1..EST-6, LSP-2", _plus("lsq_plus_vjp", "LSP-2")),
        vector_file(CHAPTER, "lsq_plus_init", "LSP-5", _initial("lsq_plus_init", "LSP-5")),
        vector_file(CHAPTER, "lsq_plus_from_range", "LSP-6", _ranges()),
        vector_file(CHAPTER, "pact", "PCT-1", _pact("pact", "PCT-1")),
        vector_file(CHAPTER, "pact_vjp", "PCT-2, PCT-3", _pact("pact_vjp", "PCT-3")),
        vector_file(CHAPTER, "stochastic_quantize", "SRD-1", _stochastic("stochastic_quantize", "SRD-1")),
        vector_file(CHAPTER, "stochastic_fake_quantize", "SRD-2", _stochastic("stochastic_fake_quantize", "SRD-2")),
        vector_file(
            CHAPTER, "stochastic_fake_quantize_vjp", "SRD-2", _stochastic("stochastic_fake_quantize_vjp", "SRD-2")
        ),
        vector_file(CHAPTER, "effective", "EST-1, LSP-3, PCT-1", _effective()),
        vector_file(CHAPTER, "learned_vjp", "EST-1..EST-6, LSQ-2, LSP-4, PCT-3", _learned()),
    ]


def text(grain: Granularity, shape: Shape) -> str:
    """A name for a layout."""
    return "x".join(map(str, shape)) + "-" + type(grain).__name__.lower()


def tiled(shape: Shape, grain: Granularity, draw: Ints, pool: tuple[int, ...] = SCALES) -> Array:
    """One number a tile."""
    form = grain.scale_shape(shape)
    return array("float32", [draw.pick(pool) for _ in range(math.prod(form))], form)


def elements(
    draw: Ints, shape: Shape, grain: Granularity, steps: Array, fmt: IntFormat, offset: Array | None = None
) -> Array:
    """x where something turns: halves and ends of the format times the tile's step (plus its offset), ±1 ulp."""
    from specs.vector_cases.opinions_core import tiles

    found = []
    for at in tiles(shape, grain):
        step = abs(value(steps.bits[at])) if steps.bits[at] & 0x7F800000 != 0x7F800000 else Fraction(1, 3)
        base = value(offset.bits[at]) if offset and offset.bits[at] & 0x7F800000 != 0x7F800000 else 0
        k = draw.pick((fmt.qmin, fmt.qmax, draw.between(fmt.qmin - 2, fmt.qmax + 2)))
        place = (k + Fraction(draw.pick((-1, 0, 0, 1)), 2)) * max(step, Fraction(1, 2**60)) + base
        found.append(draw.pick(SPECIALS) if draw.below(8) == 0 else draw.pick(near(f32(place))))
    return array("float32", found, shape)


def flowing(draw: Ints, shape: Shape, plain: bool = False) -> Array:
    """Cotangents of many sizes, so that the order of a sum shows; now and then one too small to count, or special."""
    count = math.prod(shape)
    bits = [b + (draw.below(12) << 23) if b & 0x7FFFFFFF else b for b in draw.normalish(count, -6)]
    if not plain:
        odd = (0x80000000, 0x7FC00000, 0x7F800000, 0x0D000000, 0x8C123456, 1)
        bits = [draw.pick(odd) if draw.below(16) == 0 else b for b in bits]
    return array("float32", bits, shape)


def case(fn: str, name: str, args: Args, rule: str, *flags: str, **options: object) -> Case:
    return Case(f"{fn}-{name}", f"qat.{fn}", args, rule, flags, options)


def _lsq() -> Iterator[Case]:
    for seed, (name, (shape, grain)) in enumerate(itertools.product(("int2", "int4", "uint4"), LAYOUTS[:5])):
        draw, fmt = Ints(seed), ALL[name]
        scale = tiled(shape, grain, draw)
        args = {"x": elements(draw, shape, grain, scale, fmt), "scale": scale}
        flags = ("reciprocal", "half-away", "sign")
        yield case("lsq", f"{name}-{text(grain, shape)}", args, "LSQ-1", *flags, fmt=fmt, granularity=grain)
    for name, bits in ODD.items():
        draw = Ints(bits % 1000)
        args = {"x": elements(draw, (24,), PerTensor(), scalar("float32", bits), ALL["int8"])}
        yield case(
            "lsq", f"scale-{name}", args | {"scale": scalar("float32", bits)}, "EST-1", "floor", "sign", fmt=ALL["int8"]
        )
    for dtype in ("float16", "bfloat16"):
        x = array(dtype, [w >> 17 | (w & 1) << 15 for w in Ints(5).words(40)])
        args = {"x": x, "scale": scalar("float32", SCALES[1])}
        yield case("lsq", dtype, args, "LSQ-1", "double-rounding", fmt=ALL["int8"])


def _lsq_vjp() -> Iterator[Case]:
    flags = ("gradient-edge", "gradient-scale", "sum-order", "sign")
    for seed, ((kind, mask), name) in enumerate(itertools.product(VARIANTS, ("int4", "uint8"))):
        shape, grain = LAYOUTS[seed % 5]
        draw, fmt = Ints(seed + 100), ALL[name]
        scale = tiled(shape, grain, draw)
        args = {"x": elements(draw, shape, grain, scale, fmt), "scale": scale}
        args["cotangent"] = flowing(draw, shape, plain=seed % 2 == 0)
        options = {"fmt": fmt, "granularity": grain, "estimator": Lsq(kind, mask)}
        yield case("lsq_vjp", f"{name}-{kind}-{mask}", args, "LSQ-2", *flags, **options)
    for seed, (shape, grain) in enumerate(LAYOUTS):
        draw, fmt = Ints(seed + 120), ALL["int3"]
        scale = tiled(shape, grain, draw)
        args = {"x": elements(draw, shape, grain, scale, fmt), "scale": scale, "cotangent": flowing(draw, shape, True)}
        flag = "empty" if 0 in shape or shape == () else "axis"
        options = {"fmt": fmt, "granularity": grain, "estimator": Lsq()}
        yield case("lsq_vjp", f"layout-{text(grain, shape)}", args, "EST-4", flag, "sum-order", **options)
    for name, bits in ODD.items():
        draw, scale = Ints(bits % 1000 + 1), scalar("float32", bits)
        args = {"x": elements(draw, (24,), PerTensor(), scale, ALL["int8"]), "scale": scale}
        args["cotangent"] = flowing(draw, (24,), True)
        options = {"fmt": ALL["int8"], "estimator": Lsq()}
        yield case("lsq_vjp", f"scale-{name}", args, "EST-1", "floor", "sign", **options)
    for dtype in ("float16", "bfloat16"):
        words = Ints(6).words(80)
        x, c = (array(dtype, [w >> 17 | (w & 1) << 15 for w in part]) for part in (words[:40], words[40:]))
        args = {"x": x, "scale": scalar("float32", SCALES[1]), "cotangent": c}
        yield case("lsq_vjp", dtype, args, "EST-6", "precision", fmt=ALL["int8"], estimator=Lsq("none"))


def _initial(fn: str, rule: str) -> Iterator[Case]:
    for seed, (name, (shape, grain)) in enumerate(itertools.product(("int4", "uint8"), LAYOUTS)):
        bits = Ints(seed + 200).normalish(math.prod(shape), -4)
        args = {"x": array("float32", [b + (seed % 3 << 23) if b & 0x7FFFFFFF else b for b in bits], shape)}
        flags = ("sum-order", "ragged")
        yield case(fn, f"{name}-{text(grain, shape)}", args, rule, *flags, fmt=ALL[name], granularity=grain)
    odd = {
        "small": [0x0D7FFFFF, 0x8D000000, 0x0D800000, 1],
        "zeros": [0, 0x80000000],
        "nan": [0x3F800000, 0x7FC00000],
        "infinite": [0x7F800000, 0x3F800000],
        "same": [0x3F99999A] * 7,
        "large": [0x7F7FFFFF, 0xFF7FFFFF],
    }
    for name, bits in odd.items():
        yield case(fn, name, {"x": array("float32", bits)}, rule, "floor", "overflow", "nan", fmt=ALL["int4"])


def _plus(fn: str, rule: str) -> Iterator[Case]:
    gradient = fn.endswith("vjp")
    flags = ("gradient-edge", "gradient-scale", "sum-order", "offset") if gradient else ("offset", "fma", "half-away")
    for seed, ((kind, mask), name) in enumerate(itertools.product(VARIANTS, ("int4", "uint4"))):
        shape, grain = LAYOUTS[seed % len(LAYOUTS)]
        draw, fmt = Ints(seed + 300), ALL[name]
        scale, offset = tiled(shape, grain, draw), tiled(shape, grain, draw, (0xBE99999A, 0x3F333333, 0, 0xC0000000))
        args = {"x": elements(draw, shape, grain, scale, fmt, offset), "scale": scale, "offset": offset}
        options = {"fmt": fmt, "granularity": grain, "estimator": LsqPlus(kind, mask)}
        args |= {"cotangent": flowing(draw, shape, seed % 2 == 0)} if gradient else {}
        yield case(fn, f"{name}-{kind}-{mask}", args, rule, *flags, **options)
    pairs = [(bits, 0xBE99999A) for bits in ODD.values()] + [
        (SCALES[1], b) for b in (0x80000000, 3, *list(SPECIALS)[2:5])
    ]
    for seed, (bits, base) in enumerate(pairs):
        draw, scale, offset = Ints(seed + 320), scalar("float32", bits), scalar("float32", base)
        args = {"x": elements(draw, (20,), PerTensor(), scale, ALL["uint8"], offset), "scale": scale, "offset": offset}
        args |= {"cotangent": flowing(draw, (20,), True)} if gradient else {}
        options = {"fmt": ALL["uint8"], "estimator": LsqPlus()}
        yield case(fn, f"odd-{bits:08x}-{base:08x}", args, "EST-1", "floor", "sign", "nan", **options)


def _ranges() -> Iterator[Case]:
    draw = Ints(400)
    low = [b | 0x80000000 for b in draw.normalish(20)] + [0, 0x80000000, 0xFF800000, 0x80000001, 0x7FC00000, 0xFF7FFFFF]
    high = [b & 0x7FFFFFFF for b in draw.normalish(20)] + [0, 0x3F800000, 0x3F800000, 1, 0x40000000, 0x7F800000]
    for name in ("uint8", "int4", "int8_narrow"):
        args = {"low": array("float32", low), "high": array("float32", high)}
        yield case("lsq_plus_from_range", name, args, "LSP-6", "offset", "fma", fmt=ALL[name])


def _pact(fn: str, rule: str) -> Iterator[Case]:
    gradient = fn.endswith("vjp")
    bounds = (0x40C00000, 0x3F800000, 0x41200000, 0xC0C00000)
    for seed, ((shape, grain), name) in enumerate(itertools.product(LAYOUTS, ("uint2", "uint8"))):
        draw, fmt = Ints(seed + 500), ALL[name]
        alpha = tiled(shape, grain, draw, bounds)
        steps = array("float32", [f32(value(b) / fmt.qmax) for b in alpha.bits], alpha.shape)
        args = {"x": elements(draw, shape, grain, steps, fmt), "alpha": alpha}
        args |= {"cotangent": flowing(draw, shape, seed % 2 == 0)} if gradient else {}
        flags = ("gradient-edge", "sum-order", "sign") if gradient else ("reciprocal", "sign")
        yield case(fn, f"{name}-{text(grain, shape)}", args, rule, *flags, fmt=fmt, granularity=grain)
    for name, bits in ODD.items():
        draw, alpha = Ints(bits % 1000 + 2), scalar("float32", bits)
        args = {"x": elements(draw, (20,), PerTensor(), alpha, ALL["uint4"]), "alpha": alpha}
        args |= {"cotangent": flowing(draw, (20,), True)} if gradient else {}
        yield case(fn, f"alpha-{name}", args, "PCT-1", "floor", "sign", fmt=ALL["uint4"])


def _stochastic(fn: str, rule: str) -> Iterator[Case]:
    for seed, ((shape, grain), name) in enumerate(itertools.product(LAYOUTS, ("int4", "uint8"))):
        draw, fmt = Ints(seed + 600), ALL[name]
        scale = tiled(shape, grain, draw, SCALES[:4])
        args = {"x": elements(draw, shape, grain, scale, fmt), "scale": scale}
        if seed % 3:
            zeros = [draw.between(fmt.qmin - 3, fmt.qmax + 3) for _ in scale.bits]
            args["zero_point"] = array("int32", zeros, scale.shape)
        words = [draw.pick((0, 2**32 - 1, 2**31, draw.word())) for _ in args["x"].bits]
        args["bits"] = array("uint32", words, shape)
        args |= {"cotangent": flowing(draw, shape)} if fn.endswith("vjp") else {}
        flags = ("gradient-edge", "centre") if fn.endswith("vjp") else ("off-by-one", "centre", "nan")
        yield case(fn, f"{name}-{text(grain, shape)}", args, rule, *flags, fmt=fmt, granularity=grain)


def _effective() -> Iterator[Case]:
    draw = Ints(700)
    scale = array("float32", [*ODD.values(), *SCALES] * 3)
    offset = array("float32", [draw.pick(SPECIALS) for _ in ODD.values()] * 2 + draw.normalish(22, 1))
    for name in ("int4", "uint8"):
        args = {"learned.scale": scale}
        yield case("effective", f"lsq-{name}", args, "EST-1", "floor", "sign", fmt=ALL[name], estimator=Lsq())
        args = args | {"learned.offset": offset}
        yield case("effective", f"plus-{name}", args, "LSP-3", "half-away", "nan", fmt=ALL[name], estimator=LsqPlus())
    for name in ("uint2", "uint8"):
        args = {"learned.alpha": scale}
        yield case("effective", f"pact-{name}", args, "PCT-1", "floor", "reciprocal", fmt=ALL[name], estimator=Pact())


def _learned() -> Iterator[Case]:
    kinds = (Lsq(), LsqPlus("none"), LsqPlus("features", "rounded"), Lsq("none", "rounded"))
    rows = itertools.product(kinds, (DEFAULT, *CONVENTIONS), ("int4", "uint8"))
    for seed, (estimator, convention, name) in enumerate(rows):
        shape, grain = LAYOUTS[seed % 6]
        draw, fmt = Ints(seed + 800), ALL[name]
        scale = tiled(shape, grain, draw)
        args = {"x": elements(draw, shape, grain, scale, fmt), "cotangent": flowing(draw, shape, seed % 2 == 0)}
        args["learned.scale"] = scale
        if isinstance(estimator, LsqPlus):
            args["learned.offset"] = tiled(shape, grain, draw, (0xBE99999A, 0x3F333333, 0, 0xBF99999A))
        kind = type(estimator).__name__.lower()
        words = f"{kind}-{estimator.gradient_scale}-{name}-{seed}"
        flags = ("gradient-edge", "gradient-scale", "sum-order", "zero-point")
        options = {"fmt": fmt, "granularity": grain, "convention": convention, "estimator": estimator}
        rule = "LSP-4" if kind == "lsqplus" else "LSQ-2"
        yield case("learned_vjp", words, args, rule, *flags, **options)
    draw = Ints(880)
    args = {"x": elements(draw, (30,), PerTensor(), scalar("float32", 0x3ECCCCCD), ALL["uint4"])}
    args |= {"cotangent": flowing(draw, (30,), True), "learned.alpha": scalar("float32", 0x40C00000)}
    yield case("learned_vjp", "pact", args, "PCT-3", "gradient-edge", fmt=ALL["uint4"], estimator=Pact())
