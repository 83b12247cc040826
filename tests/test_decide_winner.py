"""The file that decide saved, back in the model: the bits of its row, and no other model's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("rich")

import jax  # noqa: E402
import small_models  # noqa: E402
from bits import assert_same  # noqa: E402
from flax import nnx, traverse_util  # noqa: E402

import jaxquant  # noqa: E402
from jaxquant.decide import opening  # noqa: E402
from jaxquant.decide.bars import parse_bar  # noqa: E402
from jaxquant.decide.ladder import rungs  # noqa: E402
from jaxquant.decide.run import Ladder, forward  # noqa: E402
from jaxquant.decide.workloads.examples import open_examples  # noqa: E402

MAKE = {"nnx": lambda: small_models.ConvNet(nnx.Rngs(0, dropout=1), True), "linen": small_models.build_linen}
EXAMPLES = {"nnx": small_models.images, "linen": small_models.vectors}


@pytest.mark.parametrize("scheme", ["int4:g8:sf16", "w=int8:channel,a=int8:token"])
@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_it_gives_the_bits_of_its_row_differential(kind, scheme, tmp_path):
    model, out = MAKE[kind](), tmp_path / "out"
    ladder = Ladder(opening.target_of(model, "net"), open_examples(EXAMPLES[kind](), None), parse_bar("same>=1%"))
    list(ladder.climb(rungs((scheme,))))
    made, batch = ladder.made[scheme], ladder.workload.batches(1)[0]
    want = forward(made.target, made.checked, ladder._integers(rungs((scheme,))[0].parsed))(*batch)
    jaxquant.decide(model, EXAMPLES[kind](), bar="same>=1%", schemes=[scheme], out=out)
    assert_same(np.asarray(jaxquant.decide.winner(model, out)(*batch)), np.asarray(want))
    untrained = nnx.clone(model) if kind == "nnx" else (model[0], {"params": _zeros(model[1]["params"])})
    if kind == "nnx":
        nnx.update(untrained, _zeros(nnx.state(untrained, nnx.Param)))
        untrained.norm.mean[...] += 1
    got = jaxquant.decide.winner(untrained, out)(*batch)
    assert_same(np.asarray(got), np.asarray(want))  # neither its weights nor its statistics count


def _zeros(tree):
    return jax.tree.map(lambda v: v * 0, tree)


def test_a_trained_winner_brings_its_biases_along(tmp_path):
    model, out = small_models.build_linen(), tmp_path / "out"
    result = jaxquant.decide(
        model, small_models.vectors(), bar="same>=1%", schemes=["int4:channel + QAT"], out=out, name="net"
    )
    assert result["decision"]["winner"] == "int4:channel + QAT"
    run, loaded = jaxquant.decide.winner(model, out), jaxquant.store.load(out / "model.safetensors")
    kernels = {n: jaxquant.dequantize_tensor(v) if isinstance(v, jaxquant.QTensor) else v for n, v in loaded.items()}
    x = np.stack(small_models.vectors()[:8])
    want = jax.jit(lambda p, x: model[0].apply({"params": p}, x))(traverse_util.unflatten_dict(kernels, sep="."), x)
    assert_same(np.asarray(run(x)), np.asarray(want))


def test_another_models_file_is_refused(tmp_path):
    model, out = MAKE["nnx"](), tmp_path / "out"
    jaxquant.decide(model, small_models.images(), bar="same>=1%", schemes=["int8:channel"], out=out)
    with pytest.raises(ValueError, match="is it another model's"):
        jaxquant.decide.winner(small_models.build_linen(), out)


def test_a_decision_for_float_has_no_winner(tmp_path):
    model, out = small_models.build_linen(), tmp_path / "out"
    jaxquant.decide(model, small_models.vectors(), bar="same>=99.9%", schemes=["int2:channel"], out=out)
    with pytest.raises(ValueError, match="recommends float"):
        jaxquant.decide.winner(model, out)


def test_a_kernel_of_a_folder_that_no_run_reads_may_have_codes(tmp_path):
    """A bert file keeps its pooler, which the embedding of a text does not use."""
    import json

    from test_models_bert import tiny_tensors, write_folder

    from jaxquant.store import quantize_file
    from refquant.schemes import parse

    rng, tensors = np.random.default_rng(0), tiny_tensors()
    pooler = {"pooler.dense.weight": rng.standard_normal((8, 8)).astype(np.float32)}
    (tmp_path / "bert").mkdir()
    folder, out = write_folder(tmp_path / "bert", tensors | pooler), tmp_path / "out"
    out.mkdir()
    quantize_file(folder / "model.safetensors", out / "model.safetensors", parse("int8:channel"))
    (out / "result.json").write_text(json.dumps({"decision": {"winner": "int8:channel"}}))
    assert callable(jaxquant.decide.winner(folder, out))
