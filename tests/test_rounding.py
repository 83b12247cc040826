"""round_to_integer, round_stochastic, ordered keys and scalb (specs/00-conventions.md)."""

import exact
import numpy as np
import pytest
import strategies as some
from bits import assert_same, bits_of, float32

TIES = ("even", "away", "up", "down", "zero", "trunc")


def hard() -> np.ndarray:
    large = some.neighbours(np.float32([2.0**22, 2.0**23, 2.0**24, 2.0**31, 8388607.5, 4194303.5]), 3)
    return np.concatenate(
        [some.SPECIAL, some.halves(1.0, -9, 9), large, -large, some.powers()[::5], some.random_bits(300)]
    )


def check_round(rounding: object, ties: str) -> None:
    x = hard()
    want = float32([exact.round_to_integer(int(b), ties) for b in bits_of(x)])
    got = np.asarray(rounding.round_to_integer(x, ties=ties))
    assert_same(got, want, inputs={"x": x}, call=f"round_to_integer(x, ties={ties!r})")


def check_stochastic(rounding: object) -> None:
    x = np.concatenate([hard(), some.halves(2.0**-24, -3, 3), -some.powers()[::9]])
    bits = np.resize(np.uint32([0, 255, 256, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFF00, 0x12345678]), x.shape)
    got = np.asarray(rounding.round_stochastic(x, bits))
    want = [exact.round_stochastic(int(b), int(r)) for b, r in zip(bits_of(x), bits, strict=True)]
    values = np.array([v if w is None else np.float32(w) for v, w in zip(x, want, strict=True)], np.float32)
    values = np.where((values == 0) & (bits_of(x) == 0x80000000), np.float32(-0.0), values)
    assert_same(got.astype(np.float32), values, inputs={"x": x, "bits": bits}, call="round_stochastic(x, bits)")


@pytest.mark.parametrize("ties", TIES)
def test_round_to_integer_differential(backend, ties):
    """RND-1."""
    check_round(backend.rounding, ties)


def test_round_stochastic_differential(backend):
    """RND-2, GEN-6."""
    check_stochastic(backend.rounding)


def test_round_stochastic_property_unbiased(backend):
    """RND-2: over all 2^24 thresholds (a grid of 4,096) the mean is x."""
    bits = (np.arange(4096, dtype=np.uint32) << 20) | 5
    for x in (0.25, -0.25, 3.5, -7.75, 2.0):
        got = backend.rounding.round_stochastic(np.full(4096, x, np.float32), bits)
        assert got.astype(np.float64).mean() == x


def test_ordered_key_differential(backend):
    """BIT-1."""
    x = hard()
    want = np.array([exact.ordered_key(int(b)) for b in bits_of(x)], np.int32)
    assert_same(np.asarray(backend.bits.ordered_key(x)).astype(np.int32), want, inputs={"x": x})


def check_scalb(bits: object) -> None:
    x = np.concatenate([some.SPECIAL, some.random_bits(100), some.powers()[::11]])
    for k in (-300, -150, -127, -126, -24, -1, 0, 1, 23, 127, 254, 300):
        want = float32([exact.scalb(int(b), k) for b in bits_of(x)])
        got = np.asarray(bits.scalb(x, np.full(x.shape, k, np.int32)))
        assert_same(got, want, inputs={"x": x}, call=f"scalb(x, {k})")


def test_scalb_differential(backend):
    """BIT-2, GEN-9: subnormals are not flushed."""
    check_scalb(backend.bits)
