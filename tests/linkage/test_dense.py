"""All pairs at once: the merges of the total order, whatever ties, and whenever `complete` turns to it."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from oracle import assert_same, by_scipy

from redundancy.linkage import complete, dense, dissimilarity
from tests.tiers import examples

FRACTIONS = (0.95, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0)


def _embeddings(kind, n, dimension, seed=0):
    generator = np.random.default_rng(seed)
    normal = generator.normal(size=(n, dimension))
    made = {
        "random": normal,
        "clumps": generator.normal(size=(5, dimension))[generator.integers(5, size=n)] + 1e-3 * normal,
        "near ties": generator.integers(1, 3, size=(n, dimension)) + 1e-7 * normal,
        "ties": np.concatenate([generator.integers(0, 3, size=(n, dimension)), np.ones((n, 1))], axis=1),
        "duplicates": normal[generator.integers(max(1, n // 2), size=n)],
        "equidistant": np.eye(n),
        "one far": np.where(np.arange(n)[:, None] == n // 2, -1.0, 1 + 1e-5 * normal),
        "a line": np.linspace(1, 2, n)[:, None] ** 9 * np.linspace(1, 2, dimension) + 1.0,
    }
    return made[kind].astype(np.float32)


KINDS = ("random", "clumps", "near ties", "ties", "duplicates", "equidistant", "one far", "a line")


def _at_once(embeddings, num_merges):
    linker = complete.Linker(dissimilarity.units(embeddings), num_merges)
    if not linker.done:
        linker.link_all()
    return linker.merges()


@pytest.fixture
def ties_are_settled(monkeypatch):
    """However many there are."""
    monkeypatch.setattr(dense, "_SETTLED", 1e6)
    monkeypatch.delattr(complete.chain, "linkage")


@hypothesis.given(
    kind=strategies.sampled_from(KINDS),
    n=strategies.integers(2, 60),
    dimension=strategies.sampled_from([1, 2, 7, 8, 9, 20, 260]),
    seed=strategies.integers(0, 2**32 - 1),
    kept=strategies.sampled_from(FRACTIONS),
)
@examples(150)
def test_merges_are_those_of_the_total_order(ties_are_settled, kind, n, dimension, seed, kept):
    embeddings = _embeddings(kind, n, dimension, seed)
    num_merges = n - max(1, round(kept * n))
    assert_same(_at_once(embeddings, num_merges), by_scipy(embeddings))


@pytest.mark.parametrize(("kind", "dimension"), [*((kind, 9) for kind in KINDS), ("random", 260), ("near ties", 260)])
def test_several_blocks(kind, dimension, monkeypatch):
    # Columns are thrown away again and again, and threads fill blocks; very many ties are left to `chain`.
    n = 600
    embeddings = _embeddings(kind, n, dimension)
    expected = by_scipy(embeddings)
    monkeypatch.setattr(complete, "_MUCH", 0)
    monkeypatch.setattr(complete, "cores", lambda: 3)
    for kept in (0.9, 0.2, 0.0):
        assert_same(_at_once(embeddings, n - max(1, round(kept * n))), expected)


@pytest.mark.soak
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "equidistant"])
def test_settled_ties_of_several_blocks(kind, ties_are_settled):
    embeddings = _embeddings(kind, 1100, 9)
    assert_same(_at_once(embeddings, 1099), by_scipy(embeddings))


def test_very_many_ties_are_given_up():
    units = dissimilarity.units(_embeddings("equidistant", 300, 1))
    assert dense.linkage(units, 299, 1) is None


@pytest.mark.parametrize("kind", ["random", "clumps", "ties", "duplicates"])
@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_the_point_where_all_pairs_are_taken_changes_nothing(kind, rounds, monkeypatch):
    # After no, one or two thresholds.
    embeddings = _embeddings(kind, 500, 6)
    asked = []
    monkeypatch.setattr(complete, "SMALL", 0)
    monkeypatch.setattr(complete, "first_target", lambda n, num_merges: 100)
    monkeypatch.setattr(complete, "dense_is_quicker", lambda *sizes: asked.append(sizes) or len(asked) > rounds)
    assert_same(complete.complete_linkage(embeddings, 490), by_scipy(embeddings))
    assert len(asked) == rounds + 1


def test_classes_on_both_sides_of_the_choice():
    n = 1100
    embeddings = _embeddings("random", n, 16)
    expected = by_scipy(embeddings)
    chosen = set()
    for kept in FRACTIONS:
        num_merges = n - max(1, round(kept * n))
        chosen.add(complete.dense_is_quicker(n, 16, complete.first_target(n, num_merges)))
        assert_same(complete.complete_linkage(embeddings, num_merges), expected)
    assert chosen == {False, True}


@pytest.mark.parametrize(("n", "dimension", "kept", "quicker"), [
    (5000, 64, 0.9, False), (5000, 64, 0.5, False), (5000, 64, 0.3, True), (5000, 64, 0.1, True),
    (500, 64, 0.9, True), (1300, 2048, 0.9, False), (1300, 2048, 0.1, True), (50_000, 64, 0.5, False),
])  # fmt: skip
def test_the_choice(n, dimension, kept, quicker):
    target = complete.first_target(n, n - round(kept * n))
    assert complete.dense_is_quicker(n, dimension, target) == quicker
