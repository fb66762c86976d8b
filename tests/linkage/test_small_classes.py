"""Many classes together: the bytes are those of one class after the other."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redundancy.linkage import batches, classes, complete, cut
from redundancy.linkage.classes import Linked
from redundancy.methods.semantic import semantic_subset

FIELDS = [field.name for field in dataclasses.fields(complete.Merges)]


def _embeddings(generator, sizes, dimension, kind):
    """Rows of all classes: random, with many ties and duplicates, or almost duplicates."""
    shape = sum(sizes), dimension
    rows = generator.normal(size=shape)
    if kind != "random":
        rows = generator.integers(-1, 2, shape) + (1e-4 * rows if kind == "near" else 0)
    rows[~rows.any(axis=1)] = 1
    return rows.astype(np.float32)


@st.composite
def _some_classes(draw):
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    wanted = [draw(st.integers(0, size - 1)) for size in sizes]
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    kind = draw(st.sampled_from(["random", "tied", "near"]))
    return sizes, wanted, _embeddings(generator, sizes, draw(st.integers(1, 20)), kind)


def _same(found, expected):
    for name in FIELDS:
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


@given(_some_classes())
def test_small_classes_together_are_those_one_by_one(some):
    sizes, wanted, embeddings = some
    linked = Linked.of(np.arange(len(sizes)), wanted, classes.link_small(embeddings, sizes, wanted))
    assert [len(merges) for merges in linked.values()] == wanted
    of_classes = np.split(embeddings, np.cumsum(sizes)[:-1])
    for label, of_class in enumerate(of_classes):
        _same(linked[label], complete.complete_linkage(of_class, wanted[label]))


def test_the_largest_of_the_small_classes():
    sizes = [batches.SMALL, 1, batches.SMALL - 1]
    embeddings = _embeddings(np.random.default_rng(0), sizes, 64, "random")
    wanted = [size - 1 for size in sizes]
    linked = Linked.of(np.arange(3), wanted, classes.link_small(embeddings, sizes, wanted))
    for label, of_class in enumerate(np.split(embeddings, np.cumsum(sizes)[:-1])):
        _same(linked[label], complete.complete_linkage(of_class, len(of_class) - 1))


@pytest.mark.parametrize("rule", ["cosine_raw_mean", "cosine_unit_mean", "medoid", "minimax"])
@given(_some_classes())
def test_classes_are_cut_together_as_one_by_one(rule, some):
    sizes, wanted, embeddings = some
    sizes, cuts = np.array(sizes), np.array([number // 2 for number in wanted])
    linked = Linked.of(np.arange(len(sizes)), wanted, classes.link_small(embeddings, sizes, wanted))
    together = linked.together(np.arange(len(sizes)), sizes, cuts)
    kept, group, dissimilarity = semantic_subset(together, embeddings, int((sizes - cuts).sum()), rule)
    first, begin = 0, 0
    for label, size in enumerate(sizes.tolist()):
        own, k = slice(begin, begin + size), size - int(cuts[label])
        alone = semantic_subset(linked[label], embeddings[own], k, rule)
        assert np.array_equal(kept[own], alone[0])
        assert np.array_equal(group[own], alone[1] + first)
        assert dissimilarity[own].tobytes() == alone[2].tobytes()
        first, begin = first + k, begin + size


@pytest.mark.parametrize("wrong", [-1, 3, 4])
def test_merges_of_clusters_that_are_not_there_are_refused(wrong):
    merges = complete.Merges(np.array([0, 0]), np.array([1, 2]), np.array([0.1, 0.2]), np.array([2, 2]))
    merges.right[0] = wrong
    linked = Linked.of(np.array([4, 6]), np.array([1, 1]), merges)
    with pytest.raises(ValueError, match="a merge is of"):
        cut.groups(linked.together(np.array([4, 6]), np.array([3, 3]), np.array([1, 1])), 6, 4)


def test_batches():
    small, together = batches.SMALL, batches.TOGETHER
    assert batches.batches({}) == []
    assert batches.batches({5: 2, 1: 1, 3: 3}) == [[1, 3, 5]]
    assert batches.batches({0: small, 1: small + 1, 2: small, 3: 1}) == [[0], [1], [2, 3]]
    many = batches.batches(dict.fromkeys(range(10_000), 2))
    assert [label for batch in many for label in batch] == [*range(10_000)]
    assert {len(batch) for batch in many[:-1]} == {together // 2}


def test_a_label_without_merges():
    linked = Linked.of(np.array([2, 7]), np.array([0, 0]), complete.NO_MERGES)
    assert len(linked[7]) == 0
    assert 3 not in linked
    assert dict(linked).keys() == {2, 7}
