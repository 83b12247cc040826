"""The pages of docs/ run as written (their links: test_readme.py)."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
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


def test_every_public_name_is_on_the_page():
    pytest.importorskip("flax.nnx")
    import jaxquant.flax
    from jaxquant.flax import linen_api, nnx_api

    text = (DOCS / "qat.md").read_text(encoding="utf-8")
    for module in (jaxquant.flax, nnx_api, linen_api):
        for name in module.__all__:
            assert re.search(rf"`(\w+\.)?{name}\b", text), name
            assert getattr(module, name).__doc__, name
