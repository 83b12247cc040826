"""Cases of specs/00-conventions.md: rounding, keys, powers of two, flushing, sums with an order."""

from __future__ import annotations

from collections.abc import Iterator

from specs.vector_cases.arrays import array
from specs.vector_cases.case import Case, VectorFile, vector_file
from specs.vector_cases.inputs import SPECIALS, Ints, filled, near, unique

CHAPTER = "00-conventions"
TIES = {
    "even": "half-even",
    "away": "half-away",
    "up": "half-up",
    "down": "half-down",
    "zero": "ties",
    "trunc": "trunc",
}


def files() -> list[VectorFile]:
    x = _near_integers()
    return [
        vector_file(CHAPTER, "round_to_integer", "RND-1", _rounding(x)),
        vector_file(CHAPTER, "round_stochastic", "RND-2", _stochastic()),
        vector_file(
            CHAPTER,
            "ordered_key",
            "BIT-1",
            [_one("ordered_key", "bits.ordered_key", x, "BIT-1", "negative-zero", "flushed-subnormal")],
        ),
        vector_file(CHAPTER, "from_key", "BIT-1", [_keys()]),
        vector_file(
            CHAPTER, "flush", "GEN-9", [_one("flush", "bits.flush", x, "GEN-9", "kept-subnormal", "negative-zero")]
        ),
        vector_file(CHAPTER, "scalb", "BIT-2", _scalb()),
        vector_file(CHAPTER, "tree_sum", "SUM-1", _sums()),
    ]


def _near_integers() -> list[int]:
    """Specials, k and k + 1/2 with their neighbours, the last numbers with a fraction."""
    steps = [
        0x3F000000,
        0x3F800000,
        0x3FC00000,
        0x40000000,
        0x40200000,
        0x40600000,
        0x42FD0000,
        0x42FF0000,
        0x4AFFFFFF,
        0x4B000000,
        0x4B7FFFFF,
        0x4A800001,
    ]
    return filled([*SPECIALS, *(b | s for p in steps for b in near(p) for s in (0, 0x80000000))], 128, 1)


def _one(name: str, fn: str, x: list[int], rule: str, *flags: str, **options: object) -> Case:
    return Case(name, fn, {"x": array("float32", x)}, rule, flags, options)


def _rounding(x: list[int]) -> Iterator[Case]:
    for ties, flag in TIES.items():
        flags = (flag, "negative-zero", "nan") if flag in ("trunc", "half-even") else ("ties", "negative-zero", "nan")
        yield _one(f"round_to_integer-{ties}", "rounding.round_to_integer", x, "RND-1", *flags, ties=ties)
    half = [0x3800, 0x3801, 0xB800, 0x3E00, 0x4100, 0xC100, 0x7C00, 0x7E00, 0x0001, 0x8000, 0x63FF]
    yield Case(
        "round_to_integer-float16", "rounding.round_to_integer", {"x": array("float16", half)}, "GEN-1", ("half-even",)
    )


def _stochastic() -> Iterator[Case]:
    draw, x, r = Ints(2), [], []
    for bits in unique([*SPECIALS, 0x3E800000, 0xBE800000, 0x3F7FFFFF, 0x40490FDB, 0xC0490FDB, 0x33800000, 0x33000000]):
        x += [bits] * 3
        r += [0, 0xFFFFFFFF, draw.word()]
    quarter = [0x3FFFFFFF, 0x40000000, 0x400000FF, 0x40000100]
    x, r = x + [0x3E800000] * 4, r + quarter
    args = {"x": array("float32", x), "bits": array("uint32", r)}
    yield Case(
        "round_stochastic",
        "rounding.round_stochastic",
        args,
        "RND-2",
        ("off-by-one", "negative-zero", "flushed-subnormal"),
    )


def _keys() -> Case:
    keys = [0, 1, -1, 0x7F800000, -0x7F800000, 0x3F800000, -0x3F800000, 0x7FFFFF, -0x7FFFFF, 0x7FC00000]
    return Case("from_key", "bits.from_key", {"key": array("int32", keys)}, "BIT-1", ("negative-zero",))


def _scalb() -> Iterator[Case]:
    x = [b for p in (*SPECIALS, 0x3FC00001, 0x3FFFFFFF) for b in [p] * 8]
    k = [-150, -149, -126, -23, -1, 0, 1, 127] * (len(x) // 8)
    yield Case(
        "scalb",
        "bits.scalb",
        {"x": array("float32", x), "k": array("int32", k)},
        "BIT-2",
        ("double-rounding", "flushed-subnormal", "overflow"),
    )
    far = [-(2**31), 2**31 - 1, -300, 300, 277, -277]
    args = {"x": array("float32", [1, 0xBF800000, 0x7F7FFFFF, 1, 1, 0x7F7FFFFF]), "k": array("int32", far)}
    yield Case("scalb-far", "bits.scalb", args, "BIT-2", ("shift", "wrap"))


def _sums() -> Iterator[Case]:
    draw = Ints(3)
    cancel = [0x4B800000, 0x3F800000, 0x3F800000, 0xCB800000]
    rows = {
        "cancel": cancel,
        "one": [0x80000000],
        "zeros": [0x80000000] * 3,
        "overflow": [0x7F7FFFFF, 0x7F7FFFFF, 0xFF7FFFFF],
        "infinity": [0x7F800000, 0x3F800000, 0xFF800000],
        "subnormal": [1, 2, 3, 0x80000001, 0x00800000],
    }
    flags = {
        "zeros": ("negative-zero",),
        "one": ("negative-zero",),
        "infinity": ("nan",),
        "overflow": ("overflow", "sum-order"),
    }
    for name, row in rows.items():
        unspecified = "GEN-9" if name == "subnormal" else ""
        yield Case(
            f"tree_sum-{name}",
            "sums.tree_sum",
            {"x": array("float32", row)},
            "SUM-1",
            flags.get(name, ("sum-order",)),
            {"axis": 0},
            unspecified=unspecified,
        )
    for n in (2, 3, 5, 7, 8, 33, 100):
        row = [b + (draw.below(24) << 23) for b in draw.normalish(n)]
        yield Case(f"tree_sum-{n}", "sums.tree_sum", {"x": array("float32", row)}, "SUM-1", ("sum-order",), {"axis": 0})
    cube = array("float32", draw.normalish(60), (3, 4, 5))
    for axis in ((0,), (1,), (-1,), (0, 2), (0, 1, 2)):
        name = "_".join(str(a).replace("-", "m") for a in axis)
        options = {"axis": axis if len(axis) > 1 else axis[0]}
        yield Case(f"tree_sum-axis-{name}", "sums.tree_sum", {"x": cube}, "SUM-1", ("sum-order", "axis"), options)
    yield Case("tree_sum-empty", "sums.tree_sum", {"x": array("float32", [], (2, 0))}, "SUM-1", ("empty",), {"axis": 1})
