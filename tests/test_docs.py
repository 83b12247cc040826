"""The pages of docs/ run as written, and their tables are recorded runs (their links: test_readme.py)."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))


def test_the_pages_are_here():
    assert "qat.md" in PAGES


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page):
    for module in ("jax", "flax", "optax"):
        pytest.importorskip(module)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 8
    names: dict = {}  # one session, as a reader types it
    for i, block in enumerate(blocks):
        test = doctest.DocTestParser().get_doctest(block, names, f"{page}, block {i + 1}", page, 0)
        assert test.examples
        assert doctest.DocTestRunner(verbose=False).run(test, clear_globs=False).failed == 0
        names.update(test.globs)


@pytest.fixture
def pages():
    """benchmarks/readme.py."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_golden_tables_are_those_of_the_recorded_runs(pages):
    page = (DOCS / "qat.md").read_text(encoding="utf-8")
    assert DOCS / "qat.md" in pages.PAGES
    assert pages.rendered(page) == page, f"docs/qat.md is stale; run: {pages.COMMAND}"
    tables = re.findall(r"^<!-- (\w+\.py) -->\n```text\n(.*?)\n```\n<!-- /\1 -->$", page, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in tables] == ["digits_qat_nnx.py", "text_qat.py"]
    for _, table in tables:
        assert pages.rendered(page.replace(table, re.sub(r"\d(?=\.)", "0", table))) == page


def test_where_qwix_is_ahead_the_page_says_behind(pages):
    """Each scheme of a step once in each line, on the side of its ratio; each difference with the sign of its mean."""
    page = (DOCS / "qat.md").read_text(encoding="utf-8")
    steps, digits = (json.loads((pages.RESULTS / f"{name}.json").read_text()) for name in ("qat", "qat_accuracy"))
    for key, name in {"milliseconds": "time", "compile": "compile time", "temp": "memory"}.items():
        lines = re.findall(rf"^\| {name} \| (.*) \| (.*) \| (.*) \|$", page, re.MULTILINE)
        for peer, (ahead, equal, behind) in zip(("qwix of codes", "qwix"), lines, strict=True):
            for scheme in ("w8a8", "w4a8", "w4", "w2"):
                ratio = steps[f"jaxquant {scheme}"][key] / steps[f"{peer} {scheme}"][key]
                side = behind if ratio >= 1.005 else ahead if ratio < 0.995 else equal
                assert f"{scheme} {ratio:.2f}" in side.split(", ")
    for bits in (4, 3, 2):
        for way in ("PTQ", "QAT"):
            ours, theirs = (100 * sum(digits[f"int{bits} {way} {who}"]) / 5 for who in ("jaxquant", "qwix"))
            word = "ahead" if ours > theirs else "behind"
            assert re.search(
                rf"^\| int{bits} {way} \| {re.escape(f'{ours - theirs:+.2f}')} \[.*\| {word}\b", page, re.M
            )


def test_golden_both_digits_examples_printed_the_same_and_wrote_the_same_bytes(pages):
    found = json.loads((pages.RESULTS / "qat_examples.json").read_text(encoding="utf-8"))
    nnx, linen = (pages.printed(f"digits_qat_{api}.py") for api in ("nnx", "linen"))
    assert nnx.replace("digits-nnx", "digits-linen") == linen
    for bits in (8, 4, 3, 2):
        assert len({found["files"][f"digits-{api}-int{bits}.safetensors"] for api in ("nnx", "linen")}) == 1


def test_every_public_name_is_on_the_page():
    pytest.importorskip("flax.nnx")
    import jaxquant.flax
    from jaxquant.flax import linen_api, nnx_api

    text = (DOCS / "qat.md").read_text(encoding="utf-8")
    for module in (jaxquant.flax, nnx_api, linen_api):
        for name in module.__all__:
            assert re.search(rf"`(\w+\.)?{name}\b", text), name
            assert getattr(module, name).__doc__, name
