"""The BERT encoder: against a NumPy forward pass written here, on a tiny model; and the real one where it is."""

import csv
import importlib.util
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flax.nnx", reason="Flax is not installed")
import jax
import ml_dtypes
from flax import nnx
from safetensors.numpy import save_file

from jaxquant.decide.workloads import docstrings
from jaxquant.models import bert, bert_layout
from refquant.files import UnreadableFile

CONFIG = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
IDS = np.int32([[1, 5, 7, 2, 0, 0], [1, 29, 3, 4, 6, 2], [1, 2, 0, 0, 0, 0]])
MASK = np.int32(IDS != 0)


def tiny_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    config = bert_layout.BertConfig(**{key: value for key, value in CONFIG.items() if key != "model_type"})
    slots = bert_layout.tensor_map(config)
    return {name: rng.normal(size=slot.file_shape).astype(np.float32) for name, slot in slots.items()}


def write_folder(folder: Path, tensors: dict[str, np.ndarray], **changes: object) -> Path:
    config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def reference(w: dict[str, np.ndarray], ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The encoder in float64, one text and one head at a time."""
    w = {name: tensor.astype(np.float64) for name, tensor in w.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * w[name + ".weight"] + w[name + ".bias"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def one(text: np.ndarray) -> np.ndarray:
        x = w["embeddings.word_embeddings.weight"][text] + w["embeddings.token_type_embeddings.weight"][0]
        x = norm(x + w["embeddings.position_embeddings.weight"][: len(text)], "embeddings.LayerNorm")
        for index in range(2):
            p = f"encoder.layer.{index}."
            q, k, v = (dense(x, p + "attention.self." + name) for name in ("query", "key", "value"))
            heads = []
            for h in (slice(0, 4), slice(4, 8)):
                e = np.exp(q[:, h] @ k[:, h].T / 2)
                heads.append(e / e.sum(-1, keepdims=True) @ v[:, h])
            attended = dense(np.concatenate(heads, -1), p + "attention.output.dense")
            x = norm(x + attended, p + "attention.output.LayerNorm")
            inner = dense(x, p + "intermediate.dense")
            inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
            x = norm(x + dense(inner, p + "output.dense"), p + "output.LayerNorm")
        return x.mean(0) / np.linalg.norm(x.mean(0))

    return np.stack([one(row[kept != 0]) for row, kept in zip(ids, mask, strict=True)])


@nnx.jit
def run(model: bert.Bert, ids: np.ndarray, mask: np.ndarray) -> jax.Array:
    return model(ids, mask)


def test_open_folder_external_agrees_with_numpy(tmp_path: Path) -> None:
    tensors = tiny_tensors()
    model, config = bert.open_folder(write_folder(tmp_path, tensors))
    got = np.asarray(run(model, IDS, MASK))
    assert got.dtype == np.float32 and got.shape == (3, 8)
    np.testing.assert_allclose(got, reference(tensors, IDS, MASK), atol=2e-6)
    assert config.num_hidden_layers == 2 and config.prefix == ""


def test_padding_and_empty_rows_property(tmp_path: Path) -> None:
    model, _ = bert.open_folder(write_folder(tmp_path, tiny_tensors()))
    padded = np.pad(IDS, ((0, 0), (0, 4))), np.pad(MASK, ((0, 0), (0, 4)))
    np.testing.assert_allclose(np.asarray(run(model, *padded)), np.asarray(run(model, IDS, MASK)), atol=1e-6)
    assert not np.asarray(run(model, IDS, np.zeros_like(MASK)))[0].any()


def test_tensor_map_golden_names_both_directions(tmp_path: Path) -> None:
    tensors = tiny_tensors()
    model, config = bert.open_folder(write_folder(tmp_path, tensors))
    slots, flat = bert_layout.tensor_map(config), dict(nnx.to_flat_state(nnx.state(model)))
    assert slots["encoder.layer.1.attention.self.query.weight"].text == "layers[1].attention.query.kernel"
    assert slots["encoder.layer.0.output.dense.bias"].text == "layers[0].output.bias"
    assert bert_layout.file_names(config) == {slot.path: name for name, slot in slots.items()}
    assert set(flat) == {slot.path for slot in slots.values()}
    for name, slot in slots.items():
        value = np.asarray(flat[slot.path][...])
        np.testing.assert_array_equal(value.T if slot.transposed else value, tensors[name])


def test_dense_layers_are_linear_property(tmp_path: Path) -> None:
    model, config = bert.open_folder(write_folder(tmp_path, tiny_tensors()))
    linears = {path for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Linear)}
    kernels = {slot.path[:-1] for slot in bert_layout.tensor_map(config).values() if slot.path[-1] == "kernel"}
    assert linears == kernels and len(linears) == 12
    assert isinstance(model.layers[0].attention.query, nnx.Linear)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_open_folder_widens_16_bits_golden(tmp_path: Path, dtype: type) -> None:
    tensors = {"bert." + name: tensor.astype(dtype) for name, tensor in tiny_tensors().items()}
    model, config = bert.open_folder(write_folder(tmp_path, tensors))
    assert config.prefix == "bert."
    assert bert_layout.file_names(config)["layers", 0, "output", "kernel"] == "bert.encoder.layer.0.output.dense.weight"
    wanted = tensors["bert.encoder.layer.0.output.dense.weight"].astype(np.float32).T
    np.testing.assert_array_equal(np.asarray(model.layers[0].output.kernel[...]), wanted)


def test_two_models_compile_once_property(tmp_path: Path) -> None:
    """Weights are arguments: another model of the same structure finds the compiled code."""
    traced = []

    def forward(graphdef: nnx.GraphDef, state: nnx.State, *inputs: jax.Array) -> jax.Array:
        traced.append(1)
        return nnx.merge(graphdef, state)(*inputs)

    compiled = jax.jit(forward, static_argnums=0)
    for seed in (0, 1):
        model, _ = bert.open_folder(write_folder(tmp_path, tiny_tensors(seed)))
        np.testing.assert_allclose(compiled(*nnx.split(model), IDS, MASK), run(model, IDS, MASK), atol=1e-6)
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "llama"}, r"model_type 'llama', need 'bert'"),
        ({"hidden_size": None, "vocab_size": None}, r"lacks vocab_size, hidden_size, need positive integers"),
        ({"num_attention_heads": 3}, r"num_attention_heads 3, need a whole number of features a head"),
        ({"hidden_act": "swish"}, r"hidden_act 'swish', need one of"),
        ({"position_embedding_type": "relative_key"}, r"'relative_key', need 'absolute'"),
        ({"is_decoder": True}, r"is_decoder true, need an encoder"),
        ({"vocab_size": 31}, r"word_embeddings.weight has shape \(30, 8\), need \(31, 8\)"),
    ],
)
def test_config_errors_golden(tmp_path: Path, changes: dict, told: str) -> None:
    write_folder(tmp_path, tiny_tensors(), **changes)
    with pytest.raises(ValueError, match="open_folder: .*" + told):
        bert.open_folder(tmp_path)


def test_missing_tensors_are_listed_golden(tmp_path: Path) -> None:
    tensors = tiny_tensors()
    del tensors["encoder.layer.1.output.dense.weight"], tensors["embeddings.LayerNorm.bias"]
    with pytest.raises(ValueError, match=r"lacks 2 of 37 tensors: embeddings.LayerNorm.bias; encoder.layer.1.output"):
        bert.open_folder(write_folder(tmp_path, tensors))
    deeper = "lacks 16 of 53 tensors: encoder.layer.2.attention.self.query.weight; .* and 10 more"
    with pytest.raises(ValueError, match=deeper):
        bert.open_folder(write_folder(tmp_path, tiny_tensors(), num_hidden_layers=3))


def test_integer_weights_are_refused_golden(tmp_path: Path) -> None:
    tensors = tiny_tensors()
    tensors["encoder.layer.0.output.dense.weight"] = tensors["encoder.layer.0.output.dense.weight"].astype(np.int8)
    with pytest.raises(ValueError, match="has 1 weights of dtypes other than"):
        bert.open_folder(write_folder(tmp_path, tensors))


def test_absent_and_broken_files_golden(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        bert.open_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnreadableFile, match="is no JSON"):  # exit code 4 (CMD-1)
        bert.open_folder(tmp_path)
    write_folder(tmp_path, tiny_tensors())
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        bert.open_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
        bert.open_folder(tmp_path)


def test_call_errors_golden(tmp_path: Path) -> None:
    model, _ = bert.open_folder(write_folder(tmp_path, tiny_tensors()))
    with pytest.raises(ValueError, match=r"ids is \(3, 6\) and mask \(3, 5\), need the same"):
        model(IDS, MASK[:, :5])
    with pytest.raises(ValueError, match="need at most 10 tokens"):
        model(np.ones((1, 11), np.int32), np.ones((1, 11), np.int32))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the loader's, not ours
def test_minilm_external_agrees_on_real_sentences() -> None:
    shared = Path(os.environ.get("REFQUANT_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    loader, sentences = shared / "loaders" / "minilm_numpy.py", shared / "minilm" / "stsb-en-dev.csv"
    folder, reason = docstrings.locate_minilm()
    if folder is None or not (loader.is_file() and sentences.is_file()):
        pytest.skip(reason or "the shared data folder is not here (set REFQUANT_SHARED)")
    spec = importlib.util.spec_from_file_location("minilm_numpy", loader)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    with sentences.open(encoding="utf-8", newline="") as file:
        texts = [row[0] for row in csv.reader(file) if row][:32]
    ids, mask = docstrings.tokenize(texts, folder, 40)
    model, _ = bert.open_folder(folder)
    tokenizer = peer.WordPiece(folder / "vocab.txt")
    coded = [tokenizer(text) for text in texts]
    assert [row[kept != 0].tolist() for row, kept in zip(ids, mask, strict=True)] == coded
    wanted = peer.encode(peer.load_safetensors(folder / "model.safetensors"), coded)
    np.testing.assert_allclose(np.asarray(run(model, ids, mask)), wanted, atol=1e-5)
