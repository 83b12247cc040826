"""What decide is given: models, examples and functions that cannot be judged are refused before a word is printed."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("rich")

import jax.numpy as jnp  # noqa: E402
import small_models  # noqa: E402
from flax import linen, nnx  # noqa: E402

import jaxquant  # noqa: E402


def refused(capsys, out, told, *args, **kwargs):
    """decide raises one line that says so; nothing is printed or written."""
    with pytest.raises((ValueError, TypeError, OSError), match=told) as caught:
        jaxquant.decide(*args, out=out, **{"schemes": ("int8:channel",), **kwargs})
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
    assert not out.exists()


class Fragile(nnx.Module):
    """The root of x0 + x1 / 5 - 1 / 10: NaN for x = (0, 1) once the weight 1 / 5 is rounded to zero."""

    def __init__(self):
        self.inner = nnx.Linear(2, 1, use_bias=False, rngs=nnx.Rngs(0))
        self.inner.kernel[...] = jnp.float32([[1.0], [0.2]])

    def __call__(self, x):
        root = jnp.sqrt(self.inner(x) - 0.1)
        return jnp.concatenate([root, -root], -1)


class Passing(linen.Module):
    """A dense layer; the last two inputs are added to the outputs as they are."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(x[:, :4]).at[:, 1:].add(x[:, 4:])


def passing(last):
    """A model and eight examples; the fourth ends in `last`."""
    module = Passing()
    rows = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    rows[3, 4:] = last
    return (module, module.init(small_models.jax.random.key(0), rows[:1])), list(rows)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_differential(value, capsys, tmp_path):
    """DEC-15, in both kinds of model: the first bad tensor is named."""
    model = small_models.build()
    model.inner.kernel[...] = model.inner.kernel[...].at[2, 5].set(value)
    refused(capsys, tmp_path / "out", r"inner\.kernel\[2, 5\] is (nan|inf) .*finite", model, small_models.ids())
    module, variables = small_models.build_linen()
    variables["params"]["Dense_1"]["bias"] = jnp.full(10, value)
    told = r"Dense_1\.bias\[0\] is (nan|inf) \(10 of 10 there are not finite\), need finite weights, or nothing can be"
    refused(capsys, tmp_path / "out", told, (module, variables), small_models.vectors())


@pytest.mark.parametrize("last", [[np.nan, 0.0], [0.0, np.nan], [np.inf, -np.inf]])
def test_float_outputs_that_are_not_finite_are_refused(last, capsys, tmp_path):
    model, rows = passing(last)
    if not np.isnan(last).any():
        model, rows = passing([0.0, 0.0])
        rows[3][:] = np.inf  # inf - inf somewhere, or nothing finite
    told = r"output of example 3 has a NaN or nothing finite \(as 1 of 8 have\), need finite outputs"
    refused(capsys, tmp_path / "out", told, model, rows)
    refused(capsys, tmp_path / "out", told, model, rows, lambda output, example: 0.5)


def test_a_mask_of_minus_infinity_is_allowed(tmp_path):
    model, rows = passing([0.0, -np.inf])
    result = jaxquant.decide(model, rows, bar="same>=1%", schemes=("int8:channel",), out=tmp_path / "out")
    assert result["rows"][1]["same"]["estimate"] == 1.0
    json.loads((tmp_path / "out" / "result.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("scored", [False, True])
def test_an_argmax_over_nan_is_never_the_same_answer(scored, capsys, tmp_path):
    """Each output's largest is its first, and so is numpy's argmax of NaN: 8 of 20 examples have no answer."""
    rows = [np.float32([0, 1])] * 8 + [np.float32([1, 0])] * 12
    score = (lambda output, example: float(np.argmax(output) == 0)) if scored else None
    result = jaxquant.decide(Fragile(), rows, score, schemes=("int2:channel",), bar="lose<=2", out=tmp_path / "out")
    _, row = result["rows"]
    assert (row["lost"], row["won"], row["same"]["estimate"]) == (8, 0, 0.6)
    assert row["score"] == 0.6
    assert "NaN or nothing finite in 8 of 20 outputs" in row["verdict"]["note"]
    assert "in 8 of 20 outputs" in capsys.readouterr().out
    assert {change["quantized"] for change in result["changed"]} == {"no answer (not a number)"}
    json.loads((tmp_path / "out" / "result.json").read_text(), parse_constant=pytest.fail)


def test_an_output_without_answer_scores_as_the_worst_of_float(tmp_path):
    rows = [np.float32([0, 1])] * 8 + [np.float32([k, 0]) for k in range(1, 13)]
    result = jaxquant.decide(
        Fragile(), rows, lambda output, example: 3.0 - output[0], schemes=("int2:channel",), bar="score>=1",
        out=tmp_path / "out",
    )  # fmt: skip
    found = [3 - np.sqrt(np.float32(k - 0.1)) for k in range(1, 13)]
    assert min(found) < 0
    assert result["rows"][1]["score"] == pytest.approx((sum(found) + 8 * min(found)) / 20, rel=1e-5)
