"""refquant.files, interrupted runs: what they leave, and what the next run makes of it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from files_support import ARRAYS, META, TENSORS, fill, listing, write

from refquant import files
from refquant.files import _partial


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.safetensors"


@pytest.mark.parametrize("name", [t[0] for t in TENSORS])
def test_golden_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, out, name):
    whole = write(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt), files.Writer(out, TENSORS, META, resume=True, source="s") as writer:
        assert (writer.state, writer.reason) == ("new", "")
        fill(writer, stop_before=name)
    assert not out.exists()
    with files.Writer(out, TENSORS, META, resume=True, source="s") as writer:
        assert (writer.state, writer.reason) == ("resumed", "")
        assert fill(writer)[0] == name
    assert out.read_bytes() == whole
    assert listing(tmp_path) == [out.name, "whole"]


def test_golden_half_a_tensor_is_written_again(tmp_path, out):
    with pytest.raises(KeyboardInterrupt), files.Writer(out, TENSORS, META, resume=True) as writer:
        writer.append("a", ARRAYS["a"])
        writer.append("b", ARRAYS["b"][:1])
        raise KeyboardInterrupt
    with files.Writer(out, TENSORS, META, resume=True) as writer:
        assert [info.name for info in writer.pending][:1] == ["b"]
        fill(writer)
    assert out.read_bytes() == write(tmp_path / "whole")


def interrupted(out: Path) -> tuple[Path, Path]:
    with pytest.raises(KeyboardInterrupt), files.Writer(out, TENSORS, META, resume=True, source="s") as writer:
        fill(writer, stop_before="q")
    return files.partial_paths(out)


@pytest.mark.parametrize(
    ("tensors", "metadata", "source", "reason"),
    [
        (TENSORS[::-1], META, "s", "the output's tensors or metadata changed"),
        (TENSORS, {}, "s", "the output's tensors or metadata changed"),
        (TENSORS, META, "t", "the source changed"),
    ],
)
def test_golden_another_job_starts_over_and_says_so(tmp_path, out, tensors, metadata, source, reason):
    interrupted(out)
    with files.Writer(out, tensors, metadata, resume=True, source=source) as writer:
        assert (writer.state, writer.reason) == ("restarted", reason)
        fill(writer)
    with files.Writer(tmp_path / "whole", tensors, metadata) as writer:
        fill(writer)
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_golden_damage_between_runs_is_noticed(tmp_path, out):
    whole, state = write(tmp_path / "whole"), {}

    def damaged(name, spoil):
        partial, journal = interrupted(out)
        spoil(partial, journal)
        with files.Writer(out, TENSORS, META, resume=True, source="s") as writer:
            state[name] = writer.state, writer.pending[0].name
            fill(writer)
        assert out.read_bytes() == whole
        out.unlink()
        assert listing(tmp_path) == ["whole"]

    def overwrite_at(path: Path, at: int) -> None:
        raw = bytearray(path.read_bytes())
        raw[at] ^= 1
        path.write_bytes(raw)

    def cut(path: Path, n: int) -> None:
        os.truncate(path, path.stat().st_size - n)

    damaged("nothing", lambda partial, journal: None)
    damaged("byte of s", lambda partial, journal: overwrite_at(partial, -1))
    damaged("partial cut", lambda partial, journal: cut(partial, 9))
    damaged("partial gone", lambda partial, journal: partial.unlink())
    damaged("partial longer", lambda partial, journal: partial.write_bytes(partial.read_bytes() + b"x" * 99))
    damaged("header", lambda partial, journal: overwrite_at(partial, 9))
    damaged("journal line cut", lambda partial, journal: cut(journal, 5))
    damaged("journal empty", lambda partial, journal: journal.write_bytes(b""))
    damaged("journal foreign", lambda partial, journal: journal.write_bytes(b'{"a": "b"}\n'))
    damaged("journal a list", lambda partial, journal: journal.write_bytes(b"[]\n" + b"[" * 100_000))
    damaged("journal lies", lambda partial, journal: journal.write_text(journal.read_text().replace('"s"', '"q"', 2)))
    assert state == {
        "nothing": ("resumed", "q"),
        "byte of s": ("resumed", "s"),
        "partial cut": ("resumed", "b"),
        "partial gone": ("restarted", "a"),
        "partial longer": ("resumed", "q"),
        "header": ("restarted", "a"),
        "journal line cut": ("resumed", "s"),
        "journal empty": ("restarted", "a"),
        "journal foreign": ("restarted", "a"),
        "journal a list": ("restarted", "a"),
        "journal lies": ("restarted", "a"),
    }


def test_golden_somebody_elses_partial_file_is_not_touched(out):
    partial, journal = files.partial_paths(out)
    partial.write_text("mine")
    with pytest.raises(ValueError, match="exists without its journal .*, need it moved away"):
        files.Writer(out, TENSORS, resume=True)
    original = out.with_name("original")
    for link in (os.symlink, os.link):
        partial.unlink()
        original.write_text("mine")
        link(original, partial)
        journal.write_text(json.dumps({"journal": 1}) + "\n")
        with pytest.raises(ValueError, match="need it moved away"):
            files.Writer(out, TENSORS, resume=True)
        assert original.read_text() == "mine"


def test_golden_two_runs_at_once(out):
    with files.Writer(out, TENSORS, META, resume=True) as writer:
        with pytest.raises(ValueError, match="is being written by another run, need that to end first"):
            files.Writer(out, TENSORS, META, resume=True)
        fill(writer)
    assert out.read_bytes() == write(out.with_name("whole"))
    with pytest.raises(ValueError, match="exists, need a new name"):
        files.Writer(out, TENSORS, META, resume=True)


KILLED = """
import os, sys
import numpy as np
from refquant import files
with files.Writer(sys.argv[1], [(f"x{i}", "U8", (1000,)) for i in range(9)], resume=True) as writer:
    for i, info in enumerate(writer.pending):
        if i == 4:
            os.kill(os.getpid(), 9)
        writer.append(info.name, np.full(1000, i, np.uint8))
"""


def test_golden_a_killed_run_goes_on(out):
    subprocess.run([sys.executable, "-c", KILLED, out], cwd=Path(__file__).parents[1])
    with files.Writer(out, [(f"x{i}", "U8", (1000,)) for i in range(9)], resume=True) as writer:
        assert (writer.state, len(writer.pending)) == ("resumed", 5)
        for info in writer.pending:
            writer.append(info.name, np.full(1000, int(info.name[1:]), np.uint8))
    header = files.read_header(out)
    assert all((files.read_tensor(header, f"x{i}") == i).all() for i in range(9))


def test_golden_a_file_system_without_locks_works(out, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(_partial.fcntl, "flock", no_locks)
    assert write(out, resume=True) == write(out.with_name("whole"))
    monkeypatch.setattr(_partial, "fcntl", None)
    assert write(out, resume=True, overwrite=True) == write(out.with_name("whole"), overwrite=True)


def test_golden_a_partial_file_that_just_became_the_output_is_left_alone(out, monkeypatch):
    """The other run commits between our opening the file and our getting its lock."""
    partial, journal = interrupted(out)

    def commit(*_):
        os.rename(partial, out)

    monkeypatch.setattr(_partial.fcntl, "flock", commit)
    before = partial.read_bytes()
    with pytest.raises(ValueError, match="is being written by another run"):
        files.Writer(out, TENSORS[::-1], META, resume=True)
    assert out.read_bytes() == before
