"""Cases of specs/20-affine.md: quantize in every format, granularity and at odd scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction

from refquant.conventions import DEFAULT, Affine, Cast
from refquant.formats import ALL, Format, IntFormat
from refquant.granularity import Granularity, PerAxis, PerBlock, PerGroup, PerTensor, PerToken, Shape
from specs.vector_cases.arrays import Array, array, scalar
from specs.vector_cases.call import call
from specs.vector_cases.case import Case, VectorFile, vector_file
from specs.vector_cases.inputs import SPECIALS, Ints, around, f32, near, value
from specs.vector_cases.seeds import FORMATS, seed_of

CHAPTER = "20-affine"
SCALE = 0x3DCCCCCD  # 0.1
SCALES = (SCALE, 0x3EAAAAAB, 0x3F800000, 0x3C010204, 0x2B8CBCCC, 0x5D5E0B6B)  # 0.1, 1/3, 1, 1/127, 1e-12, 1e18
N = 128
INT8, ZERO = ALL["int8"], 36  # even, so that a tie stays one between the same neighbours

#: What each mistake would compute: a flag is given only to a case in which the mistake shows.
MISTAKES = {
    "reciprocal": lambda c: dataclasses.replace(c, op="inv" if c.op == "div" else "div"),
    "half-away": lambda c: dataclasses.replace(c, ties="away"),
    "half-even": lambda c: dataclasses.replace(c, ties="even"),
    "half-up": lambda c: dataclasses.replace(c, ties="up"),
    "zero-point-before-rounding": lambda c: dataclasses.replace(c, zero="add" if c.zero == "int" else "int"),
    "fma": lambda c: dataclasses.replace(c, zero="fma" if c.zero == "add" else "add"),
    "cast-before-clip": lambda c: dataclasses.replace(c, overflow="i32" if c.overflow == "sat" else "sat"),
    "precision": lambda c: dataclasses.replace(c, prec="f64" if c.prec == "f32" else "f32"),
    "wrap": lambda c: dataclasses.replace(c, overflow="i32") if c.overflow == "wrap32" else c,
    "nan": lambda c: dataclasses.replace(c, nan="qmax" if c.nan == "qmin" else "qmin"),
}


def files() -> list[VectorFile]:
    return [
        vector_file(
            CHAPTER, "quantize", "AFF-1..AFF-8, GRA-1..GRA-3", [*_formats(), *_layouts(), *_edges(), *alone(DEFAULT)]
        ),
    ]


def zero_of(fmt: Format, convention: Affine = DEFAULT, code: int | None = None) -> dict[str, Array]:
    """A zero point off the middle; a real one under "bias"."""
    if not isinstance(fmt, IntFormat):
        return {}
    if convention.zero == "bias":
        return {"zero_point": scalar("float32", 0xBF59999A)}
    return {"zero_point": scalar("int32", (fmt.qmin + 2 * fmt.qmax) // 3 if code is None else code)}


def seen(case: Case) -> Case:
    """The case with the flags of the mistakes that it shows."""
    convention = case.options.get("convention", DEFAULT)
    right = call("refquant", case.fn, case.options, case.args)
    found = list(case.flags)
    for flag, mistake in MISTAKES.items():
        other = mistake(convention)
        if other != convention and call("refquant", case.fn, case.options | {"convention": other}, case.args) != right:
            found.append(flag)
    return dataclasses.replace(case, flags=tuple(dict.fromkeys(found)))


def quantize_case(
    name: str, x: Array, scale: Array, zero: dict[str, Array], rule: str, *flags: str, **options: object
) -> Case:
    args = {"x": x, "scale": scale} | zero
    case = Case(f"quantize-{name}", "affine.quantize", args, rule, flags, options)
    real = not zero and not isinstance(options["fmt"], IntFormat)
    return case if real or "convention" in options and options["convention"].zero == "bias" else seen(case)


def _formats() -> Iterator[Case]:
    for fmt in ALL.values():
        seed = seed_of(fmt.name, FORMATS)
        flags = () if isinstance(fmt, IntFormat) else ("kept-subnormal", "overflow")
        scale = SCALES[seed % len(SCALES)]
        x = around(scale, fmt, count=N, seed=seed)
        yield quantize_case(
            fmt.name,
            array("float32", x),
            scalar("float32", scale),
            {},
            "AFF-2" if isinstance(fmt, IntFormat) else "AFF-6",
            *flags,
            fmt=fmt,
        )
        if isinstance(fmt, IntFormat) and "narrow" not in fmt.name:
            zero = zero_of(fmt)
            x = around(SCALE, fmt, zero["zero_point"].bits[0], N, seed)
            yield quantize_case(
                f"{fmt.name}-zero", array("float32", x), scalar("float32", SCALE), zero, "AFF-3", "zero-point", fmt=fmt
            )


#: New ones at the end: a place is a seed.
LAYOUTS: tuple[tuple[Shape, Granularity], ...] = (
    ((), PerTensor()), ((0,), PerTensor()), ((7,), PerAxis(0)), ((7,), PerGroup(0, 3)), ((5, 6), PerAxis(0)),
    ((5, 6), PerAxis(-1)), ((5, 6), PerAxis((0, 1))), ((5, 6), PerToken()), ((5, 6), PerGroup(1, 4)),
    ((5, 6), PerGroup(0, 2)), ((5, 6), PerGroup(-1, 100)), ((5, 6), PerBlock((2, 4))), ((2, 3, 5), PerBlock((2, 2))),
    ((2, 3, 5), PerAxis((0, 2))), ((2, 3, 5), PerGroup(2, 2)), ((4, 0), PerGroup(1, 2)),
)  # fmt: skip


def layout(shape: Shape, grain: Granularity, fmt: Format, seed: int) -> tuple[Array, Array, Array]:
    """x near the boundaries of each tile's own scale; the scales; zero points of the formats' width."""
    from specs.vector_cases.opinions_core import tiles

    draw, count = Ints(seed), 1
    for n in grain.scale_shape(shape):
        count *= n
    scales = [draw.pick(SCALES[:4]) for _ in range(count)]
    low, high = (fmt.qmin, fmt.qmax) if isinstance(fmt, IntFormat) else (-6, 6)
    zeros = [draw.between(low, high) for _ in range(count)]
    x = []
    for at in tiles(shape, grain):
        k = draw.between(low - 2, high + 2) - (zeros[at] if isinstance(fmt, IntFormat) else 0)
        edge = near(f32((k + Fraction(1, 2)) * value(scales[at])))
        x.append(draw.pick(SPECIALS) if draw.below(6) == 0 else draw.pick(edge))
    form = grain.scale_shape(shape)
    return array("float32", x, shape), array("float32", scales, form), array("int32", zeros, form)


def grain_name(shape: Shape, grain: Granularity) -> str:
    text = "".join(c if c.isalnum() else "_" for c in repr(grain).replace("-", "m")).strip("_")
    return "x".join(map(str, shape)) + "-" + "_".join(part for part in text.split("_") if part)


def grain_flags(shape: Shape, grain: Granularity) -> tuple[str, ...]:
    ragged = any(n % t for n, t in zip(shape, grain.tile(shape), strict=True))
    return ("empty",) if 0 in shape or shape == () else ("ragged",) if ragged else ("axis",)


def _layouts() -> Iterator[Case]:
    for seed, (shape, grain) in enumerate(LAYOUTS):
        for name in ("uint4", "e2m1fn"):
            x, scale, zero = layout(shape, grain, ALL[name], seed)
            zeros = {"zero_point": zero} if name == "uint4" else {}
            yield quantize_case(
                f"{name}-{grain_name(shape, grain)}",
                x,
                scale,
                zeros,
                "GRA-3",
                *grain_flags(shape, grain),
                fmt=ALL[name],
                granularity=grain,
            )


def alone(convention: Affine) -> Iterator[Case]:
    """Of each mistake the elements in which it shows and no other one does, or only those that compute the same.

    Where all cases of one mistake are cases of another too, a kernel with the second fails all cases of both.
    """
    others = {flag: mistake(convention) for flag, mistake in MISTAKES.items() if mistake(convention) != convention}
    for mistaken, flag in {other: flag for flag, other in reversed(others.items())}.items():
        found = _only(mistaken, convention, set(others.values()))
        x = array("float32", found[:: -(-len(found) // 12)])
        options = {"fmt": INT8} | ({} if convention == DEFAULT else {"convention": convention})
        name = f"alone-{convention.op}-{convention.ties}-{flag}"
        args = x, scalar("float32", SCALE), zero_of(INT8, code=ZERO)
        yield _of_zero_point(quantize_case(name, *args, "AFF-3", **options))


def _of_zero_point(case: Case) -> Case:
    """The case with its flag, where leaving the zero point out shows."""
    without = {name: one for name, one in case.args.items() if name != "zero_point"}
    same = call("refquant", case.fn, case.options, without) == call("refquant", case.fn, case.options, case.args)
    return case if same else dataclasses.replace(case, flags=("zero-point", *case.flags))


def _only(mistaken: Affine, convention: Affine, others: set[Affine]) -> list[int]:
    """Inputs near the boundaries whose codes are right but for one mistake."""
    edges = [f32(Fraction(2 * (k - ZERO) + 1, 2) * value(SCALE)) for k in range(INT8.qmin - 3, INT8.qmax + 3)]
    x = [*SPECIALS, *(b for edge in edges for b in near(edge, 2))]
    args = {"x": array("float32", x), "scale": scalar("float32", SCALE)} | zero_of(INT8, code=ZERO)

    def codes(one: Affine) -> tuple:
        return call("refquant", "affine.quantize", {"fmt": INT8, "convention": one}, args)["result"].bits

    right, wrong = codes(convention), codes(mistaken)
    harmless = [codes(other) for other in others - {mistaken}]
    return [b for b, *c in zip(x, right, wrong, *harmless, strict=True) if c[0] != c[1] and {c[0]} == {*c[2:]}]


def _edges() -> Iterator[Case]:
    """Scales that are no error (AFF-8), the ends of the exact domain, narrow inputs."""
    x = array("float32", around(SCALE, ALL["int8"], count=N, seed=77))
    for name, scale in (
        ("zero", 0),
        ("minus_zero", 0x80000000),
        ("negative", 0xBDCCCCCD),
        ("inf", 0x7F800000),
        ("nan", 0x7FC00000),
    ):
        normal = array(
            "float32", (b if b & 0x7F800000 or not b & 0x7FFFFF else b | 0x00800000 for b in x.bits)
        )  # GEN-9
        yield quantize_case(f"int8-scale-{name}", normal, scalar("float32", scale), {}, "AFF-8", "nan", fmt=ALL["int8"])
    for name, power in (("2m100", -100), ("2p60", 60), ("2p126", 126)):
        scale = f32(Fraction(2) ** power)
        near_it = array("float32", around(scale, ALL["int8"], count=N, seed=power))
        yield quantize_case(f"int8-scale-{name}", near_it, scalar("float32", scale), {}, "GEN-8", fmt=ALL["int8"])
    args = {"x": x, "scale": scalar("float32", 0x00000400)}
    yield Case(
        "quantize-int8-scale-subnormal", "affine.quantize", args, "GEN-8", (), {"fmt": ALL["int8"]}, unspecified="GEN-8"
    )
    for dtype, special in (
        ("float16", [0, 0x8000, 1, 0x7C00, 0xFC00, 0x7E00, 0x7BFF]),
        ("bfloat16", [0, 0x8000, 1, 0x7F80, 0xFF80, 0x7FC0, 0x7F7F]),
    ):
        bits = special + [w >> 17 for w in Ints(9).words(57)]
        yield quantize_case(
            f"int8-{dtype}", array(dtype, bits), scalar("float32", SCALE), {}, "AFF-1", "precision", fmt=ALL["int8"]
        )
    for cast in (Cast("special"), Cast("finite", ties="away"), Cast(nan="zero", zero="positive")):
        text = "_".join(map(str, dataclasses.astuple(cast)))
        x = array("float32", around(SCALE, ALL["e4m3fn"], count=N, seed=8))
        yield quantize_case(
            f"e4m3fn-{text}",
            x,
            scalar("float32", SCALE),
            {},
            "AFF-6",
            "ties",
            "nan",
            "infinity",
            fmt=ALL["e4m3fn"],
            cast=cast,
        )
