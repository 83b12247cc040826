"""What tests/exact*.py says about a case: the same arguments as bits, the rules on Fractions and Python ints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import exact
import exact_affine
import exact_requantize

from specs.vector_cases.arrays import Array, array
from specs.vector_cases.case import Case

Found = dict[str, Array]


def each(dtype: str, function: Callable[..., int], *operands: Array) -> Found:
    """One element after the other; an operand of one element goes with all."""
    first = operands[0]
    lists = [o.widened() if o.dtype in ("float16", "bfloat16") else o.bits for o in operands]
    lists = [bits if len(bits) == len(first.bits) else bits * len(first.bits) for bits in lists]
    return {"result": array(dtype, (function(*row) for row in zip(*lists, strict=True)), first.shape)}


def tiles(shape: tuple[int, ...], granularity: object) -> list[int]:
    """GRA-3: the flat index of each element's tile, in C order."""
    tile = granularity.tile(shape)
    counts = [math.ceil(n / t) for n, t in zip(shape, tile, strict=True)]
    found = []
    for index in itertools.product(*map(range, shape)):
        flat = 0
        for i, t, n in zip(index, tile, counts, strict=True):
            flat = flat * n + i // t
        found.append(flat)
    return found


def spread(values: Array | None, shape: tuple[int, ...], granularity: object) -> list[int | None]:
    if values is None:
        return [None] * math.prod(shape)
    return [values.bits[at] for at in tiles(shape, granularity)]


def narrowed(bits: int, dtype: str) -> int:
    """A binary32 pattern as the pattern of a dtype that holds its value."""
    if dtype == "float32" or exact.is_nan(bits):
        return bits if dtype == "float32" else {"float16": 0x7E00, "bfloat16": 0x7FC0}[dtype]
    if dtype == "bfloat16":
        return bits >> 16
    from refquant.formats import ALL

    return exact.encode(bits, ALL["float16"], exact.Cast(overflow="special"))


def _grain(case: Case) -> object:
    from refquant.granularity import PerTensor

    return case.options.get("granularity", PerTensor())


def _round_to_integer(case: Case) -> Found:
    return each("float32", lambda b: exact.round_to_integer(b, case.options.get("ties", "even")), case.args["x"])


def _stochastic(x: int, r: int) -> int:
    found = exact.round_stochastic(x, r)
    if found is None:
        return x
    return exact.to_bits(exact.of(found)) if found else (0x80000000 if x == 0x80000000 else 0)


def _from_key(key: int) -> int:
    return next(b for b in (key & 0xFFFFFFFF, 0x80000000 | -key & 0x7FFFFFFF) if exact.ordered_key(b) == key)


def _scalb(bits: int, k: int) -> int:
    """Beyond ±400 every number has become zero or infinite, and 2^k would not fit the memory."""
    return exact.scalb(bits, exact.clamp(k, -400, 400))


def _tree_sum(case: Case) -> Found:
    x, axis = case.args["x"], case.options["axis"]
    bits, shape = x.widened(), list(x.shape)
    for at in sorted((a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)), reverse=True):
        inner = math.prod(shape[at + 1 :])
        rows = [
            [bits[(o * shape[at] + i) * inner + k] for i in range(shape[at])]
            for o in range(math.prod(shape[:at]))
            for k in range(inner)
        ]
        bits, shape = [exact.tree_sum(row) for row in rows], shape[:at] + shape[at + 1 :]
    return {"result": array("float32", bits, tuple(shape))}


def _encode(case: Case) -> Found:
    fmt, cast = case.options["fmt"], case.options.get("cast", exact.CAST)
    return each(fmt.storage, lambda b: exact.encode(b, fmt, cast), case.args["x"])


def _decode(case: Case) -> Found:
    return each("float32", lambda c: exact.decode(c, case.options["fmt"]), case.args["codes"])


def _pack(case: Case) -> Found:
    return {"result": array("uint8", exact.pack(case.args["codes"].bits, case.options["fmt"].bits))}


def _unpack(case: Case) -> Found:
    """PCK-1 read back: bits k·b .. k·b + b − 1 of the stream."""
    fmt, shape = case.options["fmt"], case.options["shape"]
    stream = int.from_bytes(bytes(case.args["packed"].bits), "little")
    codes = [stream >> (i * fmt.bits) & ((1 << fmt.bits) - 1) for i in range(math.prod(shape))]
    if fmt.storage.startswith("int"):
        codes = [c - (c >> (fmt.bits - 1) << fmt.bits) for c in codes]
    return {"result": array(fmt.storage, codes, shape)}


def _rows(case: Case, name: str) -> list[tuple]:
    """(x or code, scale, zero point) of each element."""
    x, grain = case.args[name], _grain(case)
    bits = x.widened() if x.dtype in ("float16", "bfloat16") else x.bits
    parts = (spread(case.args.get(part), x.shape, grain) for part in ("scale", "zero_point"))
    return list(zip(bits, *parts, strict=True))


def _quantize(case: Case) -> Found:
    keep = {k: v for k, v in case.options.items() if k in ("fmt", "convention", "cast")}
    codes = [exact_affine.quantize(*row, **keep) for row in _rows(case, "x")]
    return {"result": array(keep["fmt"].storage, codes, case.args["x"].shape)}


def _dequantize(case: Case) -> Found:
    zero, fmt, dtype = case.args.get("zero_point"), case.options["fmt"], case.options.get("dtype", "float32")
    real = zero is not None and zero.dtype == "float32"
    values = [exact_affine.dequantize(*row, fmt=fmt, real=real, dtype=dtype) for row in _rows(case, "codes")]
    return {"result": array(dtype, (narrowed(v, dtype) for v in values), case.args["codes"].shape)}


def _fake_quantize(case: Case) -> Found:
    keep = {k: v for k, v in case.options.items() if k in ("fmt", "convention", "cast")}
    x, fmt = case.args["x"], keep["fmt"]
    real = "convention" in keep and keep["convention"].zero == "bias"
    values = []
    for bits, scale, zero in _rows(case, "x"):
        code = exact_affine.quantize(bits, scale, zero, **keep)
        values.append(exact_affine.dequantize(code, scale, zero or 0, fmt=fmt, real=real, dtype=x.dtype))
    return {"result": array(x.dtype, (narrowed(v, x.dtype) for v in values), x.shape)}


def _vjp(case: Case) -> Found:
    keep = {k: v for k, v in case.options.items() if k in ("fmt", "convention", "mask")}
    flowing = case.args["cotangent"]
    passes = [exact_affine.inside(*row, **keep) for row in _rows(case, "x")]
    bits = (b if inside else 0 for b, inside in zip(flowing.bits, passes, strict=True))
    return {"result": array(flowing.dtype, bits, flowing.shape)}


def ranges(x: Array, grain: object) -> list[tuple[int, int]]:
    """SCL-1 of each tile."""
    shape = grain.scale_shape(x.shape)
    members: list[list[int]] = [[] for _ in range(math.prod(shape))]
    for bits, at in zip(x.widened(), tiles(x.shape, grain), strict=True):
        members[at].append(bits)
    return [exact_affine.range_of(tile) for tile in members]


def _range_of(case: Case) -> Found:
    x, grain = case.args["x"], _grain(case)
    found = ranges(x, grain)
    return {
        name: array("float32", (row[i] for row in found), grain.scale_shape(x.shape))
        for i, name in enumerate(("low", "high"))
    }


def chosen(pairs: list[tuple[int, int]], shape: tuple[int, ...], fmt: object, rule: object) -> Found:
    """SCL-2..SCL-8."""
    rows = [exact_affine.choose_scale(*exact_affine.range_of(list(pair)), fmt=fmt, rule=rule) for pair in pairs]
    found = {"scale": array("float32", (scale for scale, _ in rows), shape)}
    if rule.zero == "none":
        return found
    return found | {"zero_point": array("int32" if rule.zero == "int" else "float32", (z for _, z in rows), shape)}


def _choose_scale(case: Case) -> Found:
    low, high = case.args["low"], case.args["high"]
    pairs = [
        (a if exact.ordered_key(a) < 0 else 0, b if exact.ordered_key(b) > 0 else 0)
        for a, b in zip(low.bits, high.bits, strict=True)
    ]
    return chosen(pairs, low.shape, case.options["fmt"], case.options["rule"])


def quantized(x: Array, spec: object) -> Found:
    """QTN-1, QTN-2 for op "div" and "inv"."""
    from refquant.qtensor import spec_convention

    shape = spec.granularity.scale_shape(x.shape)
    found = chosen(ranges(x, spec.granularity), shape, spec.fmt, spec.scale)
    options = {"fmt": spec.fmt, "convention": spec_convention(spec), "granularity": spec.granularity}
    codes = _quantize(Case("", "", {"x": x, **found}, "", options=options))["result"]
    return {"codes": codes, **found}


def _quantize_tensor(case: Case) -> Found:
    from refquant.spec import SCALE_BITS

    spec = case.options["spec"]
    found = quantized(case.args["x"], spec)
    zero = {"none": 0, "int": spec.fmt.bits, "float": 32}[spec.scale.zero]
    count, scales = len(found["codes"].bits), len(found["scale"].bits)
    sizes = (spec.fmt.bits * count, SCALE_BITS[spec.scale.storage] * scales, zero * scales)
    return found | {"nbytes": array("int32", [sum(-(-bits // 8) for bits in sizes)], ())}  # QTN-3


def values(args: dict[str, Array], name: str, spec: object, dtype: str = "float32") -> Found:
    """DEQ of a quantized tensor."""
    parts = {part: args[f"{name}.{part}"] for part in ("codes", "scale", "zero_point") if f"{name}.{part}" in args}
    options = {"fmt": spec.fmt, "granularity": spec.granularity, "dtype": dtype}
    return _dequantize(Case("", "", parts, "", options=options))


def _dequantize_tensor(case: Case) -> Found:
    return values(case.args, "q", case.options["spec"], case.options.get("dtype", "float32"))


def _number(bits: int, dtype: str) -> float:
    import struct

    if dtype == "float32":
        return struct.unpack("<f", struct.pack("<I", bits))[0]
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def _requantize(case: Case) -> Found:
    acc, multiplier, zero = case.args["acc"], case.args["multiplier"], case.args.get("zero_point")
    m = _number(multiplier.bits[0], multiplier.dtype)
    fmt, rescale = case.options["fmt"], case.options["rescale"]
    z = zero.bits[0] if zero else 0
    return each(fmt.storage, lambda a: exact_requantize.requantize(a, m, z, fmt, rescale), acc)


def _requantize_fixed(case: Case) -> Found:
    fmt, rescale, zero = case.options["fmt"], case.options["rescale"], case.args.get("zero_point")
    z = zero.bits[0] if zero else 0

    def code(acc: int, q: int, shift: int) -> int:
        return exact.clamp(exact_requantize.scaled(acc, q, shift, rescale) + z, fmt.qmin, fmt.qmax)

    return each(fmt.storage, code, case.args["acc"], case.args["q"], case.args["shift"])


def _fixed_point(case: Case) -> Found:
    numbers = [_number(b, "float64") for b in case.args["multiplier"].bits]
    rows = [exact_requantize.fixed_point(number, case.options["rescale"]) for number in numbers]
    return {name: array("int32", (row[i] for row in rows)) for i, name in enumerate(("q", "shift"))}


TABLE = {
    "rounding.round_to_integer": _round_to_integer,
    "rounding.round_stochastic": lambda case: each("float32", _stochastic, case.args["x"], case.args["bits"]),
    "bits.ordered_key": lambda case: each("int32", exact.ordered_key, case.args["x"]),
    "bits.from_key": lambda case: each("float32", _from_key, case.args["key"]),
    "bits.scalb": lambda case: each("float32", _scalb, case.args["x"], case.args["k"]),
    "bits.flush": lambda case: each(
        "float32", lambda b: b if exact.is_nan(b) else exact.to_bits(exact.flushed(exact.from_bits(b))), case.args["x"]
    ),
    "sums.tree_sum": _tree_sum,
    "codec.encode": _encode,
    "codec.decode": _decode,
    "packing.pack": _pack,
    "packing.unpack": _unpack,
    "affine.quantize": _quantize,
    "affine.dequantize": _dequantize,
    "affine.fake_quantize": _fake_quantize,
    "affine.fake_quantize_vjp": _vjp,
    "scales.range_of": _range_of,
    "scales.choose_scale": _choose_scale,
    "qtensor.quantize_tensor": _quantize_tensor,
    "qtensor.dequantize_tensor": _dequantize_tensor,
    "requantize.requantize": _requantize,
    "requantize.requantize_fixed": _requantize_fixed,
    "conventions.fixed_point": _fixed_point,
}
