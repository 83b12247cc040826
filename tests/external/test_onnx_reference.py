"""onnx.reference: the executable reference of ONNX's QuantizeLinear, DequantizeLinear and Cast."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from external.peers import all_halves, assert_follows, cases_of, cast_mismatches, cast_probes, mismatches

from refquant.affine import dequantize, quantize
from refquant.conventions import CASTS, PRESETS, Affine
from refquant.formats import ALL

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")
helper, P = onnx.helper, onnx.TensorProto
pytestmark = pytest.mark.filterwarnings("ignore")

INTS = {
    "int8": P.INT8, "uint8": P.UINT8, "int16": P.INT16, "uint16": P.UINT16, "int4": P.INT4, "uint4": P.UINT4,
    "int2": P.INT2, "uint2": P.UINT2,
}  # fmt: skip
FLOATS = {"e4m3fn": P.FLOAT8E4M3FN, "e5m2": P.FLOAT8E5M2, "e4m3fnuz": P.FLOAT8E4M3FNUZ, "e5m2fnuz": P.FLOAT8E5M2FNUZ}
SMALL = {"e2m1fn": P.FLOAT4E2M1, "e2m3fn": P.FLOAT6E2M3, "e3m2fn": P.FLOAT6E3M2}
SCALES = (0.1, 0.0123, 0.75)
SATURATE = pytest.mark.parametrize(("preset", "saturate"), [("onnx_saturate", 1), ("onnx_no_saturate", 0)])
X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="NumPy casts as C does (CNV-8)")


def evaluate(op: str, x: np.ndarray, result: int, inputs: dict, opset: int = 25, **attributes) -> np.ndarray:
    """One node; inputs: name to (type, number), beside x."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    constants = [helper.make_tensor(name, kind, [], [number]) for name, (kind, number) in inputs.items()]
    node = helper.make_node(op, ["x", *inputs], ["y"], **attributes)
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "g", [value("x", kind, [None])], [value("y", result, [None])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    return reference.ReferenceEvaluator(model).run(None, {"x": x})[0]


def quantize_linear(x, scale, zero, *, name, opset=25, held=P.FLOAT, **attributes) -> np.ndarray:
    return evaluate("QuantizeLinear", x, INTS[name], {"s": (held, scale), "z": (INTS[name], zero)}, opset, **attributes)


def cases(name: str) -> list:
    """Formats of 16 bits have 65,536 boundaries: one case does."""
    return cases_of(ALL[name], (0.1,))[1:] if name.endswith("16") else cases_of(ALL[name])


def inside_int32(x: np.ndarray, scale: float) -> np.ndarray:
    """Finite, and the ratio fits int32 with room for a zero point of 16 bits."""
    return np.abs(x.astype(np.float64)) < (2.0**31 - 2**16) * scale


@X86
@pytest.mark.parametrize("name", INTS)
def test_quantize_linear_external_follows_its_own_preset(name):
    assert_follows(lambda x, s, z: quantize_linear(x, s, z, name=name), "onnx_reference", name, cases=cases(name))


@X86
@pytest.mark.parametrize("opset", [13, 19, 21, 23])
def test_quantize_linear_external_is_the_same_in_older_operator_sets(opset):
    follows = lambda x, s, z: quantize_linear(x, s, z, name="uint8", opset=opset)  # noqa: E731
    assert_follows(follows, "onnx_reference", "uint8", cases=cases_of(ALL["uint8"], SCALES))


@pytest.mark.parametrize("name", INTS)
def test_quantize_linear_external_is_the_specification_while_the_ratio_fits_int32(name):
    kernel = lambda x, s, z: quantize_linear(x, s, z, name=name)  # noqa: E731
    assert_follows(kernel, "onnx", name, cases=cases(name), keep=inside_int32)


@X86
def test_quantize_linear_external_does_not_saturate_past_int32():
    """`np.rint(x / y_scale).astype(np.int32)` where the text says saturate; the zero point is added mod 2**32."""
    x = np.float32([3e9, np.inf, -3e9, -np.inf, np.nan])
    for zero, code in ((0, -128), (5, -128), (-1, 127)):
        assert quantize_linear(x, 1.0, zero, name="int8").tolist() == [code] * 5


@X86
def test_quantize_linear_external_divides_in_the_precision_that_is_asked_for():
    """With `precision`: there.  Without it the text says the type of y_scale; the reference promotes as NumPy does."""
    halves = [(float(np.float16(scale)), zero) for scale, zero in cases_of(ALL["int8"], SCALES)]
    asked = (("f16", {"precision": P.FLOAT16}), ("f32", {"precision": P.FLOAT}), ("f32", {"held": P.FLOAT16}))
    for prec, options in asked:
        kernel = lambda x, s, z: quantize_linear(x, s, z, name="int8", **options)  # noqa: B023, E731
        wrong = mismatches(kernel, Affine("div", prec, "int", "even", "wrap32"), ALL["int8"], halves)
        assert not wrong, (options, wrong[:3])


@SATURATE
@pytest.mark.parametrize("name", FLOATS)
def test_quantize_linear_external_to_float8_is_a_division_and_the_cast(name, preset, saturate):
    for scale in map(np.float32, SCALES):
        x = np.concatenate([cast_probes(name) * scale, all_halves()])
        inputs = {"s": (P.FLOAT, float(scale)), "z": (FLOATS[name], 0.0)}
        codes = evaluate("QuantizeLinear", x, FLOATS[name], inputs, saturate=saturate)
        want = quantize(x, scale, fmt=ALL[name], convention=PRESETS["onnx"].affine, cast=CASTS[preset].point)
        assert np.array_equal(codes.view(np.uint8), want)


@SATURATE
@pytest.mark.parametrize("name", FLOATS)
def test_cast_external_follows_the_preset(name, preset, saturate):
    """E5M2 too: its NaN is 7E or FE here, and what overflows without saturation is inf."""
    x = np.concatenate([cast_probes(name), all_halves()])
    codes = evaluate("Cast", x, FLOATS[name], {}, to=FLOATS[name], saturate=saturate)
    wrong = cast_mismatches(codes, x, ALL[name], CASTS[preset].point)
    assert wrong.size == 0, [hex(b) for b in wrong.view(np.uint32)[:5]]


@pytest.mark.parametrize("name", SMALL)
def test_cast_external_small_formats_are_those_of_ml_dtypes(name):
    x = np.concatenate([cast_probes(name), all_halves()])
    codes = evaluate("Cast", x, SMALL[name], {}, to=SMALL[name])
    wrong = cast_mismatches(codes, x, ALL[name], CASTS["ml_dtypes_small"].point)
    assert np.isnan(wrong).all() and not np.signbit(wrong).any()  # a positive NaN becomes -0


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16"])
def test_dequantize_linear_external_all_codes(name):
    fmt = ALL[name]
    codes = np.arange(fmt.qmin, fmt.qmax + 1).astype(fmt.storage)
    for scale, zero in ((0.1, fmt.qmin), (1 / 3, 99), (0.0123, 5)):
        scale = np.float32(scale)
        inputs = {"s": (P.FLOAT, float(scale)), "z": (INTS[name], zero)}
        got = evaluate("DequantizeLinear", codes, P.FLOAT, inputs)
        want = dequantize(codes, scale, np.int32(zero), fmt=fmt)
        assert np.array_equal(got.view(np.uint32), want.view(np.uint32))
