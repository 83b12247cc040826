"""All vector files as text, and what the third opinion has against them."""

from __future__ import annotations

import json
from collections.abc import Iterator

from specs.vector_cases import (
    affine,
    arithmetic,
    codecs,
    conventions,
    estimators,
    folding,
    layers,
    observers,
    requantizing,
    scales,
    tables,
    values,
)
from specs.vector_cases.arrays import Array
from specs.vector_cases.call import call
from specs.vector_cases.case import Case, VectorFile
from specs.vector_cases.opinions import opinion
from specs.vector_cases.withdrawn import WITHDRAWN


def case_files() -> list[VectorFile]:
    modules = (arithmetic, codecs, affine, conventions, values, scales, observers, requantizing, layers, folding)
    return [file for module in (*modules, estimators) for file in module.files()]


def build(files: list[VectorFile]) -> dict[str, str]:
    """Path under specs/vectors -> text, of the case files and the tables."""
    found = {file.path: _lines(file) for file in files}
    return found | {path: _table(tables.render(preset, some)) for path, preset, some in tables.files()}


def _lines(file: VectorFile) -> str:
    gone = WITHDRAWN.get(file.path, {})
    rows = [file.header()]
    rows += [case.json(expected(case)) for case in file.cases if case.id not in gone]
    rows += [{"id": name, "withdrawn": why} for name, why in gone.items()]
    return "".join(_compact(row) + "\n" for row in rows)


def _table(found: dict) -> str:
    """One table a line, so that a difference shows where it is."""
    head = _compact({k: v for k, v in found.items() if k != "tables"})
    return head[:-1] + ',"tables":[\n' + ",\n".join(map(_compact, found["tables"])) + "\n]}\n"


def _compact(row: dict) -> str:
    return json.dumps(row, separators=(",", ":"), ensure_ascii=False)


def expected(case: Case) -> dict[str, Array]:
    """What refquant gives."""
    return call("refquant", case.fn, case.options, case.args)


def refusals(files: list[VectorFile]) -> Iterator[str]:
    """Cases that the third opinion does not accept, one line each."""
    for file in files:
        for case in file.cases:
            yield from refusals_of(file, case)
    for path, _, some in tables.files():
        for table in some:
            key = tables.wrong_key(table)
            if key is not None:
                yield f"{path}: {table.id}: the third opinion has another code at or before key {key}"


def refusals_of(file: VectorFile, case: Case) -> Iterator[str]:
    third, ours = opinion(case), expected(case)
    if (third is not None) != file.opinion:
        yield f"{file.path}: {case.id}: the header says opinion {file.opinion}, there is {'one' if third else 'none'}"
    elif third is not None and case.json(third)["expect"] != case.json(ours)["expect"]:
        yield f"{file.path}: {case.id}: {_first_difference(ours, third)}"


def _first_difference(ours: dict[str, Array], third: dict[str, Array]) -> str:
    for name in {**ours, **third}:
        a, b = ours.get(name), third.get(name)
        if a is None or b is None or (a.dtype, a.shape) != (b.dtype, b.shape):
            return f"{name}: refquant has {a and (a.dtype, a.shape)}, the third opinion {b and (b.dtype, b.shape)}"
        x, y = a.json(any_nan=True)["bits"], b.json(any_nan=True)["bits"]
        at = next((i for i, pair in enumerate(zip(x, y, strict=True)) if pair[0] != pair[1]), None)
        if at is not None:
            return f"{name}[{at}]: refquant has {x[at]}, the third opinion {y[at]}"
    return "equal"
