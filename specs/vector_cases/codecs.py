"""Cases of specs/10-formats.md and specs/15-packing.md: every code, every midpoint, every option of a cast."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction

from refquant.conventions import CAST, Cast
from refquant.formats import ALL, CodebookFormat, FloatFormat, Format, IntFormat
from specs.vector_cases.arrays import array
from specs.vector_cases.case import Case, VectorFile, vector_file
from specs.vector_cases.inputs import SPECIALS, Ints, around, beyond, f32, filled, midpoints, near, unique

CAST_FORMATS = ("int4", "e4m3fn", "e5m2", "e4m3fnuz", "e3m2fn", "e2m1fn", "e8m0fnu", "nf4", "float16")
ONE = 0x3F800000


def files() -> list[VectorFile]:
    return [
        vector_file("10-formats", "decode", "DCD-1, DCD-2, FMT-3..FMT-8", _decode()),
        vector_file(
            "10-formats",
            "encode",
            "ENC-1, ENC-7, ENC-8",
            _encode([f for f in ALL.values() if not isinstance(f, FloatFormat)]),
        ),
        vector_file(
            "10-formats",
            "encode_floats",
            "ENC-2..ENC-6, ENC-8",
            _encode([f for f in ALL.values() if isinstance(f, FloatFormat)]),
        ),
        vector_file("10-formats", "encode_casts", "ENC-1..ENC-7", _casts()),
        vector_file("15-packing", "pack", "PCK-1, PCK-2, PCK-4", _pack()),
        vector_file("15-packing", "unpack", "PCK-3", _unpack()),
    ]


def codes_of_width(fmt: Format) -> range:
    """All codes that a width has, also those that the format does not use."""
    if isinstance(fmt, IntFormat) and fmt.signed:
        return range(-(1 << (fmt.bits - 1)), 1 << (fmt.bits - 1))
    return range(1 << fmt.bits)


def _decode() -> Iterator[Case]:
    small = [fmt for fmt in ALL.values() if fmt.bits <= 8]
    for fmt in small:
        yield _decoded(
            fmt,
            "all",
            list(codes_of_width(fmt)),
            ("sign-extend",) if isinstance(fmt, IntFormat) else ("nan", "flushed-subnormal"),
        )
    for fmt in small:
        if not isinstance(fmt, IntFormat) and fmt.bits < 8:
            yield _decoded(fmt, "upper-bits", [c | 1 << fmt.bits for c in codes_of_width(fmt)], ("upper-bits",))
    for fmt in (fmt for fmt in ALL.values() if fmt.bits > 8):
        codes = codes_of_width(fmt)
        edges = [0, 1, -1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0x7C01, 0x7E00, 0x7F80, 0x7F7F, 0x007F, 0x0080, -32768, 32767]
        edges += [fmt.max_code, fmt.max_code + 1] if isinstance(fmt, FloatFormat) else []
        edges = [c for e in edges for c in ((e,) if codes[0] else (e, e + len(codes) // 2))]  # of floats both signs
        picked = unique(codes[(c - codes[0]) % len(codes)] for c in edges)
        picked += [codes[Ints(c).below(len(codes))] for c in range(64)]
        yield _decoded(
            fmt, "some", picked, ("nan", "flushed-subnormal") if isinstance(fmt, FloatFormat) else ("sign-extend",)
        )


def _decoded(fmt: Format, name: str, codes: list[int], flags: tuple[str, ...]) -> Case:
    return Case(
        f"decode-{fmt.name}-{name}", "codec.decode", {"codes": array(fmt.storage, codes)}, "DCD-1", flags, {"fmt": fmt}
    )


def ties_of(fmt: Format) -> list[Fraction]:
    """Every point at which the code changes; of wide formats some."""
    if isinstance(fmt, IntFormat):
        whole = range(fmt.qmin - 1, fmt.qmax + 1)
        return [
            Fraction(2 * k + 1, 2)
            for k in (whole if len(whole) < 300 else [*whole[:2], -2, -1, 0, 1, *whole[::4099], *whole[-2:]])
        ]
    points = midpoints(fmt)
    points = points if len(points) < 300 else [*points[:4], *points[:: len(points) // 60], *points[-4:]]
    if isinstance(fmt, CodebookFormat):
        return points
    both = [*points, beyond(fmt), Fraction(fmt.max_value)]
    return both + [-p for p in (both if fmt.signed else both[:3])]


def _encode(formats: list[Format]) -> Iterator[Case]:
    for fmt in formats:
        x = unique([*SPECIALS, *(b for p in ties_of(fmt) for b in near(f32(p)))])
        flags = ["nan", "infinity", "flushed-subnormal"]
        flags += {
            IntFormat: ["cast-before-clip"],
            FloatFormat: ["double-rounding", "overflow", "negative-zero"],
            CodebookFormat: ["codebook-tie", "duplicate-code"],
        }[type(fmt)]
        for start in range(0, len(x), 512):
            part = f"-{start // 512}" if len(x) > 512 else ""
            yield Case(
                f"encode-{fmt.name}{part}",
                "codec.encode",
                {"x": array("float32", x[start : start + 512])},
                "ENC-1" if isinstance(fmt, IntFormat) else "ENC-7" if isinstance(fmt, CodebookFormat) else "ENC-2",
                tuple(flags),
                {"fmt": fmt},
            )


FLAG_OF = {"overflow": "infinity", "ties": "ties", "nan": "nan", "zero": "negative-zero"}
CHOICES = {
    "overflow": ("finite", "special"),
    "ties": ("even", "away", "zero", "up", "down"),
    "nan": ("signed", "zero", "max"),
    "zero": ("positive",),
}


def _casts() -> Iterator[Case]:
    """One option at a time away from the default, then two points that turn all."""
    points = [dataclasses.replace(CAST, **{name: v}) for name, choices in CHOICES.items() for v in choices]
    points += [Cast("special", "up", "signed", "positive"), Cast("finite", "zero", "max", "positive")]
    for name in CAST_FORMATS:
        fmt = ALL[name]
        x = filled([*SPECIALS, *around(ONE, fmt, count=76, seed=len(name))[len(SPECIALS) :]], 80, 5)
        for cast in points:
            turned = [k for k in CHOICES if getattr(cast, k) != getattr(CAST, k)]
            text = "-".join(f"{getattr(cast, k)}" for k in turned)
            yield Case(
                f"encode-{name}-{'_'.join(turned)}-{text}",
                "codec.encode",
                {"x": array("float32", x)},
                "ENC-3" if "overflow" in turned else "ENC-4" if "nan" in turned else "ENC-2",
                tuple(FLAG_OF[k] for k in turned),
                {"fmt": fmt, "cast": cast},
            )


def _pack() -> Iterator[Case]:
    for fmt in ALL.values():
        codes, draw = codes_of_width(fmt), Ints(fmt.bits)
        row = [codes[0], codes[-1], *(codes[draw.below(len(codes))] for _ in range(17))]
        yield Case(
            f"pack-{fmt.name}",
            "packing.pack",
            {"codes": array(fmt.storage, row)},
            "PCK-1",
            ("nibble-order", "fill-bits"),
            {"fmt": fmt},
        )
    for name, shape in (("int4", (0,)), ("uint3", (2, 0)), ("int3", (3, 5)), ("uint16", ())):
        size = 1 if shape == () else shape[0] * (shape[1] if len(shape) > 1 else 1)
        row = array(ALL[name].storage, range(-4, size - 4) if size > 1 else [40000] * size, shape)
        text = "x".join(map(str, shape)) or "0d"
        yield Case(
            f"pack-{name}-{text}",
            "packing.pack",
            {"codes": row if size != 15 else array("int8", [i % 8 - 4 for i in range(15)], shape)},
            "PCK-2",
            ("empty",) if size == 0 else ("nibble-order",),
            {"fmt": ALL[name]},
        )


def _unpack() -> Iterator[Case]:
    for fmt in ALL.values():
        size = -(-19 * fmt.bits // 8)
        packed = [w >> 24 for w in Ints(fmt.bits + 100).words(size)]
        yield Case(
            f"unpack-{fmt.name}",
            "packing.unpack",
            {"packed": array("uint8", packed)},
            "PCK-3",
            ("nibble-order", "fill-bits", "sign-extend"),
            {"fmt": fmt, "shape": (19,)},
        )
    yield Case(
        "unpack-int4-empty",
        "packing.unpack",
        {"packed": array("uint8", [])},
        "PCK-3",
        ("empty",),
        {"fmt": ALL["int4"], "shape": (3, 0)},
    )
    yield Case(
        "unpack-int5-3x5",
        "packing.unpack",
        {"packed": array("uint8", range(7, 250, 25))},
        "PCK-3",
        ("nibble-order",),
        {"fmt": ALL["int5"], "shape": (3, 5)},
    )
