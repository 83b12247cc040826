"""Every refusal: type and text, the same from both packages (GEN-5)."""

import re
import sys
import types

import numpy as np
import pytest

from refquant import affine, formats
from refquant.conventions import Affine
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerBlock, PerGroup
from refquant.schemes import parse
from refquant.spec import QuantSpec, ScaleRule

F32 = np.ones((8, 16), np.float32)
ONE = np.float32(1)
INT8, UINT4, NF4 = ALL["int8"], ALL["uint4"], ALL["nf4"]
REAL = "need float32, float16 or bfloat16 (what widens exactly to binary32, GEN-1)"

KEY = types.SimpleNamespace(dtype="key<fry>", shape=())  # as much of jax.random.key(0) as is looked at
SMALL = formats.CodebookFormat("small", 1, (-(2.0**-40), 2.0**-40), "trial")
BELOW = formats.CodebookFormat("below", 1, (-(2.0**-27), 2.0**-27), "trial")
NEGATIVE = formats.CodebookFormat("negative", 1, (-2.0, -1.0), "trial")

#: (module, function, arguments, options, error, text)
REFUSALS = [
    ("affine", "quantize", (KEY, ONE), {"fmt": INT8}, TypeError,
     "an argument is a key, need numbers: jax.random.bits(key, x.shape, 'uint32') (GEN-6)"),
    ("rounding", "round_stochastic", (F32, KEY), {}, TypeError,
     "an argument is a key, need numbers: jax.random.bits(key, x.shape, 'uint32') (GEN-6)"),
    ("scales", "choose_scale", (ONE, ONE), {"fmt": SMALL}, ValueError,
     "choose_scale: fmt is 'small', need one whose largest value is at least 2**-26, its own is 9.094947017729282e-13 "
     "(a scale is the largest magnitude divided by it)"),
    ("scales", "choose_scale", (ONE, ONE), {"fmt": BELOW}, ValueError,
     "choose_scale: fmt is 'below', need one whose largest value is at least 2**-26, its own is 7.450580596923828e-09 "
     "(a scale is the largest magnitude divided by it)"),
    ("scales", "choose_scale", (ONE, ONE), {"fmt": NEGATIVE}, ValueError,
     "choose_scale: fmt is 'negative', need one whose largest value is at least 2**-26, its own is -1.0 "
     "(a scale is the largest magnitude divided by it)"),
    ("codec", "encode", (np.ones(3),), {"fmt": INT8}, TypeError, f"encode: x has dtype float64, {REAL}"),
    ("codec", "encode", (np.ones(3, int),), {"fmt": INT8}, TypeError, f"encode: x has dtype int64, {REAL}"),
    ("codec", "decode", (np.ones(3, np.int16),), {"fmt": INT8}, TypeError,
     "decode: codes have dtype int16, need int8 (the storage of int8)"),
    ("codec", "encode", (F32,), {"fmt": "int8"}, TypeError,
     "encode: fmt is 'int8', need a format such as formats.ALL['int8'] (names go to formats.get)"),
    ("affine", "quantize", (F32.astype(np.float64), ONE), {"fmt": INT8}, TypeError,
     f"quantize: x has dtype float64, {REAL}"),
    ("affine", "quantize", (F32, np.float64(1)), {"fmt": INT8}, TypeError,
     "quantize: scale has dtype float64, need float32 (scales take part in binary32 steps, GEN-1)"),
    ("affine", "quantize", (F32, np.ones(4, np.float32)), {"fmt": INT8, "granularity": PerAxis(0)}, ValueError,
     "quantize: scale has shape (4,), need (8, 1): PerAxis(axis=0) of x with shape (8, 16)"),
    ("affine", "quantize", (F32, np.ones(4, np.float32)), {"fmt": INT8}, ValueError,
     "quantize: scale has shape (4,), need (): PerTensor() of x with shape (8, 16)"),
    ("affine", "quantize", (F32, ONE, np.int32([1])), {"fmt": INT8}, ValueError,
     "quantize: zero_point has shape (1,), need (): PerTensor() of x with shape (8, 16)"),
    ("affine", "quantize", (F32, ONE, np.int32(0)), {"fmt": NF4}, ValueError,
     "quantize: zero_point given for nf4, need None (only integer formats have one)"),
    ("affine", "quantize", (F32, ONE, np.float32(0)), {"fmt": UINT4}, TypeError,
     "quantize: zero_point has dtype float32, need int32 (the convention's zero is 'int')"),
    ("affine", "quantize", (F32, ONE, np.int32(0)), {"fmt": UINT4, "convention": Affine(zero="bias")}, TypeError,
     "quantize: zero_point has dtype int32, need float32 (the convention's zero is 'bias')"),
    ("affine", "quantize", (F32, ONE, 3.0), {"fmt": UINT4}, TypeError,
     "quantize: zero_point is 3.0, need an int (a real offset goes with zero 'bias', AFF-3)"),
    ("affine", "quantize", (F32, ONE, 3.0), {"fmt": UINT4, "convention": Affine(zero="add")}, TypeError,
     "quantize: zero_point is 3.0, need an int (a real offset goes with zero 'bias', AFF-3)"),
    ("affine", "quantize", (F32, ONE, 2**31), {"fmt": UINT4}, ValueError,
     "quantize: zero_point is 2147483648, need -2**31..2**31 - 1 (it becomes an int32, GEN-1)"),
    ("affine", "quantize", (F32, ONE, -(2**31) - 1), {"fmt": UINT4}, ValueError,
     "quantize: zero_point is -2147483649, need -2**31..2**31 - 1 (it becomes an int32, GEN-1)"),
    ("affine", "quantize", (F32, ONE), {"fmt": INT8, "granularity": PerAxis(2)}, ValueError,
     "PerAxis(axis=2): array has shape (8, 16), need axis 2 to exist (rank 2)"),
    ("affine", "quantize", (F32[0], ONE), {"fmt": INT8, "granularity": PerBlock((2, 2))}, ValueError,
     "PerBlock(shape=(2, 2)): array has shape (16,), need at least 2 axes"),
    ("affine", "fake_quantize", (np.ones(2, np.int8), ONE), {"fmt": INT8}, TypeError,
     f"fake_quantize: x has dtype int8, {REAL}"),
    ("affine", "dequantize", (np.ones(3, np.int32), ONE), {"fmt": INT8}, TypeError,
     "dequantize: codes have dtype int32, need int8 (the storage of int8)"),
    ("affine", "dequantize", (np.ones(3, np.int8), ONE), {"fmt": INT8, "dtype": "float64"}, TypeError,
     "dequantize: dtype is float64, need float32, float16 or bfloat16 (DEQ-4)"),
    ("affine", "fake_quantize_vjp", (F32, ONE, None, F32), {"fmt": INT8, "mask": "soft"}, ValueError,
     "fake_quantize_vjp: mask is 'soft', need 'rounded', 'ratio' (STE-2)"),
    ("affine", "fake_quantize_vjp", (F32, ONE, None, F32[0]), {"fmt": INT8}, ValueError,
     "fake_quantize_vjp: cotangent has shape (16,), need (8, 16) (the shape of x)"),
    ("scales", "range_of", (np.ma.array(F32),), {}, TypeError,
     "an argument is a masked array, need a plain one: x.filled(0) (a masked element has no code)"),
    ("affine", "quantize", (F32, np.ma.array(ONE)), {"fmt": INT8}, TypeError,
     "an argument is a masked array, need a plain one: x.filled(0) (a masked element has no code)"),
    *[
        ("affine", "quantize", arguments, {"fmt": INT8}, ValueError,
         "an argument is an integer of 1329 bits, need at most 1023 (binary64 has no larger number; an infinity is "
         "float('inf'))")
        for arguments in ((10**400, ONE), (F32, -(10**400)))
    ],
    ("scales", "range_of", (np.ones(3),), {}, TypeError, f"range_of: x has dtype float64, {REAL}"),
    ("scales", "choose_scale", (F32, F32[0]), {"fmt": INT8}, ValueError,
     "choose_scale: high has shape (16,), need (8, 16) (the shape of low)"),
    ("scales", "choose_scale", (F32, F32), {"fmt": UINT4}, ValueError,
     "choose_scale: scale rule is symmetric for uint4, need zero='int' or 'float', ':asym' or ':fzero' in a "
     "scheme's text (an unsigned format has no negative codes)"),
    ("packing", "pack", (np.ones(3, np.int16),), {"fmt": INT8}, TypeError,
     "pack: codes have dtype int16, need int8 (the storage of int8)"),
    ("packing", "unpack", (np.ones(3, np.uint8), (5,)), {"fmt": INT8}, ValueError,
     "unpack: packed has shape (3,), need (5,): 8 bits for each code of shape (5,) (PCK-2)"),
    ("packing", "unpack", (np.ones(5, np.int8), (5,)), {"fmt": INT8}, TypeError,
     "unpack: packed has dtype int8, need uint8 (a stream of bytes, PCK-2)"),
    ("rounding", "round_stochastic", (F32, np.ones((8, 16), np.int32)), {}, TypeError,
     "round_stochastic: bits have dtype int32, need uint32 (randomness enters as bits, GEN-6)"),
    ("sums", "tree_sum", (F32,), {"axis": 2}, ValueError,
     "tree_sum: axis is 2, need axes of an array of shape (8, 16)"),
    ("sums", "tree_sum", (F32,), {"axis": 3}, ValueError,
     "tree_sum: axis is 3, need axes of an array of shape (8, 16)"),
    ("sums", "tree_sum", (F32,), {"axis": (0, -2)}, ValueError,
     "tree_sum: axis is (0, -2), need each axis once (shape (8, 16))"),
    ("sums", "tree_sum", (F32,), {"axis": -3}, ValueError,
     "tree_sum: axis is -3, need axes of an array of shape (8, 16)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "function", "arguments", "options", "error", "text"),
    REFUSALS,
    ids=[f"{r[1]}-{n}" for n, r in enumerate(REFUSALS)],
)
def test_refusal_golden(backend, module, function, arguments, options, error, text):
    """GEN-5: shapes, dtypes and options, the same words from both."""
    with pytest.raises(error) as caught:
        getattr(getattr(backend, module), function)(*arguments, **options)
    assert str(caught.value) == text
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PerAxis(True), "PerAxis: axis is True, need an integer or a tuple of integers"),
        (lambda: PerAxis((0, 1.0)), "PerAxis: axis is 1.0, need an integer or a tuple of integers"),
        (lambda: PerAxis([0, 1]), "PerAxis: axis is [0, 1], need an integer or a tuple of integers"),
        (lambda: PerGroup(1.0, 4), "PerGroup: axis is 1.0, need an integer"),
        (lambda: PerGroup(0, True), "PerGroup: size is True, need an int from 1 up"),
        (lambda: PerBlock(2), "PerBlock: shape is 2, need a tuple of integers"),
        (lambda: PerBlock((2, 2.0)), "PerBlock: size is 2.0, need an integer"),
    ],
)
def test_granularity_golden_integers_alone(make, text):
    """GEN-5: True and 1.0 are equal to 1, so that two of them would be one key and be told differently."""
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PerGroup(0, 0), "PerGroup: size is 0, need an int from 1 up (elements that share a scale)"),
        (
            lambda: PerGroup(0, np.int64(-1)),
            "PerGroup: size is -1, need an int from 1 up (elements that share a scale)",
        ),
        (lambda: PerBlock(()), "PerBlock: shape is (), need positive sizes (elements that share a scale)"),
        (
            lambda: ScaleRule("int", "pow2"),
            "ScaleRule: denominator is 'pow2' with zero 'int', need 'qmax' (an asymmetric scale is "
            "range / (qmax - qmin))",
        ),
        (
            lambda: ScaleRule("none", "signed_absmax", "pow2"),
            "ScaleRule: storage is 'pow2' with denominator 'signed_absmax', need float32, float16 or bfloat16 "
            "(the scale may be negative)",
        ),
        (
            lambda: QuantSpec(NF4, scale=ScaleRule("int")),
            "QuantSpec: scale rule is zero='int', denominator='qmax' for nf4, need zero='none', denominator='qmax' "
            "(zero points and denominators belong to integer formats)",
        ),
        (
            lambda: QuantSpec(ALL["int8_narrow"], scale=ScaleRule(denominator="pow2")),
            "QuantSpec: denominator is 'pow2' for int8_narrow, need a format whose qmin is -2**(bits-1) "
            "(its qmin is -127)",
        ),
        (
            lambda: QuantSpec(ALL["uint8"]),
            "QuantSpec: scale rule is symmetric for uint8, need zero='int' or 'float', ':asym' or ':fzero' in a "
            "scheme's text (an unsigned format has no negative codes)",
        ),
        (
            lambda: QuantSpec(NF4, scale=ScaleRule(denominator="half_range")),
            "QuantSpec: scale rule is zero='none', denominator='half_range' for nf4, need zero='none', "
            "denominator='qmax' (zero points and denominators belong to integer formats)",
        ),
        (
            lambda: ScaleRule(storage="int8"),
            "ScaleRule: storage is 'int8', need 'float32', 'float16', 'bfloat16', 'e4m3fn', 'e8m0fnu', 'pow2' "
            "(SCL-1..SCL-8)",
        ),
        (
            lambda: QuantSpec(NF4, "channel"),
            "QuantSpec: granularity is 'channel', need a granularity such as PerTensor() or PerAxis(0) (a scheme's "
            "text goes to schemes)",
        ),
        (lambda: QuantSpec(NF4, scale="int"), "QuantSpec: scale is 'int', need ScaleRule of spec"),
        (
            lambda: QuantSpec("int8"),
            "QuantSpec: fmt is 'int8', need a format such as formats.ALL['int4'] (a scheme's text goes to "
            "schemes.parse_tensor)",
        ),
    ],
)
def test_data_refusal_golden(make, text):
    """GEN-5: options that have no meaning together, and names where data is needed."""
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert caught.type is (TypeError if re.search("(fmt|granularity|scale) is '", text) else ValueError)
    assert str(caught.value) == text


def test_unknown_format_golden():
    """FMT-1: the nearest names help."""
    with pytest.raises(ValueError, match=r"format is 'e4m3fm', need a name .* nearest: e4m3fn, ") as caught:
        formats.get("e4m3fm")
    assert "e4m3" in str(caught.value)
    with pytest.raises(ValueError, match="nearest: int8"):
        parse("int88:g32")


@pytest.mark.parametrize("zero_point", [2**31 - 1, -(2**31), -1, True])
def test_the_widest_zero_points_are_accepted(backend, zero_point):
    """GEN-1: what an int32 holds."""
    codes = backend.affine.quantize(np.float32([-1, 1]), ONE, np.int32(zero_point), fmt=INT8)
    if zero_point is not True:
        assert backend.affine.quantize(np.float32([-1, 1]), ONE, zero_point, fmt=INT8).tolist() == codes.tolist()
    assert codes.tolist() == [np.clip(zero_point - 1, -128, 127), np.clip(zero_point + 1, -128, 127)]


def test_bfloat16_without_ml_dtypes_golden(monkeypatch):
    """DEQ-4: NumPy has no bfloat16 of its own."""
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError) as caught:
        affine.dequantize(np.int8([1]), ONE, fmt=INT8, dtype="bfloat16")
    assert str(caught.value) == (
        "dequantize: dtype is bfloat16, need the package ml_dtypes (NumPy has no bfloat16 of its own)"
    )
    assert affine.dequantize(np.int8([1]), ONE, fmt=INT8, dtype="float16").dtype == np.float16


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
def test_values_are_never_refused(backend, value):
    """GEN-5: scales and inputs of any value give a result."""
    codes = backend.affine.quantize(np.full(3, value, np.float32), np.float32(value), fmt=INT8)
    assert codes.dtype == np.int8
