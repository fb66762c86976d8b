"""Complete linkage against scikit-learn, SciPy and the definition, and cuts of its merges at every number of groups."""

import os
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from oracle import assert_same, by_definition, by_scipy, ordered_pairs
from sklearn.cluster import AgglomerativeClustering

from redundancy.linkage import complete, counting, cut, dissimilarity, pairs
from redundancy.runtime.errors import DataError
from tests.tiers import examples


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
    merges = complete.complete_linkage(embeddings, n - 1)
    distances = np.maximum(_cosine_dissimilarities(embeddings), 0)
    for share in (0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1, 0.01):
        k = max(1, round(share * n))
        model = AgglomerativeClustering(k, metric="precomputed", linkage="complete").fit(distances)
        assert _canonical(cut.groups(merges, n, k)) == _canonical(model.labels_)


def test_few_merges_are_the_first_of_all():
    embeddings = _embeddings(300, 8)
    every, few = complete.complete_linkage(embeddings, 299), complete.complete_linkage(embeddings, 40)
    assert len(few) == 40
    for name in ("left", "right", "height", "size"):
        assert np.array_equal(getattr(few, name), getattr(every, name)[:40])
        assert getattr(few, name).dtype == (np.float64 if name == "height" else np.int64)


@pytest.mark.parametrize("small", [0, 1000])
def test_no_pair_of_a_group_is_further_apart_than_its_height(small, monkeypatch):
    monkeypatch.setattr(complete, "SMALL", small)
    monkeypatch.setattr(complete, "dense_is_quicker", lambda *sizes: False)
    embeddings = _embeddings(200, 6)
    n = len(embeddings)
    units = dissimilarity.unit_vectors(embeddings)
    pairs = dissimilarity.between_all(units, units)
    merges = complete.complete_linkage(embeddings, n - 1)
    assert (np.diff(merges.height) >= 0).all()
    members = {image: [image] for image in range(n)}
    for row in range(n - 1):
        members[n + row] = members[merges.left[row]] + members[merges.right[row]]
        assert len(members[n + row]) == merges.size[row]
        assert pairs[np.ix_(members[n + row], members[n + row])].max() == merges.height[row]


def test_groups_at_every_k():
    n = 50
    merges = complete.complete_linkage(_embeddings(n, 4), n - 1)
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
    merges = complete.complete_linkage(_embeddings(10, 4), 5)
    with pytest.raises(ValueError, match="cannot be cut"):
        cut.groups(merges, 10, k)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_small_classes(n):
    embeddings = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32)[:n]
    merges = complete.complete_linkage(embeddings, n - 1)
    assert len(merges) == n - 1
    assert cut.groups(merges, n, n).tolist() == list(range(n))
    assert cut.groups(merges, n, 1).tolist() == [0] * n
    if n == 3:
        assert cut.groups(merges, 3, 2).tolist() == [0, 0, 1]


def test_duplicates_are_exactly_zero_apart_and_merge_first():
    distinct = _embeddings(100, 64)
    embeddings = np.concatenate([distinct, distinct * 4, distinct])
    merges = complete.complete_linkage(embeddings, 299)
    assert (merges.height[:200] == 0).all()
    assert merges.height[200] > 0
    assert cut.groups(merges, 300, 100).tolist() == list(range(100)) * 3


def test_a_class_of_identical_images():
    embeddings = np.tile(np.float32([0.3, 0.1, 7]), (40, 1))
    merges = complete.complete_linkage(embeddings, 39)
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
    assert (complete._condensed(dissimilarity.units(_embeddings(300, 513))) == whole[np.triu_indices(300, 1)]).all()


@pytest.mark.soak
def test_merges_do_not_depend_on_threads():
    script = (
        "import sys, hashlib, numpy as np; from redundancy.linkage import complete;"
        "x = np.random.default_rng(1).normal(size=(700, 200)).astype('f4');"
        "print(hashlib.sha256(complete.complete_linkage(x, 699).height.tobytes()).hexdigest())"
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


@pytest.fixture
def always_counting(monkeypatch):
    """Pairs and counting even where all pairs at once would be quicker."""
    monkeypatch.setattr(complete, "SMALL", 0)
    monkeypatch.setattr(complete, "dense_is_quicker", lambda *sizes: False)


def _tricky(kind, n, dimension, generator):
    """Embeddings of a kind that linkages stumble over."""
    normal = generator.normal(size=(n, dimension))
    match kind:
        case "distinct":
            return normal
        case "duplicates":
            return normal[generator.integers(max(1, n // 3), size=n)]
        case "identical":
            return np.repeat(normal[:1], n, axis=0)
        case "ties":
            return np.concatenate([generator.integers(0, 2, size=(n, dimension)), np.ones((n, 1))], axis=1)
        case "near ties":
            return generator.integers(1, 3, size=(n, dimension)) + 1e-7 * normal
        case "tight":
            return 1 + 1e-4 * normal
        case "equidistant":
            return np.eye(n)
        case "lengths":
            return normal * 10.0 ** generator.uniform(-30, 30, size=(n, 1))


KINDS = ("distinct", "duplicates", "identical", "ties", "near ties", "tight", "equidistant", "lengths")


@hypothesis.given(
    kind=strategies.sampled_from(KINDS),
    n=strategies.integers(2, 40),
    dimension=strategies.integers(1, 5),
    seed=strategies.integers(0, 2**32 - 1),
    made=strategies.floats(0, 1),
)
@examples(150)
def test_merges_are_those_of_the_total_order(kind, n, dimension, seed, made):
    embeddings = _tricky(kind, n, dimension, np.random.default_rng(seed)).astype(np.float32)
    num_merges = 1 + int(made * (n - 2))
    expected = by_scipy(embeddings)
    assert_same(complete.complete_linkage(embeddings, n - 1), expected)
    assert_same(complete.complete_linkage(embeddings, num_merges), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(complete, "SMALL", 0)
        patch.setattr(complete, "dense_is_quicker", lambda *sizes: False)
        # One merge's pairs at a time: many thresholds, and the counts kept between them.
        patch.setattr(complete, "_MOST_PAIRS", 7)
        assert_same(complete.complete_linkage(embeddings, num_merges), expected)


@hypothesis.given(
    values=strategies.lists(
        strategies.lists(
            strategies.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=2
        ).filter(any),
        min_size=2,
        max_size=12,
    )
)
@examples(100)
def test_merges_of_any_floats_are_those_of_the_definition(values):
    embeddings = np.array(values, np.float32)
    expected = by_definition(embeddings)
    assert_same(by_scipy(embeddings), expected)
    assert_same(complete.complete_linkage(embeddings, len(embeddings) - 1), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_larger_classes_at_every_depth(kind, always_counting):
    embeddings = _tricky(kind, 600, 9, np.random.default_rng(5)).astype(np.float32)
    expected = by_scipy(embeddings)
    for kept in (0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1):
        assert_same(complete.complete_linkage(embeddings, 600 - round(kept * 600)), expected)


def test_both_ways_give_the_same_merges(monkeypatch):
    embeddings = _embeddings(1100, 12)
    counted = complete.complete_linkage(embeddings, 700)
    monkeypatch.setattr(complete, "SMALL", 2000)
    assert_same(complete.complete_linkage(embeddings, 700), counted)


def test_a_threshold_that_is_too_low_is_raised_and_the_counts_kept(monkeypatch, always_counting):
    embeddings = _embeddings(900, 8)
    expected = by_scipy(embeddings)
    monkeypatch.setattr(complete, "first_target", lambda n, num_merges: 40)
    thresholds = []
    within = pairs.within

    def note(units, threshold, above, *arguments, **named):
        thresholds.append((above, threshold))
        return within(units, threshold, above, *arguments, **named)

    monkeypatch.setattr(pairs, "within", note)
    assert_same(complete.complete_linkage(embeddings, 450), expected)
    assert len(thresholds) > 2
    assert [above for above, _ in thresholds[1:]] == [threshold for _, threshold in thresholds[:-1]]


def test_the_first_guess_suffices_for_a_class_like_a_trained_networks():
    # One pass over the pairs, and not many more of them than are needed.
    generator = np.random.default_rng(0)
    low = generator.normal(size=(3000, 8)) @ generator.normal(size=(8, 32))
    embeddings = np.maximum(low + 0.3 * generator.normal(size=low.shape), 0.01).astype(np.float32)
    for kept in (0.9, 0.5):
        linker = complete.Linker(dissimilarity.units(embeddings), 3000 - round(kept * 3000))
        threshold = linker.next_threshold()
        linker.feed(linker.within(threshold), threshold)
        assert linker.done
        assert linker._num_pairs < 3000 * 100


def test_a_class_of_very_many_copies_needs_no_pairs():
    generator = np.random.default_rng(0)
    embeddings = _embeddings(50, 6)[generator.integers(50, size=100_000)]
    merges = complete.complete_linkage(embeddings, 99_999)
    assert (merges.height[:99_950] == 0).all()
    assert (merges.height[99_950:] > 0).all()
    assert merges.size[-1] == 100_000
    assert len(np.unique(embeddings[cut.groups(merges, 100_000, 50) == 3], axis=0)) == 1


def test_duplicates_are_told_apart_where_hashes_are_not(monkeypatch):
    generator = np.random.default_rng(0)
    grid = generator.integers(0, 3, size=(300, 4)).astype(np.int32)
    expected = complete.duplicates(grid)
    _, first = np.unique(grid, axis=0, return_inverse=True)
    assert len(set(zip(first.tolist(), expected.tolist(), strict=True))) == expected.max() + 1 == first.max() + 1
    last = [np.flatnonzero(expected == number)[-1] for number in range(expected.max() + 1)]
    assert last == sorted(last)
    monkeypatch.setattr(complete, "_hashes", lambda grid, factors: np.zeros(len(grid), np.uint64))
    assert (complete.duplicates(grid) == expected).all()


def test_counting_grows_its_tables():
    # All pairs of many images: more edges and slots than it begins with.
    embeddings = _embeddings(400, 5)
    i, j, value = (np.asarray(column) for column in ordered_pairs(embeddings))
    counter = counting.Counter(400, 399)
    for start in range(0, len(i), 977):
        some = slice(start, start + 977)
        counter.feed(i[some].astype(np.int32), j[some].astype(np.int32), value[some])
    assert counter.num_merges == 399
    assert np.array_equal(counter.merges()[2], by_scipy(embeddings).height)


@pytest.mark.parametrize("n", [255, 256, 257, 260, 271, 272, 273, 511, 512, 513])
def test_sizes_about_those_of_samples_and_blocks(n):
    embeddings = _embeddings(n, 64)
    assert_same(complete.complete_linkage(embeddings, n // 10), by_scipy(embeddings))


def test_little_memory_takes_more_rounds(monkeypatch, always_counting):
    # Half of the images in a clump: its pairs come first and tell nothing of how many the others need.
    generator = np.random.default_rng(0)
    clump = 1 + 1e-4 * generator.normal(size=(150, 8))
    embeddings = np.concatenate([clump, generator.normal(size=(1000, 8))]).astype(np.float32)
    expected = by_scipy(embeddings)
    rounds = []
    within = pairs.within
    monkeypatch.setattr(pairs, "within", lambda *a, **k: rounds.append(1) or within(*a, **k))
    for bytes_available in (2**40, 12_000 * complete._BYTES_PER_PAIR):
        monkeypatch.setattr(complete, "available_memory", lambda bytes_available=bytes_available: bytes_available)
        rounds.append(0)
        assert_same(complete.complete_linkage(embeddings, 350), expected)
    last = len(rounds) - 1 - rounds[::-1].index(0)
    assert sum(rounds[last:]) > sum(rounds[:last])


def test_all_pairs_are_taken_where_sorted_ones_do_not_fit(monkeypatch):
    embeddings = _embeddings(900, 8)
    expected = by_scipy(embeddings)
    dense = complete.Linker(dissimilarity.units(embeddings), 800)._dense_bytes
    monkeypatch.setattr(complete, "available_memory", lambda: dense + 1)
    assert_same(complete.complete_linkage(embeddings, 800), expected)


def test_memory_is_asked_for_before_the_work(monkeypatch, always_counting):
    monkeypatch.setattr(complete, "available_memory", lambda: 2**12)
    with pytest.raises(DataError, match=r"8\d\d different images of one class need .* [KM]iB .* more memory"):
        complete.complete_linkage(_embeddings(900, 4), 450)
    assert len(complete.complete_linkage(_embeddings(900, 4), 0)) == 0
