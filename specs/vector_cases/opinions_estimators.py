"""The third opinion on estimators (tests/exact_estimators.py), tile by tile."""

from __future__ import annotations

import functools
from collections.abc import Callable

import exact_estimators as third

from refquant.granularity import PerTensor
from specs.vector_cases.arrays import Array, array
from specs.vector_cases.case import Case
from specs.vector_cases.opinions_core import Found, narrowed, spread


def _setting(case: Case) -> tuple[object, tuple[int, ...], object]:
    """(granularity, shape of x, format)."""
    return case.options.get("granularity", PerTensor()), case.args["x"].shape, case.options["fmt"]


def _operands(case: Case, *names: str) -> list[tuple]:
    """For each element its x and its tile's numbers."""
    grain, shape, _ = _setting(case)
    return list(zip(case.args["x"].widened(), *(spread(case.args.get(n), shape, grain) for n in names), strict=True))


def _values(function: Callable[..., int], *names: str) -> Callable[[Case], Found]:
    def found(case: Case) -> Found:
        x = case.args["x"]
        bits = [function(*row, fmt=case.options["fmt"], dtype=x.dtype) for row in _operands(case, *names)]
        return {"result": array(x.dtype, (narrowed(b, x.dtype) for b in bits), x.shape)}

    return found


def _gradients(
    case: Case, elements: list[third.Element], names: tuple[str, ...], factor: int, signs: tuple[Array | None, ...]
) -> Found:
    """EST-4..EST-6: x's gradient, and one sum a tile for each name."""
    grain, shape, _ = _setting(case)
    flowing = case.args["cotangent"]
    dx = (b if element.inside else 0 for b, element in zip(flowing.bits, elements, strict=True))
    found = {"dx": array(flowing.dtype, dx, shape)}
    form, wide = grain.scale_shape(shape), flowing.widened()
    for at, (name, sign) in enumerate(zip(names, signs, strict=True)):
        factors = [element.factors[at] if at < len(element.factors) else None for element in elements]
        terms = [third.term(*pair) for pair in zip(factors, wide, strict=True)]
        sums = [third.tile_sum(tile, grain.tile(shape)) if tile else 0 for tile in _tiles(case, terms)]
        learned = sign.bits if sign else [0] * len(sums)
        found[name] = array("float32", (third.finished(s, factor, v) for s, v in zip(sums, learned, strict=True)), form)
    return found


def _tiles(case: Case, values: list[int]) -> list[dict]:
    """Of each tile the values by place."""
    grain, shape, _ = _setting(case)
    count = 1
    for n in grain.scale_shape(shape):
        count *= n
    tiles: list[dict] = [{} for _ in range(count)]
    for (flat, place), value in zip(third.places(shape, grain), values, strict=True):
        tiles[flat][place] = value
    return tiles


def _factor(case: Case) -> int:
    grain, shape, fmt = _setting(case)
    return third.gradient_scale(getattr(case.options["estimator"], "gradient_scale", "none"), fmt, shape, grain)


def _learned(case: Case, name: str) -> Array:
    return case.args[f"learned.{name}" if f"learned.{name}" in case.args else name]


def _lsq_vjp(case: Case) -> Found:
    keep = {"fmt": case.options["fmt"], "mask": case.options["estimator"].mask}
    keep |= {k: v for k, v in case.options.items() if k == "convention"}
    name = "learned.scale" if "learned.scale" in case.args else "scale"
    elements = [third.lsq_element(*row, **keep) for row in _operands(case, name)]
    return _gradients(case, elements, ("dscale",), _factor(case), (_learned(case, "scale"),))


def _lsq_plus_vjp(case: Case) -> Found:
    keep = {"fmt": case.options["fmt"], "mask": case.options["estimator"].mask}
    elements = [third.lsq_plus_element(*row, **keep) for row in _operands(case, "scale", "offset")]
    return _gradients(case, elements, ("dscale", "doffset"), _factor(case), (case.args["scale"], None))


def _learned_plus(case: Case) -> Found:
    keep = {"fmt": case.options["fmt"], "mask": case.options["estimator"].mask}
    keep |= {k: v for k, v in case.options.items() if k == "convention"}
    elements = [third.layer_plus_element(*row, **keep) for row in _operands(case, "learned.scale", "learned.offset")]
    return _gradients(case, elements, ("dscale", "doffset"), _factor(case), (case.args["learned.scale"], None))


def _pact_vjp(case: Case) -> Found:
    name = "learned.alpha" if "learned.alpha" in case.args else "alpha"
    elements = [third.pact_element(*row, fmt=case.options["fmt"]) for row in _operands(case, name)]
    return _gradients(case, elements, ("dalpha",), 0x3F800000, (_learned(case, "alpha"),))


def _learned_vjp(case: Case) -> Found:
    if "learned.alpha" in case.args:
        return _pact_vjp(case)
    return _learned_plus(case) if "learned.offset" in case.args else _lsq_vjp(case)


def _effective(case: Case) -> Found:
    fmt = case.options["fmt"]
    if "learned.alpha" in case.args:
        alpha = case.args["learned.alpha"]
        return {"scale": array("float32", (third.pact_scale(a, fmt) for a in alpha.bits), alpha.shape)}
    scale, offset = case.args["learned.scale"], case.args.get("learned.offset")
    if offset is None:
        return {"scale": array("float32", (third.to_bits(third.used(s)) for s in scale.bits), scale.shape)}
    rows = [third.placed(*pair, fmt) for pair in zip(scale.bits, offset.bits, strict=True)]
    return {
        "scale": array("float32", (third.to_bits(row[0]) for row in rows), scale.shape),
        "zero_point": array("int32", (row[1] for row in rows), scale.shape),
    }


def _initial(function: Callable, case: Case) -> list:
    grain, shape, fmt = _setting(case)
    return [function(tile, grain.tile(shape), fmt) for tile in _tiles(case, case.args["x"].widened())]


def _lsq_init(case: Case) -> Found:
    grain, shape, _ = _setting(case)
    return {"result": array("float32", _initial(third.lsq_init, case), grain.scale_shape(shape))}


def _plus_init(case: Case) -> Found:
    grain, shape, _ = _setting(case)
    bits = _initial(third.lsq_plus_init, case)
    form = grain.scale_shape(shape)
    return {"scale": array("float32", bits, form), "offset": array("float32", [0] * len(bits), form)}


def _from_range(case: Case) -> Found:
    low, high = case.args["low"], case.args["high"]
    rows = [third.lsq_plus_from_range(*pair, case.options["fmt"]) for pair in zip(low.bits, high.bits, strict=True)]
    return {name: array("float32", (row[i] for row in rows), low.shape) for i, name in enumerate(("scale", "offset"))}


def _stochastic(function: Callable, dtype: str | None, case: Case) -> Found:
    x, fmt = case.args["x"], case.options["fmt"]
    rows = zip(_operands(case, "scale", "zero_point"), case.args["bits"].bits, strict=True)
    more = {} if dtype is None else {"dtype": x.dtype}
    bits = [function(*row, r, fmt=fmt, **more) for row, r in rows]
    kind = fmt.storage if dtype is None else x.dtype
    return {"result": array(kind, bits if dtype is None else (narrowed(b, kind) for b in bits), x.shape)}


def _stochastic_vjp(case: Case) -> Found:
    flowing = case.args["cotangent"]
    inside = [third.stochastic_inside(*row, fmt=case.options["fmt"]) for row in _operands(case, "scale", "zero_point")]
    bits = (b if passes else 0 for b, passes in zip(flowing.bits, inside, strict=True))
    return {"result": array(flowing.dtype, bits, flowing.shape)}


TABLE = {
    "qat.lsq": _values(third.lsq, "scale"),
    "qat.lsq_vjp": _lsq_vjp,
    "qat.lsq_init": _lsq_init,
    "qat.lsq_plus": _values(third.lsq_plus, "scale", "offset"),
    "qat.lsq_plus_vjp": _lsq_plus_vjp,
    "qat.lsq_plus_init": _plus_init,
    "qat.lsq_plus_from_range": _from_range,
    "qat.pact": _values(third.pact, "alpha"),
    "qat.pact_vjp": _pact_vjp,
    "qat.stochastic_quantize": functools.partial(_stochastic, third.stochastic_code, None),
    "qat.stochastic_fake_quantize": functools.partial(_stochastic, third.stochastic_value, "x"),
    "qat.stochastic_fake_quantize_vjp": _stochastic_vjp,
    "qat.effective": _effective,
    "qat.learned_vjp": _learned_vjp,
}
