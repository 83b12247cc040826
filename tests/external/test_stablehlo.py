"""StableHLO: uniform_quantize, by the project's own pass to plain arithmetic and its interpreter, both in jaxlib."""

from __future__ import annotations

import numpy as np
import pytest
from external.peers import SCALES, affine_probes, assert_follows, cases_of, not_nan, wanted

from refquant.conventions import PRESETS
from refquant.formats import ALL

ir = pytest.importorskip("jaxlib.mlir.ir")
stablehlo = pytest.importorskip("jaxlib.mlir.dialects.stablehlo")
passes = pytest.importorskip("jaxlib.mlir.passmanager").PassManager
pytestmark = pytest.mark.filterwarnings("ignore")

# Name: storage type with its range, and the type of the codes.  See the test of ui8 for the way round of uint8.
STORAGE = {
    "int8": ("i8", "i8"), "int16": ("i16", "i16"), "uint8": ("i16<0:255>", "i16"), "uint4": ("i16<0:15>", "i16"),
    "int4": ("i8<-8:7>", "i8"), "int8_narrow": ("i8<-127:127>", "i8"), "uint16": ("i32<0:65535>", "i32"),
    "ui8": ("u8", "ui8"),
}  # fmt: skip


def uniform_quantize(x: np.ndarray, scale: float, zero: int, name: str) -> np.ndarray:
    storage, kind = STORAGE[name]
    real, held = f"tensor<{len(x)}xf32>", f"tensor<{len(x)}x{kind}>"
    quantized = f"tensor<{len(x)}x!quant.uniform<{storage}:f32, {scale!r}:{zero}>>"
    text = f"""func.func @main(%x: {real}) -> {held} {{
      %q = stablehlo.uniform_quantize %x : ({real}) -> {quantized}
      %codes = stablehlo.bitcast_convert %q : ({quantized}) -> {held}
      return %codes : {held}
    }}"""
    with ir.Context() as context, ir.Location.unknown():
        stablehlo.register_dialect(context)
        stablehlo.register_stablehlo_passes()
        loads_quant = passes.parse("builtin.module(vhlo-legalize-to-stablehlo)")  # jaxlib registers no quant dialect
        loads_quant.run(ir.Module.parse("module {}").operation)
        module = ir.Module.parse(text)
        lower = "stablehlo-legalize-quant-to-math,chlo-legalize-to-stablehlo"
        passes.parse(f"builtin.module(func.func({lower}))").run(module.operation)
        return np.array(stablehlo.eval_module(module, [ir.DenseElementsAttr.get(x)])[0])


@pytest.mark.parametrize("name", ["int8", "int8_narrow", "uint8", "int4", "uint4", "int16", "uint16"])
def test_uniform_quantize_external_follows_the_preset(name):
    fmt = ALL[name]
    cases = cases_of(fmt, (0.1,))[1:] if name.endswith("16") else cases_of(fmt, SCALES)
    kernel = lambda x, s, z: uniform_quantize(x, s, z, name)  # noqa: E731
    assert_follows(kernel, "stablehlo", name, cases=cases, keep=not_nan)


def test_uniform_quantize_external_nan_is_code_0():
    """The specification leaves NaN open; the interpreter's conversion to integers gives 0, whatever the zero point."""
    nans = np.uint32([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF]).view(np.float32)
    for name, zero in (("int8", -128), ("int8", 5), ("uint8", 7)):
        assert uniform_quantize(nans, 0.5, zero, name).tolist() == [0] * 4


def test_uniform_quantize_external_unsigned_storage_is_taken_for_signed():
    """The pass makes i8 of ui8 and its conversion saturates: codes above 127 are 127.  An i16 with a range is right."""
    for scale, zero in ((0.1, 0), (0.75, 130)):
        scale = float(np.float32(scale))
        x = affine_probes("uint8", scale, zero)
        x = x[~np.isnan(x)]
        want = wanted(PRESETS["stablehlo"].affine, ALL["uint8"], x, scale, zero)
        assert np.array_equal(uniform_quantize(x, scale, zero, "ui8"), np.minimum(want, 127))
