"""An unfinished output that a later run can go on with: PATH.partial and its journal PATH.partial.jsonl.

The journal's first line says which file this will be (a digest of its header, and what the caller says of the
source); each further line is a finished tensor with the digest of its bytes.  On resumption the bytes are read
again, so nothing has to be flushed to disk in between: after a power cut the verified beginning counts.
"""

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from refquant.files._header import TensorInfo
from refquant.files._json import json_object
from refquant.files.atomic import atomic_path

try:
    import fcntl
except ImportError:  # Windows: two runs at once are not noticed
    fcntl = None

_BLOCK = 2**20


def partial_paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The partial file and the journal of an output."""
    path = Path(path)
    return path.with_name(path.name + ".partial"), path.with_name(path.name + ".partial.jsonl")


class Partial:
    """The partial file of one output, opened, locked and cut back to its verified tensors.

    Attributes:
      path: the partial file.
      file: opened for writing, at the end of the last verified tensor.
      done: number of verified tensors.
      state: "new", "resumed", or "restarted".
      reason: why a partial file was not gone on with; "" unless restarted.
    """

    def __init__(self, output: Path, header: bytes, tensors: Sequence[TensorInfo], source: str) -> None:
        """Opens or makes it.

        Raises:
          ValueError: PATH.partial is not this writer's, or another run is writing it.
          OSError: it cannot be opened or written.
        """
        self.path, self.journal = partial_paths(output)
        self._first = {"journal": 1, "header_sha256": hashlib.sha256(header).hexdigest(), "source": source}
        had_partial, had_journal = os.path.lexists(self.path), os.path.lexists(self.journal)
        if had_partial and not had_journal:
            raise ValueError(f"{self.path} exists without its journal {self.journal}, need it moved away")
        if not had_journal:  # before the partial file, so that none is ever without
            self._write_journal([])
        self.file = _open_locked(self.path)
        try:
            self._go_on(header, tensors, had_journal)
        except BaseException:
            self.file.close()
            raise

    def add(self, name: str, digest: str) -> None:
        """Notes a finished tensor."""
        with open(self.journal, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"tensor": name, "sha256": digest}) + "\n")

    def remove_journal(self) -> None:
        """After the partial file has become the output."""
        self.journal.unlink(missing_ok=True)

    def _go_on(self, header: bytes, tensors: Sequence[TensorInfo], had_journal: bool) -> None:
        records, self.reason = self._read_journal() if had_journal else ([], "")
        if had_journal and not self.reason and self.file.read(len(header)) != header:
            self.reason = "the partial file does not begin with this header"
        verified = [] if self.reason else self._verified(len(header), tensors, records)
        self.done = len(verified)
        self.state = "restarted" if self.reason else "resumed" if had_journal else "new"
        if self.state != "new":
            self._write_journal(verified)
        if self.state != "resumed":
            self.file.truncate(0)
            self.file.seek(0)
            write_all(self.file, header)
        end = len(header) + (tensors[self.done - 1].end if self.done else 0)
        self.file.truncate(end)
        self.file.seek(end)

    def _read_journal(self) -> tuple[list[dict], str]:
        lines = self.journal.read_bytes().splitlines()
        records = []
        for line in lines:
            try:
                records.append(json_object(line, "journal"))
            except ValueError:  # the last line may have been cut off
                break
        if not records or records[0].get("journal") != 1:
            return [], "the journal cannot be read"
        for key, what in (("header_sha256", "the output's tensors or metadata"), ("source", "the source")):
            if records[0].get(key) != self._first[key]:
                return [], f"{what} changed"
        return records[1:], ""

    def _verified(self, offset: int, tensors: Sequence[TensorInfo], records: Sequence[dict]) -> list[dict]:
        verified = []
        for info, record in zip(tensors, records, strict=False):
            self.file.seek(offset + info.start)
            if record != {"tensor": info.name, "sha256": _digest(self.file, info.nbytes)}:
                break
            verified.append(record)
        return verified

    def _write_journal(self, records: Sequence[dict]) -> None:
        with atomic_path(self.journal, overwrite=True) as temporary:
            lines = (json.dumps(record) + "\n" for record in (self._first, *records))
            temporary.write_text("".join(lines), encoding="utf-8", newline="\n")


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Writes everything: an unbuffered write may take less than it was given."""
    view = memoryview(data).cast("B")
    while view:
        view = view[file.write(view) :]


def _digest(file: BinaryIO, nbytes: int) -> str:
    digest = hashlib.sha256()
    while nbytes and (block := file.read(min(nbytes, _BLOCK))):
        digest.update(block)
        nbytes -= len(block)
    return digest.hexdigest()


def _open_locked(path: Path) -> BinaryIO:
    """The file, empty if it is new.  A link is refused: writing would reach a file of another name."""
    if path.is_symlink():
        raise ValueError(f"{path} is a symlink, need it moved away")
    descriptor = os.open(
        path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666
    )
    try:
        _lock(descriptor, path)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise ValueError(f"{path} is not a file of its own (a hard link or a device), need it moved away")
        # the run that held the lock may have made this very file the finished output
        if not os.path.lexists(path) or not os.path.samestat(status, os.lstat(path)):
            raise ValueError(_busy(path))
        return open(descriptor, "r+b", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def _lock(descriptor: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(_busy(path)) from None
    except OSError:  # a file system without locks
        return


def _busy(path: Path) -> str:
    return f"{path} is being written by another run, need that to end first"
