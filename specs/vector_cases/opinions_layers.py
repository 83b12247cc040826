"""The third opinion on layers (tests/exact_layers.py): sums in Python ints, every rounding in Fractions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import exact
import exact_layers

from refquant.granularity import PerGroup
from refquant.windows import Window, window
from specs.vector_cases.arrays import Array, array
from specs.vector_cases.case import Case
from specs.vector_cases.opinions_core import Found, each, narrowed, quantized, spread, tiles, values

LETTERS = {"qat.dense": "tk,kn->tn", "qat.attend": "tk,nk->tn"}


class Operand:
    """Centred codes and scales by index (LAY-1)."""

    def __init__(self, codes: Array, scale: Array, zero: Array | None, spec: object):
        self.shape, self.grain = codes.shape, spec.granularity
        zeros = spread(zero, codes.shape, self.grain)
        low, high = spec.fmt.qmin, spec.fmt.qmax
        self.codes = [c - exact.clamp(z or 0, low, high) for c, z in zip(codes.bits, zeros, strict=True)]
        self.tiles, self.scales = tiles(codes.shape, self.grain), scale.bits

    def flat(self, *index: int) -> int:
        at = 0
        for i, n in zip(index, self.shape, strict=True):
            at = at * n + i
        return at

    def code(self, *index: int) -> int:
        return self.codes[self.flat(*index)]

    def tile(self, *index: int) -> int:
        return self.tiles[self.flat(*index)]


def _operands(case: Case) -> tuple[Operand, Operand]:
    """LAY-4: the inputs by their own scale, or by the one given."""
    x, inputs = case.args["x"], case.options["inputs"]
    scale, zero = case.args.get("input_scale"), case.args.get("input_zero_point")
    if scale is None:
        q = quantized(x, inputs)
        codes, scale, zero = q["codes"], q["scale"], q.get("zero_point")
    else:
        codes = _static_codes(x, scale, zero, inputs)
    weight = [case.args.get(f"weight.{part}") for part in ("codes", "scale", "zero_point")]
    return Operand(codes, scale, zero, inputs), Operand(*weight, case.options["weight"])


def _static_codes(x: Array, scale: Array, zero: Array | None, inputs: object) -> Array:
    from specs.vector_cases.opinions_core import TABLE

    parts = {"x": x, "scale": scale} | ({} if zero is None else {"zero_point": zero})
    options = {"fmt": inputs.fmt, "granularity": inputs.granularity, "convention": inputs.convention}
    return TABLE["affine.quantize"](Case("", "", parts, "", options=options))["result"]


def _contraction(case: Case) -> Found:
    """LAY-1, LAY-3: letters name axes."""
    a, w = _operands(case)
    left, right, out = (LETTERS.get(case.fn) or case.options["subscripts"]).replace("->", ",").split(",")
    if case.fn in LETTERS and len(a.shape) == 3:
        left, out = "s" + left, "s" + out
    sizes = dict(zip(left, a.shape, strict=True)) | dict(zip(right, w.shape, strict=True))
    summed = [letter for letter in left if letter not in out]
    shape, dtype = tuple(sizes[letter] for letter in out), case.options.get("dtype", "float32")
    values = []
    for place in itertools.product(*map(range, shape)):
        at = dict(zip(out, place, strict=True))
        terms = [_term(a, w, left, right, at | dict(zip(summed, inner, strict=True)))
                 for inner in itertools.product(*(range(sizes[letter]) for letter in summed))]  # fmt: skip
        values.append(_finish(case, terms, a, w, place, shape, isinstance(w.grain, PerGroup)))
    return {"result": array(dtype, (narrowed(v, dtype) for v in values), shape)}


def _term(a: Operand, w: Operand, left: str, right: str, at: dict[str, int]) -> tuple[int, int, int]:
    """(product, tile of x, tile of the weight)."""
    i, j = [at[letter] for letter in left], [at[letter] for letter in right]
    return a.code(*i) * w.code(*j), a.tile(*i), w.tile(*j)


def _finish(case: Case, terms: list, a: Operand, w: Operand, place: tuple, shape: tuple, grouped: bool) -> int:
    bias, dtype = case.args.get("bias"), case.options.get("dtype", "float32")
    b = (
        None
        if bias is None
        else bias.bits[_flat(place[len(place) - len(bias.shape) :], shape[len(place) - len(bias.shape) :])]
    )
    s_x, integer = a.scales[terms[0][1]], bias is not None and bias.dtype == "int32"
    groups: dict[int, int] = {}
    for product, _, tile in terms:
        groups[tile] = groups.get(tile, 0) + product
    parts = [exact_layers.scaled(acc, w.scales[tile], b if integer else 0) for tile, acc in groups.items()]
    y = exact.tree_sum(parts) if grouped else parts[0]
    return exact_layers.finished(y, s_x, None if integer else b, dtype)


def _flat(place: tuple[int, ...], shape: tuple[int, ...]) -> int:
    at = 0
    for i, n in zip(place, shape, strict=True):
        at = at * n + i
    return at


def _conv(case: Case) -> Found:
    a, w = _operands(case)
    at = _window(case, a.shape, w.shape)
    shape, dtype = (a.shape[0], *at.out, w.shape[-1]), case.options.get("dtype", "float32")
    found = [_example(case, a, w, at, shape, n) for n in range(a.shape[0])]
    return {"result": array(dtype, (narrowed(v, dtype) for part in found for v in part), shape)}


def _window(case: Case, x: tuple[int, ...], w: tuple[int, ...]) -> Window:
    names = ("strides", "padding", "input_dilation", "kernel_dilation")
    plain = {"strides": 1, "padding": "SAME", "input_dilation": 1, "kernel_dilation": 1}
    options = plain | {k: case.options[k] for k in names if k in case.options}
    return window("conv", x, w, groups=case.options.get("feature_group_count", 1), **options)


def _convolve(case: Case) -> Found:
    a, b = case.args["a"], case.args["b"]
    at = _window(case, a.shape, b.shape)
    sums = [
        total
        for n in range(a.shape[0])
        for total in exact_layers.convolution(
            lambda *i, n=n: a.bits[_flat((n, *i), a.shape)], lambda *i: b.bits[_flat(i, b.shape)], a.shape, b.shape, at
        ).values()
    ]
    return {"result": array("int32", sums, (a.shape[0], *at.out, b.shape[-1]))}


def _example(case: Case, a: Operand, w: Operand, at: object, shape: tuple, n: int) -> Iterator[int]:
    sums = exact_layers.convolution(lambda *i: a.code(n, *i), w.code, a.shape, w.shape, at)
    corner = (0,) * (len(w.shape) - 1)
    for place in itertools.product(*map(range, shape[1:])):
        term = (sums[place], a.tile(n, *(0,) * (len(a.shape) - 1)), w.tile(*corner, place[-1]))
        yield _finish(case, [term], a, w, (n, *place), shape, False)


def _embed(case: Case) -> Found:
    """LAY-6: rows of the dequantized table, NaN for an id that there is not."""
    ids, dtype, codes = case.args["ids"], case.options.get("dtype", "float32"), case.args["weight.codes"]
    rows, width = codes.shape
    table = values(case.args, "weight", case.options["weight"], dtype)["result"].bits
    nan = {"float32": 0x7FC00000, "float16": 0x7E00, "bfloat16": 0x7FC0}[dtype]
    picked = [i + rows if i < 0 else i for i in ids.bits]
    bits = [table[i * width + k] if 0 <= i < rows else nan for i in picked for k in range(width)]
    return {"result": array(dtype, bits, (*ids.shape, width))}


def _matmul(case: Case) -> Found:
    a, b = case.args["a"], case.args["b"]
    (m, k), n = a.shape, b.shape[1]
    sums = [sum(a.bits[i * k + s] * b.bits[s * n + j] for s in range(k)) for i in range(m) for j in range(n)]
    return {"result": array("int32", sums, (m, n))}


def _fold(case: Case) -> Found:
    """LAY-14, channel by channel."""
    bits = {name: value.widened() for name, value in case.args.items()}
    channels = range(len(bits["var"]))
    one, none = [exact.to_bits(exact.of(1))] * len(channels), [None] * len(channels)
    scale, bias, offset = bits.get("scale", one), bits.get("bias", none), bits.get("offset", none)
    factors = [exact_layers.fold_factor(bits["var"][c], scale[c], case.options["epsilon"]) for c in channels]
    kernel = [exact_layers.folded(b, factors[i % len(channels)]) for i, b in enumerate(bits["kernel"])]
    shifted = [exact_layers.fold_bias(bias[c], bits["mean"][c], factors[c], offset[c]) for c in channels]
    return {"kernel": array("float32", kernel, case.args["kernel"].shape), "bias": array("float32", shifted)}


def _integer_bias(case: Case) -> Found:
    return each("int32", _bias, *(case.args[name] for name in ("bias", "input_scale", "weight_scale")))


def _bias(bias: int, s_x: int, s_w: int) -> int:
    ratio = exact.rounded(exact.div(exact.from_bits(bias), exact.from_bits(exact_layers.product(s_x, s_w))))
    if isinstance(ratio.size, str):
        return 0 if ratio.size == exact.NAN else (-(2**31) if ratio.negative else 2**31 - 128)
    return exact_layers.integer_bias(bias, s_x, s_w)


TABLE = {
    "qat.dense": _contraction,
    "qat.attend": _contraction,
    "qat.einsum": _contraction,
    "qat.conv": _conv,
    "qat.embed": _embed,
    "qat.convolve": _convolve,
    "qat.matmul": _matmul,
    "qat.fold": _fold,
    "qat.integer_bias": _integer_bias,
}
