"""The conventions of runtimes by name.  DATA: one row a runtime's operation (specs/25-conventions.md, CNV-1, CNV-6)."""

from refquant.conventions.affine import Affine, Convention, Lanes

RUN = "measured"
READ = "read, not run: "
INT8_NAN = "NaN to int8 gives the code 0 (an undefined cast of C++ as x86 does it); nan is right for uint8"
X86 = "beyond int64 and for NaN as x86-64 casts: C++ leaves that open (CNV-8)"
NUMPY_WRAP = "beyond int32 and for NaN as x86-64 casts and adds: NumPy casts as C does (CNV-8)"
LITERT_WRAP = "beyond int32 and for NaN as x86-64 casts and adds: C++ leaves both open (CNV-8)"

#              name                 op     prec   zero   ties    overflow nan        source, version, note
ROWS = (
    Convention("onnx",               Affine("div", "f32", "int", "even", "sat", "qmin"),
               READ + "ONNX QuantizeLinear (operator set 10 to 25)", "1.23.2",
               "the specification leaves NaN open; from operator set 23 the scale's dtype decides the precision; what "
               "its reference evaluator runs is onnx_reference: the same codes while x / scale fits int32"),
    Convention("onnxruntime",        Affine("div", "f32", "int", "even", "sat", "qmin"), RUN, "1.32.0",
               "CPU; a float16 scale divides in float16 from operator set 23"),
    Convention("torch_per_tensor",   Affine("inv", "f32", "fma", "even", "sat", "qmax"), RUN, "2.13.0",
               "torch.quantize_per_tensor, x86 with FBGEMM"),
    Convention("torch_per_channel",  Affine("inv", "f32", "add", "even", "sat", "qmin"), RUN, "2.13.0",
               "torch.quantize_per_channel, x86; " + INT8_NAN),
    Convention("torch_fake_tensor",  Affine("inv", "f32", "int", "even", "sat", "qmin"), RUN, "2.13.0",
               "torch.fake_quantize_per_tensor_affine"),
    Convention("torch_fake_channel", Affine("inv", "f32", "int", "even", "i64", "qmin"), RUN, "2.13.0",
               "torch.fake_quantize_per_channel_affine: inf and |x / scale| >= 2**63 give qmin; " + X86),
    Convention("torchao",            Affine("inv", "f32", "int", "even", "sat", "qmin"), RUN, "0.18.0",
               "quantize_affine; " + INT8_NAN),
    Convention("litert_xnnpack",     Affine("inv", "f32", "int", "even", "sat", "qmax"), RUN, "2.3.0",
               "QUANTIZE to int8 and uint8 with the default delegate, x86"),
    Convention("litert_reference",   Affine("div", "f32", "int", "away", "wrap32", "qmin"), RUN, "2.3.0",
               LITERT_WRAP),
    Convention("litert_builtin",     Lanes(8, Affine("inv", "f32", "int", "even", "wrap32", "qmin"),
                                           Affine("div", "f64", "int", "away", "wrap32", "qmin")), RUN, "2.3.0",
               "without delegates; " + LITERT_WRAP),
    Convention("ggml_q8_0",          Affine("inv", "f32", "int", "away", "sat", "qmin"), RUN, "gguf 0.19.0",
               "the scale amax / 127 in binary32, before it is stored as float16; NaN is undefined"),
    Convention("gptq",               Affine("div", "f32", "int", "even", "sat", "qmin"),
               RUN, "auto-gptq 0.7.1", "quantize of GPTQ's quant.py; packing rounds (w + scale * zero) / scale with "
               "the stored float16 scale; NaN is undefined"),
    Convention("compressed_tensors", Affine("div", "f32", "add", "even", "sat", "qmin"), RUN, "0.20.0", INT8_NAN),
    Convention("qwix_symmetric",     Affine("div", "f32", "int", "even", "sat", "zero"), RUN, "0.1.8, JAX 0.10.2 CPU",
               "as written: scale of the shape of x, eager and jit; a broadcast scale runs qwix_symmetric_xla"),
    Convention("qwix_asymmetric",    Affine("div", "f32", "add", "even", "sat", "zero"), RUN, "0.1.8, JAX 0.10.2 CPU",
               "as written: scale of the shape of x, eager and jit; a broadcast scale runs the two below; NaN gives "
               "the code 0, whatever the zero point"),
    Convention("qwix_symmetric_xla", Affine("inv", "f32", "int", "even", "sat", "zero"), RUN, "0.1.8, JAX 0.10.2 CPU",
               "scale of shape (n, 1), eager and jit: XLA turns the division by a broadcast scale into a product"),
    Convention("qwix_asymmetric_eager", Affine("inv", "f32", "add", "even", "sat", "zero"), RUN,
               "0.1.8, JAX 0.10.2 CPU", "NaN gives the code 0, whatever the zero point"),
    Convention("qwix_asymmetric_jit", Affine("inv", "f32", "fma", "even", "sat", "zero"), RUN,
               "0.1.8, JAX 0.10.2 CPU", "jit fuses product and sum; NaN gives the code 0, whatever the zero point"),
    Convention("aqt",                Affine("inv", "f32", "int", "even", "sat", "zero"), RUN, "0.9.0",
               "narrow formats, no zero point: x is clipped to ±qmax before rounding"),
    Convention("stablehlo",          Affine("div", "f32", "add", "even", "sat", "qmin"), RUN, "jaxlib 0.10.2",
               "uniform_quantize by StableHLO's own pass stablehlo-legalize-quant-to-math and its interpreter; NaN, "
               "which the specification leaves open, gives the code 0 there; unsigned storage types are taken for "
               "signed there (codes above 127 give 127), so unsigned ranges were run in a wider signed type"),
    Convention("openvino",           Affine("given", "f32", "add", "even", "sat", "qmin"), RUN, "2026.4.1",
               "FakeQuantize on CPU in f32: the argument is (levels - 1) / (high - low), the zero point -low times it "
               "(a real number there; the same where it is an integer); codes count from 0"),
    Convention("tensorrt",           Affine("div", "f32", "int", "even", "sat", "qmin"),
               READ + "TensorRT documentation", "10", "zero point 0; NaN is open; needs an NVIDIA GPU"),
    Convention("mlx",                Affine("div", "f32", "bias", "even", "sat", "qmin"), RUN, "0.32.4",
               "mx.quantize mode affine, unsigned codes; the scale may be negative"),
    Convention("hqq",                Affine("given", "f32", "add", "even", "sat", "qmin"), RUN, "0.2.8.post1",
               "Quantizer.quantize on CPU, not optimized; the argument is the inverse scale; the zero point is a real "
               "number except with round_zero (at 4 bits)"),
    Convention("onnx_reference",     Affine("div", "f32", "int", "even", "wrap32", "qmin"), RUN, "onnx 1.23.2",
               "onnx.reference, QuantizeLinear to all integer types (operator set 25; 13 to 23 for uint8); the "
               "attribute precision is followed, the scale's dtype is not: NumPy promotes; " + NUMPY_WRAP),
)  # fmt: skip

PRESETS: dict[str, Convention] = {row.name: row for row in ROWS}
