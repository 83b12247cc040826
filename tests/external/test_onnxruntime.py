"""ONNX Runtime on CPU: QuantizeLinear, DequantizeLinear, Cast and the requantization of QLinearConv."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from external.peers import assert_follows, cast_mismatches, cast_probes

from refquant.affine import dequantize
from refquant.conventions import CASTS, RESCALES
from refquant.formats import ALL
from refquant.requantize import requantize
from refquant.thresholds import probes, thresholds

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
helper, P = onnx.helper, onnx.TensorProto

INTS = {"int8": P.INT8, "uint8": P.UINT8, "int16": P.INT16, "uint16": P.UINT16}
FLOATS = {"e4m3fn": P.FLOAT8E4M3FN, "e5m2": P.FLOAT8E5M2, "e4m3fnuz": P.FLOAT8E4M3FNUZ, "e5m2fnuz": P.FLOAT8E5M2FNUZ}


def session(node, inputs: list, outputs: list, constants: list, opset: int) -> ort.InferenceSession:
    graph = helper.make_graph([node], "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def value(name: str, kind: int, shape: list):
    return helper.make_tensor_value_info(name, kind, shape)


def quantize_linear(x: np.ndarray, scale: float, zero_point: int, *, name: str) -> np.ndarray:
    constants = [
        helper.make_tensor("s", P.FLOAT, [], [scale]),
        helper.make_tensor("z", INTS[name], [], [zero_point]),
    ]
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    run = session(node, [value("x", P.FLOAT, [None])], [value("y", INTS[name], [None])], constants, 21)
    return run.run(None, {"x": x})[0]


@pytest.mark.parametrize("name", ["int8", "uint8"])
def test_quantize_linear_external_follows_the_default(name):
    assert_follows(lambda x, s, z: quantize_linear(x, s, z, name=name), "onnxruntime", name)


def test_quantize_linear_external_int16_follows_the_default():
    cases = [(0.1, 5)]
    assert_follows(lambda x, s, z: quantize_linear(x, s, z, name="int16"), "onnxruntime", "int16", cases=cases)


def test_dequantize_linear_external_all_codes():
    codes = np.arange(-128, 128).astype(np.int8)
    for scale, zero in ((0.1, -128), (1 / 3, 99), (0.0123, 5)):
        scale = float(np.float32(scale))
        constants = [helper.make_tensor("s", P.FLOAT, [], [scale]), helper.make_tensor("z", P.INT8, [], [zero])]
        node = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"])
        run = session(node, [value("x", P.INT8, [None])], [value("y", P.FLOAT, [None])], constants, 13)
        want = dequantize(codes, np.float32(scale), np.int32(zero), fmt=ALL["int8"])
        assert np.array_equal(run.run(None, {"x": codes})[0].view(np.uint32), want.view(np.uint32))


def cast(x: np.ndarray, kind: int, saturate: int) -> np.ndarray:
    node = helper.make_node("Cast", ["x"], ["y"], to=kind, saturate=saturate)
    run = session(node, [value("x", P.FLOAT, [None])], [value("y", kind, [None])], [], 21)
    result = run.run_with_ort_values(["y"], {"x": ort.OrtValue.ortvalue_from_numpy(x)})[0]
    return np.frombuffer((ctypes.c_uint8 * len(x)).from_address(result.data_ptr()), np.uint8).copy()


@pytest.mark.parametrize("name", ["e4m3fn", "e4m3fnuz", "e5m2fnuz"])
@pytest.mark.parametrize(("preset", "saturate"), [("onnx_saturate", 1), ("onnx_no_saturate", 0)])
def test_cast_external_follows_the_preset(name, preset, saturate):
    x = cast_probes(name)
    wrong = cast_mismatches(cast(x, FLOATS[name], saturate), x, ALL[name], CASTS[preset].point)
    assert wrong.size == 0, [hex(b) for b in wrong.view(np.uint32)[:5]]


def test_cast_external_e5m2_differs_in_nan_and_in_unsaturated_overflow_only():
    x = cast_probes("e5m2")
    wrong = cast_mismatches(cast(x, P.FLOAT8E5M2, 1), x, ALL["e5m2"], CASTS["onnx_saturate"].point)
    assert np.isnan(wrong).all() and set(cast(wrong, P.FLOAT8E5M2, 1).tolist()) == {0x7F, 0xFF}
    wrong = cast_mismatches(cast(x, P.FLOAT8E5M2, 0), x, ALL["e5m2"], CASTS["onnx_no_saturate"].point)
    finite = wrong[~np.isnan(wrong)]
    assert finite.size and (np.abs(finite) >= 61440).all() and np.isfinite(finite).all()
    assert set(cast(finite, P.FLOAT8E5M2, 0).tolist()) == {0x7F, 0xFF}  # NaN where the specification says inf


CONVS = [(0.5, 0.5, 4.0, 0, 0), (0.0217, 0.0093, 0.117, 3, -7), (0.03, 0.02, 1.9, 1, 2), (0.9, 0.8, 0.5, 0, 0)]


def conv_of_bias(acc: np.ndarray, s_in: float, s_weight: float, s_out: float, z_in: int, z_out: int) -> np.ndarray:
    """A convolution whose products are zero, so that the bias is the accumulator."""
    n = len(acc)
    numbers = {"xs": s_in, "ws": s_weight, "ys": s_out}
    zeros = {"xz": z_in, "wz": 0, "yz": z_out}
    constants = [helper.make_tensor(k, P.FLOAT, [], [v]) for k, v in numbers.items()]
    constants += [helper.make_tensor(k, P.INT8, [], [v]) for k, v in zeros.items()]
    constants += [
        helper.make_tensor("w", P.INT8, [n, 1, 1, 1], [0] * n),
        helper.make_tensor("b", P.INT32, [n], acc.tolist()),
    ]
    node = helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"])
    run = session(node, [value("x", P.INT8, [1, 1, 1, 1])], [value("y", P.INT8, [1, n, 1, 1])], constants, 13)
    return run.run(None, {"x": np.full((1, 1, 1, 1), z_in, np.int8)})[0].ravel()


@pytest.mark.parametrize("numbers", CONVS)
def test_qlinearconv_external_follows_the_rescale(numbers):
    s_in, s_weight, s_out = map(np.float32, numbers[:3])
    multiplier, zero = np.float32(s_in * s_weight) / s_out, numbers[4]
    points = {row.point for row in RESCALES.values()}
    acc = np.unique(probes(*(thresholds(p, ALL["int8"], float(multiplier), zero) for p in points)))
    want = requantize(acc, multiplier, np.int32(zero), fmt=ALL["int8"], rescale=RESCALES["onnxruntime"].point)
    assert np.array_equal(conv_of_bias(acc, *numbers), want)
