"""Complete linkage against scikit-learn and the definition, and cuts of its merges at every number of groups."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering

from redundancy.errors import DataError
from redundancy.selection import cut, dissimilarity, linkage


def _embeddings(n, dimension, seed=0):
    """Non-negative, in clusters, of different lengths: like pooled activations of a trained network."""
    generator = np.random.default_rng(seed)
    centres = np.abs(generator.normal(size=(8, dimension)))
    noise = generator.normal(size=(n, dimension)) * generator.gamma(1, 0.4, size=(n, 1))
    return np.maximum(centres[generator.integers(8, size=n)] + noise, 1e-3).astype(np.float32)


def _cosine_dissimilarities(embeddings):
    vectors = embeddings.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return 1 - vectors @ vectors.T


def _canonical(group):
    """Groups as sets of their members."""
    return sorted(tuple(np.flatnonzero(group == number)) for number in np.unique(group))


@pytest.mark.parametrize(("n", "dimension"), [(400, 16), (900, 64), (60, 2048)])
def test_partitions_are_those_of_scikit_learn(n, dimension):
    embeddings = _embeddings(n, dimension)
    merges = linkage.complete_linkage(embeddings, n - 1)
    distances = np.maximum(_cosine_dissimilarities(embeddings), 0)
    for share in (0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1, 0.01):
        k = max(1, round(share * n))
        model = AgglomerativeClustering(k, metric="precomputed", linkage="complete").fit(distances)
        assert _canonical(cut.groups(merges, n, k)) == _canonical(model.labels_)


def test_few_merges_are_the_first_of_all():
    embeddings = _embeddings(300, 8)
    every, few = linkage.complete_linkage(embeddings, 299), linkage.complete_linkage(embeddings, 40)
    assert len(few) == 40
    for name in ("left", "right", "height", "size"):
        assert np.array_equal(getattr(few, name), getattr(every, name)[:40])
        assert getattr(few, name).dtype == (np.float64 if name == "height" else np.int64)


def test_no_pair_of_a_group_is_further_apart_than_its_height():
    embeddings = _embeddings(200, 6)
    n = len(embeddings)
    units = dissimilarity.unit_vectors(embeddings)
    pairs = dissimilarity.between_all(units, units)
    merges = linkage.complete_linkage(embeddings, n - 1)
    assert (np.diff(merges.height) >= 0).all()
    members = {image: [image] for image in range(n)}
    for row in range(n - 1):
        members[n + row] = members[merges.left[row]] + members[merges.right[row]]
        assert len(members[n + row]) == merges.size[row]
        assert pairs[np.ix_(members[n + row], members[n + row])].max() == merges.height[row]


def test_groups_at_every_k():
    n = 50
    merges = linkage.complete_linkage(_embeddings(n, 4), n - 1)
    finer = None
    for k in range(n, 0, -1):
        group = cut.groups(merges, n, k)
        lowest = [np.flatnonzero(group == number)[0] for number in range(k)]
        assert group.dtype == np.int64
        assert group.max() == k - 1
        assert lowest == sorted(lowest)
        if finer is not None:
            assert len(set(zip(finer, group, strict=True))) == k + 1
        finer = group


@pytest.mark.parametrize("k", [0, 4, 11])
def test_a_cut_beyond_the_merges_is_refused(k):
    merges = linkage.complete_linkage(_embeddings(10, 4), 5)
    with pytest.raises(ValueError, match="cannot be cut"):
        cut.groups(merges, 10, k)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_small_classes(n):
    embeddings = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32)[:n]
    merges = linkage.complete_linkage(embeddings, n - 1)
    assert len(merges) == n - 1
    assert cut.groups(merges, n, n).tolist() == list(range(n))
    assert cut.groups(merges, n, 1).tolist() == [0] * n
    if n == 3:
        assert cut.groups(merges, 3, 2).tolist() == [0, 0, 1]


def test_duplicates_are_exactly_zero_apart_and_merge_first():
    distinct = _embeddings(100, 64)
    embeddings = np.concatenate([distinct, distinct * 4, distinct])
    merges = linkage.complete_linkage(embeddings, 299)
    assert (merges.height[:200] == 0).all()
    assert merges.height[200] > 0
    assert cut.groups(merges, 300, 100).tolist() == list(range(100)) * 3


def test_a_class_of_identical_images():
    embeddings = np.tile(np.float32([0.3, 0.1, 7]), (40, 1))
    merges = linkage.complete_linkage(embeddings, 39)
    assert (merges.height == 0).all()
    assert np.bincount(cut.groups(merges, 40, 4)).sum() == 40
    assert (cut.groups(merges, 40, 1) == 0).all()


def test_dissimilarity_is_one_minus_cosine():
    embeddings = np.random.default_rng(0).normal(size=(80, 300)).astype(np.float32)
    embeddings[:40] *= 1e30
    embeddings[40:] *= 1e-30
    units = dissimilarity.unit_vectors(embeddings)
    expected = _cosine_dissimilarities(embeddings)
    np.testing.assert_allclose(dissimilarity.between_all(units, units), expected, atol=2e-8)
    one = np.float32([[2], [-3], [5]])
    units = dissimilarity.unit_vectors(one)
    assert dissimilarity.between_all(units, units).tolist() == [[0, 2, 0], [2, 0, 2], [0, 2, 0]]


def test_dissimilarities_have_the_same_bits_in_any_order_and_block():
    units = dissimilarity.unit_vectors(_embeddings(300, 513))
    whole = dissimilarity.between_all(units, units)
    assert (whole == whole.T).all()
    assert (np.diagonal(whole) == 0).all()
    assert (whole >= 0).all()
    assert (dissimilarity.between_all(units[7:10], units[3:]) == whole[7:10, 3:]).all()
    reverse = np.ascontiguousarray(units[:, ::-1])
    assert (dissimilarity.between_all(reverse, reverse) == whole).all()
    assert (dissimilarity.between_rows(units[:-1], units[1:]) == np.diagonal(whole, 1)).all()
    assert (linkage._condensed(_embeddings(300, 513)) == whole[np.triu_indices(300, 1)]).all()


def test_merges_do_not_depend_on_threads():
    script = (
        "import sys, hashlib, numpy as np; from redundancy.selection import linkage;"
        "x = np.random.default_rng(1).normal(size=(700, 200)).astype('f4');"
        "print(hashlib.sha256(linkage.complete_linkage(x, 699).height.tobytes()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "OPENBLAS_CORETYPE": core},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads, core in ((1, "Haswell"), (2, "Prescott"))
    }
    assert len(found) == 1


def test_a_class_too_large_for_memory_is_refused_before_work(monkeypatch):
    monkeypatch.setattr(linkage, "_available_memory", lambda: 2**20)
    with pytest.raises(DataError, match=r"class of 1000000 images needs 74\d\d\.\d GiB"):
        linkage.check_memory(1_000_000, 64)
    with pytest.raises(DataError, match="more memory"):
        linkage.complete_linkage(_embeddings(900, 4), 5)
    assert len(linkage.complete_linkage(_embeddings(900, 4), 0)) == 0
