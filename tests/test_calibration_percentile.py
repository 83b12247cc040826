"""Percentiles (specs/40-calibration.md, CAL-4): both packages and the third opinion."""

import importlib
from dataclasses import replace

import exact_calibration as exact
import numpy as np
import pytest
from calibration_support import STREAMS, bits, observe


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_percentile_differential_exact(backend, name, two_sided):
    data = [b for x in STREAMS[name] for b in bits(x)]
    state = observe(backend, "histogram", STREAMS[name])
    for millionths in (1, 500_000, 990_000, 999_900, 1_000_000):
        got = getattr(backend, "calibration.percentile").finalize(state, millionths=millionths, two_sided=two_sided)
        assert bits(got) == list(exact.percentile(data, millionths, two_sided=two_sided)), millionths


@pytest.mark.parametrize("two_sided", [False, True])
def test_percentile_differential_counts_beyond_int64_products(backend, two_sided):
    counts = np.full(1 << 16, 2**31 - 1, np.int32)
    counts[0x7F80:0x8000] = counts[0xFF80:] = 0
    state = observe(backend, "histogram", [np.float32([-np.inf, np.inf])])
    state = replace(state, counts=counts)
    total = (2**31 - 1) * 2 * 0x7F80
    for millionths in (1, 333_333, 500_001, 999_999, 10**6):
        need = -(-millionths * total // 10**6)
        if two_sided:
            need -= total // 2
        first = -(-need // ((2**31 - 1) * (1 if two_sided else 2))) - 1
        want = 0 if need <= 0 else first << 16 | 0xFFFF
        low, high = getattr(backend, "calibration.percentile").finalize(
            state, millionths=millionths, two_sided=two_sided
        )
        assert bits([low, high]) == [want | 0x80000000 if want else 0, want]


@pytest.mark.parametrize("kind", ["minmax", "ema", "histogram", "linear", "percentile"])
def test_constants_of_a_program_property_are_not_folded(kind):
    """Data that a jitted function closes over: XLA would count them while it compiles, for minutes, and say so."""
    jax = pytest.importorskip("jax")
    module = getattr(importlib.import_module("jaxquant.calibration"), kind)
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    program = jax.jit(lambda: module.finalize(module.update(module.init(), x))).lower().compile().as_text()
    assert " fusion(" in program
    nothing = jax.jit(lambda: module.finalize(module.init())).lower().compile().as_text()
    assert kind != "percentile" or " fusion(" in nothing
