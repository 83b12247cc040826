"""refquant.files, outputs that are whole or absent; digests."""

import errno
import hashlib
import os
import stat

import pytest
from files_support import listing

from refquant import files
from refquant.files import atomic


def test_golden_atomic_path_makes_the_file_or_nothing(tmp_path):
    target = tmp_path / "r.txt"
    with files.atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        temporary.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    for error in (KeyboardInterrupt, ValueError, SystemExit):
        with pytest.raises(error), files.atomic_path(target, overwrite=True) as temporary:
            temporary.write_text("two")
            raise error
        assert target.read_text() == "one"
    assert listing(tmp_path) == ["r.txt"]


def test_golden_atomic_path_overwrites_and_keeps_permissions(tmp_path):
    target, original = tmp_path / "r.txt", tmp_path / "original"
    target.write_text("one")
    target.chmod(0o640)
    with files.atomic_path(target, overwrite=True) as temporary:
        temporary.write_text("two")
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("two", 0o640)
    original.write_text("original")
    target.unlink()
    target.symlink_to(original)
    with files.atomic_path(target, overwrite=True) as temporary:
        temporary.write_text("three")
    assert (target.read_text(), original.read_text(), target.is_symlink()) == ("three", "original", False)


def test_golden_outputs_are_refused_up_front(tmp_path):
    target = tmp_path / "r.txt"
    target.write_text("one")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path, text in (
        (target, f"output {target} exists, need a new name (or overwrite=True); nothing was written"),
        (tmp_path / "dangling", "exists, need a new name"),
        (tmp_path, f"output {tmp_path} is a folder, need a file name; nothing was written"),
        (tmp_path / "no" / "r", f"no folder {tmp_path / 'no'}, need an existing folder; nothing was written"),
        (target / "r", f"no folder {target}, need an existing folder"),
    ):
        with pytest.raises(ValueError) as error, files.atomic_path(path):
            pytest.fail("the block ran")
        assert text in str(error.value)
    with pytest.raises(ValueError, match="is not a regular file"), files.atomic_path(tmp_path / "pipe", overwrite=True):
        pytest.fail("the block ran")
    with pytest.raises(OSError, match="name too long"), files.atomic_path(tmp_path / ("x" * 300)):
        pytest.fail("the block ran")
    assert listing(tmp_path) == ["dangling", "pipe", "r.txt"]


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_golden_a_target_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, links):
    def no_link(*_):
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(atomic.os, "link", no_link)
    target = tmp_path / "r.txt"
    with pytest.raises(ValueError, match="exists, need a new name"), files.atomic_path(target) as temporary:
        temporary.write_text("mine")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    with files.atomic_path(tmp_path / "s.txt") as temporary:
        temporary.write_text("mine")
    assert listing(tmp_path) == ["r.txt", "s.txt"]


def test_golden_refuse_same_sees_through_links(tmp_path):
    source = tmp_path / "in"
    source.write_text("x")
    (tmp_path / "soft").symlink_to(source)
    os.link(source, tmp_path / "hard")
    for name in ("in", "soft", "hard"):
        with pytest.raises(
            ValueError, match=f"output .*{name} is the same file as input .*in, need a new name; nothing"
        ):
            files.refuse_same(tmp_path / name, [tmp_path / "other", source])
    files.refuse_same(tmp_path / "new", [source])
    with pytest.raises(ValueError, match="same file"):
        files.refuse_same(tmp_path / "new", [tmp_path / "." / "new"])


def test_golden_digests(tmp_path):
    (tmp_path / "f").write_bytes(b"abc" * 10**6)
    assert files.sha256_file(tmp_path / "f") == hashlib.sha256(b"abc" * 10**6).hexdigest()
    assert files.file_stamp(tmp_path / "f").startswith("3000000:")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_golden_a_full_disk_is_said_with_the_output(tmp_path, number):
    with pytest.raises(OSError) as error, files.atomic_path(tmp_path / "r") as temporary:
        temporary.write_text("half")
        raise OSError(number, "whatever")
    assert str(error.value) == f"[Errno {number}] {os.strerror(number)}; nothing was written: '{tmp_path / 'r'}'"
    assert listing(tmp_path) == []


def test_golden_other_errors_pass_unchanged(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="theirs"), files.atomic_path(tmp_path / "r"):
        raise OSError(errno.EIO, "theirs")

    def broken_link(*_):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(atomic.os, "link", broken_link)
    with pytest.raises(OSError, match="broken disk"), files.atomic_path(tmp_path / "r"):
        pass
    assert listing(tmp_path) == []
