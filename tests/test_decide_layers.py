"""Rows with integer inputs: every kind of layer runs as jaxquant.flax converts it, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("rich")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from decide_support import BAR, assert_same, converted, ladder_of, rows, trained, with_variables  # noqa: E402
from flax import linen, nnx  # noqa: E402

from jaxquant.decide.bits import Quantizer  # noqa: E402
from jaxquant.decide.job import Job  # noqa: E402
from jaxquant.decide.ladder import rungs  # noqa: E402
from jaxquant.decide.opening import target_of  # noqa: E402
from jaxquant.decide.run import Ladder, forward  # noqa: E402
from jaxquant.decide.workloads.examples import open_examples  # noqa: E402
from jaxquant.flax import Recipe, Rule  # noqa: E402
from jaxquant.qtensor import QTensor, dequantize_tensor  # noqa: E402
from refquant.schemes import parse  # noqa: E402


class ConvNet(nnx.Module):
    """Convolutions of every kind, batch statistics, dropout."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(2, 8, (3, 3), strides=2, rngs=rngs)
        self.deep = nnx.Conv(8, 8, (3, 3), feature_group_count=8, padding="CIRCULAR", rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 4, (2, 2), strides=(2, 2), transpose_kernel=True, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.LinearGeneral((6, 6, 4), 5, axis=(-3, -2, -1), rngs=rngs)

    def __call__(self, x, scale):
        x = self.drop(nnx.relu(self.norm(self.deep(self.stem(x)))))
        return self.head(self.up(x) * scale[:, None, None, None])


class LinenConvNet(linen.Module):
    @linen.compact
    def __call__(self, x, scale):
        x = linen.Conv(8, (3, 3), strides=2, name="stem")(x)
        x = linen.Conv(8, (3, 3), feature_group_count=8, padding="CIRCULAR", name="deep")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=True, name="norm")(x))
        x = linen.ConvTranspose(4, (2, 2), strides=(2, 2), transpose_kernel=True, name="up")(x)
        return linen.DenseGeneral(5, axis=(-3, -2, -1), name="head")(x * scale[:, None, None, None])


class Attentive(nnx.Module):
    """A tied table, an attention, an einsum."""

    def __init__(self, rngs: nnx.Rngs):
        self.table = nnx.Embed(11, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.mix = nnx.Einsum("bd,dhe->bhe", (8, 2, 4), (2, 4), rngs=rngs)
        self.out = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, ids):
        x = self.table(ids)
        x = self.mix((x + self.attention(x)).mean(1))
        return self.table.attend(self.out(x.reshape(len(ids), 8)))


class LinenAttentive(linen.Module):
    @linen.compact
    def __call__(self, ids):
        table = linen.Embed(11, 8, name="table")
        x = table(ids)
        x = x + linen.MultiHeadDotProductAttention(2, name="attention")(x)
        x = linen.Einsum((8, 2, 4), "bd,dhe->bhe", name="mix")(x.mean(1))
        return table.attend(linen.Dense(8, name="out")(x.reshape(len(ids), 8)))


def images():
    rng = np.random.default_rng(6)
    return [(rng.normal(size=(6, 6, 2)).astype(np.float32), np.float32(1 + rng.random())) for _ in range(12)]


def ids():
    return list(np.random.default_rng(3).integers(0, 11, (12, 5), np.int32))


def in_training(model):
    """Statistics that matter, and dropout on, which no run of decide may see."""
    model.norm.mean[...] = jnp.linspace(-1, 1, 8)
    model.norm.var[...] = jnp.linspace(0.5, 2, 8)
    return model


MODELS = {
    "nnx conv": (lambda: in_training(ConvNet(nnx.Rngs(0))), images, 4),
    "linen conv": (lambda: with_variables(LinenConvNet(), images()), images, 4),
    "nnx attention": (lambda: Attentive(nnx.Rngs(0)), ids, 7),
    "linen attention": (lambda: with_variables(LinenAttentive(), ids()), ids, 7),
}
SCHEMES = ("w=int8:channel,e=int8:channel,a=int8:token", "w=int8:channel,e=int8:channel,a=int8:tensor")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_layer_runs_as_jaxquant_flax_converts_it_differential(name, scheme):
    """DEC-18: the same bits; and what a training of the row sees (DEC-11) is what the row runs."""
    make, examples, count = MODELS[name]
    model, parsed = make(), parse(scheme)
    ladder = ladder_of(model, examples())
    plans, batch = ladder.plans(parsed), ladder.workload.batches(1)[0]
    on = ladder.on_codes(plans, parsed)
    assert (len(on.layers), dict(on.kept)) == (count, {})
    got = forward(ladder.target, Quantizer(ladder.target)(plans), on)(*batch)
    assert_same(got, converted(model, Recipe(Rule("**", weights="int8", inputs=str(parsed.inputs))), batch))
    seen = jax.jit(lambda state, weights, *args: ladder.target.training_pass(state, weights, args, on))
    assert_same(seen(ladder.target.state, trained(ladder, plans), *batch), got)


@pytest.mark.parametrize("name", ["nnx conv", "linen attention"])
def test_the_codes_are_those_that_the_row_has_checked(name):
    """No layer quantizes its kernel anew: other codes of the same spec give another result."""
    make, examples, _ = MODELS[name]
    ladder, parsed = ladder_of(make(), examples()), parse("w8a8:token")
    plans, batch = ladder.plans(parsed), ladder.workload.batches(1)[0]
    on, checked = ladder.on_codes(plans, parsed), Quantizer(ladder.target)(plans)
    codes = {kernel: entry.q for kernel, entry in checked.items()}
    before = ladder.target.forward_quantized(codes, on)(*batch)
    for kernel in [*on.layers][::5]:
        q = codes[kernel]
        other = {**codes, kernel: QTensor(-q.codes, q.scale, q.zero_point, q.spec)}
        assert not np.array_equal(before, ladder.target.forward_quantized(other, on)(*batch)), kernel


@pytest.mark.parametrize("name", ["nnx attention", "linen conv"])
def test_what_is_timed_reads_codes_in_every_layer(name):
    """The speed lines: all layers from their codes, dequantized at each call (LAY-7) or on integers."""
    make, examples, count = MODELS[name]
    ladder = ladder_of(make(), examples())
    batch = ladder.workload.batches(1)[0]
    for text in ("int4:channel", "w8a8:token"):
        scheme = parse(text)
        plans = ladder.plans(scheme)
        quantized = {kernel: entry.q for kernel, entry in Quantizer(ladder.target)(plans).items()}
        on = ladder.on_codes(plans, scheme)
        assert len(on.layers) == len(quantized) == count - ("attention" in name)
        got = ladder.target.forward_quantized(quantized, on)(*batch)
        if scheme.inputs is None:
            values = {kernel: dequantize_tensor(q) for kernel, q in quantized.items()}
            np.testing.assert_allclose(got, ladder.target.forward(values)(*batch), rtol=1e-5, atol=1e-5)  # bounded
    ways = Job(ladder, ())._ways()
    assert [np.asarray(run(*batch)).shape for run, _ in ways.values()] == [got.shape] * 3


LAYERS = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.ConvTranspose)


def inputs_of(model, batch, monkeypatch):
    """(layer, its input) of every call in the float model; a layer is a module or a path."""
    seen = []
    if not isinstance(model, nnx.Module):

        def noted(call, args, kwargs, context):
            if context.method_name == "__call__":
                seen.append((".".join(context.module.path), args[0]))
            return call(*args, **kwargs)

        with linen.intercept_methods(noted):
            model[0].apply(model[1], *batch)
        return seen
    model.eval()
    with monkeypatch.context() as patch:
        for kind in LAYERS:
            own = kind.__call__
            patch.setattr(kind, "__call__", lambda s, x, *a, own=own, **k: (seen.append((s, x)), own(s, x, *a, **k))[1])
        model(*batch)
    return seen


@pytest.mark.parametrize("name", MODELS)
def test_the_map_of_outliers_has_every_layer_differential(name, monkeypatch):
    make, examples, count = MODELS[name]
    model = make()
    ladder = ladder_of(model, examples())
    batch = ladder.workload.batches(1)[0]
    got = ladder.target.input_magnitudes()(*batch)
    assert len(got) == count
    assert list(got) == [info.name for info in ladder.target.infos if info.name in got]
    seen, compared = inputs_of(model, batch, monkeypatch), 0
    for layer in ("stem", "deep", "up", "attention.query", "attention.key", "mix", "out"):
        at = layer
        if isinstance(model, nnx.Module):
            at = model
            for part in layer.split("."):
                at = getattr(at, part, None)
        for x in (x for one, x in seen if at is not None and one is at or one == at):
            x = np.abs(np.asarray(x))
            want = x.reshape(-1, x.shape[-1]).max(0)
            np.testing.assert_allclose(got[f"{layer}.kernel"], want, rtol=1e-5)  # one is compiled as a whole
            compared += 1
    assert compared == (3 if "conv" in name else 4)
    many, size = ("head", 6 * 6 * 4) if "conv" in name else ("attention.out", 2 * 4)
    assert got[f"{many}.kernel"].shape == (size,)


HALF = jnp.bfloat16


class Half(linen.Module):
    dtype: object = None
    param_dtype: object = jnp.float32

    @linen.compact
    def __call__(self, x):
        named = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return linen.Dense(5, **named, name="last")(linen.Conv(4, (3,), **named, name="conv")(x).mean(-2))


class NnxHalf(nnx.Module):
    def __init__(self, **named):
        self.conv = nnx.Conv(8, 4, (3,), **named, rngs=nnx.Rngs(0))
        self.last = nnx.Linear(4, 5, **named, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.last(self.conv(x).mean(-2))


def half_models():
    x = jnp.ones((1, 6, 8), HALF)
    cast = jax.tree.map(lambda v: v.astype(HALF), Half().init(jax.random.key(0), x))
    params = Half(param_dtype=HALF).init(jax.random.key(0), x)
    return {
        "nnx dtype": NnxHalf(dtype=HALF),
        "nnx param_dtype": NnxHalf(param_dtype=HALF),
        "linen dtype": (Half(dtype=HALF), Half(dtype=HALF).init(jax.random.key(0), x)),
        "linen param_dtype": (Half(param_dtype=HALF), params),
        "linen cast": (Half(), cast),
    }


@pytest.mark.parametrize("kind", ["nnx dtype", "nnx param_dtype", "linen dtype", "linen param_dtype", "linen cast"])
@pytest.mark.parametrize("scheme", ["int8:channel", "w8a8:token"])
def test_a_result_has_the_dtype_that_the_layer_would_have_had(kind, scheme):
    model, parsed = half_models()[kind], parse(scheme)
    ladder = ladder_of(model, [row.astype(HALF) for row in rows((6, 8))])
    plans, batch = ladder.plans(parsed), ladder.workload.batches(1)[0]
    on = ladder.on_codes(plans, parsed) if parsed.inputs else None
    assert ladder.target.forward({})(*batch).dtype == HALF
    got = forward(ladder.target, Quantizer(ladder.target)(plans), on)(*batch)
    seen = jax.jit(lambda state, weights, *args: ladder.target.training_pass(state, weights, args, on))
    assert got.dtype == HALF
    assert_same(seen(ladder.target.state, trained(ladder, plans), *batch), got)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.layer(x))


@nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
def scanned(block, x):
    return block(x)


class Stack(nnx.Module):
    def __init__(self):
        make = nnx.vmap(Block, in_axes=0, out_axes=0)
        self.blocks = make(nnx.Rngs(params=jax.random.split(jax.random.key(0), 3)))

    def __call__(self, x):
        return scanned(self.blocks, x)


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        return linen.relu(linen.Dense(8, name="layer")(x)), None


class LinenStack(linen.Module):
    shared: bool = False

    @linen.compact
    def __call__(self, x):
        own = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        how = {"variable_broadcast": "params", "split_rngs": {"params": False}} if self.shared else own
        return linen.scan(LinenBlock, length=3, **how)(name="blocks")(x, None)[0]


@pytest.mark.parametrize("kind", ["nnx", "linen", "linen, shared"])
def test_layers_in_a_loop_run_on_their_own_codes(kind):
    """Stacked kernels have scales a layer; one scale for all of them cannot be a layer's, and is told."""
    module = LinenStack("shared" in kind)
    model = Stack() if kind == "nnx" else with_variables(module, rows((8,)))
    ladder = ladder_of(model, rows((8,)))
    batch, shared = ladder.workload.batches(1)[0], "shared" in kind
    for scheme in ("w=int8:g4,a=int8:token", "w=int8:tensor,a=int8:token"):
        parsed = parse(scheme)
        plans = ladder.plans(parsed)
        on = ladder.on_codes(plans, parsed)
        stays = "w=int8:tensor" in scheme and not shared
        assert dict(on.kept) == ({"blocks.layer.kernel": "layers stacked with scales a tensor"} if stays else {})
        got = forward(ladder.target, Quantizer(ladder.target)(plans), on)(*batch)
        seen = jax.jit(lambda state, weights, *args, on=on: ladder.target.training_pass(state, weights, args, on))
        assert_same(seen(ladder.target.state, trained(ladder, plans), *batch), got)
        if not stays and not shared:
            recipe = Recipe(Rule("**", weights=str(parsed.weights), inputs=str(parsed.inputs)))
            assert_same(got, converted(model, recipe, batch))
    assert [v.shape for v in ladder.target.input_magnitudes()(*batch).values()] == ([] if shared else [(8,)])


class Shared(nnx.Module):
    """Two layers with one kernel, and one whose kernel the model multiplies by hand too."""

    def __init__(self, by_hand):
        self.first, self.second = nnx.Linear(8, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 8, rngs=nnx.Rngs(1))
        self.second.kernel = self.first.kernel
        if by_hand:
            self.tied = self.first.kernel

    def __call__(self, x):
        x = self.second(nnx.relu(self.first(x)))
        return x @ self.tied[...].T if hasattr(self, "tied") else x


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_shared_kernel_has_one_set_of_codes_or_none(by_hand):
    model = Shared(by_hand)
    ladder, parsed = ladder_of(model, rows((8,))), parse("w8a8:token")
    plans, batch = ladder.plans(parsed), ladder.workload.batches(1)[0]
    on = ladder.on_codes(plans, parsed)
    assert list(on.kept.values()) == ["parameters of a class that is not Flax's own layer"] * by_hand
    got = forward(ladder.target, Quantizer(ladder.target)(plans), on)(*batch)
    if not by_hand:
        assert_same(got, converted(model, Recipe(Rule("**", weights="int8", inputs="int8")), batch))
        assert len(ladder.target.input_magnitudes()(*batch)) == 1


def test_a_row_trains_and_saves_a_net_of_convolutions(tmp_path):
    """The rung with QAT on integer inputs, to its file."""
    pytest.importorskip("optax")
    from jaxquant.decide.training import Course
    from jaxquant.store import load

    rng = np.random.default_rng(1)
    examples = [(rng.normal(size=(6, 6, 2)).astype(np.float32), np.float32(1)) for _ in range(90)]
    work, material = open_examples(examples).split()
    target = target_of(in_training(ConvNet(nnx.Rngs(0))), "net")
    scheme = "w=int3:channel,a=int8:token"
    ladder = Ladder(target, work, BAR, material, course=Course(steps=12))
    job = Job(ladder, rungs((scheme, f"{scheme} + QAT")))
    row = next(row for row in job.climb() if row.scheme.endswith("QAT"))
    assert (row.float_inputs, row.differing) == (0, 0)
    assert row.training.loss_end < row.training.loss_start
    job.decide()
    found = load(job.save(tmp_path))
    made = ladder.made[job.found["decision"]["winner"]]
    assert set(found) == {info.name for info in target.infos}
    for name, checked in made.checked.items():
        assert np.array_equal(found[name].codes, checked.q.codes)
