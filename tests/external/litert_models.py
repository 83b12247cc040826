"""One-operator LiteRT models, built as flatbuffers in memory, and the three ways to run them."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema

TYPES = {
    "float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16, "int32": schema.TensorType.INT32, "int64": schema.TensorType.INT64,
}  # fmt: skip
RESOLVERS = {
    "xnnpack": litert.OpResolverType.BUILTIN,
    "builtin": litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": litert.OpResolverType.BUILTIN_REF,
}


def tensor(name: str, shape: tuple[int, ...], dtype: str, quant: tuple | None = None, buffer: int = 0) -> Any:
    """A tensor; quant is (scale, zero point)."""
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name.encode(), list(shape), TYPES[dtype], buffer
    if quant is not None:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [quant[0]], [quant[1]]
    return made


def model(
    op: int, version: int, tensors: list, inputs: list[int], output: int, buffers: list, options: Any = None
) -> bytes:
    """A model of one operator."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = op
    code.version = version
    node = schema.OperatorT()
    node.inputs, node.outputs = inputs, [output]
    if options is not None:
        node.builtinOptionsType, node.builtinOptions = options
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = tensors, [node]
    graph.inputs, graph.outputs = inputs[:1], [output]
    made = schema.ModelT()
    made.version, made.operatorCodes, made.subgraphs = 3, [code], [graph]
    made.buffers = [_buffer(data) for data in (None, *buffers)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _buffer(data: np.ndarray | None) -> Any:
    made = schema.BufferT()
    made.data = None if data is None else np.frombuffer(data.tobytes(), np.uint8)
    return made


def run(content: bytes, x: np.ndarray, way: str) -> np.ndarray:
    """The output for one input."""
    interpreter = litert.Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=RESOLVERS[way])
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def quantize(x: np.ndarray, scale: float, zero_point: int, dtype: str, way: str) -> np.ndarray:
    """QUANTIZE: float32 to codes."""
    tensors = [tensor("x", x.shape, "float32"), tensor("y", x.shape, dtype, (scale, zero_point))]
    return run(model(schema.BuiltinOperator.QUANTIZE, 2, tensors, [0], 1, []), x, way)


def dequantize(codes: np.ndarray, scale: float, zero_point: int, way: str) -> np.ndarray:
    """DEQUANTIZE: codes to float32."""
    tensors = [tensor("x", codes.shape, str(codes.dtype), (scale, zero_point)), tensor("y", codes.shape, "float32")]
    return run(model(schema.BuiltinOperator.DEQUANTIZE, 2, tensors, [0], 1, []), codes, way)


def requantize(codes: np.ndarray, source: tuple[float, int], target: tuple[float, int], way: str) -> np.ndarray:
    """QUANTIZE with integer input: int8 codes of one scale to int8 codes of another."""
    tensors = [tensor("x", codes.shape, "int8", source), tensor("y", codes.shape, "int8", target)]
    return run(model(schema.BuiltinOperator.QUANTIZE, 2, tensors, [0], 1, []), codes, way)


def connected_model(
    codes: np.ndarray, weights: np.ndarray, bias: np.ndarray, scales: tuple[float, float, float], zeros: tuple[int, int]
) -> bytes:
    """FULLY_CONNECTED of int8 or int16 codes; scales of (input, weights, output), zeros of (input, output)."""
    tensors = layer_tensors(codes, weights, bias, (codes.shape[0], weights.shape[0]), scales, zeros)
    options = (schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT())
    return model(schema.BuiltinOperator.FULLY_CONNECTED, 4, tensors, [0, 1, 2], 3, [weights, bias], options)


def fully_connected(
    codes: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    scales: tuple[float, float, float],
    zeros: tuple[int, int],
    way: str,
) -> np.ndarray:
    """`connected_model` run once."""
    return run(connected_model(codes, weights, bias, scales, zeros), codes, way)


def convolution(
    codes: np.ndarray, bias: np.ndarray, scales: tuple[float, float, float], op: str, way: str
) -> np.ndarray:
    """CONV_2D or DEPTHWISE_CONV_2D of one pixel with one channel; the weights are zeros, so the bias is the result."""
    n = len(bias)
    weights = np.zeros((n, 1, 1, 1) if op == "CONV_2D" else (1, 1, 1, n), np.int8)
    tensors = layer_tensors(codes, weights, bias, (1, 1, 1, n), scales, (0, 0))
    held = tensors[1].quantization  # these kernels take a scale for each output channel
    held.scale, held.zeroPoint = held.scale * n, held.zeroPoint * n
    held.quantizedDimension = weights.shape.index(n) if n > 1 else 0
    kind = "Conv2DOptions" if op == "CONV_2D" else "DepthwiseConv2DOptions"
    options = getattr(schema, kind + "T")()
    options.strideW = options.strideH = options.dilationWFactor = options.dilationHFactor = 1
    if op != "CONV_2D":
        options.depthMultiplier = n
    made = model(
        getattr(schema.BuiltinOperator, op), 5, tensors, [0, 1, 2], 3, [weights, bias],
        (getattr(schema.BuiltinOptions, kind), options),
    )  # fmt: skip
    return run(made, codes, way).ravel()


def layer_tensors(
    codes: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    shape: tuple[int, ...],
    scales: tuple[float, float, float],
    zeros: tuple[int, int],
) -> list:
    """Input, weights, bias and output of a layer; scales of (input, weights, output), zeros of (input, output)."""
    return [
        tensor("x", codes.shape, str(codes.dtype), (scales[0], zeros[0])),
        tensor("w", weights.shape, "int8", (scales[1], 0), 1),
        tensor("b", bias.shape, str(bias.dtype), (float(np.float32(scales[0]) * np.float32(scales[1])), 0), 2),
        tensor("y", shape, str(codes.dtype), (scales[2], zeros[1])),
    ]
