"""Cases of specs/60-layers.md: products of codes, convolutions, embeddings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from refquant.formats import ALL
from refquant.granularity import Granularity, PerAxis, PerGroup, PerTensor, PerToken
from refquant.spec import QuantSpec, ScaleRule
from specs.vector_cases.arrays import Array, array, scalar
from specs.vector_cases.case import Case, VectorFile, vector_file
from specs.vector_cases.inputs import FINITE, SPECIALS, Ints, f32, near, value
from specs.vector_cases.scales import parts

CHAPTER = "60-layers"
S_X = 0x3D17F62B  # about 0.0371
INT = ScaleRule(zero="int")


def files() -> list[VectorFile]:
    return [
        vector_file(CHAPTER, "dense", "LAY-1..LAY-4, LAY-9", [*_dense(), *_ties()]),
        vector_file(CHAPTER, "attend", "LAY-6", _attend()),
        vector_file(CHAPTER, "einsum", "LAY-1..LAY-4", _einsum()),
        vector_file(CHAPTER, "conv", "LAY-5", _conv()),
        vector_file(CHAPTER, "embed", "LAY-6", _embed()),
        vector_file(CHAPTER, "matmul", "SUM-2, LAY-8", _matmul()),
        vector_file(CHAPTER, "convolve", "SUM-2, LAY-5, LAY-8", _convolve()),
        vector_file(CHAPTER, "integer_bias", "LAY-11", _bias()),
    ]


def spec(name: str, grain: Granularity = PerTensor(), asym: bool = False) -> QuantSpec:
    return QuantSpec(ALL[name], grain, INT if asym or name.startswith("uint") else ScaleRule())


def inputs(draw: Ints, shape: tuple[int, ...], static: bool, dtype: str = "float32") -> Array:
    """Near (k + 1/2) · scale where the scale is given, else sums of uniform numbers; few specials."""
    count = 1
    for n in shape:
        count *= n
    if dtype != "float32":
        return array(dtype, [draw.between(0x3400, 0x3C00) | (draw.word() & 0x8000) for _ in range(count)], shape)
    edges = [near(f32((draw.between(-129, 129) * 2 + 1) * value(S_X) / 2))[draw.below(3)] for _ in range(count)]
    bits = edges if static else draw.normalish(count)
    odd = SPECIALS if static else FINITE
    return array("float32", [draw.pick(odd) if draw.below(12) == 0 else b for b in bits], shape)


def weight(draw: Ints, shape: tuple[int, ...], how: QuantSpec) -> dict[str, Array]:
    count = 1
    for n in shape:
        count *= n
    return parts(array("float32", draw.normalish(count, -4), shape), how, "weight")


def _layer(
    fn: str, name: str, seed: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...], how: QuantSpec, x_how: QuantSpec,
    rule: str, *flags: str, static: bool = False, bias: str = "float", channels: int = 0, x_dtype: str = "float32",
    **options: object,
) -> Case:  # fmt: skip
    draw = Ints(seed)
    args = {"x": inputs(draw, x_shape, static, x_dtype)} | weight(draw, w_shape, how)
    if bias == "float":
        args["bias"] = array("float32", draw.normalish(channels, -1))
    if bias == "int":
        args["bias"] = array("int32", [draw.between(-3000, 3000) for _ in range(channels)])
    if static:
        args["input_scale"] = scalar("float32", S_X)
        args |= {"input_zero_point": scalar("int32", 117)} if x_how.fmt.name == "uint8" else {}
    found = flags + {"float": ("bias", "fma"), "int": ("bias", "wrap"), "none": ("fma",)}[bias]
    return Case(f"{fn}-{name}", f"qat.{fn}", args, rule, found, {"weight": how, "inputs": x_how, **options})


def _dense() -> Iterator[Case]:
    grains = (PerTensor(), PerAxis(1), PerGroup(0, 4), PerGroup(0, 3))
    for seed, (grain, asym, mode) in enumerate(itertools.product(grains, (False, True), ("token", "tensor", "static"))):
        x_how = spec("uint8" if seed % 2 else "int8", PerToken() if mode == "token" else PerTensor())
        flags = (("ragged", "sum-order") if isinstance(grain, PerGroup) else ("axis",)) + (("centre",) if asym else ())
        name = f"{x_how.fmt.name}-{mode}-{'asym' if asym else 'sym'}-{grain}".replace("PerTensor()", "tensor")
        bias = "int" if mode == "static" and not isinstance(grain, PerGroup) else ("float", "none")[seed % 2]
        rule = "LAY-3" if isinstance(grain, PerGroup) else "LAY-9" if bias == "int" else "LAY-1"
        yield _layer(
            "dense",
            name,
            seed + 800,
            (3, 10),
            (10, 4),
            spec("int4", grain, asym),
            x_how,
            rule,
            *flags,
            static=mode == "static",
            bias=bias,
            channels=4,
        )
    for dtype in ("float16", "bfloat16"):
        yield _layer(
            "dense",
            dtype,
            850,
            (3, 10),
            (10, 4),
            spec("int8", PerAxis(1)),
            spec("int8", PerToken()),
            "LAY-1",
            "double-rounding",
            channels=4,
            dtype=dtype,
            x_dtype=dtype,
        )


def _ties() -> Iterator[Case]:
    """Sums beyond 2^24, where float32(acc) rounds: columns whose product with 127, …, 127, 1 is a given integer."""
    depth, targets = 1200, [2**24 + d for d in (-1, 0, 1, 2, 3, 5)] + [-(2**24) - 1, -(2**24) - 3]
    for grain in (PerAxis(1), PerTensor()):
        columns = [_column(t, depth) for t in targets]
        codes = array("int8", [column[k] for k in range(depth) for column in columns], (depth, len(targets)))
        scale = (
            array("float32", [0x3F333333] * len(targets), (1, len(targets)))
            if isinstance(grain, PerAxis)
            else scalar("float32", 0x3F333333)
        )
        x = array("float32", [0x42FE0000] * (depth - 1) + [0x3F800000], (1, depth))
        args = {"x": x, "weight.codes": codes, "weight.scale": scale, "input_scale": scalar("float32", 0x3F800000)}
        yield Case(
            f"dense-beyond-2p24-{grain}",
            "qat.dense",
            args,
            "LAY-1",
            ("precision", "double-rounding"),
            {"weight": spec("int8", grain), "inputs": spec("int8")},
        )


def _column(target: int, depth: int) -> list[int]:
    sign, size = (-1, -target) if target < 0 else (1, target)
    steps, last = divmod(size, 127)
    whole, rest = divmod(steps, 127)
    return [sign * v for v in [127] * whole + [rest] + [0] * (depth - whole - 2) + [last]]


def _attend() -> Iterator[Case]:
    for seed, (grain, mode) in enumerate(
        itertools.product((PerTensor(), PerAxis(0), PerGroup(1, 4)), ("token", "static"))
    ):
        x_how = spec("int8", PerToken() if mode == "token" else PerTensor())
        flags = ("axis", "sum-order") if isinstance(grain, PerGroup) else ("axis",)
        yield _layer(
            "attend",
            f"{mode}-{grain}",
            seed + 860,
            (3, 10),
            (5, 10),
            spec("int4", grain),
            x_how,
            "LAY-6",
            *flags,
            static=mode == "static",
            bias="float",
            channels=5,
        )


def _einsum() -> Iterator[Case]:
    rows = (
        ("bqd,dhe->bqhe", (2, 2, 7), (7, 2, 3), PerAxis((1, 2)), PerToken()),
        ("bqd,bdhe->hbqe", (2, 2, 7), (2, 7, 2, 3), PerAxis((0, 2, 3)), PerToken()),
        ("bhd,hde->be", (3, 2, 5), (2, 5, 4), PerAxis(-1), PerAxis(0)),
        ("bd,de->eb", (3, 7), (7, 4), PerGroup(0, 3), PerAxis(0)),
        ("bd,de->be", (3, 7), (7, 4), PerTensor(), PerTensor()),
    )
    for seed, (text, x, w, grain, x_grain) in enumerate(rows):
        name = text.replace(",", "_").replace("->", "_to_")
        yield _layer(
            "einsum",
            name,
            seed + 870,
            x,
            w,
            spec("int8", grain, seed % 2 == 1),
            spec("uint8" if seed == 0 else "int8", x_grain),
            "LAY-1",
            "axis",
            bias="none",
            subscripts=text,
        )


CONVS = {
    "strides": ((1, 5, 4, 2), (3, 2, 2, 3), {"strides": 2}),
    "same_lower": ((1, 5, 4, 2), (2, 3, 2, 3), {"padding": "SAME_LOWER", "kernel_dilation": (1, 2)}),
    "groups": ((2, 4, 4, 4), (3, 3, 2, 4), {"feature_group_count": 2, "padding": "VALID"}),
    "depthwise": ((1, 4, 3, 2), (3, 3, 1, 4), {"feature_group_count": 2, "padding": 1}),
    "transposed": ((1, 4, 3), (3, 3, 2), {"input_dilation": 3, "padding": ((2, -1),)}),
    "cut": ((1, 6, 1), (2, 1, 2), {"padding": ((-2, 3),), "strides": (2,)}),
}


def _conv() -> Iterator[Case]:
    for seed, (name, (x, w, options)) in enumerate(CONVS.items()):
        for mode in ("static", "example"):
            x_how = spec("uint8" if mode == "static" else "int8", PerTensor() if mode == "static" else PerAxis(0))
            how = spec("int8", PerAxis(len(w) - 1), seed % 2 == 1)
            yield _layer(
                "conv",
                f"{name}-{mode}",
                seed + 880,
                x,
                w,
                how,
                x_how,
                "LAY-5",
                "padding",
                "dilation",
                static=mode == "static",
                bias="int" if mode == "static" else "float",
                channels=w[-1],
                **options,
            )


def _embed() -> Iterator[Case]:
    ids = array("int32", [0, 4, -1, -5, 5, -6, 2, 2**31 - 1], (2, 4))
    hows = (
        spec("int8", PerAxis(0)),
        spec("int4", PerGroup(1, 4)),
        spec("uint4", PerTensor()),
        spec("e4m3fn", PerAxis(0)),
        spec("nf4", PerGroup(1, 3)),
    )
    for seed, how in enumerate(hows):
        for dtype in ("float32", "bfloat16")[: 2 if seed < 2 else 1]:
            args = {"ids": ids} | weight(Ints(seed + 890), (5, 6), how)
            yield Case(
                f"embed-{how.fmt.name}-{dtype}",
                "qat.embed",
                args,
                "LAY-6",
                ("ragged", "nan", "off-by-one"),
                {"weight": how, "dtype": dtype},
            )


def _integers(draw: Ints, dtype: str, low: int, high: int, shape: tuple[int, ...]) -> Array:
    """Half of them at an end of the range."""
    count = math.prod(shape)
    drawn = [draw.pick((low, high)) if draw.below(2) else draw.between(low, high) for _ in range(count)]
    return array(dtype, drawn, shape)


def _convolve() -> Iterator[Case]:
    draw, flags = Ints(897), ("wrap", "sign-extend", "padding", "dilation")
    for name, (x, w, options) in CONVS.items():
        for dtype, low, high in (("int8", -128, 127), ("int16", -32768, 32767)):
            most = min(-low, math.isqrt((2**31 - 1) // math.prod(w[:-1])))
            a, b = (_integers(draw, dtype, -most, min(most, high), shape) for shape in (x, w))
            bounds = {"max_a": most, "max_b": most}
            yield Case(f"convolve-{name}-{dtype}", "qat.convolve", {"a": a, "b": b}, "LAY-5", flags, options | bounds)


def _matmul() -> Iterator[Case]:
    draw = Ints(895)
    for name, dtype, low, high, k in (
        ("int8", "int8", -128, 127, 9),
        ("wide", "int16", -32768, 32767, 1),
        ("uint8", "uint8", 0, 255, 40),
    ):
        a, b = _integers(draw, dtype, low, high, (3, k)), _integers(draw, dtype, low, high, (k, 4))
        most = max(-low, high)
        yield Case(
            f"matmul-{name}",
            "qat.matmul",
            {"a": a, "b": b},
            "SUM-2",
            ("wrap", "sign-extend"),
            {"max_a": most, "max_b": most},
        )


def _bias() -> Iterator[Case]:
    draw, s_w = Ints(896), 0x3B23D70A
    step = value(S_X) * value(s_w)
    edges = [
        b
        for k in (0, 1, -1, 900, -900, *(draw.between(-5000, 5000) for _ in range(12)))
        for b in near(f32((2 * k + 1) * step / 2))
    ]
    args = {
        "bias": array("float32", [*SPECIALS, *edges]),
        "input_scale": scalar("float32", S_X),
        "weight_scale": scalar("float32", s_w),
    }
    yield Case(
        "integer_bias", "qat.integer_bias", args, "LAY-11", ("half-away", "cast-before-clip", "nan", "reciprocal")
    )
