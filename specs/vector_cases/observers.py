"""Cases of specs/40-calibration.md: streams of batches, whole and merged."""

from __future__ import annotations

from collections.abc import Iterator

from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup
from refquant.spec import ScaleRule
from specs.vector_cases.affine import grain_name
from specs.vector_cases.arrays import Array, array
from specs.vector_cases.case import Case, VectorFile, vector_file
from specs.vector_cases.inputs import SPECIALS, Ints, near

CHAPTER = "40-calibration"
INT = ScaleRule(zero="int")


def files() -> list[VectorFile]:
    return [
        vector_file(CHAPTER, "minmax", "CAL-0, CAL-1, CAL-9", [*_streams("minmax"), *_tiles()]),
        vector_file(CHAPTER, "ema", "CAL-2, CAL-10", _ema()),
        vector_file(CHAPTER, "histogram", "CAL-3, CAL-9", _streams("histogram")),
        vector_file(CHAPTER, "linear", "CAL-8, CAL-9", _streams("linear")),
        vector_file(CHAPTER, "percentile", "CAL-4", _percentile()),
        vector_file(CHAPTER, "mse", "CAL-5, CAL-11, CAL-12", _mse()),
        vector_file(CHAPTER, "mse_search", "CAL-5, CAL-11, CAL-12", _search()),
        vector_file(CHAPTER, "entropy", "CAL-6, CAL-13, CAL-14", _entropy()),
        vector_file(CHAPTER, "entropy_lg", "CAL-15", [_lg()]),
    ]


def streams() -> dict[str, list[list[int]]]:
    """Batches of 32 patterns: specials, growth, one sign, edges of bins."""
    draw = Ints(80)
    edges = [
        b | s
        for p in (0x3F800000, 0x3F810000, 0x3FFFFFFF, 0x40000000, 0x3A000000)
        for b in near(p)
        for s in (0, 0x80000000)
    ]
    return {
        "specials": [list(SPECIALS[:32]), draw.normalish(32)],
        "grows": [draw.normalish(32, power) for power in (-130, -20, 0, 13)],
        "relu": [[b if b < 0x80000000 else 0 for b in draw.normalish(32)]],
        "edges": [(edges * 2)[:32], draw.normalish(32, -4), (edges * 2)[3:35]],
        "nan": [[0x7FC00000] * 32],
        "zeros": [[0, 0x80000000] * 16],
    }


def batches(rows: list[list[int]]) -> dict[str, Array]:
    return {f"batch{i}": array("float32", row) for i, row in enumerate(rows)}


FLAG = {
    "specials": "infinity",
    "grows": "flushed-subnormal",
    "relu": "range-without-zero",
    "edges": "off-by-one",
    "nan": "nan",
    "zeros": "zero-range",
}


def _streams(kind: str) -> Iterator[Case]:
    for name, rows in streams().items():
        yield Case(f"{kind}-{name}", f"calibration.{kind}", batches(rows), "CAL-0", (FLAG[name],))
        if len(rows) > 1:
            yield Case(
                f"{kind}-{name}-merged",
                f"calibration.{kind}",
                batches(rows),
                "CAL-0",
                ("merge", FLAG[name]),
                {"parts": (1, len(rows) - 1)},
            )


def _tiles() -> Iterator[Case]:
    draw = Ints(81)
    for shape, grain in (((5, 6), PerAxis(1)), ((5, 6), PerGroup(1, 4))):
        rows = {
            f"batch{i}": array(
                "float32", [draw.pick(SPECIALS) if draw.below(4) == 0 else b for b in draw.normalish(30)], shape
            )
            for i in range(2)
        }
        yield Case(
            f"minmax-{grain_name(shape, grain)}",
            "calibration.minmax",
            rows,
            "CAL-1",
            ("axis", "ragged"),
            {"shape": shape, "granularity": grain},
        )


def _ema() -> Iterator[Case]:
    for name, rows in streams().items():
        for constant in (0.01, 0.25):
            options = {"averaging_constant": constant}
            yield Case(
                f"ema-{name}-{constant}", "calibration.ema", batches(rows), "CAL-2", ("fma", FLAG[name]), options
            )
    draw = Ints(82)
    rows = [draw.normalish(32, draw.below(6)) for _ in range(7)]
    yield Case(
        "ema-folded",
        "calibration.ema",
        batches(rows),
        "CAL-10",
        ("fma", "sum-order"),
        {"averaging_constant": 0.1, "capacity": 3},
    )
    yield Case(
        "ema-merged",
        "calibration.ema",
        batches(rows),
        "CAL-10",
        ("merge", "fma"),
        {"averaging_constant": 0.1, "capacity": 4, "parts": (5, 2)},
    )


def _percentile() -> Iterator[Case]:
    for name, rows in streams().items():
        for share, two in ((999_900, False), (500_000, True), (900_000, False), (1_000_000, True), (1, False)):
            options = {"millionths": share, "two_sided": two}
            yield Case(
                f"percentile-{name}-{share}-{'two' if two else 'one'}",
                "calibration.percentile",
                batches(rows),
                "CAL-4",
                ("off-by-one", "outlier"),
                options,
            )


def _mse() -> Iterator[Case]:
    some = streams()
    heavy = [[*some["edges"][1][:31], 0x41200000]]
    for name, rows in (("edges", some["edges"][1:2]), ("heavy", heavy), ("relu", some["relu"])):
        for fmt, rule, power in (("int4", ScaleRule(), 2), ("uint4", INT, 1)):
            yield Case(
                f"mse-{name}-{fmt}",
                "calibration.mse",
                batches(rows),
                "CAL-12",
                ("outlier", "off-by-one", "sum-order"),
                {"fmt": ALL[fmt], "rule": rule, "power": power, "smallest": 40},
            )


def _search() -> Iterator[Case]:
    draw = Ints(83)
    bits = draw.normalish(24)
    bits[5], bits[14], bits[20] = 0x41200000, 0x7FC00000, 0x80000000
    x = array("float32", bits, (4, 6))
    for fmt, rule, power, grain in (
        ("int4", ScaleRule(), 2, PerGroup(1, 4)),
        ("int4", ScaleRule(), 4, PerAxis(0)),
        ("uint4", INT, 3, PerAxis(0)),
        ("e2m1fn", ScaleRule(), 1, PerGroup(1, 4)),
        ("int4", ScaleRule(zero="float"), 2, PerAxis(1)),
    ):
        options = {"fmt": ALL[fmt], "rule": rule, "power": power, "smallest": 60, "granularity": grain}
        yield Case(
            f"mse_search-{fmt}-{power}-{grain_name((4, 6), grain)}",
            "calibration.mse.search",
            {"x": x},
            "CAL-12",
            ("outlier", "ragged", "sum-order", *(["offset"] if rule.zero == "float" else [])),
            options,
        )


def _entropy() -> Iterator[Case]:
    draw = Ints(84)
    rows = {
        "normal": [draw.normalish(256)],
        "heavy": [[*draw.normalish(255, -3), 0x41200000]],
        "relu": streams()["relu"],
        "nan": streams()["nan"],
    }
    for name, found in rows.items():
        for fmt in ("int8", "int4"):
            yield Case(
                f"entropy-{name}-{fmt}",
                "calibration.entropy",
                batches(found),
                "CAL-14",
                ("outlier", "off-by-one"),
                {"fmt": ALL[fmt]},
            )


def _lg() -> Case:
    draw = Ints(85)
    v = [
        1,
        2,
        3,
        4,
        5,
        1023,
        1024,
        1025,
        2**30,
        2**31 - 1,
        2**30 + 2**20,
        2**21 - 1,
        *(1 + (draw.word() >> draw.between(1, 30)) for _ in range(40)),
    ]
    return Case("entropy_lg", "calibration.entropy.lg", {"v": array("int32", v)}, "CAL-15", ("off-by-one", "shift"))
