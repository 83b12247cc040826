"""ml_dtypes: casts from float32 to every minifloat."""

from __future__ import annotations

import numpy as np
import pytest
from external.peers import cast_mismatches, cast_probes

from refquant.conventions import CASTS
from refquant.formats import ALL

ml_dtypes = pytest.importorskip("ml_dtypes")
pytestmark = pytest.mark.filterwarnings("ignore")
EIGHT = ["e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e4m3", "e3m4", "e4m3b11fnuz"]


def cast(x: np.ndarray, name: str) -> np.ndarray:
    width = {"e8m0fnu": 8, "e2m3fn": 6, "e3m2fn": 6, "e2m1fn": 4}.get(name, 8)
    return x.astype(getattr(ml_dtypes, f"float{width}_{name}"))


@pytest.mark.parametrize("name", EIGHT)
def test_cast_external_eight_bits_follow_the_preset(name):
    x = cast_probes(name)
    wrong = cast_mismatches(cast(x, name), x, ALL[name], CASTS["ml_dtypes"].point)
    assert wrong.size == 0, [hex(b) for b in wrong.view(np.uint32)[:5]]


@pytest.mark.parametrize("name", ["e2m3fn", "e3m2fn", "e2m1fn"])
def test_cast_external_small_formats_differ_in_nan_only(name):
    x = cast_probes(name)
    wrong = cast_mismatches(cast(x, name), x, ALL[name], CASTS["ml_dtypes_small"].point)
    assert np.isnan(wrong).all() and not np.signbit(wrong).any()
    assert (cast(wrong, name).view(np.uint8) == ALL[name].sign_bit).all()  # a positive NaN becomes -0


def test_cast_external_e8m0_rounds_up_below_its_second_code():
    x = cast_probes("e8m0fnu")
    wrong = cast_mismatches(cast(x, "e8m0fnu"), x, ALL["e8m0fnu"], CASTS["ml_dtypes_e8m0"].point).view(np.uint32)
    assert wrong.size and (wrong > 0x00400000).all() and (wrong < 0x00600000).all()
    edges = np.uint32([0x00400000, 0x00400001, 0x005FFFFF, 0x00600000]).view(np.float32)
    assert cast(edges, "e8m0fnu").view(np.uint8).tolist() == [0, 1, 1, 1]
