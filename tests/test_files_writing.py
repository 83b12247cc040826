"""refquant.files, the writer: exact bytes, errors, full disks."""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from files_support import ARRAYS, META, TENSORS, fill, listing, write

from refquant import files
from refquant.files import _partial, safetensors_writer


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.safetensors"


def test_external_the_library_reads_what_is_written(out):
    library = pytest.importorskip("safetensors")
    raw = write(out)
    assert len(raw) == files.predicted_size(TENSORS, META)
    assert listing(out.parent) == [out.name]
    with library.safe_open(out, "numpy") as opened:
        assert opened.metadata() == META
        assert set(opened.keys()) == set(ARRAYS)
        for name in ("a", "e", "s"):
            assert np.array_equal(opened.get_tensor(name), ARRAYS[name])
    header = files.read_header(out)
    assert [info.name for info in header.tensors] == sorted(ARRAYS, key=[t[0] for t in TENSORS].index)
    for name, array in ARRAYS.items():
        assert np.array_equal(files.read_tensor(header, name), array)
    assert header.data_offset % 8 == 0


def test_property_bytes_do_not_depend_on_pieces_or_order_of_metadata(tmp_path):
    whole = write(tmp_path / "whole")
    with files.Writer(tmp_path / "pieces", TENSORS, dict(reversed(META.items()))) as writer:
        for name, array in ARRAYS.items():
            if array.ndim == 2:
                for row in array:
                    writer.append(name, row)
            if array.ndim == 0:
                writer.append(name, array.tobytes()[:3])
                writer.append(name, memoryview(array.tobytes())[3:])
    assert (tmp_path / "pieces").read_bytes() == whole
    with files.Writer(tmp_path / "big", [("x", "F32", (2, 2))]) as writer:
        writer.append("x", np.asfortranarray([[1, 2], [3, 4]]).astype(">f4"))
    assert files.read_tensor(files.read_header(tmp_path / "big"), "x").tolist() == [[1, 2], [3, 4]]


def test_golden_no_tensors_and_no_metadata(out):
    library = pytest.importorskip("safetensors.numpy")
    for tensors in ([], [("e", "F32", (0,))]):
        with files.Writer(out, tensors, overwrite=True) as writer:
            assert writer.size == files.predicted_size(tensors)
        assert out.stat().st_size == writer.size
        assert library.load_file(out).keys() == {name for name, _, _ in tensors}


def test_golden_bad_layouts_are_refused_before_anything_is_written(out):
    for tensors, metadata, text in (
        ([("a", "F31", (1,))], {}, "dtype 'F31', need one of"),
        ([("a", "F32", (-1,))], {}, "need a list of integers >= 0"),
        ([("a", "F4", (3,))], {}, "12 bits, need whole bytes"),
        ([("a", "F32", (1,))] * 2, {}, "tensor name is 'a', need a text, once"),
        ([("__metadata__", "F32", (1,))], {}, "that is not '__metadata__'"),
        ([("\ud800", "F32", (1,))], {}, "need Unicode text"),
        ([], {"a": 1}, "metadata is {'a': 1}, need texts to texts"),
        ([], {"a": "x" * 100_000_001}, "bytes, need at most 100000000"),
    ):
        with pytest.raises(ValueError) as error:
            files.Writer(out, tensors, metadata)
        assert text in str(error.value)
    out.write_text("mine")
    with pytest.raises(ValueError, match="exists, need a new name"):
        files.Writer(out, TENSORS)
    assert listing(out.parent) == [out.name]


def test_golden_bad_appends_are_named_and_change_nothing(out):
    with files.Writer(out, TENSORS, META) as writer:
        for name, chunk, kind, text in (
            ("b", ARRAYS["b"], ValueError, "append: tensor is 'b', need 'a' (the order of the header)"),
            ("a", ARRAYS["a"].T, ValueError, "gets shape (4, 3), need rows of (3, 4), or one axis"),
            ("a", bytes(49), ValueError, "append: tensor 'a' (F32, shape [3, 4]) gets 49 bytes, need 48"),
            ("a", ARRAYS["a"].astype(np.float64), TypeError, "gets dtype float64, need float32"),
            ("a", [1.0], TypeError, "gets a list, need an array or bytes"),
        ):
            with pytest.raises(kind) as error:
                writer.append(name, chunk)
            assert text in str(error.value)
        fill(writer)
        with pytest.raises(ValueError, match="append: tensor is 'a', need close"):
            writer.append("a", b"")
        writer.close()
        with pytest.raises(ValueError, match="append: writer of .* is closed"):
            writer.append("a", b"")
    assert out.read_bytes() == write(out.with_name("again"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_golden_missing_tensors_leave_nothing(out, overwrite):
    if overwrite:
        out.write_text("mine")
    before = listing(out.parent)
    writer = files.Writer(out, TENSORS, overwrite=overwrite)
    writer.append("a", ARRAYS["a"][:1])
    with pytest.raises(ValueError, match=r"close: tensor 'a' .* has 16 bytes, need 48; nothing was written"):
        writer.close()
    with pytest.raises(ValueError, match="close: writer of .* was aborted; nothing was written"):
        writer.close()
    assert listing(out.parent) == before
    assert not overwrite or out.read_text() == "mine"


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("after", range(5))
def test_golden_a_full_disk_leaves_the_output_as_it_was(out, monkeypatch, resume, after):
    good, left = write(out), [after]

    def write_all(file, data):
        left[0] -= 1
        if left[0] < 0:
            file.write(bytes(data)[:3])
            raise OSError(errno.ENOSPC, "No space left on device")
        _partial_write_all(file, data)

    _partial_write_all = _partial.write_all
    with monkeypatch.context() as patch:
        patch.setattr(_partial, "write_all", write_all)
        patch.setattr(safetensors_writer, "write_all", write_all)
        with pytest.raises(OSError) as error, files.Writer(out, TENSORS, overwrite=True, resume=resume) as writer:
            fill(writer)
    kept = f"{out.name}.partial keeps what was done" if resume else "nothing was written"
    assert error.value.errno == errno.ENOSPC
    assert kept in str(error.value)
    assert str(out) in str(error.value)
    assert out.read_bytes() == good
    assert resume or listing(out.parent) == [out.name]
    if resume:
        with files.Writer(out, TENSORS, META, overwrite=True, resume=True) as writer:
            fill(writer)
        assert out.read_bytes() == good
        assert listing(out.parent) == [out.name]


def test_golden_too_little_space_is_said_before_work_begins(out):
    for resume in (False, True):
        with pytest.raises(OSError, match=r"output needs \d+ bytes, its folder has \d+ free; nothing was written"):
            files.Writer(out, [("x", "F32", (2**50,))], resume=resume)
    assert listing(out.parent) == []


LIMITED = """
import resource, sys
import numpy as np
from refquant import files
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    if sys.argv[2] == "atomic":
        with files.atomic_path(sys.argv[1]) as temporary:
            temporary.write_bytes(bytes(200_000))
    else:
        with files.Writer(sys.argv[1], [("x", "U8", (200_000,))], resume=sys.argv[2] == "resume") as writer:
            for _ in range(20):
                writer.append("x", np.zeros(10_000, np.uint8))
except OSError as error:
    print(error.errno, error)
"""


@pytest.mark.parametrize("how", ["atomic", "plain", "resume"])
def test_golden_a_file_size_limit_is_a_full_disk(out, how):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, out, how], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{errno.EFBIG} ")
    assert ("keeps what was done" if how == "resume" else "nothing was written") in done.stdout
    assert listing(out.parent) == ([out.name + ".partial", out.name + ".partial.jsonl"] if how == "resume" else [])


@pytest.mark.parametrize("call", ["create", "write_all"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EIO, "broken disk"), OSError(errno.ENOSPC, "full")])
def test_golden_an_error_at_any_write_leaves_nothing(out, monkeypatch, call, error):
    def fails(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(safetensors_writer, call, fails)
        with pytest.raises((OSError, KeyboardInterrupt)):
            files.Writer(out, TENSORS)
    assert listing(out.parent) == []
    with pytest.raises((OSError, KeyboardInterrupt)), files.Writer(out, TENSORS) as writer:
        monkeypatch.setattr(safetensors_writer, "write_all", fails)
        writer.append("a", ARRAYS["a"])
    assert listing(out.parent) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_golden_an_error_when_the_partial_file_is_opened(out, monkeypatch, number):
    def fails(*_):
        raise OSError(number, "broken")

    monkeypatch.setattr(_partial, "write_all", fails)
    with pytest.raises(OSError) as error:
        files.Writer(out, TENSORS, resume=True)
    assert error.value.errno == number
    assert not out.exists()


def test_golden_a_file_system_that_states_no_size_is_tried(out, monkeypatch):
    monkeypatch.setattr(safetensors_writer.shutil, "disk_usage", lambda _: Usage)
    assert len(write(out)) == files.predicted_size(TENSORS, META)


class Usage:
    total, free = 0, 0
