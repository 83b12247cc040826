"""The number from which the inputs of a row's cases are drawn: its own, whatever rows stand around it."""

from __future__ import annotations

import zlib

# DATA: the rows that the first vectors were made of, as they stood.  A place in these lists is a seed, so nothing is
# added to them, and the name of a row that goes stays.
FORMATS = (
    "int2 int3 int4 int5 int6 int7 int8 int16 uint2 uint3 uint4 uint5 uint6 uint7 uint8 uint16 int2_narrow int3_narrow "
    "int4_narrow int8_narrow int16_narrow ternary e4m3fn e5m2 e4m3fnuz e5m2fnuz e4m3 e3m4 e4m3b11fnuz e8m0fnu e2m3fn "
    "e3m2fn e2m1fn float16 bfloat16 nf4 af4 fp4_bnb dynamic8 dynamic8_unsigned binary"
)
CONVENTIONS = (
    "onnx onnxruntime torch_per_tensor torch_per_channel torch_fake_tensor torch_fake_channel torchao litert_xnnpack "
    "litert_reference litert_builtin ggml_q8_0 gptq compressed_tensors qwix_symmetric qwix_asymmetric "
    "qwix_symmetric_xla qwix_asymmetric_eager qwix_asymmetric_jit aqt stablehlo openvino tensorrt mlx hqq "
    "onnx_reference"
)
RESCALES = (
    "onnxruntime litert_reference litert_builtin gemmlowp xnnpack_requantize cmsis_nn_single litert_16x8 "
    "f32_single_away_sat f32_single_up_i32 f64_single_even_sat q31_single_away_sat"
)


def seed_of(name: str, first: str) -> int:
    """The place in one of these lists, and of a row that came later a number made of its name."""
    names = first.split()
    return names.index(name) if name in names else zlib.crc32(name.encode())
