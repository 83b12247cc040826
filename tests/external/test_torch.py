"""torch on CPU: quantize_per_tensor, quantize_per_channel, fake_quantize, dequantize and float8 casts."""

from __future__ import annotations

import numpy as np
import pytest
from external.peers import assert_follows, cast_mismatches, cast_probes, not_nan

from refquant.affine import dequantize
from refquant.conventions import CASTS
from refquant.formats import ALL

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = {"uint8": torch.quint8, "int8": torch.qint8}
BOTH = pytest.mark.parametrize("name", ["uint8", "int8"])


def per_tensor(x: np.ndarray, scale: float, zero: int, name: str) -> np.ndarray:
    return torch.quantize_per_tensor(torch.from_numpy(x), scale, zero, KINDS[name]).int_repr().numpy()


def per_channel(x: np.ndarray, scale: float, zero: int, name: str) -> np.ndarray:
    scales, zeros = torch.tensor([scale], dtype=torch.float64), torch.tensor([zero])
    return torch.quantize_per_channel(torch.from_numpy(x)[None], scales, zeros, 0, KINDS[name]).int_repr().numpy()[0]


def codes_of(values: torch.Tensor, scale: float, zero: int) -> np.ndarray:
    """Codes from the values of fake_quantize: (code - zero) * scale."""
    return np.rint(values.numpy().astype(np.float64) / scale) + zero


def fake_tensor(x: np.ndarray, scale: float, zero: int, name: str) -> np.ndarray:
    fmt = ALL[name]
    values = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), scale, zero, fmt.qmin, fmt.qmax)
    return codes_of(values, scale, zero)


def fake_channel(x: np.ndarray, scale: float, zero: int, name: str) -> np.ndarray:
    fmt, scales, zeros = ALL[name], torch.tensor([scale]), torch.tensor([zero], dtype=torch.int32)
    x = torch.from_numpy(x)[None]
    return codes_of(torch.fake_quantize_per_channel_affine(x, scales, zeros, 0, fmt.qmin, fmt.qmax)[0], scale, zero)


@BOTH
def test_quantize_per_tensor_external_follows_the_preset(name):
    assert_follows(lambda x, s, z: per_tensor(x, s, z, name), "torch_per_tensor", name)


@BOTH
def test_quantize_per_channel_external_follows_the_preset(name):
    keep = not_nan if name == "int8" else None
    assert_follows(lambda x, s, z: per_channel(x, s, z, name), "torch_per_channel", name, keep=keep)


def test_quantize_per_channel_external_nan_to_int8_is_code_0():
    nan = np.float32([np.nan])
    assert [int(per_channel(nan, 0.5, z, "int8")[0]) for z in (-128, 0, 5)] == [0, 0, 0]


@BOTH
def test_fake_quantize_external_follows_the_preset(name):
    assert_follows(lambda x, s, z: fake_tensor(x, s, z, name), "torch_fake_tensor", name)


@BOTH
def test_fake_quantize_per_channel_external_follows_the_preset(name):
    assert_follows(lambda x, s, z: fake_channel(x, s, z, name), "torch_fake_channel", name)


def test_dequantize_external_all_codes():
    codes = np.arange(-128, 128).astype(np.int8)
    for scale, zero in ((0.1, -128), (1 / 3, 99), (0.0123, 5)):
        scale = float(np.float32(scale))
        quantized = torch._make_per_tensor_quantized_tensor(torch.from_numpy(codes.copy()), scale, zero)
        want = dequantize(codes, np.float32(scale), np.int32(zero), fmt=ALL["int8"])
        assert np.array_equal(quantized.dequantize().numpy().view(np.uint32), want.view(np.uint32))


def cast(x: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    return torch.from_numpy(x).to(dtype).view(torch.uint8).numpy()


@pytest.mark.parametrize(
    ("name", "preset"), [("e4m3fn", "torch_e4m3fn"), ("e4m3fnuz", "torch_fnuz"), ("e5m2fnuz", "torch_fnuz")]
)
def test_cast_external_follows_the_preset(name, preset):
    x = cast_probes(name)
    wrong = cast_mismatches(cast(x, getattr(torch, f"float8_{name}")), x, ALL[name], CASTS[preset].point)
    assert wrong.size == 0, [hex(b) for b in wrong.view(np.uint32)[:5]]


def test_cast_external_e5m2_differs_in_nan_only():
    x = cast_probes("e5m2")
    wrong = cast_mismatches(cast(x, torch.float8_e5m2), x, ALL["e5m2"], CASTS["torch_e5m2"].point)
    assert np.isnan(wrong).all() and set(cast(wrong, torch.float8_e5m2).tolist()) == {0x7F, 0xFF}


def test_cast_external_e8m0_differs_below_its_second_code_and_at_zero():
    x = cast_probes("e8m0fnu")
    wrong = cast_mismatches(cast(x, torch.float8_e8m0fnu), x, ALL["e8m0fnu"], CASTS["torch_e8m0"].point)
    bits = wrong.view(np.uint32)
    up = bits[(bits > 0x00400000) & (bits < 0x00600000)]
    assert up.size and (cast(up.view(np.float32), torch.float8_e8m0fnu) == 1).all()
    rest = np.setdiff1d(bits, up).view(np.float32)
    assert (np.abs(rest) < 2.0**-126).all() and (cast(rest, torch.float8_e8m0fnu) == 0).all()
