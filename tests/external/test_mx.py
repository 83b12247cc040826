"""OCP MX element casts: gfloat with its saturating flag, torchao's FP4 and FP6, torchmx with its infinities."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from external.peers import all_halves, cast_mismatches, cast_probes

from refquant.codec import decode, encode
from refquant.conventions import CASTS
from refquant.formats import ALL

pytestmark = pytest.mark.filterwarnings("ignore")
OCP_MX = CASTS["ocp_mx"].point
NAMES = {
    "e4m3fn": "ocp_e4m3", "e5m2": "ocp_e5m2", "e2m3fn": "ocp_e2m3", "e3m2fn": "ocp_e3m2", "e2m1fn": "ocp_e2m1",
}  # fmt: skip


def finite_inputs(name: str) -> np.ndarray:
    """The document says what these give: probes of 18 rival casts, all of binary16 and bfloat16."""
    x = np.concatenate([cast_probes(name), all_halves()])
    return x[np.isfinite(x)]


def gfloat_codes(x: np.ndarray, name: str) -> np.ndarray:
    gfloat, formats = pytest.importorskip("gfloat"), pytest.importorskip("gfloat.formats")
    info = getattr(formats, f"format_info_{NAMES[name]}")
    rounded = gfloat.round_ndarray(info, x.astype(np.float64), gfloat.RoundMode.TiesToEven, sat=True)
    return gfloat.encode_ndarray(info, rounded).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_gfloat_external_follows_the_preset_for_finite_values(name):
    x = finite_inputs(name)
    assert cast_mismatches(gfloat_codes(x, name), x, ALL[name], OCP_MX).size == 0


@pytest.mark.parametrize("name", NAMES)
def test_gfloat_external_saturates_inf_and_has_one_nan(name):
    """What MX 1.0 leaves open: ±inf are ±max, where the preset has inf or NaN; any NaN is all ones."""
    fmt = ALL[name]
    assert gfloat_codes(np.float32([np.inf, -np.inf]), name).tolist() == [fmt.max_code, fmt.max_code | fmt.sign_bit]
    if fmt.specials != "none":
        assert gfloat_codes(np.float32([np.nan, -np.nan]), name).tolist() == [0xFF] * 2


@pytest.mark.parametrize(
    ("name", "function"),
    [("e2m1fn", "f32_to_f4_unpacked"), ("e2m3fn", "f32_to_f6_e2m3_unpacked"), ("e3m2fn", "f32_to_f6_e3m2_unpacked")],
)
def test_torchao_external_follows_the_preset_for_all_but_nan(name, function):
    torch, kernels = pytest.importorskip("torch"), pytest.importorskip("torchao.prototype.mx_formats.kernels")
    x = np.concatenate([finite_inputs(name), np.float32([np.inf, -np.inf])])
    codes = getattr(kernels, function)(torch.from_numpy(x)).numpy()
    assert cast_mismatches(codes, x, ALL[name], OCP_MX).size == 0


def torchmx_values(x: np.ndarray, name: str, dtype: str) -> np.ndarray:
    """The file alone: the package wants old versions of others (pip install --no-deps torchmx, beside torch)."""
    torch, found = pytest.importorskip("torch"), importlib.util.find_spec("torchmx")
    if found is None:
        pytest.skip("torchmx is not installed")
    path = Path(str(found.origin)).parent / "custom_float_cast.py"
    spec = importlib.util.spec_from_file_location("torchmx_cast", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fmt = ALL[name]
    top = float(decode(np.uint8([fmt.max_code]), fmt=fmt)[0])
    held = torch.from_numpy(x.astype(dtype))
    return module.hp_to_floatx(held, fmt.exponent_bits, fmt.mantissa_bits, top).numpy()


def wrong_values(values: np.ndarray, x: np.ndarray, name: str) -> np.ndarray:
    """The inputs whose values are not those of the preset's codes; -0 is not +0."""
    want = decode(encode(x, fmt=ALL[name], cast=OCP_MX), fmt=ALL[name])
    same = np.where(np.isnan(want), np.isnan(values), (values == want) & (np.signbit(values) == np.signbit(want)))
    return x[~same]


@pytest.mark.parametrize("name", NAMES)
def test_torchmx_external_follows_the_preset_for_finite_values_but_minus_zero(name):
    x = finite_inputs(name)
    wrong = wrong_values(torchmx_values(x, name, "float64"), x, name)
    assert (wrong == 0).all() and np.signbit(wrong).all()  # -0 becomes +0; small negative values keep their sign


def test_torchmx_external_keeps_inf_and_nan_as_the_preset_does_where_the_format_has_them():
    x = np.concatenate([cast_probes("e5m2"), all_halves()])
    wrong = wrong_values(torchmx_values(x, "e5m2", "float64"), x, "e5m2")
    assert np.isinf(x).any() and np.isnan(x).any() and (wrong == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_torchmx_external_in_binary32_goes_up_just_below_half_its_smallest_value(name):
    """The logarithm that gives its exponent is rounded to binary32: one or two inputs of each sign."""
    x = finite_inputs(name)
    values = torchmx_values(x, name, "float32")
    wrong = wrong_values(values, x, name)
    wrong, smallest = np.unique(wrong[wrong != 0]), decode(np.uint8([1]), fmt=ALL[name])[0]
    assert wrong.size and (np.abs(wrong) < smallest / 2).all() and (np.abs(wrong) > smallest * 0.4999).all()
    assert (np.abs(torchmx_values(wrong, name, "float32")) == smallest).all()
