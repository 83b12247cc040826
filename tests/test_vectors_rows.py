"""A row that is added, wherever in its table: no released vector changes, and the row has vectors of its own."""

from __future__ import annotations

import pytest
from vectors_support import CASES, TABLES, rows

from refquant.conventions import PRESETS, RESCALES, Affine, Convention, Preset, Rescale
from refquant.formats import ALL, CodebookFormat, FloatFormat, IntFormat
from specs import vectors
from specs.vector_cases import build, case

pytest.importorskip("ml_dtypes")

#: table, the row before the new one, the new one.  Widths of 9 to 15 bits are those that no format has yet.
ADDED = (
    (ALL, "int8", IntFormat("new_int9", 9, -256, 255, "a test")),
    (ALL, "ternary", IntFormat("new_uint12", 12, 0, 4095, "a test")),
    (ALL, "e5m2", FloatFormat("new_e3m7fnuz", 3, 7, 4, "fnuz", "a test")),
    (ALL, "bfloat16", FloatFormat("new_e5m6", 5, 6, 15, "ieee", "a test")),
    (ALL, "nf4", CodebookFormat("new_three_values", 2, (-1.0, 0.0, 0.5), "a test")),
    (PRESETS, "onnx", Convention("new_middle", Affine("inv", "f32", "add", "away", "sat", "qmax"), "a test", "0")),
    (
        PRESETS,
        "onnx_reference",
        Convention("new_final", Affine("div", "f32", "fma", "up", "i32", "zero"), "a test", "0"),
    ),
    (RESCALES, "onnxruntime", Preset("new_same_point", Rescale("f64"), "a test", "0")),
    (RESCALES, "tosa", Preset("new_f64_up", Rescale("f64", ties="up"), "a test", "0")),
)
NAMES = [row.name for _, _, row in ADDED]


def put(table: dict, before: str, row: object) -> None:
    items, at = list(table.items()), list(table).index(before) + 1
    table.clear()
    table.update([*items[:at], (row.name, row), *items[at:]])


@pytest.fixture(scope="module")
def made() -> tuple[list[case.VectorFile], dict[str, str]]:
    """The case files, and all files as text, with every row of ADDED in its table."""
    before = [(table, dict(table)) for table in (ALL, PRESETS, RESCALES)]
    try:
        for added in ADDED:
            put(*added)
        files = build.case_files()
        return files, build.build(files)
    finally:
        for table, items in before:
            table.clear()
            table.update(items)


def test_rows_property_released_vectors_stay(made: tuple) -> None:
    """Not a line of them changes or moves among the others, so `write` has nothing to refuse."""
    built = made[1]
    assert vectors.changed(built, vectors.AT) == []
    for path in CASES:
        kept = {row["id"] for row in rows(path)[1:]}
        assert [row for row in vectors.by_id(built[path]) if row in kept] == [row["id"] for row in rows(path)[1:]]
    assert all(built[path].encode() == (vectors.AT / path).read_bytes() for path in TABLES)
    assert all(len(text.encode()) <= vectors.LIMIT for text in built.values())


def test_rows_property_new_ones_have_vectors_that_the_third_opinion_accepts(made: tuple) -> None:
    files, built = made
    released = {row["id"] for path in CASES for row in rows(path)[1:]}
    new = [(file, one) for file in files for one in file.cases if one.id not in released]
    named = {name for name in NAMES for _, one in new if name in one.id}
    assert named == set(NAMES) - {"new_same_point"}  # that one's vectors are those of its point
    assert all(any(name in one.id for name in NAMES) for _, one in new)
    assert [text for file, one in new for text in build.refusals_of(file, one)] == []
    assert {path for path in built if path not in {*CASES, *TABLES}} == {
        *(
            f"25-conventions/{name}.json"
            for name in ("new_middle", "new_final", "rescale_new_same_point", "rescale_new_f64_up")
        )
    }
