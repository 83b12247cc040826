"""Cases of specs/20-affine.md: dequantize, fake_quantize and its gradient."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from refquant.conventions import PRESETS
from refquant.formats import ALL, IntFormat
from refquant.granularity import PerGroup
from specs.vector_cases.affine import CHAPTER, LAYOUTS, SCALE, SCALES, grain_flags, grain_name, layout, zero_of
from specs.vector_cases.arrays import Array, array, scalar
from specs.vector_cases.case import Case, VectorFile, vector_file
from specs.vector_cases.codecs import codes_of_width
from specs.vector_cases.conventions import convention_case
from specs.vector_cases.inputs import Ints, around
from specs.vector_cases.seeds import FORMATS, seed_of


def files() -> list[VectorFile]:
    return [
        vector_file(CHAPTER, "dequantize", "DEQ-1..DEQ-4", _dequantize()),
        vector_file(CHAPTER, "fake_quantize", "FQ-1", _fake_quantize()),
        vector_file(CHAPTER, "fake_quantize_vjp", "STE-1..STE-4", _vjp()),
    ]


def _dequantize() -> Iterator[Case]:
    for fmt in ALL.values():
        seed = seed_of(fmt.name, FORMATS)
        codes, draw = codes_of_width(fmt), Ints(seed + 40)
        row = array(
            fmt.storage,
            list(codes)
            if len(codes) <= 16
            else [codes[0], codes[-1], *(codes[draw.below(len(codes))] for _ in range(30))],
        )
        scale = scalar("float32", SCALES[seed % 4])
        yield _values(
            fmt.name,
            row,
            scale,
            zero_of(fmt),
            "DEQ-1" if isinstance(fmt, IntFormat) else "DEQ-3",
            "zero-point" if isinstance(fmt, IntFormat) else "nan",
            fmt=fmt,
        )
    codes, bias = array("uint8", range(0, 256, 5)), {"zero_point": scalar("float32", 0xBF59999A)}
    yield _values("uint8-offset", codes, scalar("float32", SCALE), bias, "DEQ-2", "fma", fmt=ALL["uint8"])
    for dtype in ("float16", "bfloat16"):
        for name in ("int8", "e5m2"):
            row = array(ALL[name].storage, range(-128, 128, 5) if name == "int8" else range(0, 256, 5))
            yield _values(
                f"{name}-{dtype}",
                row,
                scalar("float32", 0x44CCCCCD),
                {},
                "DEQ-4",
                "double-rounding",
                "overflow",
                fmt=ALL[name],
                dtype=dtype,
            )
    for seed, (shape, grain) in enumerate(LAYOUTS):
        x, scale, zero = layout(shape, grain, ALL["int4"], seed)
        row = array("int8", [b % 16 - 8 for b in x.bits], shape)
        yield _values(
            f"int4-{grain_name(shape, grain)}",
            row,
            scale,
            {"zero_point": zero},
            "GRA-3",
            *grain_flags(shape, grain),
            fmt=ALL["int4"],
            granularity=grain,
        )
    case = _values(
        "int8-subnormal",
        array("int8", [0, 1, -1, 127, -128]),
        scalar("float32", 0x00000400),
        {},
        "GEN-8",
        "flushed-subnormal",
        fmt=ALL["int8"],
    )
    yield dataclasses.replace(case, flushed=True)


def _values(
    name: str, codes: Array, scale: Array, zero: dict[str, Array], rule: str, *flags: str, **options: object
) -> Case:
    return Case(
        f"dequantize-{name}", "affine.dequantize", {"codes": codes, "scale": scale} | zero, rule, flags, options
    )


REAL_AND_WHOLE = (
    "int2",
    "int4",
    "int8",
    "int16",
    "uint4",
    "uint8",
    "ternary",
    "e4m3fn",
    "e5m2",
    "e2m1fn",
    "e8m0fnu",
    "nf4",
    "dynamic8_unsigned",
    "float16",
)


def _fake_quantize() -> Iterator[Case]:
    for seed, name in enumerate(REAL_AND_WHOLE):
        fmt = ALL[name]
        zero = zero_of(fmt) if name.startswith("uint") else {}
        x = array("float32", around(SCALE, fmt, zero["zero_point"].bits[0] if zero else 0, 64, seed + 200))
        yield Case(
            f"fake_quantize-{name}",
            "affine.fake_quantize",
            {"x": x, "scale": scalar("float32", SCALE)} | zero,
            "FQ-1",
            ("reciprocal", "nan"),
            {"fmt": fmt},
        )
    for dtype in ("float16", "bfloat16"):
        x = array(dtype, [w >> 17 | (w & 1) << 15 for w in Ints(11).words(64)])
        yield Case(
            f"fake_quantize-int8-{dtype}",
            "affine.fake_quantize",
            {"x": x, "scale": scalar("float32", SCALE)},
            "FQ-1",
            ("double-rounding",),
            {"fmt": ALL["int8"]},
        )
    for name in ("torch_per_tensor", "mlx", "openvino"):
        case = convention_case(name, PRESETS[name].affine, 7)
        yield Case(
            f"fake_quantize-{name}",
            "affine.fake_quantize",
            case.args,
            "FQ-1",
            ("reciprocal", "zero-point"),
            case.options,
        )
    x, scale, zero = layout((5, 7), PerGroup(1, 3), ALL["uint4"], 4)
    yield Case(
        "fake_quantize-uint4-ragged",
        "affine.fake_quantize",
        {"x": x, "scale": scale, "zero_point": zero},
        "GRA-3",
        ("ragged",),
        {"fmt": ALL["uint4"], "granularity": PerGroup(1, 3)},
    )


def _vjp() -> Iterator[Case]:
    draw = Ints(12)
    for seed, (name, mask) in enumerate(itertools.product(REAL_AND_WHOLE, ("rounded", "ratio"))):
        fmt = ALL[name]
        zero = zero_of(fmt) if name.startswith("uint") else {}
        x = array("float32", around(SCALE, fmt, zero["zero_point"].bits[0] if zero else 0, 64, seed + 300))
        yield _gradient(f"{name}-{mask}", x, scalar("float32", SCALE), zero, draw, fmt=fmt, mask=mask)
    for name, mask in itertools.product(("torch_per_channel", "litert_reference", "mlx"), ("rounded", "ratio")):
        case = convention_case(name, PRESETS[name].affine, 9)
        zero = {"zero_point": case.args["zero_point"]}
        yield _gradient(f"{name}-{mask}", case.args["x"], case.args["scale"], zero, draw, mask=mask, **case.options)
    x, scale, zero = layout((5, 7), PerGroup(1, 3), ALL["uint4"], 5)
    yield _gradient("uint4-ragged", x, scale, {"zero_point": zero}, draw, fmt=ALL["uint4"], granularity=PerGroup(1, 3))


def _gradient(name: str, x: Array, scale: Array, zero: dict[str, Array], draw: Ints, **options: object) -> Case:
    """Cotangents with -0, NaN and an infinity: bits pass, and what is stopped is +0."""
    flowing = [
        draw.pick((0x80000000, 0x7FC00000, 0xFF800000, 1)) if draw.below(8) == 0 else draw.word() & 0xBFFFFFFF
        for _ in x.bits
    ]
    args = {"x": x, "scale": scale} | zero | {"cotangent": array("float32", flowing, x.shape)}
    return Case(
        f"fake_quantize_vjp-{name}",
        "affine.fake_quantize_vjp",
        args,
        "STE-2",
        ("gradient-edge", "nan", "negative-zero"),
        options,
    )
