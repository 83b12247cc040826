"""The quantized layers: jaxquant equals refquant on bits (specs/60-layers.md, LAY-1..LAY-11)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bits import assert_same
from layers_support import KINDS, Case, arrays, covering, jax_layer, jax_weight, reference, spec

from refquant import qat, qtensor
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor, PerToken

ml_dtypes = pytest.importorskip("ml_dtypes")

FIELDS = {
    "kind": tuple(KINDS),
    "weights": ("int8", "int4", "int3", "int2", "uint4"),
    "asym": (False, True),
    "grain": ("tensor", "channel", "g16"),
    "inputs": ("int8", "uint8", "int16"),
    "mode": ("tensor", "token", "static"),
    "dtype": ("float32", "bfloat16", "float16"),
    "x_dtype": ("float32", "bfloat16"),
    "bias": ("none", "float", "int"),
}
CASES = [Case(*point) for point in covering(FIELDS)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_differential_jax_equals_reference(case: Case) -> None:
    pytest.importorskip("jax")
    layer, arguments = jax_layer(case)
    assert_same(np.asarray(layer(*arguments)), reference(case), call=str(case))


def embeddings() -> list:
    grains = (PerTensor(), PerAxis(0), PerAxis(1), PerGroup(1, 4), PerBlock((2, 3)))
    plain = [(fmt, grain, False) for fmt, grain in itertools.product(("int4", "nf4", "e4m3fn"), grains)]
    return [*plain, ("uint4", PerGroup(1, 4), True), ("int8", PerAxis(0), True)]


@pytest.mark.parametrize(("fmt", "grain", "asym"), embeddings())
def test_embed_differential_rows_of_the_dequantized_table(backend: object, fmt: str, grain: object, asym: bool) -> None:
    rng = np.random.default_rng(5)
    table = qtensor.quantize_tensor(rng.standard_normal((7, 10)).astype(np.float32), spec(fmt, grain, asym))
    ids = np.array([[0, 6, -1], [-7, 3, 3], [7, -8, 2**31 - 1]], np.int32)
    given = jax_weight(table) if backend.name == "jaxquant" else table
    for dtype in ("float32", "bfloat16"):
        want = qtensor.dequantize_tensor(table, dtype=dtype)[np.where(np.abs(ids + 0.5) < 7, ids, 0)]
        want[2] = np.nan
        assert_same(backend.qat.embed(ids, given, dtype=dtype), want)
    assert_same(backend.qat.embed(ids[:0], given), np.zeros((0, 3, 10), np.float32))


def test_embed_property_unsigned_ids_of_an_empty_and_a_small_table(backend: object) -> None:
    for rows in (0, 300):
        table = qtensor.quantize_tensor(np.ones((rows, 2), np.float32), spec("int8", PerAxis(0)))
        given = jax_weight(table) if backend.name == "jaxquant" else table
        got = backend.qat.embed(np.array([255, 0], np.uint8), given)
        assert_same(got, np.full((2, 2), 1.0 if rows else np.nan, np.float32))


def run(backend: object, operation: str, x: np.ndarray, weight: qtensor.QTensor, *rest: object, **options: object):
    weight = jax_weight(weight) if backend.name == "jaxquant" else weight
    return getattr(backend.qat, operation)(x, weight, *rest, **options)


@pytest.mark.parametrize("grain", [PerTensor(), PerAxis(1), PerGroup(0, 4)], ids=str)
def test_dense_property_rows_do_not_see_each_other(backend: object, grain: object) -> None:
    rng = np.random.default_rng(8)
    weight = qtensor.quantize_tensor(rng.standard_normal((37, 5)).astype(np.float32), spec("int4", grain, asym=True))
    x, inputs = rng.standard_normal((8, 37)).astype(np.float32), spec("int8", PerToken())
    whole = run(backend, "dense", x, weight, inputs=inputs)
    assert_same(run(backend, "dense", x[3:4], weight, inputs=inputs), whole[3:4])
    assert_same(run(backend, "dense", x[3], weight, inputs=inputs), whole[3])
    assert_same(run(backend, "dense", x[:0], weight, inputs=inputs), whole[:0])


@pytest.mark.parametrize("grain", [PerTensor(), PerAxis(1), PerGroup(0, 4)], ids=str)
def test_dense_property_no_products_give_the_bias(backend: object, grain: object) -> None:
    weight = qtensor.quantize_tensor(np.zeros((0, 3), np.float32), spec("int8", grain))
    bias = np.float32([1.5, -2, 0])
    for inputs in (spec("int8", PerToken()), spec("uint8")):
        got = run(backend, "dense", np.zeros((2, 0), np.float32), weight, bias, inputs=inputs)
        assert_same(got, np.tile(bias, (2, 1)))


def test_conv_property_empty_batch_and_no_room(backend: object) -> None:
    weight = qtensor.quantize_tensor(np.ones((3, 2, 4), np.float32), spec("int8", PerAxis(-1)))
    for shape, out in (((0, 5, 2), (0, 3, 4)), ((2, 2, 2), (2, 0, 4)), ((2, 0, 2), (2, 0, 4))):
        got = run(backend, "conv", np.ones(shape, np.float32), weight, inputs=spec("int8"), padding="VALID")
        assert_same(got, np.zeros(out, np.float32))


def test_conv_property_of_padding_alone(backend: object) -> None:
    """An axis of space without places, padded: a result of zeros, plus the bias."""
    weight = qtensor.quantize_tensor(np.ones((1, 2, 1), np.float32), spec("int8"))
    given = jax_weight(weight) if backend.name == "jaxquant" else weight
    for inputs in (spec("int8"), None):
        got = backend.qat.conv(np.zeros((2, 0, 2), np.float32), given, np.float32([3]), padding=1, inputs=inputs)
        assert_same(got, np.full((2, 2, 1), 3, np.float32))


def test_dense_differential_zero_points_outside_the_format_are_clamped(backend: object) -> None:
    rng = np.random.default_rng(4)
    weight = qtensor.quantize_tensor(rng.standard_normal((9, 3)).astype(np.float32), spec("uint4", PerAxis(1)))
    far = qtensor.QTensor(weight.codes, weight.scale, np.int32([[-99, 7, 2**31 - 1]]), weight.spec)
    near = qtensor.QTensor(weight.codes, weight.scale, np.int32([[0, 7, 15]]), weight.spec)
    x, inputs = rng.standard_normal((4, 9)).astype(np.float32), spec("uint8")
    got = run(backend, "dense", x, far, inputs=inputs)
    assert_same(got, qat.dense(x, near, inputs=inputs))


@pytest.mark.parametrize("kind", ["dense", "heads", "conv", "depthwise"])
def test_weights_only_property_is_near_the_float_product(backend: object, kind: str) -> None:
    case = Case(kind, weights="int4", bias="none")
    x, weight, _, _ = arrays(case)
    x = np.nan_to_num(x)
    extra = {k: v for k, v in KINDS[kind][5].items() if k != "subscripts"}
    given = jax_weight(weight) if backend.name == "jaxquant" else weight
    first = ("bqd,bdhe->hbqe",) if kind == "heads" else ()
    got = getattr(backend.qat, case.operation)(*first, x, given, **extra)
    fine = spec("int16", case.input_spec.granularity)
    want = getattr(qat, case.operation)(*first, x, weight, inputs=fine, **extra)
    assert np.abs(got - want).max() <= 1e-3 * np.abs(want).max()


def test_weights_only_property_takes_every_format(backend: object) -> None:
    weight = qtensor.quantize_tensor(np.float32([[1, -1], [0.5, 0]]), spec("nf4", PerBlock((1, 2))))
    got = run(backend, "dense", np.eye(2, dtype=np.float32), weight, np.float32([0, 1]))
    assert_same(got, qtensor.dequantize_tensor(weight) + np.float32([0, 1]))


@pytest.mark.parametrize("bits", [8, 16])
def test_matmul_exhaustive_largest_sums(backend: object, bits: int) -> None:
    low = -(2 ** (bits - 1))
    for count in {8: (1, 257, 1025, 8700, 20000), 16: (1, 257, 511)}[bits]:
        a = np.full((2, count), low, f"int{bits}")
        b = np.full((count, 3), -128, np.int8)
        a[1], b[:, 1], b[::2, 2] = -low - 1, 127, 1
        want = [[sum(p * q for p, q in zip(row, col, strict=True)) for col in b.T.tolist()] for row in a.tolist()]
        assert_same(backend.qat.matmul(a, b, max_a=-low, max_b=128), np.array(want, np.int32))


def test_formats_of_the_cases_exist() -> None:
    assert {case.weights for case in CASES} <= set(ALL)
