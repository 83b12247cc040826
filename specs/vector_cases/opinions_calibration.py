"""The third opinion on observers (tests/exact_calibration.py)."""

from __future__ import annotations

from collections import Counter

import exact
import exact_affine
import exact_calibration

from refquant.spec import ScaleRule
from specs.vector_cases.arrays import Array, array
from specs.vector_cases.case import Case
from specs.vector_cases.opinions_core import Found, ranges


def _data(case: Case) -> list[int]:
    return [bits for batch in case.args.values() for bits in batch.widened()]


def _ends(low: int, high: int) -> Found:
    return {"low": array("float32", [low], ()), "high": array("float32", [high], ())}


def _counts(case: Case) -> Found:
    """CAL-9."""
    data = _data(case)
    nan, inf = sum(map(exact.is_nan, data)), sum(b & 0x7FFFFFFF == 0x7F800000 for b in data)
    return {name: array("int32", [n], ()) for name, n in (("count", len(data) - nan), ("nan", nan), ("inf", inf))}


def _bins(counter: Counter, width: int = 0) -> Found:
    """Non-empty bins in flat order; (sign, bin) is sign · width + bin."""
    flat = {key if width == 0 else key[0] * width + key[1]: n for key, n in counter.items()}
    keys = sorted(flat)
    return {"bins": array("int32", keys), "counts": array("int32", (flat[k] for k in keys))}


def _minmax(case: Case) -> Found:
    grain = case.options.get("granularity")
    if grain is None:
        return _ends(*exact_affine.range_of(_data(case))) | _counts(case)
    each = [ranges(batch, grain) for batch in case.args.values()]
    tiles = [exact_affine.range_of([end for pair in tile for end in pair]) for tile in zip(*each, strict=True)]
    shape = grain.scale_shape(case.options["shape"])
    ends = {name: array("float32", (tile[i] for tile in tiles), shape) for i, name in enumerate(("low", "high"))}
    return ends | _counts(case)


def _ema(case: Case) -> Found:
    rows = [exact_affine.range_of(b.widened()) for b in case.args.values() if _has_data(b)]
    constant = exact.to_bits(exact.rounded(exact.of(case.options.get("averaging_constant", 0.01))))
    return _ends(*exact_calibration.ema(rows, constant)) | _counts(case)


def _has_data(batch: Array) -> bool:
    return not all(map(exact.is_nan, batch.widened()))


def _histogram(case: Case) -> Found:
    return _ends(*exact_affine.range_of(_data(case))) | _counts(case) | _bins(exact_calibration.histogram(_data(case)))


def _linear(case: Case) -> Found:
    return (
        _ends(*exact_affine.range_of(_data(case))) | _counts(case) | _bins(exact_calibration.linear(_data(case)), 4096)
    )


def _percentile(case: Case) -> Found:
    share, two = case.options.get("millionths", 999_900), case.options.get("two_sided", False)
    found = exact_calibration.percentile(_data(case), share, two_sided=two)
    return _ends(*found) | _counts(case) | _bins(exact_calibration.histogram(_data(case)))


def _mse(case: Case) -> Found:
    """CAL-5, CAL-12 on the bins in use; a bin without data adds +0, which changes no sum of losses."""
    data, fmt = _data(case), case.options["fmt"]
    rule, power = case.options.get("rule", ScaleRule()), case.options.get("power", 2)
    seen, e, cells = exact_affine.range_of(data), exact_calibration.exponent(data), _middles(data)
    best = None
    for k in range(100, case.options.get("smallest", 20) - 1, -1):
        ends = exact_calibration.shrink(seen[0], k), exact_calibration.shrink(seen[1], k)
        scale, zero = exact_affine.choose_scale(*ends, fmt=fmt, rule=rule)
        rows: list[dict[int, int]] = [{}, {}]
        for (sign, i), (count, x) in cells.items():
            fake = exact_calibration.fake(x, scale, zero, fmt=fmt, rule=rule)
            loss = exact_calibration.loss(x, fake, e, power)
            rows[sign][i] = exact.to_bits(exact.rounded(exact.mul(exact.rounded(exact.of(count)), loss)))
        total = exact.from_bits(exact.tree_sum([_sparse_sum(row) for row in rows])).size
        best = (total, ends) if best is None or total < best[0] else best
    return _ends(*best[1]) | _counts(case) | _bins(exact_calibration.linear(data), 4096)


def _middles(data: list[int]) -> dict[tuple[int, int], tuple[int, int]]:
    """(sign, bin) -> (count, pattern of the midpoint)."""
    w = exact_calibration.width(data)
    return {(sign, i): (n, exact.to_bits(exact.Real(bool(sign), w * (2 * i + 1) / 2 if i else w * 0)))
            for (sign, i), n in exact_calibration.linear(data).items()}  # fmt: skip


def _sparse_sum(row: dict[int, int]) -> int:
    """SUM-1 over 4,096 terms of which those left out are +0."""
    for _ in range(12):
        pairs: dict[int, list[int]] = {}
        for i in sorted(row):
            pairs.setdefault(i // 2, []).append(row[i])
        row = {i: exact.tree_sum(pair) for i, pair in pairs.items()}
    return row.get(0, 0)


def _search(case: Case) -> Found:
    """Of two axes, tiles laid out by GRA-1 and filled up with None."""
    x, options = case.args["x"], dict(case.options)
    grain = options.pop("granularity")
    (rows, columns), (height, width), bits = x.shape, grain.tile(x.shape), x.widened()

    def cell(i: int, j: int) -> int | None:
        return bits[i * columns + j] if i < rows and j < columns else None

    corners = [(i, j) for i in range(0, rows, height) for j in range(0, columns, width)]
    tiles = [[[cell(i + a, j + b) for b in range(width)] for a in range(height)] for i, j in corners]
    found = [exact_calibration.mse_of_tile(tile, **options) for tile in tiles]
    shape = grain.scale_shape(x.shape)
    return {name: array("float32", (row[i] for row in found), shape) for i, name in enumerate(("low", "high"))}


def _entropy(case: Case) -> Found:
    found = exact_calibration.entropy(_data(case), case.options["fmt"].qmax + 1)
    return _ends(*found) | _counts(case) | _bins(exact_calibration.linear(_data(case)), 4096)


def _lg(case: Case) -> Found:
    return {"result": array("int32", map(exact_calibration.lg, case.args["v"].bits))}


TABLE = {
    "calibration.minmax": _minmax,
    "calibration.ema": _ema,
    "calibration.histogram": _histogram,
    "calibration.linear": _linear,
    "calibration.percentile": _percentile,
    "calibration.mse": _mse,
    "calibration.mse.search": _search,
    "calibration.entropy": _entropy,
    "calibration.entropy.lg": _lg,
}
