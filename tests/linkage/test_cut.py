"""Kept images by each rule against a brute-force oracle, and ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redundancy.config import RULES
from redundancy.linkage import complete, cut
from tests.tiers import examples


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _oracle(embeddings, group, rule):
    """One group after the other, by the rules' own words."""
    kept = []
    for number in range(group.max() + 1):
        members = np.flatnonzero(group == number)
        vectors = embeddings[members].astype(np.float64)
        units = _unit(vectors)
        pairs = 1 - units @ units.T
        badness = {
            "cosine_raw_mean": lambda v=vectors, u=units: -u @ _unit(v.mean(axis=0)),
            "cosine_unit_mean": lambda v=vectors, u=units: -u @ _unit(u.mean(axis=0)),
            "medoid": lambda p=pairs: p.sum(axis=1),
            "minimax": lambda p=pairs: p.max(axis=1),
        }[rule]()
        kept.append(members[np.flatnonzero(badness <= badness.min() + 1e-9)[0]])
    return kept


@pytest.mark.parametrize("rule", RULES)
@examples(25)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), k=st.integers(1, 60), dimension=st.integers(2, 20))
def test_rules_agree_with_their_definition(rule, seed, n, k, dimension):
    generator = np.random.default_rng(seed)
    embeddings = (generator.normal(size=(n, dimension)) + 1).astype(np.float32)
    _, group = np.unique(generator.integers(k, size=n), return_inverse=True)
    kept = cut.representatives(embeddings, group, rule)
    assert kept.dtype == np.int64
    assert kept.tolist() == _oracle(embeddings, group, rule)


@pytest.mark.parametrize("rule", RULES)
def test_a_group_larger_than_a_batch(rule, monkeypatch):
    monkeypatch.setattr(cut, "_BATCH_ELEMENTS", 100)
    monkeypatch.setattr(cut, "_GROUPED_ROWS", 16)
    generator = np.random.default_rng(3)
    embeddings = generator.normal(size=(90, 7)).astype(np.float32) + 2
    group = np.repeat([0, 1, 2, 3, 4], [1, 61, 10, 10, 8])
    assert cut.representatives(embeddings, group, rule).tolist() == _oracle(embeddings, group, rule)


@pytest.mark.parametrize("rule", RULES)
def test_scores_do_not_depend_on_how_many_groups_are_taken_at_once(rule, monkeypatch):
    generator = np.random.default_rng(4)
    sizes = generator.integers(1, 9, 300)
    vectors = generator.normal(size=(sizes.sum(), 33)).astype(np.float32)
    taken, scores = [], cut.scores
    monkeypatch.setattr(cut, "scores", lambda *given: taken.append(scores(*given)) or taken[-1])
    kept = []
    for rows in (1, 50, 1 << 20):
        monkeypatch.setattr(cut, "_GROUPED_ROWS", rows)
        taken.clear()
        kept.append((cut.representatives(vectors, np.repeat(np.arange(300), sizes), rule).tolist(), [*taken]))
    assert kept[0][0] == kept[1][0] == kept[2][0]
    one, some, every = (np.concatenate(found).tobytes() for _, found in kept)
    assert one == some == every
    assert len(kept[0][1]) > len(kept[1][1]) > len(kept[2][1]) == 1


@pytest.mark.parametrize("left", [-1, 5])
def test_merges_of_clusters_that_are_not_made_are_refused(left):
    merges = complete.Merges(np.array([0, left]), np.array([1, 3]), np.zeros(2), np.array([2, 3]))
    with pytest.raises(ValueError, match="made after it"):
        cut.groups(merges, 4, 2)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dimension", [3, 64, 2048])
def test_ties_go_to_the_lowest_index(rule, dimension):
    generator = np.random.default_rng(0)
    group = np.arange(200) % 100
    # Both members of a pair are equally near their mean but for rounding, if they are equally long.
    embeddings = _unit(generator.normal(size=(200, dimension)) + 1).astype(np.float32)
    if rule == "cosine_raw_mean":
        embeddings[100:] = embeddings[:100]
    assert cut.representatives(embeddings, group, rule).tolist() == list(range(100))


def test_the_raw_mean_prefers_the_longer_of_a_pair():
    embeddings = np.float32([[1, 0], [0, 3]])
    assert cut.representatives(embeddings, np.zeros(2, np.int64), "cosine_raw_mean").tolist() == [1]
    assert cut.representatives(embeddings, np.zeros(2, np.int64), "cosine_unit_mean").tolist() == [0]


@pytest.mark.parametrize("rule", RULES)
def test_opposite_images_have_no_centre_and_tie(rule):
    embeddings = np.float32([[5, 5], [0.1, 0.7], [-0.1, -0.7]])
    assert cut.representatives(embeddings, np.array([0, 1, 1]), rule).tolist() == [0, 1]


def test_dissimilarity_to_the_kept_image():
    embeddings = np.float32([[1, 0], [0, 2], [1, 1], [-3, 0]])
    found = cut.dissimilarity_to(embeddings, np.array([0, 0, 0, 0]))
    np.testing.assert_allclose(found, [0, 1, 1 - 0.5**0.5, 2], atol=1e-8)
    assert found.dtype == np.float64
    assert cut.dissimilarity_to(embeddings, np.arange(4)).tolist() == [0] * 4
