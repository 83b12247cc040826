"""HQQ: its quantizer before the optimisation of zeros (pip install --no-deps hqq termcolor, beside torch)."""

from __future__ import annotations

import numpy as np
import pytest
from external.peers import affine_probes

from refquant.affine import quantize
from refquant.conventions import PRESETS
from refquant.formats import ALL

torch = pytest.importorskip("torch")
hqq = pytest.importorskip("hqq.core.quantize", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")
RANGES = [(-1.27, 1.28), (-0.0371, 0.1), (-3.3, 0.7), (-12.7, 0.3), (-0.5, 77.7)]


def run(x: np.ndarray, bits: int, round_zero: bool) -> tuple[np.ndarray, np.float32, np.float32]:
    """(codes, the argument that x is multiplied by, the zero point) of one group."""
    row = torch.from_numpy(x).reshape(1, -1)
    codes, meta = hqq.Quantizer.quantize(
        row, bits, group_size=len(x), axis=1, optimize=False, round_zero=round_zero, bitpack=False, device="cpu"
    )
    low, high = row.min(axis=1, keepdim=True)[0], row.max(axis=1, keepdim=True)[0]
    argument = ((2**bits - 1) / (high - low)).clamp(max=2e4)  # the same expression: torch divides a number in its way
    assert torch.equal(1.0 / argument, meta["scale"])
    return codes.numpy().ravel(), np.float32(argument.item()), np.float32(meta["zero"].item())


def group(low: float, high: float, bits: int, round_zero: bool) -> np.ndarray:
    """Probes of all rivals inside the range that gives them their scale; the range has to be known first."""
    ends = np.float32([low, high])
    _, argument, zero = run(ends, bits, round_zero)
    probes = affine_probes(f"uint{bits}", float(np.float32(1) / argument), int(np.rint(zero)))
    with np.errstate(all="ignore"):
        ties = (np.arange(2**bits, dtype=np.float64) + 0.5 - zero) / argument
    near = np.float32(ties).view(np.int32)[:, None] + np.arange(-3, 4, dtype=np.int32)
    probes = np.concatenate([probes, near.ravel().view(np.float32)])
    return np.concatenate([ends, probes[(probes > ends[0]) & (probes < ends[1])]])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_quantizer_external_follows_the_preset(bits, low, high):
    """round_zero gives integer zero points, for which the preset is a point of the space."""
    x = group(low, high, bits, round_zero=True)
    codes, argument, zero = run(x, bits, round_zero=True)
    want = quantize(x, argument, np.int32(zero), fmt=ALL[f"uint{bits}"], convention=PRESETS["hqq"].affine)
    assert len(x) > 2**bits and np.array_equal(codes, want)


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_quantizer_external_real_zero_points_are_added_with_a_rounding_of_their_own(low, high):
    """Otherwise the zero point is real: the product is rounded, then the sum, then ties go to even."""
    x = group(low, high, 8, round_zero=False)
    codes, argument, zero = run(x, 8, round_zero=False)
    assert np.array_equal(codes, np.clip(np.rint(x * argument + zero), 0, 255))
