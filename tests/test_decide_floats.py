"""Rows with integer inputs: what keeps float inputs is told, and nothing of the user's is replaced (DEC-18)."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("rich")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from decide_support import ladder_of, rows, with_variables  # noqa: E402
from flax import linen, nnx  # noqa: E402

from jaxquant.decide.bits import Quantizer  # noqa: E402
from jaxquant.decide.ladder import rungs  # noqa: E402
from jaxquant.decide.run import forward  # noqa: E402
from refquant.schemes import parse  # noqa: E402


def ids():
    return list(np.random.default_rng(3).integers(0, 11, (12, 5), np.int32))


def dotted(*args, **kwargs):
    dotted.calls += 1
    return jax.lax.dot_general(*args, **kwargs)


dotted.calls = 0


class Stubborn(nnx.Module):
    """Layers that cannot take integer inputs, each for another reason; the last one can."""

    def __init__(self, rngs: nnx.Rngs):
        self.own = nnx.Linear(8, 8, dot_general=dotted, rngs=rngs)
        self.sub = SubLinear(8, 8, rngs=rngs)
        self.normed = nnx.WeightNorm(nnx.Linear(8, 8, rngs=rngs), rngs=rngs)
        self.rnn = nnx.RNN(nnx.SimpleCell(8, 8, rngs=rngs))
        self.hand = nnx.Linear(8, 8, rngs=rngs)
        self.late = nnx.Einsum("abc,cd->abd", (8, 8), rngs=rngs)
        self.summing = nnx.Einsum("abc,cd->ad", (8, 8), rngs=rngs)
        self.weight = nnx.Param(jnp.eye(8))
        self.last = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = self.rnn(self.normed(self.sub(self.own(x)))) @ self.hand.kernel[...]
        return self.last(self.summing(self.late(x, "abc,cd->abd")) @ self.weight[...])


class SubLinear(nnx.Linear):
    pass


class SubDense(linen.Dense):
    pass


class LinenStubborn(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = SubDense(8, name="sub")(linen.Dense(8, dot_general=dotted, name="own")(x))
        x = linen.WeightNorm(linen.Dense(8, name="inner"), name="normed")(x)
        x = linen.RNN(linen.SimpleCell(8, name="cell"), name="rnn")(x)
        x = linen.Einsum((8, 8), "abc,cd->ad", name="summing")(x)
        return linen.Dense(5, name="last")(x @ self.param("weight", linen.initializers.ones, (8, 8)))


TOLD = {
    "own.kernel": r"(Linear|Dense) has dot_general set",
    "sub.kernel": r"a subclass of (Linear|Dense)",
    "normed.layer_instance.kernel": "inside a WeightNorm",
    "inner.kernel": "parameters computed by a transform",
    "rnn.cell.dense_i.kernel": "inside a recurrent cell",
    "rnn.cell.dense_h.kernel": "inside a recurrent cell",
    "cell.i.kernel": "inside a recurrent cell",
    "cell.h.kernel": "inside a recurrent cell",
    "hand.kernel": "a kernel whose layer is not called",
    "late.kernel": "einsum_str at the call",
    "summing.kernel": "subscripts are 'abc,cd->ad'",
    "weight": "parameters of a class that is not Flax's own layer",
}


def stubborn_models():
    return {
        "nnx": Stubborn(nnx.Rngs(0)),
        "linen": with_variables(LinenStubborn(), rows((4, 8))),
    }


@pytest.mark.skipif(not hasattr(nnx, "WeightNorm"), reason="this Flax has no nnx.WeightNorm")
@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_what_stays_in_float_is_told_and_nothing_of_the_users_is_replaced(kind):
    model = stubborn_models()[kind]
    ladder, parsed = ladder_of(model, rows((4, 8))), parse("w8a8:token")
    plans, batch = ladder.plans(parsed), ladder.workload.batches(1)[0]
    on = ladder.on_codes(plans, parsed)
    assert list(on.layers) == ["last.kernel"]
    assert len(on.kept) == {"nnx": 9, "linen": 7}[kind] and set(on.kept) <= set(TOLD)
    for name, why in on.kept.items():
        assert re.fullmatch(TOLD[name], why), (name, why)
    dotted.calls = 0
    forward(ladder.target, Quantizer(ladder.target)(plans), on)(*batch)
    assert dotted.calls == 1
    row = list(ladder.climb(rungs("w8a8:token")))[1]
    assert row.float_inputs == len(on.kept)
    assert row.float_told.startswith(f"{len(on.kept)} layers keep float inputs: ")
    assert "2 x inside a recurrent cell" in row.about and "dot_general set" in row.about


class Wide(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.DenseGeneral(8, axis=(-2, -1), name="two")(linen.relu(linen.Dense(6, name="long")(x)))
        return linen.Dense(5, name="last")(x)


@pytest.mark.parametrize(
    ("scheme", "kept"),
    [
        ("w=int4:g4,a=int8:token", {"two.kernel": "weights in groups, but the kernel of shape (4, 6, 8) has 2 summed"}),
        ("w=int8:b2x2,a=int8:token", {n: "weight of rank " for n in ("long.kernel", "two.kernel", "last.kernel")}),
        ("w=int8:channel,a=int16:token", {"long.kernel": "600 products of magnitudes up to 32768 and 128 can reach"}),
        ("w=int8:channel,a=int8:token", {}),
    ],
)
def test_codes_that_cannot_leave_a_sum_or_fit_it_are_told(scheme, kept):
    """LAY-2, LAY-3, LAY-8: the row is made all the same, those layers on float inputs."""
    module = Wide()
    examples = rows((4, 600))
    ladder = ladder_of((module, module.init(jax.random.key(0), examples[0][None])), examples)
    parsed = parse(scheme)
    on = ladder.on_codes(ladder.plans(parsed), parsed)
    assert on.kept.keys() == kept.keys()
    assert all(on.kept[name].startswith(text) for name, text in kept.items()), on.kept
    row = list(ladder.climb(rungs(scheme)))[1]
    assert (row.float_inputs, row.differing) == (len(kept), 0)


def test_a_row_without_a_layer_on_integers_is_its_twin_without_inputs():
    """A net whose only layer is the user's own has nothing to quantize inputs of."""
    model = nnx.Linear(8, 5, dot_general=dotted, rngs=nnx.Rngs(0))
    ladder = ladder_of(model, rows((8,)))
    assert [rung.scheme for rung in ladder.distinct(rungs(("int8:channel", "w8a8:token")))] == ["int8:channel"]


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_a_table_that_is_only_looked_up_in_has_no_inputs_to_keep(kind):
    """A model that reads its table by hand goes on to (`x @ table.T`)."""

    class ByHand(nnx.Module):
        def __init__(self):
            self.table, self.out = nnx.Embed(11, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 8, rngs=nnx.Rngs(1))

        def __call__(self, ids):
            return self.out(self.table(ids).mean(1)) @ self.table.embedding[...].T

    class LinenByHand(linen.Module):
        @linen.compact
        def __call__(self, ids):
            table = linen.Embed(11, 8, name="table")
            return linen.Dense(8, name="out")(table(ids).mean(1)) @ table.embedding.T

    model = ByHand() if kind == "nnx" else with_variables(LinenByHand(), ids())
    ladder, parsed = ladder_of(model, ids()), parse("w=int8:channel,e=int8:channel,a=int8:token")
    on = ladder.on_codes(ladder.plans(parsed), parsed)
    assert (list(on.layers), dict(on.kept)) == (["out.kernel"], {})
    row = list(ladder.climb(rungs("w=int8:channel,e=int8:channel,a=int8:token")))[1]
    assert (row.float_inputs, row.differing) == (0, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("w=nf4:g64,a=int8:token", "has weights as nf4:g64, need integer codes and zero points on both sides"),
        ("w=uint8:channel:fzero,a=int8:token", "has weights as uint8:channel:fzero"),
        ("w=int8:channel,a=e4m3fn:token", "has inputs as e4m3fn:token"),
        ("a=int8:token", "has weights in float"),
    ],
)
def test_a_scheme_whose_products_have_no_integers_is_refused_before_any_work(text, told):
    with pytest.raises(ValueError, match=told):
        rungs(text)
