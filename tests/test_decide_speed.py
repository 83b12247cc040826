"""What `decide` says of speed: only what was measured, and no gain that calls vary by."""

from __future__ import annotations

import pytest

pytest.importorskip("jax")
pytest.importorskip("flax")

import jax.numpy as jnp

from jaxquant.decide import speed
from jaxquant.decide.speed import measure, summary, timed

WAYS = {"float": (lambda x: x, 400), "int8": (lambda x: x, 100), "int4": (lambda x: x, 50)}


def sentence(int8: list[float], int4: list[float]) -> str:
    return summary(timed({"float": [1.0, 1.1, 0.9], "int8": int8, "int4": int4}, WAYS, 7))


def test_a_speed_up_must_be_seen_in_nearly_every_round():
    """The median alone is 10 % less, but one call was slower than float's beside it."""
    gained = sentence([0.5, 0.6, 0.5], [2.0, 2.0, 2.0])
    assert gained == (
        "From 0.50 x (int8, batch 7) to 2.00 x (int4, batch 7) float's time on this device. "
        "Elsewhere smaller is slower."
    )
    assert sentence([0.8, 0.9, 0.95], [2.0, 2.0, 2.0]) == (
        "No speed-up on this device: 0.90 x (int8, batch 7) to 2.00 x (int4, batch 7) float's time (faster in 2 of 3 "
        "calls: not a gain). Smaller is not faster without a fused native kernel."
    )
    slower = sentence([1.5, 1.6, 1.7], [2.0, 2.0, 2.0])
    assert slower.startswith("No speed-up on this device: 1.60 x (int8, batch 7) to 2.00 x") and "calls" not in slower


def test_every_way_is_called_in_turns_and_once_before_it_is_timed(monkeypatch):
    calls = []
    monkeypatch.setattr(speed, "SECONDS", 0.0)

    def way(name):
        return lambda x: calls.append(name) or x, 1

    found = measure({"float": way("float"), "int8": way("int8")}, (jnp.ones((5, 2)),), rounds=3)
    assert calls == ["float", "int8"] * 4
    assert [(t.what, t.batch, t.rounds) for t in found] == [("float", 5, 3), ("int8", 5, 3)]
    assert found[0].ratio == 1 and found[0].faster == 0 and found[1].milliseconds > 0


def test_short_calls_are_timed_more_often_than_asked_for(monkeypatch):
    """A moment in which the machine is busy would decide between five calls of a fraction of a millisecond."""
    monkeypatch.setattr(speed, "MOST", 40)
    found = measure({"float": (lambda x: x, 1)}, (jnp.ones((5, 2)),), rounds=3)
    assert found[0].rounds == 40
