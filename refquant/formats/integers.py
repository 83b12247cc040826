"""Integer formats: which codes exist.  DATA: one row a format (specs/10-formats.md, FMT-1, FMT-2)."""

from dataclasses import dataclass

from refquant.formats import _valid


@dataclass(frozen=True)
class IntFormat:
    """Consecutive integers qmin..qmax; the value of a code is the code itself.

    Attributes:
      name: the name in `formats.ALL`.
      bits: width of a packed code.
      qmin: smallest code.
      qmax: largest code.
      source: who defines or uses it.
    Raises:
      ValueError: a width or a range that no code has (FMT-9).
    """

    name: str
    bits: int
    qmin: int
    qmax: int
    source: str

    def __post_init__(self) -> None:
        row = f"IntFormat {self.name}"
        _valid.whole(row, "bits", self.bits, 1, 16, "a code is held in 16 bits, FMT-2")
        half = 1 << (self.bits - 1)
        _valid.whole(row, "qmin", self.qmin, -half, 0, f"{self.bits} bits, and 0 is a code, FMT-1")
        _valid.whole(row, "qmax", self.qmax, 1, half - 1 if self.signed else 2 * half - 1, f"{self.bits} bits, FMT-1")

    @property
    def signed(self) -> bool:
        """True where negative codes exist; then packed codes are two's complement."""
        return self.qmin < 0

    @property
    def storage(self) -> str:
        """Name of the NumPy dtype that holds one unpacked code."""
        width = 8 if self.bits <= 8 else 16
        return f"int{width}" if self.signed else f"uint{width}"

    @property
    def max_magnitude(self) -> int:
        """The largest |code|, which bounds every product and sum of codes."""
        return max(-self.qmin, self.qmax)


ONNX = "ONNX tensor types (opset 21, 25); ml_dtypes"
NARROW = "narrow range: LiteRT weights, TensorRT, AWQ symmetric"

#                  name           bits  qmin    qmax   source
ROWS = (
    IntFormat("int2",           2,     -2,      1, ONNX),
    IntFormat("int3",           3,     -4,      3, "GPTQ, compressed-tensors"),
    IntFormat("int4",           4,     -8,      7, ONNX),
    IntFormat("int5",           5,    -16,     15, "compressed-tensors, MLX"),
    IntFormat("int6",           6,    -32,     31, "compressed-tensors, MLX"),
    IntFormat("int7",           7,    -64,     63, "compressed-tensors"),
    IntFormat("int8",           8,   -128,    127, ONNX),
    IntFormat("int16",         16, -32768,  32767, "ONNX opset 21; LiteRT 16x8 activations"),
    IntFormat("uint2",          2,      0,      3, ONNX),
    IntFormat("uint3",          3,      0,      7, "GPTQ, HQQ"),
    IntFormat("uint4",          4,      0,     15, ONNX),
    IntFormat("uint5",          5,      0,     31, "MLX"),
    IntFormat("uint6",          6,      0,     63, "MLX"),
    IntFormat("uint7",          7,      0,    127, "reduced range"),
    IntFormat("uint8",          8,      0,    255, ONNX),
    IntFormat("uint16",        16,      0,  65535, "ONNX opset 21"),
    IntFormat("int2_narrow",    2,     -1,      1, NARROW),
    IntFormat("int3_narrow",    3,     -3,      3, NARROW),
    IntFormat("int4_narrow",    4,     -7,      7, NARROW),
    IntFormat("int8_narrow",    8,   -127,    127, NARROW),
    IntFormat("int16_narrow",  16, -32767,  32767, NARROW),
    IntFormat("ternary",        2,     -1,      1, "TWN (Li 2016); BitNet b1.58 (Ma 2024)"),
)  # fmt: skip
