"""Run a case on a package: refquant when vectors are written, every backend when they are tested."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np

from refquant.conventions import fixed_point
from refquant.estimators import learned_names
from specs.vector_cases.arrays import Array, of_numpy

#: Positional parameters, in order; what a case lacks is None (a trailing None is left out).
PARAMETERS = {
    "rounding.round_to_integer": ("x",),
    "rounding.round_stochastic": ("x", "bits"),
    "bits.ordered_key": ("x",),
    "bits.from_key": ("key",),
    "bits.scalb": ("x", "k"),
    "bits.flush": ("x",),
    "sums.tree_sum": ("x",),
    "codec.encode": ("x",),
    "codec.decode": ("codes",),
    "packing.pack": ("codes",),
    "packing.unpack": ("packed",),
    "affine.quantize": ("x", "scale", "zero_point"),
    "affine.dequantize": ("codes", "scale", "zero_point"),
    "affine.fake_quantize": ("x", "scale", "zero_point"),
    "affine.fake_quantize_vjp": ("x", "scale", "zero_point", "cotangent"),
    "scales.range_of": ("x",),
    "scales.choose_scale": ("low", "high"),
    "requantize.requantize": ("acc", "multiplier", "zero_point"),
    "requantize.requantize_fixed": ("acc", "q", "shift", "zero_point"),
    "calibration.mse.search": ("x",),
    "calibration.entropy.lg": ("v",),
    "qat.integer_bias": ("bias", "input_scale", "weight_scale"),
    "qat.convolve": ("a", "b"),
    "qat.matmul": ("a", "b"),
    "qat.fold": ("kernel", "bias", "mean", "var", "scale", "offset"),
    "qat.lsq": ("x", "scale"),
    "qat.lsq_vjp": ("x", "scale", "cotangent"),
    "qat.lsq_init": ("x",),
    "qat.lsq_plus": ("x", "scale", "offset"),
    "qat.lsq_plus_vjp": ("x", "scale", "offset", "cotangent"),
    "qat.lsq_plus_init": ("x",),
    "qat.lsq_plus_from_range": ("low", "high"),
    "qat.pact": ("x", "alpha"),
    "qat.pact_vjp": ("x", "alpha", "cotangent"),
    "qat.stochastic_quantize": ("x", "scale", "zero_point", "bits"),
    "qat.stochastic_fake_quantize": ("x", "scale", "zero_point", "bits"),
    "qat.stochastic_fake_quantize_vjp": ("x", "scale", "zero_point", "bits", "cotangent"),
}
RESULTS = {
    "scales.range_of": ("low", "high"),
    "scales.choose_scale": ("scale", "zero_point"),
    "calibration.mse.search": ("low", "high"),
    "qat.fold": ("kernel", "bias"),
    "qat.lsq_vjp": ("dx", "dscale"),
    "qat.lsq_plus_vjp": ("dx", "dscale", "doffset"),
    "qat.lsq_plus_init": ("scale", "offset"),
    "qat.lsq_plus_from_range": ("scale", "offset"),
    "qat.pact_vjp": ("dx", "dalpha"),
}
OBSERVERS = ("minmax", "ema", "histogram", "linear", "percentile", "mse", "entropy")
LAYERS = ("qat.dense", "qat.einsum", "qat.conv", "qat.attend")


def call(package: str, fn: str, options: dict, args: dict[str, Array]) -> dict[str, Array]:
    """The results by name; a result that is None is left out."""
    arrays = {name: value.numpy() for name, value in args.items()}
    found = _special(fn)(package, fn, options, arrays)
    return {name: of_numpy(value) for name, value in found.items() if value is not None}


def _special(fn: str) -> Callable:
    module = fn.split(".")[1]
    if fn in ("qtensor.quantize_tensor", "qtensor.dequantize_tensor", "qat.embed", "conventions.fixed_point"):
        return {"quantize_tensor": _quantize, "dequantize_tensor": _dequantize, "embed": _embed, "fixed_point": _fixed}[
            module
        ]
    if fn in ("qat.effective", "qat.learned_vjp"):
        return _learned
    if fn in LAYERS:
        return _layer
    return _observer if fn not in PARAMETERS and module in OBSERVERS else _plain


def _function(package: str, fn: str) -> Callable:
    module, name = fn.rsplit(".", 1)
    return getattr(importlib.import_module(f"{package}.{module}"), name)


def _plain(package: str, fn: str, options: dict, arrays: dict) -> dict:
    positional = [arrays.get(name) for name in PARAMETERS[fn]]
    while positional[-1] is None:
        positional.pop()
    if fn in ("sums.tree_sum", "packing.unpack"):
        options = dict(options)
        positional.append(options.pop("axis" if fn == "sums.tree_sum" else "shape"))
    if fn == "calibration.entropy.lg":
        return {"result": np.asarray(_function(package, fn)(arrays["v"].astype(np.int64))).astype(np.int32)}
    result = _function(package, fn)(*positional, **options)
    names = RESULTS.get(fn, ("result",))
    return dict(zip(names, result if len(names) > 1 else (result,), strict=True))


def _qtensor(package: str, arrays: dict, spec: object, name: str) -> object:
    kind = _function(package, "qtensor.QTensor")
    asarray = np.asarray if package == "refquant" else importlib.import_module("jax.numpy").asarray
    parts = [arrays.get(f"{name}.{part}") for part in ("codes", "scale", "zero_point")]
    return kind(*(None if part is None else asarray(part) for part in parts), spec)


def _quantize(package: str, fn: str, options: dict, arrays: dict) -> dict:
    q = _function(package, fn)(arrays["x"], options["spec"])
    return {"codes": q.codes, "scale": q.scale, "zero_point": q.zero_point, "nbytes": np.int32(q.nbytes)}


def _dequantize(package: str, fn: str, options: dict, arrays: dict) -> dict:
    q = _qtensor(package, arrays, options["spec"], "q")
    return {"result": _function(package, fn)(q, **{k: v for k, v in options.items() if k != "spec"})}


def _embed(package: str, fn: str, options: dict, arrays: dict) -> dict:
    table = _qtensor(package, arrays, options["weight"], "weight")
    rest = {k: v for k, v in options.items() if k != "weight"}
    return {"result": _function(package, fn)(arrays["ids"], table, **rest)}


def _fixed(package: str, fn: str, options: dict, arrays: dict) -> dict:
    """Data, so there is one for both packages."""
    pairs = [fixed_point(m, options["rescale"]) for m in arrays["multiplier"].tolist()]
    q, shift = zip(*pairs, strict=True)
    return {"q": np.array(q, np.int32), "shift": np.array(shift, np.int32)}


def _layer(package: str, fn: str, options: dict, arrays: dict) -> dict:
    options = dict(options)
    weight = _qtensor(package, arrays, options.pop("weight"), "weight")
    first = (options.pop("subscripts"),) if "subscripts" in options else ()
    static = {k: arrays[k] for k in ("input_scale", "input_zero_point") if k in arrays}
    return {"result": _function(package, fn)(*first, arrays["x"], weight, arrays.get("bias"), **options, **static)}


def _learned(package: str, fn: str, options: dict, arrays: dict) -> dict:
    options = dict(options)
    estimator = options.pop("estimator")
    names = learned_names(estimator)
    learned = tuple(arrays[f"learned.{name}"] for name in names)
    if fn == "qat.effective":
        scale, zero_point = _function(package, fn)(estimator, learned, options["fmt"])
        return {"scale": scale, "zero_point": zero_point}
    dx, found = _function(package, fn)(estimator, arrays["x"], learned, arrays["cotangent"], **options)
    return {"dx": dx} | {f"d{name}": part for name, part in zip(names, found, strict=True)}


def _observer(package: str, fn: str, options: dict, arrays: dict) -> dict:
    """init, update for each batch, merge of the parts, finalize."""
    module = importlib.import_module(f"{package}.calibration.{fn.split('.')[1]}")
    options, batches = dict(options), list(arrays.values())
    init = {k: options.pop(k) for k in ("shape", "granularity", "averaging_constant", "capacity") if k in options}
    merged, start = None, 0
    for size in options.pop("parts", (len(batches),)):
        state = module.init(**init)
        for batch in batches[start : start + size]:
            state = module.update(state, batch)
        merged, start = state if merged is None else module.merge(merged, state), start + size
    low, high = module.finalize(merged, **options)
    return {"low": low, "high": high, **_seen(merged)}


def _seen(state: object) -> dict:
    seen = getattr(state, "seen", state)
    found = {"count": seen.count, "nan": seen.nan, "inf": seen.inf}
    if not hasattr(state, "counts"):
        return found
    counts = np.asarray(state.counts).reshape(-1)
    bins = np.nonzero(counts)[0].astype(np.int32)
    return {**found, "bins": bins, "counts": counts[bins]}
