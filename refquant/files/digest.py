"""What identifies a file."""

import hashlib
import os


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, 64 hex digits.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: str | os.PathLike[str]) -> str:
    """`size:mtime` (bytes, nanoseconds): cheap, and enough to notice that a file was replaced.

    Raises:
      OSError: no such file.
    """
    status = os.stat(path)
    return f"{status.st_size}:{status.st_mtime_ns}"
