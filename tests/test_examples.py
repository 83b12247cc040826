"""The examples run as written."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

pytest.importorskip("jax")

FOLDER = Path(__file__).resolve().parent.parent / "examples"
EXAMPLES = sorted(path.name for path in FOLDER.glob("*.py"))


def test_every_example_is_here():
    assert {"quantize_in_five_lines.py", "decide_on_your_own_model.py", "check_a_kernel.py"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, capsys, tmp_path, monkeypatch):
    if name.startswith("decide"):
        pytest.importorskip("flax.nnx")
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(os.fspath(FOLDER))
    runpy.run_path(os.fspath(FOLDER / name), run_name="__main__")
    out = capsys.readouterr().out
    if name == "quantize_in_five_lines.py":
        assert "131,072 codes and 4,096 scales: 0 differ" in out
    if name.startswith("decide"):
        assert "DECISION  Use " in out
        assert (tmp_path / "jaxquant-decide" / "report.html").exists()
    assert out.strip()
