"""The rung that trains: better than its untrained twin, refquant's codes, judged on what it was not trained on."""

from __future__ import annotations

import copy
import json
import re
import signal
import threading

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("optax")
pytest.importorskip("rich")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import small_models  # noqa: E402
from flax import linen, nnx  # noqa: E402

import jaxquant  # noqa: E402
import refquant  # noqa: E402
from jaxquant import qat  # noqa: E402
from jaxquant.decide.bars import parse_bar  # noqa: E402
from jaxquant.decide.bits import Quantizer  # noqa: E402
from jaxquant.decide.console import Printer, duration  # noqa: E402
from jaxquant.decide.interrupts import interruptible  # noqa: E402
from jaxquant.decide.job import Job  # noqa: E402
from jaxquant.decide.ladder import LADDER, Rung, rungs, timely  # noqa: E402
from jaxquant.decide.opening import target_of  # noqa: E402
from jaxquant.decide.run import Ladder, forward  # noqa: E402
from jaxquant.decide.training import Course, Silent  # noqa: E402
from jaxquant.decide.workloads import Material  # noqa: E402
from jaxquant.decide.workloads.examples import open_examples  # noqa: E402
from jaxquant.store import load  # noqa: E402

TWIN, TRAINED = "int3:channel", "int3:channel + QAT"
INPUTS = "w=int3:channel,a=int8:token"


def many_ids():
    return list(np.random.default_rng(3).integers(0, 32, (600, 5), np.int32))


def many_vectors():
    return list(np.random.default_rng(4).normal(size=(600, 12)).astype(np.float32))


MODELS = {"nnx": (small_models.build, many_ids), "linen": (small_models.build_linen, many_vectors)}


TARGETS = {kind: target_of(build(), "net") for kind, (build, _) in MODELS.items()}  # compiled once


def ladder_of(kind, watcher=None, **course):
    work, material = open_examples(MODELS[kind][1]()).split()
    target = copy.copy(TARGETS[kind])
    return Ladder(target, work, parse_bar("same>=80%"), material, course=Course(**course), watcher=watcher)


@pytest.fixture(scope="module", params=[("nnx", INPUTS), ("linen", TWIN)], ids=["nnx", "linen"])
def climbed(request):
    kind, scheme = request.param
    ladder = ladder_of(kind)
    return ladder, scheme, list(ladder.climb(rungs((scheme,), scheme)))


def test_the_trained_row_answers_more_alike_than_its_twin(climbed):
    _, scheme, (_, twin, trained) = climbed
    assert (twin.scheme, trained.scheme) == (scheme, scheme + " + QAT")
    assert trained.same.estimate > twin.same.estimate
    assert trained.training.loss_end < 0.8 * trained.training.loss_start
    assert (trained.bytes, trained.codes) == (twin.bytes, twin.codes)
    assert "trained for 200 steps without labels" in trained.about


def test_codes_of_the_trained_weights_are_refquants_differential(climbed):
    ladder, scheme, (*_, trained) = climbed
    made = ladder.made[scheme + " + QAT"]
    assert trained.differing == 0
    for name, checked in made.checked.items():
        spec = next(plan.spec for plan in made.plans if plan.info.name == name)
        want = refquant.quantize_tensor(made.target.tensor(name), spec)
        assert np.array_equal(np.asarray(checked.q.codes), want.codes)
        assert np.array_equal(np.asarray(checked.q.scale).view(np.uint32), want.scale.view(np.uint32))
        before = refquant.quantize_tensor(np.asarray(ladder.target.tensor(name)), spec)
        assert not np.array_equal(before.codes, want.codes)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("scheme", [TWIN, INPUTS])
def test_what_is_trained_is_what_the_row_runs_differential(kind, scheme):
    """The pass that the loss sees, and the row's pass on the stored codes, give the same bits under jit."""
    ladder = ladder_of(kind)
    parsed = rungs((scheme,))[0].parsed
    target, plans = ladder.target, ladder.plans(parsed)
    batch = ladder.workload.batches(1)[0]
    weights = {
        p.info.name: qat.Trained(jnp.asarray(target.tensor(p.info.name)), spec=p.spec) for p in plans if p.scheme
    }
    on = ladder.on_codes(plans, parsed) if parsed.inputs else None
    trained = jax.jit(lambda s, w, *a: target.training_pass(s, w, a, on))(target.state, weights, *batch)
    stored = forward(target, Quantizer(target)(plans), on)(*batch)
    assert np.array_equal(np.asarray(trained).view(np.uint32), np.asarray(stored).view(np.uint32))


def distillation_of(ladder):
    return ladder._distillation(rungs((TRAINED,))[0])


@pytest.fixture(scope="module")
def short():
    """A training that is compiled once."""
    ladder = ladder_of("nnx", steps=20)
    return ladder, distillation_of(ladder)


def test_the_same_seed_gives_the_same_bits(short):
    def kernel(distillation):
        return distillation.run(Silent())[0]["inner.kernel"].tobytes()

    _, distillation = short

    def again(seed):
        ladder = ladder_of("nnx", steps=20, seed=seed)
        made = distillation_of(ladder)
        made._step = distillation._step  # compiled
        return kernel(made)

    assert kernel(distillation) == again(0) == kernel(distillation) != again(1)


def test_decide_writes_the_trained_winner_and_tells_everything(tmp_path):
    model, examples = small_models.build(), many_ids()
    before = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(nnx.state(model))]
    out = tmp_path / "out"
    schemes, bar = ("int2:channel", TWIN, TRAINED), "same>=70%"
    result = jaxquant.decide(model, examples, schemes=schemes, bar=bar, out=out)
    assert [row["scheme"] for row in result["rows"]] == ["float", "int2:channel", TRAINED, TWIN]  # not as evaluated
    assert result["decision"]["winner"] == TRAINED
    assert result["bits"]["differing"] == 0
    row, saved = result["rows"][2], out / "model.safetensors"
    assert saved.stat().st_size == result["saved"]["predicted"] == row["bytes"]
    told = row["training"]
    assert (told["steps"], told["planned"], told["ended"], told["examples"]) == (200, 200, "finished", 200 - 32)
    assert len(told["losses"]) == 200 and told["loss_end"] < told["loss_start"]
    assert told["announced_seconds"] == pytest.approx(200 * told["seconds_per_step"])
    assert result["rows"][1]["training"] is None
    assert "200 of your 600 examples" in result["workload"]["training"]
    assert result["workload"]["n"] == 400
    json.dumps(result, allow_nan=False)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<section id="training">' in page and "200 of 200" in page
    assert before == [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(nnx.state(model))]
    quantized = [name for name, value in load(saved).items() if hasattr(value, "codes")]
    assert quantized


def test_a_report_without_training_has_no_section(tmp_path):
    result = jaxquant.decide(small_models.build(), small_models.ids(), schemes=("int8:channel",), out=tmp_path / "out")
    assert result["workload"]["training"] is None
    assert result["workload"]["n"] == 200
    assert 'id="training"' not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


class Dense16(linen.Module):
    @linen.compact
    def __call__(self, x):
        half = {"param_dtype": jnp.bfloat16, "bias_init": linen.initializers.normal(1.0)}
        return linen.Dense(10, **half)(jax.nn.relu(linen.Dense(40, **half)(x)))


def test_weights_that_stay_in_float_keep_their_dtype(tmp_path):
    module = Dense16()
    variables = module.init(jax.random.key(1), np.zeros((1, 12), np.float32))
    before = jax.tree.map(np.array, variables)
    work, material = open_examples(many_vectors()).split()
    target = target_of((module, variables), "net")
    job = Job(Ladder(target, work, parse_bar("same>=50%"), material, course=Course(steps=9)), rungs((TRAINED,)))
    rows = list(job.climb())
    assert job.decide().winner == TRAINED
    loaded = load(job.save(tmp_path))
    bias = np.asarray(variables["params"]["Dense_0"]["bias"])
    assert loaded["Dense_0.bias"].dtype == bias.dtype
    assert loaded["Dense_0.bias"].tobytes() != bias.tobytes()  # trained too
    assert job.found["saved"]["bytes"] == job.found["saved"]["predicted"] == rows[-1].bytes
    assert rows[-1].differing == 0
    assert jax.tree.all(jax.tree.map(np.array_equal, before, variables))  # the user's own are untouched


class Interrupting(Silent):
    """Sends Ctrl-C after some steps."""

    def __init__(self, at, times=1):
        self.at, self.times, self.announced = at, times, None

    def announce(self, steps, seconds, seconds_per_step, compiling):
        self.announced = (steps, seconds, seconds_per_step)
        if self.at == 0:
            signal.raise_signal(signal.SIGINT)

    def step(self, done, steps, loss, seconds_left):
        if done == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("at", [0, 7])
def test_an_interrupt_ends_the_training_and_the_row_says_so(at, short):
    ladder, distillation = short
    ladder.watcher = Interrupting(at)
    before = signal.getsignal(signal.SIGINT)
    list(ladder.climb(()))  # the float row
    with_training, without = rungs((TWIN, TRAINED))  # in the ladder's order
    twin, trained = ladder._row(without, None), ladder._row(with_training, distillation)
    assert signal.getsignal(signal.SIGINT) is before
    assert trained.about.endswith(f"ended by Ctrl-C at {at} of 20 steps")
    assert (trained.training.steps, trained.training.ended) == (at, "interrupted")
    assert ladder.watcher.announced[0] == 20 and ladder.watcher.announced[1] > 0
    if at == 0:
        assert trained.same.estimate == twin.same.estimate
        assert trained.training.loss_start == trained.training.loss_end


@pytest.fixture
def listening():
    """A program in the background is started with SIGINT ignored; this one hears it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_ends_the_program(short, listening):
    with pytest.raises(KeyboardInterrupt):
        short[1].run(Interrupting(3, times=2))
    with interruptible() as stopped:
        assert not stopped()


def test_a_thread_is_given_no_interrupts():
    def run():
        with interruptible() as stopped:
            found.append(stopped())

    found = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_training_that_leaves_the_numbers_stops_before_it_does():
    ladder = ladder_of("nnx", rate=1e38)
    *_, row = ladder.climb(rungs((TRAINED,)))
    assert row.training.ended == "not finite"
    assert "ended by a loss that is not finite at" in row.about
    assert np.isfinite(ladder.made[TRAINED].target.tensor("inner.kernel")).all()
    json.dumps(row.as_dict(), allow_nan=False)


def test_the_rung_stands_before_its_twin_and_runs_last():
    found = rungs(None, True)
    at = [rung.label for rung in found].index("int4:channel + QAT")
    assert found[at + 1].label == "int4:channel"
    assert len(found) == len(LADDER) + 1
    assert timely(found)[-1] is found[at]
    assert [rung.label for rung in rungs(("int8", "int2"), "int3")] == ["int8", "int2", "int3 + QAT"]
    assert rungs((" int4:channel  + qat ",))[0].qat
    assert rungs(("int4:channel + QAT",), True) == (Rung("int4:channel", "4-bit weights, one scale a channel", True),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("int5:bananas + QAT", "'bananas' is neither a grain nor an option"),
        ("integer4 + QAT", "integer4"),
        ("nf4:g64 + QAT", "QAT of 'nf4:g64' has nf4 codes, need integer weights as in 'int4:channel'"),
        ("w=int4:channel,e=e4m3fn:channel + QAT", "has e4m3fn codes"),
        ("e=int8:channel + QAT", "has float weights"),
    ],
)
def test_a_scheme_that_cannot_be_trained_is_refused(text, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        rungs((text,))
    with pytest.raises(ValueError):
        rungs((), text.removesuffix(" + QAT"))


class Hidden(linen.Module):
    """No gradient reaches its weights, or its outputs are integers."""

    how: str

    @linen.compact
    def __call__(self, x):
        y = linen.Dense(10)(x)
        if self.how == "argmax":
            return jax.nn.one_hot(y.argmax(-1), 10)
        return y if self.how == "nan" else y.astype(jnp.int32)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("argmax", "no gradient reaches a quantized weight"),
        ("integers", "the model returns int32, need one float array"),
        ("nan", "QAT starts with a loss of nan"),
    ],
)
def test_a_model_that_cannot_be_trained_is_told(how, told):
    module = Hidden(how)
    examples = many_vectors()
    if how == "nan":
        examples = [np.full_like(x, np.nan) if i % 3 == 2 else x for i, x in enumerate(examples)]
    variables = module.init(jax.random.key(0), np.zeros((1, 12), np.float32))
    work, material = open_examples(examples).split()
    ladder = Ladder(target_of((module, variables), "net"), work, parse_bar("same>=80%"), material)
    with pytest.raises(ValueError, match=told):
        list(ladder.climb(rungs(("int2:channel + QAT",))))


@pytest.mark.parametrize(
    ("examples", "told"),
    [
        ([np.float32([1, 2])] * 2, "of 2 examples none is left to train on .*need at least 3"),
        ([np.float32([1, 2])] * 9, "each of them equals a judged one"),
    ],
)
def test_nothing_left_to_train_on(examples, told):
    with pytest.raises(ValueError, match=told):
        jaxquant.decide(small_models.build_linen(), examples, qat=True)


def test_no_material_and_no_weight_are_told():
    ladder = ladder_of("linen")
    ladder.material = Material((), "")
    with pytest.raises(ValueError, match="no examples are left to train on"):
        next(ladder.climb(rungs((TRAINED,))))
    ladder = ladder_of("nnx")
    ladder.target.infos = ladder.target.infos[:0]
    with pytest.raises(ValueError, match="QAT finds no weight to train"):
        next(ladder.climb(rungs((TRAINED,))))


def test_the_command_announces_trains_and_tells(capsys, tmp_path, monkeypatch):
    from pathlib import Path

    from jaxquant.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    code = main(
        [
            "decide",
            "small_models:build_linen",
            "--on",
            "small_models:labelled",
            "--score",
            "small_models:score",
            "--scheme",
            "int8:channel",
            "--qat",
            "--json",
            "--bar",
            "same>=70%",
        ]  # fmt: skip
    )
    seen = capsys.readouterr()
    told = json.loads(seen.out)
    assert code == told["decision"]["exit_code"] == 0
    assert [row["scheme"] for row in told["rows"]] == ["float", "int8:channel", "int4:channel + QAT"]
    assert "training  66 of your 200 examples" in seen.err
    assert "134 of your 200 examples, held out (the other 66 train), scored by your function" in seen.err
    assert "training  200 steps, " in seen.err and "compiling is done, it took" in seen.err
    assert "Ctrl-C ends it early" in seen.err
    assert main(["decide", "small_models:build_linen", "--on", "small_models:vectors", "--scheme", "nf4 + QAT"]) == 2
    assert "need integer weights" in capsys.readouterr().err


def test_a_slow_step_foretells_nothing_golden(short, monkeypatch):
    """The time left follows the median of the last steps, so one that compiles again does not count for the rest."""
    from types import SimpleNamespace

    clock = iter([0.0, *(100.0 + step for step in range(20))])  # the first step of the training takes 100 s
    _, distillation = short
    state = (distillation._start, distillation._optimizer().init(distillation._start))
    told = []
    watcher = SimpleNamespace(step=lambda done, steps, loss, left: told.append(left))
    monkeypatch.setattr("jaxquant.decide.distil.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    distillation._train(jax.tree.map(jnp.copy, state), lambda: False, watcher, 1.0)
    assert told == [1.0 * left for left in range(len(told) - 1, -1, -1)]


def test_progress_is_seldom_where_nobody_watches(capsys):
    printer = Printer()
    for step in range(1, 121):
        printer.step(step, 120, 0.5, 30.0)
    assert capsys.readouterr().out.count("\n") == 1
    assert [duration(s) for s in (0.5, 12.3, 59.4, 131)] == [
        "a moment", "about 12 seconds", "about 59 seconds", "about 2.2 minutes",
    ]  # fmt: skip
