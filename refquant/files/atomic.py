"""Output files that are whole or absent: written beside the target, then moved onto it in one step."""

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


@contextmanager
def atomic_path(
    path: str | os.PathLike[str], *, overwrite: bool = False, way: str = "overwrite=True"
) -> Iterator[Path]:
    """A temporary file in the target's folder that becomes the target when the block ends well.

    After any exception, KeyboardInterrupt included, the temporary is gone and the target is as it was.
    A target that is a symlink is replaced; the file it points to is not touched.

    Args:
      path: the output file; its folder exists.
      overwrite: replace an existing file (its permissions are kept).
      way: what the message says to replace one; "": nothing does.

    Yields:
      Path of an empty file with the target's suffix, to be written by name.

    Raises:
      ValueError: the output exists and overwrite is False, or cannot be a file.
      OSError: the folder cannot be written or is full.

    Example:
      >>> import tempfile
      >>> target = Path(tempfile.mkdtemp()) / "report.txt"
      >>> with atomic_path(target) as temporary:
      ...     _ = temporary.write_text("done")
      >>> target.read_text()
      'done'
    """
    path = Path(path)
    refuse_existing(path, overwrite=overwrite, way=way)
    temporary = temporary_name(path)
    try:
        create(temporary)
        yield temporary
        commit(temporary, path, overwrite=overwrite)
    except OSError as error:
        if (full := full_disk(error, path, "nothing was written")) is not None:
            raise full from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: str | os.PathLike[str], *, overwrite: bool = False, way: str = "overwrite=True") -> None:
    """Refuses an output before any work is done for it.

    Args:
      path: the output file.
      overwrite: whether an existing one will be replaced.
      way: what the message says to replace one; "": nothing does.

    Raises:
      ValueError: it exists and overwrite is False, is a folder or a device, or its folder does not exist.
      OSError: the name is too long, or the folder may not be searched.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"output {path} is a folder, need a file name; nothing was written")
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not path.parent.is_dir():
            raise ValueError(
                f"output {path}: no folder {path.parent}, need an existing folder; nothing was written"
            ) from None
        return
    if not overwrite:
        raise ValueError(_exists(path, way))
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise ValueError(f"output {path} is not a regular file, need a file name; nothing was written")


def refuse_same(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuses an output that is one of the inputs, also through a symlink or a hard link.

    Raises:
      ValueError: it is.
    """
    for source in inputs:
        if os.path.realpath(source) == os.path.realpath(output) or _same_file(output, source):
            raise ValueError(
                f"output {output} is the same file as input {source}, need a new name; nothing was written"
            )


def refuse_unwritable(path: str | os.PathLike[str], function: str) -> None:
    """Refuses an output whose folder takes no file, before any work is done for it; nothing is left of the trial.

    Args:
      path: the output file.
      function: whose output it is, for the message.

    Raises:
      OSError: it cannot be written, and why.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        create(temporary)
    except OSError as error:
        why = error.strerror or str(error)
        text = f"{function}: output {path} cannot be written ({why}), need another folder; nothing was written"
        raise OSError(text) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A fresh hidden name beside `path` with its suffix (some writers append one they miss)."""
    return path.with_name(f".{path.stem[:40]}.{secrets.token_hex(8)}.tmp{path.suffix[:20]}")


def create(path: Path) -> None:
    """An empty file that was not there before, with the permissions that the umask gives."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def commit(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Moves a finished file onto its target in one step, and makes both durable.

    Raises:
      ValueError: overwrite is False and the target has come into being meanwhile.
      OSError: the disk refuses.
    """
    _sync(temporary, os.O_RDWR)
    if overwrite:
        if path.is_file():
            os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)
    else:
        _move_without_clobbering(temporary, path)
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be opened
        _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def full_disk(error: OSError, path: Path, state: str) -> OSError | None:
    """The error as the user should read it if the disk, quota or file-size limit is reached; else None."""
    if error.errno not in _FULL:
        return None
    return OSError(error.errno, f"{os.strerror(error.errno)}; {state}", str(path))


def _move_without_clobbering(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise ValueError(_exists(path)) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):  # no hard links here: the check and the move are two steps
            raise ValueError(_exists(path)) from None
        os.replace(temporary, path)
    else:
        temporary.unlink()


def _exists(path: Path, way: str = "") -> str:
    return f"output {path} exists, need a new name{way and f' (or {way})'}; nothing was written"


def _same_file(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:  # one of them is not there
        return False


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
