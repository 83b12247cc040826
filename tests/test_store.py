"""Quantized files: exact sizes, round trip to refquant's bits, streaming, resuming, refusals (FIL-1..FIL-5)."""

from __future__ import annotations

import json

import numpy as np
import pytest

jax = pytest.importorskip("jax")
ml_dtypes = pytest.importorskip("ml_dtypes")

import refquant  # noqa: E402
from jaxquant import store  # noqa: E402
from jaxquant.qtensor import QTensor, quantize_tensor  # noqa: E402
from refquant.files import UnreadableFile, Writer, read_header, read_tensor, sha256_file  # noqa: E402
from refquant.files.quantized import Stored, classify, plan, predicted_bytes, read_entry, stored_plans  # noqa: E402
from refquant.schemes import Scheme, parse, parse_tensor  # noqa: E402

SCHEMES = (
    "int8:channel", "int4:g32:sf16", "int4:tensor", "int3:g7:sbf16", "uint4:g16:asym", "uint8:channel:fzero",
    "int16:channel:asym", "int2:g32:se4m3", "int4:g32:se8m0", "int8:channel:spow2", "int4:g32:signed:sf16", "nf4:g64",
    "e4m3fn:channel", "e2m3fn:g32", "e2m1fn:b2x3", "bfloat16:tensor", "binary:channel", "ternary:channel:half",
)  # fmt: skip


def tensors(seed: int = 0) -> dict[str, tuple[str, np.ndarray]]:
    random = np.random.Generator(np.random.PCG64(seed))
    weight = random.normal(size=(37, 50)).astype(np.float32)
    weight[3, 4], weight[5] = np.inf, 0
    weight[6, 7] = np.nan
    return {
        "layer.weight": ("F32", weight),
        "half.weight": ("F16", weight[:8].astype(np.float16)),
        "brain.weight": ("BF16", np.nan_to_num(weight).astype(ml_dtypes.bfloat16)),
        "tok_embeddings.weight": ("F32", random.normal(size=(40, 16)).astype(np.float32)),
        "conv.weight": ("F32", random.normal(size=(6, 3, 3, 3)).astype(np.float32)),
        "dense.kernel": ("F32", random.normal(size=(20, 12)).astype(np.float32)),
        "layer.bias": ("F32", random.normal(size=37).astype(np.float32)),
        "steps": ("I64", np.array(7)),
        "empty.weight": ("F32", np.zeros((0, 5), np.float32)),
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "source.safetensors"
    with Writer(path, [Stored(n, d, v.shape) for n, (d, v) in tensors().items()], {"format": "pt"}) as writer:
        for name, (_, value) in tensors().items():
            writer.append(name, store.raw(value))
    return path


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_file_has_the_predicted_bytes_and_gives_refquants_codes_back(source, tmp_path, scheme):
    """FIL-2, FIL-4."""
    whole = Scheme(parse_tensor(scheme), None, parse_tensor(scheme))
    before = sha256_file(source)
    plans = store.quantize_file(source, tmp_path / "out.safetensors", whole)
    assert (tmp_path / "out.safetensors").stat().st_size == predicted_bytes(plans, {"format": "pt"})
    assert sha256_file(source) == before
    loaded = store.load(tmp_path / "out.safetensors")
    assert list(sorted(loaded)) == sorted(tensors())
    for one in plans:
        value = tensors()[one.info.name][1]
        got = loaded[one.info.name]
        if one.scheme is None:
            assert np.array_equal(np.asarray(got), value, equal_nan=value.dtype.kind == "f")
            continue
        want = refquant.quantize_tensor(value, one.spec)
        assert isinstance(got, QTensor)
        assert got.spec == want.spec
        assert np.array_equal(np.asarray(got.codes), want.codes)
        assert np.array_equal(np.asarray(got.scale).view(np.uint32), want.scale.view(np.uint32))
        if want.zero_point is not None:
            assert np.array_equal(np.asarray(got.zero_point), want.zero_point)


def test_other_programs_can_read_it(source, tmp_path):
    """FIL-2."""
    safetensors = pytest.importorskip("safetensors.numpy")
    store.quantize_file(source, tmp_path / "out.safetensors", parse("int4:g32:sf16"))
    names = set(safetensors.load_file(tmp_path / "out.safetensors"))
    assert {"layer.weight.codes", "layer.weight.scale", "layer.bias"} <= names


@pytest.mark.parametrize("scheme", SCHEMES)
def test_streaming_in_runs_of_rows_gives_the_same_bytes(source, tmp_path, monkeypatch, scheme):
    """FIL-9: of every grain, and of Flax's kernels, whose channels lie along the last axis."""
    whole, read, rows = Scheme(parse_tensor(scheme), None, parse_tensor(scheme)), [], store.rows

    def counted(header, name, start, stop):
        read.append(stop - start)
        return rows(header, name, start, stop)

    store.quantize_file(source, tmp_path / "whole.safetensors", whole)
    monkeypatch.setattr(store, "PIECE", 1)
    monkeypatch.setattr(store, "rows", counted)
    store.quantize_file(source, tmp_path / "rows.safetensors", whole)
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "rows.safetensors").read_bytes()
    assert max(read) <= 16  # groups of 16 along the rows of a kernel; a tensor has up to 40


@pytest.fixture
def shards(source, tmp_path):
    """The source again, as a checkpoint of three files with an index."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    header = read_header(source)
    weight_map = {}
    for i in range(3):
        infos, name = header.tensors[i::3], f"model-{i + 1}-of-3.safetensors"
        own = {"format": "pt", "shard": str(i)}
        with Writer(folder / name, [Stored(t.name, t.dtype, t.shape) for t in infos], own) as writer:
            for info in infos:
                writer.append(info.name, read_tensor(header, info.name))
        weight_map |= dict.fromkeys((info.name for info in infos), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards_become_one_file_with_the_same_tensors(source, shards, tmp_path):
    """FIL-5."""
    scheme, out = parse("w=int4:g32:sf16,e=int8:channel"), tmp_path / "out.safetensors"
    before = {path.name: sha256_file(path) for path in shards.iterdir()}
    plans = store.quantize_file(shards, out, scheme)
    store.quantize_file(shards / "model.safetensors.index.json", tmp_path / "again.safetensors", scheme)
    assert out.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert out.stat().st_size == predicted_bytes(plans, {"format": "pt"})
    assert {path.name: sha256_file(path) for path in shards.iterdir()} == before
    store.quantize_file(source, tmp_path / "one.safetensors", scheme)
    ours, want = read_header(out), read_header(tmp_path / "one.safetensors")
    assert (ours.by_name.keys(), ours.metadata) == (want.by_name.keys(), want.metadata)
    for name in want.by_name:
        assert read_tensor(ours, name).tobytes() == read_tensor(want, name).tobytes()
    assert store.load(shards).keys() == store.load(source).keys()
    for name, value in store.load(source).items():
        assert store.load(shards)[name].tobytes() == value.tobytes()


def test_interrupted_shards_go_on_unless_one_changed(shards, tmp_path):
    """FIL-5."""
    scheme, out = parse("int8:channel"), tmp_path / "out.safetensors"
    store.quantize_file(shards, tmp_path / "whole.safetensors", scheme)
    last = shards / "model-3-of-3.safetensors"

    def interrupted():
        seen = []

        def stop(name, done, total):
            seen.append(name)
            if len(seen) == 7:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.quantize_file(shards, out, scheme, progress=stop)
        return len(read_journal(out))

    def read_journal(path):
        return path.with_name(path.name + ".partial.jsonl").read_text().splitlines()

    assert interrupted() > 5
    changed = bytearray(last.read_bytes())
    changed[-1] ^= 1
    last.write_bytes(changed)
    store.quantize_file(shards, out, scheme)
    fresh = tmp_path / "fresh.safetensors"
    store.quantize_file(shards, fresh, scheme)
    assert out.read_bytes() == fresh.read_bytes() != (tmp_path / "whole.safetensors").read_bytes()


def test_an_index_is_not_an_output(shards):
    index = shards / "model.safetensors.index.json"
    before = index.read_bytes()
    with pytest.raises(ValueError, match="same file"):
        store.quantize_file(index, index, parse("int8"), overwrite=True)
    assert index.read_bytes() == before


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(source, tmp_path):
    """FIL-5."""
    scheme, out = parse("w=int4:g32:sf16,e=int8:channel"), tmp_path / "out.safetensors"
    store.quantize_file(source, tmp_path / "whole.safetensors", scheme)
    seen = []

    def stop(name, done, total):
        seen.append(name)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.quantize_file(source, out, scheme, progress=stop)
    assert not out.exists()
    store.quantize_file(source, out, scheme)
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"out.safetensors", "whole.safetensors"}


def test_refusals_leave_nothing(source, tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match="need a new name|same file|source"):
        store.quantize_file(source, source, parse("int8"))
    out.write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists"):
        store.quantize_file(source, out, parse("int8"))
    assert out.read_bytes() == b"mine"
    with pytest.raises(ValueError, match="grain 'token'"):
        store.quantize_file(source, tmp_path / "b.safetensors", Scheme(parse_tensor("int8:token")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.safetensors"]


def test_a_scheme_that_fits_nothing_is_an_error(tmp_path):
    path = tmp_path / "norms.safetensors"
    with Writer(path, [Stored("norm.weight", "F32", (4,))], {}) as writer:
        writer.append("norm.weight", np.ones(4, np.float32))
    with pytest.raises(ValueError, match="fits no tensor"):
        store.quantize_file(path, tmp_path / "out.safetensors", parse("int8"))


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "kind"),
    [
        ("encoder.layer.0.output.dense.weight", (4, 8), "F32", "linear"),
        ("embeddings.word_embeddings.weight", (30, 8), "F32", "embedding"),
        ("model.embed_tokens.weight", (30, 8), "BF16", "embedding"),
        ("transformer.wte.weight", (30, 8), "F16", "embedding"),
        ("lm_head.weight", (30, 8), "BF16", "linear"),
        ("conv1.weight", (16, 3, 3, 3), "F32", "conv"),
        ("norm.weight", (8,), "F32", "other"),
        ("ids", (4, 4), "I64", "other"),
        ("empty", (0, 4), "F32", "other"),
    ],
)
def test_classes_of_tensors(name, shape, dtype, kind):
    """FIL-1."""
    assert classify(name, shape, dtype) == kind


def described(path, entry):
    """A file with the codes and the scale of 'w', and this entry about them."""
    stored = [Stored("w.codes", "U8", (64,)), Stored("w.scale", "F32", ())]
    with Writer(path, stored, {"refquant:version": "1", "refquant:w": entry}, overwrite=True) as writer:
        writer.append("w.codes", np.zeros(64, np.uint8))
        writer.append("w.scale", np.ones((), np.float32))
    return read_header(path)


GOOD = {"scheme": "int4:tensor", "shape": [2, 64], "dtype": "F32", "channel_axis": 0, "group_axis": 1}
HOSTILE = [
    "", "[]", '{"scheme": "int4:g32"}', '{"scheme":"int99","shape":[1],"channel_axis":0,"group_axis":0}',
    "[" * 20_000, '{"a":' * 20_000,
    *(json.dumps(GOOD | change) for change in (
        {"shape": [10**400]}, {"shape": [10**200] * 2}, {"shape": [0, 10**400]}, {"shape": [0, 10**18, 10**18]},
        {"shape": [1] * 40}, {"dtype": "XX"}, {"dtype": [1]}, {"dtype": None},
    )),
]  # fmt: skip


def test_hostile_metadata_is_refused(tmp_path):
    """FIL-3: by every reader, with the name of the file."""
    path = tmp_path / "w.safetensors"
    for entry in HOSTILE:
        header = described(path, entry)
        for reader, argument in ((store.load, path), (stored_plans, header)):
            with pytest.raises(UnreadableFile, match=r"w\.safetensors: metadata of 'w'"):
                reader(argument)
    header = described(path, json.dumps(GOOD))
    assert read_entry(header, "w")[1] == store.load(path)["w"].shape == stored_plans(header)[0].info.shape == (2, 64)


def test_metadata_that_would_be_read_as_codes_is_not_written(tmp_path):
    """FIL-3: neither a key of the source nor the name of a tensor."""
    q = quantize_tensor(np.ones((2, 2), np.float32), parse_tensor("int4:tensor").spec())
    for name, metadata, message in (
        ("version", {}, "named 'version'"),
        ("w", {"refquant:ghost": "junk"}, "key 'refquant:ghost'"),
        ("w", {"refquant:": "x"}, "key 'refquant:'"),
    ):
        with pytest.raises(ValueError, match=message):
            store.save(tmp_path / "out.safetensors", {name: q}, metadata=metadata)
        with Writer(tmp_path / "in.safetensors", [Stored(name, "F32", (4, 8))], metadata, overwrite=True) as writer:
            writer.append(name, np.ones((4, 8), np.float32))
        with pytest.raises(ValueError, match=message):
            store.quantize_file(tmp_path / "in.safetensors", tmp_path / "out.safetensors", parse("int4:g8"))
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]
    store.save(tmp_path / "out.safetensors", {"version": np.ones(3, np.float32)})
    assert store.load(tmp_path / "out.safetensors")["version"].tolist() == [1, 1, 1]


def test_kernels_of_flax_are_quantized_along_their_own_axes(source):
    one = next(p for p in plan(read_header(source).tensors, parse("int4:g8")) if p.info.name == "dense.kernel")
    assert one.spec.granularity.scale_shape((20, 12)) == (3, 12)
    x = read_tensor(read_header(source), "dense.kernel")
    assert np.array_equal(x, tensors()["dense.kernel"][1])
