"""jaxquant asks for the ends of the clip-STE mask once a tile; refquant asks each element (STE-2)."""

import numpy as np
import pytest
from bits import assert_same

from refquant import affine
from refquant.formats import ALL, IntFormat
from refquant.granularity import PerAxis

jax = pytest.importorskip("jax", reason="the ends are jaxquant's")
SCALES, AROUND = 4000, 10
FORMATS = [ALL[name] for name in ("int2", "int4", "int8", "int8_narrow", "uint4", "uint8", "int16")]
ZEROS = {
    "none": lambda rng, fmt: None,
    "own": lambda rng, fmt: rng.integers(fmt.qmin, fmt.qmax + 1, SCALES),
    "odd": lambda rng, fmt: rng.integers(-(2**31), 2**31, SCALES) >> rng.integers(0, 32, SCALES),
}


def scales(rng: np.random.Generator) -> np.ndarray:
    """Both signs, over the exact domain (GEN-8); significands at both ends, where steps change their size."""
    significand = rng.integers(0, 1 << 23, SCALES)
    significand[:300] = np.arange(300)
    significand[300:600] = (1 << 23) - 1 - np.arange(300)
    pattern = rng.integers(0, 2, SCALES) << 31 | rng.integers(27, 254, SCALES) << 23 | significand
    return pattern.astype(np.uint32).view(np.float32)


def around_ends(scale: np.ndarray, zero: np.ndarray | None, fmt: IntFormat) -> np.ndarray:
    """Rows of 42 elements: neighbours of where the rounded value leaves the format, below and above."""
    zero = np.zeros(SCALES) if zero is None else zero.astype(np.float64)
    ends = np.stack([fmt.qmin - zero - 0.5, fmt.qmax - zero + 0.5], 1) * scale[:, None].astype(np.float64)
    ends = np.clip(ends, -np.finfo(np.float32).max, np.finfo(np.float32).max).astype(np.float32)
    pattern = ends.view(np.int32).astype(np.int64)
    keys = np.where(pattern < 0, -(pattern & 0x7FFFFFFF), pattern)[..., None] + np.arange(-AROUND, AROUND + 1)
    return np.where(keys < 0, -keys | 0x80000000, keys).astype(np.uint32).view(np.float32).reshape(SCALES, -1)


def masks(fmt: IntFormat, zeros: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the mask of jaxquant, that of refquant, x)."""
    from jaxquant import _steps
    from jaxquant._plan import Plan
    from refquant.conventions import CAST, DEFAULT

    rng = np.random.default_rng(ord(zeros[0]) + fmt.qmax)
    scale, zero = scales(rng), ZEROS[zeros](rng, fmt)
    zero = None if zero is None else zero.astype(np.int32)
    x = around_ends(scale, zero, fmt)
    plan = Plan(fmt, (1, x.shape[1]), DEFAULT, CAST, "rounded")
    assert _steps.has_bounds(plan, x.size, scale.size)
    first, last = jax.jit(lambda s, z: _steps.bounds(plan, s, z))(scale, zero)
    got = (x >= np.asarray(first)[:, None]) & (x <= np.asarray(last)[:, None])
    column = None if zero is None else zero[:, None]
    options = {"fmt": fmt, "granularity": PerAxis(0), "convention": DEFAULT, "mask": "rounded"}
    want = affine.fake_quantize_vjp(x, scale[:, None], column, np.ones_like(x), **options) != 0
    return got, want, x


@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_bounds_differential(fmt: IntFormat, zeros: str) -> None:
    got, want, x = masks(fmt, zeros)
    assert want.any() and not want.all()
    assert_same(got, want, inputs={"x": x})


@pytest.mark.parametrize("zeros", ["none", "odd"])
def test_one_step_is_not_enough_planted(monkeypatch: pytest.MonkeyPatch, zeros: str) -> None:
    from jaxquant import _inside

    monkeypatch.setattr(_inside, "REACH", 1)
    got, want, _ = masks(ALL["uint8"], zeros)
    assert (got != want).any()
