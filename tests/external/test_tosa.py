"""TOSA's reference model: RESCALE of int32 to int8 (pip install --no-deps tosa-tools: it wants older versions)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refquant.conventions import RESCALES, fixed_point
from refquant.formats import ALL
from refquant.requantize import requantize, requantize_fixed
from refquant.thresholds import probes, thresholds

model = pytest.importorskip("tosa_reference_model")
tosa = pytest.importorskip("tosa_serializer")
INT8 = ALL["int8"]
ROWS = {"SINGLE_ROUND": "tosa", "DOUBLE_ROUND": "gemmlowp"}
MULTIPLIERS = [0.0625, 0.125, 0.75, 0.0217 * 0.0093 / 0.117, 0.11 * 0.013 / 0.29, 1.44, 5.3, 1e-6, 3e-8]


def rescale(acc: np.ndarray, q: int, shift: int, zero: int, rounding: str, folder: Path) -> np.ndarray:
    """A graph of one operator; TOSA's shift is the whole one, to the right."""
    graph = tosa.TosaSerializer(str(folder))
    if not graph.regions:
        graph.startRegion("main", str(folder))
    x = graph.addPlaceholder([len(acc)], tosa.DType.INT32, acc)
    numbers = (("INT32", q), ("INT8", 31 - shift), ("INT32", 0), ("INT8", zero))
    constants = [graph.addConst([1], getattr(tosa.DType, kind), np.array([n], kind.lower())) for kind, n in numbers]
    y = graph.addOutput([len(acc)], tosa.DType.INT8)
    attribute = tosa.TosaSerializerAttribute()
    attribute.RescaleAttribute(True, getattr(tosa.RoundingMode, rounding), False, False, False)
    graph.addOperator(tosa.Op.RESCALE, [x.name, *(c.name for c in constants)], [y.name], attribute)
    (codes,), status = model.run(bytes(graph.serialize()), [acc])
    assert status == model.GraphStatus.TOSA_VALID
    return np.frombuffer(codes.tobytes(), np.int8)


def accumulators(real: float, shift: int) -> np.ndarray:
    """The probes of all rescales inside what TOSA requires of a value: 2 to the whole shift - 1, so it fits int32."""
    acc = np.unique(probes(*(thresholds(row.point, INT8, real, 0) for row in RESCALES.values()))).astype(np.int32)
    return acc[np.abs(acc.astype(np.int64)) < 1 << (30 - shift)]


@pytest.mark.parametrize("rounding", ROWS)
@pytest.mark.parametrize("real", MULTIPLIERS)
def test_rescale_external_follows_the_preset(real, rounding, tmp_path):
    point = RESCALES[ROWS[rounding]].point
    q, shift = fixed_point(real, point)
    acc = accumulators(real, shift)
    for zero in (0, 5, -7):
        got = rescale(acc, q, shift, zero, rounding, tmp_path)
        want = requantize_fixed(acc, q, shift, np.int32(zero), fmt=INT8, rescale=point)
        assert np.array_equal(got, want) and len(acc) > 50, (zero, acc[got != want][:5])
        assert np.array_equal(want, requantize(acc, real, np.int32(zero), fmt=INT8, rescale=point))
