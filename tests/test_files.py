"""refquant.files, reading: headers of good and hostile files, shards, tensors and rows."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from refquant import files, formats
from refquant.files import _tensors

F32_12 = {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}


def make(path: Path, header: object, data: bytes = b"") -> Path:
    """A file with this header (JSON, text or bytes) and these data bytes."""
    text = header if isinstance(header, str | bytes) else json.dumps(header)
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.safetensors"


def test_golden_a_file_of_the_library_reads_the_same(file):
    library = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    arrays = {
        f"t_{dtype}": rng.integers(0, 2 if dtype == "?" else 100, (5, 3)).astype(dtype)
        for dtype in ("?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8")
    }
    arrays |= {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 7), np.int8)}
    library.save_file(arrays, file, {"made": "by a test"})
    header = files.read_header(file)
    assert header.metadata == {"made": "by a test"}
    assert set(header.by_name) == set(arrays)
    assert [t.start for t in header.tensors] == sorted(t.start for t in header.tensors)
    for name, array in arrays.items():
        got = files.read_tensor(header, name)
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert not got.flags.writeable
    assert isinstance(files.read_tensor(header, "t_f4"), np.memmap)
    assert header.tensor("t_f4").size == 15
    assert hash(header) == hash(files.read_header(file))


def test_external_every_dtype_of_the_library_is_known(file):
    """A tensor of 24 elements of each type: the library accepts the same sizes."""
    library = pytest.importorskip("safetensors")
    for dtype, bits in files.ITEM_BITS.items():
        size = 24 * bits // 8
        make(file, {"x": {"dtype": dtype, "shape": [2, 12], "data_offsets": [0, size]}}, bytes(range(size)))
        with library.safe_open(file, "numpy") as opened:
            assert opened.get_slice("x").get_dtype() == dtype
        array = files.read_tensor(files.read_header(file), "x")
        assert array.nbytes == size
        assert array.shape == (2, 12 if bits >= 8 else 12 * bits // 8)
        assert dtype == "BOOL" or array.tobytes() == bytes(range(size))


def test_exhaustive_format_names_are_formats():
    for dtype, name in files.FORMAT_NAME.items():
        assert formats.ALL[name].bits == files.ITEM_BITS[dtype], name


def test_golden_bfloat16_and_float8_come_as_codes(file):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.float32([1, -2.5, 0.5, 3]).reshape(2, 2)
    for dtype, kind in (("BF16", ml_dtypes.bfloat16), ("F8_E4M3", ml_dtypes.float8_e4m3fn)):
        data = values.astype(kind).tobytes()
        make(file, {"x": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, len(data)]}}, data)
        codes = files.read_tensor(files.read_header(file), "x")
        assert codes.dtype == files.NUMPY_DTYPE[dtype]
        assert (codes.view(kind).astype(np.float32) == values).all()


def test_golden_bools_that_are_no_bools_become_bools(file):
    make(file, {"x": {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]}}, bytes([0, 1, 2, 255]))
    header = files.read_header(file)
    for array in (files.read_tensor(header, "x"), files.read_rows(header, "x", 0, 4)):
        assert array.view(np.uint8).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("piece", [1, 16, 33, 10**9])
def test_property_rows_in_pieces_are_the_tensor(file, piece):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {
        "a": np.arange(77, dtype=np.float32).reshape(7, 11),
        "s": np.array(3.0),
        "e": np.zeros((0, 3)),
    }
    library.save_file(arrays, file)
    header = files.read_header(file)
    for name in ("a", "s"):
        pieces = list(files.iter_rows(header, name, piece_bytes=piece))
        assert np.array_equal(np.concatenate(pieces) if name == "a" else pieces[0], arrays[name])
    assert list(files.iter_rows(header, "e", piece_bytes=piece)) == []
    assert files.read_rows(header, "a", 2, 4).tobytes() == arrays["a"][2:4].tobytes()
    assert files.read_rows(header, "a", 7, 7).shape == (0, 11)


def test_golden_row_errors(file):
    shapes = {"F6_E2M3": [4, 1], "F32": [], "U8": [2, 2]}
    entries, end = {}, 0
    for (dtype, shape), size in zip(shapes.items(), (3, 4, 4), strict=True):
        entries[dtype] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = files.read_header(make(file, entries, bytes(end)))
    assert files.read_tensor(header, "F6_E2M3").shape == (3,)
    with pytest.raises(ValueError, match="rows of tensor 'F6_E2M3' .* do not end at whole bytes, need read_tensor"):
        files.read_rows(header, "F6_E2M3", 0, 1)
    with pytest.raises(ValueError, match="has no rows, need read_tensor"):
        files.read_rows(header, "F32", 0, 1)
    for start, stop in ((-1, 1), (0, 3), (2, 1)):
        with pytest.raises(ValueError, match=rf"start, stop are {start}, {stop}, need 0 <= start <= stop <= 2"):
            files.read_rows(header, "U8", start, stop)
    with pytest.raises(ValueError, match="no tensor 'F3' among 3; nearest: 'F32'"):
        files.read_tensor(header, "F3")
    os.truncate(file, header.file_size - 1)
    with pytest.raises(ValueError, match=r"file has \d+ bytes, had \d+ when its header was read"):
        files.read_tensor(header, "U8")


def test_golden_a_file_that_shrinks_while_it_is_read(file, monkeypatch):
    header = files.read_header(make(file, {"x": F32_12}, bytes(48)))
    os.truncate(file, header.file_size - 1)
    monkeypatch.setattr(_tensors, "_check_unchanged", lambda _: None)  # it looked just before
    with pytest.raises(ValueError, match=r"file ended inside tensor 'x' .*; it changed while it was read"):
        files.read_rows(header, "x", 0, 3)


def entry(**changes: object) -> dict:
    return {"x": F32_12 | changes}


BAD_HEADERS = [
    (entry(dtype="F33"), "tensor 'x' has dtype 'F33', need one of BOOL, F4"),
    (entry(dtype=["F32"]), "has dtype ['F32'], need one of"),
    (entry(shape=[3, -4]), "has shape [3, -4], need a list of integers >= 0"),
    (entry(shape=[3, True]), "has shape [3, True], need a list of integers >= 0"),
    (entry(shape=[3, 4.0]), "has shape [3, 4.0], need a list of integers >= 0"),
    (entry(shape="34"), "has shape '34', need a list of integers >= 0"),
    (entry(shape=[1] * 33), "has 33 axes, need at most 32"),
    (entry(shape=[2**62, 2**62, 0]), "need less than 2**63 bytes"),
    (entry(dtype="F4", shape=[3]), "(F4, shape [3]) has 12 bits, need whole bytes"),
    (entry(data_offsets=[0, -48]), "has data_offsets [0, -48], need two integers >= 0"),
    (entry(data_offsets=[0, 48, 96]), "need two integers >= 0"),
    (entry(data_offsets=[False, 48]), "need two integers >= 0"),
    (entry(data_offsets=[0, 44]), "(F32, shape [3, 4]) has data_offsets [0, 44], 44 bytes, need 48 bytes"),
    (entry(data_offsets=[48, 0]), "-48 bytes, need 48 bytes"),
    (entry() | {"y": F32_12}, "tensor 'y' (F32, shape [3, 4]) starts at data byte 0, inside the tensor before it"),
    (entry(data_offsets=[8, 56]), "data bytes 0 to 8 belong to no tensor"),
    (entry(shape=[2], data_offsets=[0, 8]), "header says the data ends at byte 77; file ends at byte 117"),
    ({"x": 5}, "tensor 'x' is 5, need an object with dtype, shape, data_offsets"),
    ({"x": {"dtype": "F32"}}, "need an object with dtype, shape, data_offsets"),
    ({"__metadata__": {"a": 1}}, "__metadata__ is {'a': 1}, need an object of texts"),
    ({"__metadata__": ["a"]}, "__metadata__ is ['a'], need an object of texts"),
    ([], "header is a JSON list, need an object"),
    ("{nothing", "header is not JSON (Expecting property name"),
    (b'{"\xff": 1}', "header is not UTF-8 (byte 2)"),
    ('{"a": 1, "a": 2}', "header is not usable JSON (key 'a' stands twice)"),
    ('{"a": NaN}', "NaN is no JSON number"),
    ('{"a": 1' + "0" * 5000 + "}", "has 5001 characters, need at most 20"),
    (r'{"\ud800": 1}', "is not Unicode text"),
    ("[" * 200_000, "header is not usable JSON (nested too deeply)"),
    ('{"a":' * 200_000, "header is not usable JSON (nested too deeply)"),
    ({"x" * 10**6: 5}, "xxx... is 5"),
]


@pytest.mark.parametrize(("header", "text"), BAD_HEADERS, ids=range(len(BAD_HEADERS)))
def test_golden_hostile_headers_are_named(file, header, text):
    with pytest.raises(ValueError) as error:
        files.read_header(make(file, header, bytes(48)))
    assert text in str(error.value)
    assert str(error.value).startswith(f"{file}: ")
    assert len(str(error.value)) < len(str(file)) + 400


def test_golden_files_that_are_no_safetensors(file, tmp_path):
    for data, text in (
        (b"", "file is empty, need a safetensors file"),
        (b"1234567", "file has 7 bytes, need at least 8"),
        (b"version https://git-lfs", "a Git LFS pointer: the file itself was not downloaded"),
        (b"PK\3\4\0\0\x08\x08\0\0", "a zip archive, perhaps a PyTorch checkpoint"),
        (b"GGUF\3\0\0\0\0", "a GGUF file"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\xff" * 99, "header says it is 18446744073709551615 bytes long, need at most 100000000 (not a safe"),
        ((99).to_bytes(8, "little") + b"{}", "header says it ends at byte 107; file ends at byte 10 (truncated"),
    ):
        file.write_bytes(data)
        with pytest.raises(ValueError) as error:
            files.read_header(file)
        assert text in str(error.value)
    os.mkfifo(tmp_path / "pipe")
    for path, text in (
        (tmp_path, "is a folder, need a file"),
        (tmp_path / "a", "no such file"),
        (tmp_path / "pipe", "is not a"),
    ):
        with pytest.raises(ValueError, match=text):
            files.read_header(path)


def test_golden_a_truncated_file_says_where_it_ends(file):
    make(file, {"x": F32_12}, bytes(48))
    full = file.stat().st_size
    os.truncate(file, full - 23)
    with pytest.raises(ValueError) as error:
        files.read_header(file)
    assert str(error.value) == (
        f"{file}: header says tensor 'x' (F32, shape [3, 4]) ends at byte {full}; "
        f"file ends at byte {full - 23} (truncated download?)"
    )


def test_golden_an_8b_checkpoint_reads_its_header_alone(file):
    tensors = [(f"model.layers.{i}.proj.weight", "BF16", (4096, 14336)) for i in range(136)]
    with open(file, "wb") as out:
        out.write(files.safetensors_writer.header_bytes(files.safetensors_writer.layout(tensors)))
        out.truncate(files.predicted_size(tensors))  # sparse: 16 GB of nothing
    began = time.perf_counter()
    header = files.read_header(file)
    assert time.perf_counter() - began < 1
    assert sum(info.size for info in header.tensors) == 136 * 4096 * 14336
    assert files.read_tensor(header, tensors[-1][0])[-1, -1] == 0
    assert files.read_rows(header, tensors[-1][0], 4095, 4096).shape == (1, 14336)
