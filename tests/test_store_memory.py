"""`jaxquant quantize` in bounded memory (FIL-9): three times the file must not take three times the memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
if not Path("/proc/self/status").exists():
    pytest.skip("peak memory is read from /proc", allow_module_level=True)

from refquant.files import Writer  # noqa: E402
from refquant.files.quantized import Stored  # noqa: E402

MB, COLUMNS = 10**6, 1024
#: The peak of a process alone: ru_maxrss would have that of its parent, pytest, which is larger.
CODE = """
import re, sys
from jaxquant import store
from refquant.schemes import parse
store.PIECE = int(sys.argv[3])
store.quantize_file(sys.argv[1], sys.argv[2], parse(sys.argv[4]))
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def peak(folder, tensors, rows, piece, scheme="int4:g32:sf16"):
    """Bytes that a process needs at most for a file of so many tensors of so many rows, and the file's bytes."""
    source, output = folder / "source.safetensors", folder / "small.safetensors"
    values = np.linspace(-1, 1, 1024 * COLUMNS, dtype=np.float32)
    names = [f"layer{k}.weight" for k in range(tensors)]
    with Writer(source, [Stored(name, "F32", (rows, COLUMNS)) for name in names], {}, overwrite=True) as writer:
        for name in names:
            for _ in range(rows // 1024):
                writer.append(name, values)
    command = [sys.executable, "-c", CODE, source, output, str(piece), scheme]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    output.unlink()
    return int(done.stdout) * 1024, source.stat().st_size


@pytest.mark.parametrize(
    ("few", "many"),
    [
        ((4, 2048, 1 << 24), (20, 2048, 1 << 24)),
        ((1, 16384, 1 << 21), (1, 49152, 1 << 21)),
        ((1, 16384, 1 << 21, "int4:tensor"), (1, 49152, 1 << 21, "int4:tensor")),  # a range of all rows
    ],
)
def test_memory_does_not_grow_with_the_file(few, many, tmp_path):
    """By the number of tensors, and by the rows of one that is read in pieces; peaks vary by 40 MB from run to run."""
    (small, before), (large, after) = peak(tmp_path, *few), peak(tmp_path, *many)
    assert after - before > 130 * MB
    assert large - small < (after - before) / 2, f"{small / MB:.0f} MB, then {large / MB:.0f} MB"
