"""refquant.files, checkpoints of several files: folders and hostile indices."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from refquant import files

library = pytest.importorskip("safetensors.numpy")


def shards(folder: Path, index: object = None) -> Path:
    for i, name in enumerate(("model-1.safetensors", "model-2.safetensors")):
        library.save_file({f"w{i}": np.full((2, 2), i, np.float32)}, folder / name)
    weight_map = {"w1": "model-2.safetensors", "w0": "model-1.safetensors"}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map} if index is None else index))
    return path


def names(headers: list[files.Header]) -> list[list[str]]:
    return [list(header.by_name) for header in headers]


def test_golden_shards_by_index_by_folder_and_without_index(tmp_path):
    index = shards(tmp_path)
    assert names(files.read_headers(index)) == names(files.read_headers(tmp_path)) == [["w0"], ["w1"]]
    assert names(files.read_headers(tmp_path / "model-2.safetensors")) == [["w1"]]
    index.unlink()
    (tmp_path / ".model.0123.tmp.safetensors").write_bytes(b"")  # a writer at work
    assert names(files.read_headers(tmp_path)) == [["w0"], ["w1"]]
    library.save_file({"single": np.zeros(1)}, tmp_path / "model.safetensors")
    assert names(files.read_headers(tmp_path)) == [["single"]]


BAD_INDICES = [
    ({"weight_map": {"w0": "../m.safetensors"}}, "index names shard '../m.safetensors', need a file name inside"),
    ({"weight_map": {"w0": "/etc/passwd"}}, "need a file name inside"),
    ({"weight_map": {"w0": "a\\..\\..\\b"}}, "need a file name inside"),
    ({"weight_map": {"w0": "C:b"}}, "need a file name inside"),
    ({"weight_map": {"w0": ""}}, "need a file name inside"),
    ({"weight_map": {"w0": "a\0b"}}, "need a file name inside"),
    ({"weight_map": {"w0": 3}}, "need a file name inside"),
    ({"weight_map": {"w0": "model-3.safetensors"}}, "not found beside it (incomplete download?)"),
    ({"weight_map": {"w9": "model-1.safetensors"}}, "says tensor 'w9' is in 'model-1.safetensors', but it is not"),
    ({"weight_map": {}}, "index has no weight_map"),
    ([1], "index is a JSON list, need an object"),
]


@pytest.mark.parametrize(("index", "text"), BAD_INDICES, ids=range(len(BAD_INDICES)))
def test_golden_hostile_indices_are_named(tmp_path, index, text):
    with pytest.raises(ValueError) as error:
        files.read_headers(shards(tmp_path, index))
    assert text in str(error.value)


def test_golden_a_tensor_in_two_shards_and_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="folder has no \\*.safetensors, need at least one"):
        files.read_headers(tmp_path)
    for name in "ab":
        library.save_file({"w": np.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"b.safetensors: tensor 'w' is also in .*a.safetensors, need it once"):
        files.read_headers(tmp_path)


def test_golden_an_index_of_more_than_100_mb_is_not_read(tmp_path):
    index = shards(tmp_path)
    os.truncate(index, 100_000_001)
    with pytest.raises(ValueError, match="index has 100000001 bytes, need at most 100000000"):
        files.read_headers(tmp_path)
