"""What the tests of the writer share: a small file of five tensors."""

from pathlib import Path

import numpy as np

from refquant import files

TENSORS = [("a", "F32", (3, 4)), ("e", "I8", (0, 5)), ("b", "BF16", (2, 2)), ("s", "I64", ()), ("q", "F4", (2, 8))]
ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "e": np.zeros((0, 5), np.int8),
    "b": np.uint16([[0x3F80, 0xC020], [0, 1]]),
    "s": np.array(-7),
    "q": np.arange(8, dtype=np.uint8).reshape(2, 4),
}
META = {"z": "1", "a": "ä\n"}


def fill(writer: files.Writer, *, stop_before: str | None = None) -> list[str]:
    """Appends what is pending; the names appended."""
    appended = []
    for info in writer.pending:
        if info.name == stop_before:
            raise KeyboardInterrupt
        writer.append(info.name, ARRAYS[info.name])
        appended.append(info.name)
    return appended


def write(path: Path, **options: object) -> bytes:
    with files.Writer(path, TENSORS, META, **options) as writer:
        fill(writer)
    return path.read_bytes()


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())
