"""Cases of specs/30-scales.md: ranges, scale rules, whole tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from refquant.conventions import PRESETS, Affine
from refquant.formats import ALL, IntFormat
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor, PerToken
from refquant.spec import SCALE_BITS, QuantSpec, ScaleRule
from specs.vector_cases.affine import LAYOUTS, grain_flags, grain_name, layout
from specs.vector_cases.arrays import Array, array, of_numpy
from specs.vector_cases.case import Case, VectorFile, vector_file
from specs.vector_cases.inputs import FLT_MAX, SPECIALS, Ints, near

CHAPTER = "30-scales"
INT, FLOAT = ScaleRule(zero="int"), ScaleRule(zero="float")


def files() -> list[VectorFile]:
    return [
        vector_file(CHAPTER, "range_of", "SCL-1, GRA-1, GRA-2", _ranges()),
        vector_file(CHAPTER, "choose_scale", "SCL-2..SCL-8", _chosen()),
        vector_file(CHAPTER, "quantize_tensor", "QTN-1..QTN-3", _quantized()),
        vector_file(CHAPTER, "dequantize_tensor", "QTN-1, DEQ-1..DEQ-4", _dequantized()),
    ]


RANGES = {
    "specials": SPECIALS,
    "nan": (0x7FC00000, 0xFFC00000, 0x7F800001),
    "zeros": (0x80000000, 0),
    "empty": (),
    "positive": (0x3F800000, 0x40000000),
    "negative": (0xBF800000, 0xC0000000),
    "inf": (0x7F800000, 0xFF800000),
    "subnormal": (1, 0x80000003, 0x00400000, 0x807FFFFF),
    "signalling": (0x7F800001, 0x3F800000, 0xBF800000),
}


def _ranges() -> Iterator[Case]:
    for name, bits in RANGES.items():
        flag = (
            "empty"
            if name == "empty"
            else "flushed-subnormal"
            if name == "subnormal"
            else "infinity"
            if name in ("inf", "specials")
            else "range-without-zero"
        )
        yield Case(f"range_of-{name}", "scales.range_of", {"x": array("float32", bits)}, "SCL-1", (flag, "nan"))
    for seed, (shape, grain) in enumerate(LAYOUTS):
        x = layout(shape, grain, ALL["int8"], seed + 50)[0]
        yield Case(
            f"range_of-{grain_name(shape, grain)}",
            "scales.range_of",
            {"x": x},
            "GRA-1",
            grain_flags(shape, grain),
            {"granularity": grain},
        )
    for dtype, bits in (("float16", [0x7C00, 0x8001, 0x7E00, 0xC000]), ("bfloat16", [0x7F80, 0x8001, 0x7FC0, 0xC000])):
        yield Case(f"range_of-{dtype}", "scales.range_of", {"x": array(dtype, bits)}, "GEN-1", ("infinity", "nan"))


def rules() -> list[tuple[str, ScaleRule]]:
    """(format, rule): every denominator, every storage, every kind of zero point."""
    found = [
        (name, ScaleRule())
        for name in (
            "int8",
            "int4_narrow",
            "int2",
            "int16",
            "ternary",
            "e4m3fn",
            "e2m1fn",
            "e8m0fnu",
            "nf4",
            "float16",
            "bfloat16",
        )
    ]
    found += [
        (name, ScaleRule(denominator=d)) for name in ("int8", "int4") for d in ("half_range", "pow2", "signed_absmax")
    ]
    found += [("int4", ScaleRule(storage=s)) for s in SCALE_BITS if s != "float32"]
    found += [
        ("int4", ScaleRule(denominator="signed_absmax", storage="float16")),
        ("e2m1fn", ScaleRule(storage="e8m0fnu")),
    ]
    found += [(name, rule) for name in ("uint8", "int8", "uint4", "uint2", "uint16") for rule in (INT, FLOAT)]
    return found + [("uint4", ScaleRule(zero="int", storage=s)) for s in ("float16", "e4m3fn", "pow2")]


def _chosen() -> Iterator[Case]:
    """Ends: zero, tiny, subnormal, each larger, ±FLT_MAX, beyond zero, infinities, NaN, near powers, random."""
    draw = Ints(60)
    ends = [
        (0, 0),
        (0x80000001, 1),
        (0x80800000, 0),
        (0xBF800000, 0x3F800000),
        (0xBF800000, 0x3F800001),
        (0xBF800001, 0x3F800000),
        (0xFF7FFFFF, FLT_MAX),
        (0xFF7FFFFF, 0),
        (0, FLT_MAX),
        (0x3F800000, 0x40000000),
        (0xC0000000, 0xBF800000),
        (0xFF800000, 0x7F800000),
        (0x7FC00000, 0x7FC00000),
        (0, 0x0D800000),
        (0x8D800000, 0x0D7FFFFF),
    ]
    powers = [(0, b) for p in (0x3F800000, 0x42FE0000, 0x437F0000, 0x40E00000) for b in near(p)]
    random = [(draw.word() | 0x80000000, draw.word() & 0x7FFFFFFF) for _ in range(12)]
    close = [
        (b | 0x80000000, b + draw.below(1 << 22)) for b in (draw.between(0x3E000000, 0x42000000) for _ in range(18))
    ]
    pairs = [*ends, *powers, *random, *close]
    args = {"low": array("float32", (a for a, _ in pairs)), "high": array("float32", (b for _, b in pairs))}
    for name, rule in rules():
        flags = (
            "zero-range",
            "storage" if rule.storage != "float32" else "asymmetric-clip" if rule.zero == "none" else "half-away",
        )
        yield Case(
            f"choose_scale-{name}-{rule_name(rule)}",
            "scales.choose_scale",
            args,
            "SCL-6" if rule.storage != "float32" else "SCL-7" if rule.zero != "none" else "SCL-3",
            flags,
            {"fmt": ALL[name], "rule": rule},
        )


def rule_name(rule: ScaleRule) -> str:
    return f"{rule.zero}-{rule.denominator}-{rule.storage}"


def specs() -> list[QuantSpec]:
    grains = (PerTensor(), PerAxis(0), PerToken(), PerGroup(1, 4), PerBlock((2, 4)))
    found = [
        QuantSpec(ALL[name], grain, INT if name.startswith("uint") else ScaleRule())
        for name, grain in itertools.product(("int8", "uint4", "e4m3fn", "nf4"), grains)
    ]
    found += [QuantSpec(ALL[name], PerGroup(-1, 4), rule) for name, rule in rules() if rule != ScaleRule()]
    found += [
        QuantSpec(ALL["int4"], PerAxis(1), ScaleRule(), Affine("given")),
        QuantSpec(ALL["uint4"], PerAxis(1), INT, PRESETS["torch_per_channel"].affine),
        QuantSpec(ALL["uint4"], PerAxis(0), INT, PRESETS["mlx"].affine),
    ]
    return found


def spec_name(spec: QuantSpec) -> str:
    convention = "" if spec.convention == Affine() else "-" + str(spec.convention).replace(" ", "_")
    return f"{spec.fmt.name}-{grain_name((), spec.granularity).strip('-')}-{rule_name(spec.scale)}{convention}"


def weights(seed: int, shape: tuple[int, ...] = (5, 6)) -> Array:
    """Values like weights with one outlier and, for some seeds, specials."""
    draw, count = Ints(seed), 1
    for n in shape:
        count *= n
    bits = draw.normalish(count, -3)
    bits[draw.below(count)] = 0x40A00000
    if seed % 2 and count > 8:
        for special in (0x7FC00000, 0x80000000, 1):
            bits[draw.below(count)] = special
    return array("float32", bits, shape)


def _quantized() -> Iterator[Case]:
    for seed, spec in enumerate(specs()):
        if spec.convention.op == "given":
            continue  # the third opinion has no QTN-2 for it; below it is a file's own case of dequantize
        ragged = "ragged" if "Group" in repr(spec.granularity) or "Block" in repr(spec.granularity) else "outlier"
        yield Case(
            f"quantize_tensor-{spec_name(spec)}",
            "qtensor.quantize_tensor",
            {"x": weights(seed + 600)},
            "QTN-1",
            (ragged, "storage" if spec.scale.storage != "float32" else "nan"),
            {"spec": spec},
        )
    spec = QuantSpec(ALL["int8"])
    for name, x in (
        ("zeros", array("float32", [0, 0x80000000, 0])),
        ("nan", array("float32", [0x7FC00000] * 3)),
        ("inf", array("float32", [0x7F800000, 0x3F800000])),
        ("empty", array("float32", [], (0, 3))),
    ):
        yield Case(
            f"quantize_tensor-int8-{name}",
            "qtensor.quantize_tensor",
            {"x": x},
            "QTN-1",
            ("zero-range" if name != "empty" else "empty", "nan"),
            {"spec": spec},
        )


def parts(x: Array, spec: QuantSpec, name: str) -> dict[str, Array]:
    """A quantized tensor as arguments."""
    from refquant.qtensor import quantize_tensor

    q = quantize_tensor(x.numpy(), spec)
    found = {"codes": q.codes, "scale": q.scale, "zero_point": q.zero_point}
    return {f"{name}.{k}": of_numpy(v) for k, v in found.items() if v is not None}


def _dequantized() -> Iterator[Case]:
    for seed, spec in enumerate(specs()):
        if seed % 2 == 0 or spec.scale.zero == "float":
            flags = ("ragged",) if "Group" in repr(spec.granularity) or "Block" in repr(spec.granularity) else ("axis",)
            flags += ("zero-point",) if isinstance(spec.fmt, IntFormat) and spec.scale.zero != "none" else ()
            yield Case(
                f"dequantize_tensor-{spec_name(spec)}",
                "qtensor.dequantize_tensor",
                parts(weights(seed + 700), spec, "q"),
                "QTN-1",
                flags,
                {"spec": spec},
            )
    for dtype in ("float16", "bfloat16"):
        spec = QuantSpec(ALL["int8"], PerAxis(0))
        yield Case(
            f"dequantize_tensor-int8-{dtype}",
            "qtensor.dequantize_tensor",
            parts(weights(750), spec, "q"),
            "DEQ-4",
            ("double-rounding",),
            {"spec": spec, "dtype": dtype},
        )
