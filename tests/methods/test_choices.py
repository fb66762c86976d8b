"""How many of each class, random subsets, and the numbers of Table 1."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redundancy.methods.counts import (
    beyond_fraction,
    beyond_fractions,
    class_counts,
    merges_needed,
    merges_to_make,
)
from redundancy.methods.random import random_subset
from redundancy.selection.subset import Subset, mean_dissimilarity


@given(
    sizes=st.lists(st.integers(0, 400), min_size=1, max_size=30).filter(any),
    fraction=st.one_of(st.floats(0.0001, 1), st.sampled_from([0.0001, 0.01, 0.1, 0.5, 0.9, 1.0])),
)
def test_class_counts(sizes, fraction):
    counts = class_counts(sizes, fraction)
    total, classes = sum(sizes), sum(map(bool, sizes))
    asked = math.floor(Fraction(str(fraction)) * total + Fraction(1, 2))
    assert all(min(1, n) <= counts[label] <= n for label, n in enumerate(sizes))
    share = [Fraction(n * asked, total) for n in sizes]
    if all(part >= 1 for part, n in zip(share, sizes, strict=True) if n):
        assert sum(counts.values()) == asked
        assert all(abs(counts[label] - part) < 1 for label, part in enumerate(share))
        rounded_up = [label for label, part in enumerate(share) if counts[label] > part]
        rounded_down = [label for label, part in enumerate(share) if counts[label] < part]
        assert all((share[up] % 1, -up) > (share[down] % 1, -down) for up in rounded_up for down in rounded_down)
    assert sum(counts.values()) >= asked
    assert bool(beyond_fraction(np.array(sizes), fraction)) == (sum(counts.values()) > asked)
    if sum(counts.values()) > asked:  # large classes keep their own shares, up to those at one image a class
        own = [Fraction(n * min(asked, classes), total) for n in sizes]
        assert all(abs(counts[label] - max(1, part)) < 1 for label, part in enumerate(own) if sizes[label])
    by_label = dict(reversed(list(enumerate(sizes))))
    assert class_counts(by_label, fraction) == counts
    assert class_counts(np.array(sizes), fraction) == counts


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=30),
    fractions=st.tuples(st.floats(0.0001, 1), st.floats(0.0001, 1)),
)
def test_a_larger_fraction_keeps_no_fewer_images(sizes, fractions):
    few, many = (sum(class_counts(sizes, fraction).values()) for fraction in sorted(fractions))
    assert few <= many


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=30),
    fractions=st.tuples(st.floats(0.0001, 1), st.floats(0.0001, 1)),
)
def test_merges_for_a_fraction_are_enough_for_every_larger_one(sizes, fractions):
    counts = dict(enumerate(sizes))
    made = merges_to_make(counts, [min(fractions)])
    assert all(made[label] >= needed for label, needed in merges_needed(counts, fractions).items())
    assert all(0 <= made[label] < size for label, size in counts.items())


def test_class_counts_by_hand():
    assert class_counts([5000] * 10, 0.9) == dict.fromkeys(range(10), 4500)
    assert class_counts({4: 1, 2: 100, 7: 100}, 0.01) == {2: 1, 4: 1, 7: 1}
    assert class_counts([3, 3, 3], 0.5) == {0: 2, 1: 2, 2: 1}
    assert class_counts([50], 0.29) == {0: 15}
    assert class_counts([1, 1, 10], 1.0) == {0: 1, 1: 1, 2: 10}
    # A share below one is raised to one; the other classes give it up between them.
    assert class_counts([1, 1, 1, 97], 0.1) == {0: 1, 1: 1, 2: 1, 3: 7}


@pytest.mark.parametrize(("fraction", "kept"), [(0.6, 80), (0.4, 67), (0.34, 67), (0.2, 40), (0.1, 20), (0.001, 1)])
def test_large_classes_are_not_emptied_by_tiny_ones(fraction, kept):
    assert [*class_counts([200] + [1] * 100, fraction).values()] == [kept] + [1] * 100


def test_more_than_asked_is_said_with_its_reason():
    sizes = np.array([200] + [1] * 100)
    assert beyond_fraction(sizes, 0.6) == ""
    said = "at 0.2 asked 60 of 300 images (20 %), kept 140 (46.7 %): 100 classes keep their only image"
    assert beyond_fraction(sizes, 0.2) == said
    files = [{"fraction": 0.6, "size": 180}, {"fraction": 0.2, "size": 140}, {"fraction": 0.2, "size": 140}]
    assert beyond_fractions(sizes, files) == [said]
    said = beyond_fraction(np.array([100, 1, 3, 3]), 0.02)
    assert said == (
        "at 0.02 asked 2 of 107 images (1.87 %), kept 5 (4.67 %): 1 class keeps its only image and 2 classes keep one image, "
        "more than their share"
    )


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat([0, 3, 5], [1, 40, 100]))
    return labels, np.sort(generator.choice(1000, len(labels), replace=False))


@pytest.mark.parametrize("fraction", [1.0, 0.9, 0.5, 0.01])
def test_random_subset_keeps_the_counts(rows, fraction):
    labels, positions = rows
    kept = random_subset(labels, positions, fraction, (0, 0))
    counts = class_counts({label: int((labels == label).sum()) for label in (0, 3, 5)}, fraction)
    assert {label: int(kept[labels == label].sum()) for label in counts} == counts


def test_random_subset_depends_on_its_arguments_alone(rows):
    labels, positions = rows
    first = random_subset(labels, positions, 0.5, (0, 0))
    assert (random_subset(labels, positions, 0.5, (0, 0)) == first).all()
    assert (random_subset(labels, positions, 0.5, (0, 1)) != first).any()
    assert (random_subset(labels, positions, 0.5, (1, 0)) != first).any()
    order = np.random.default_rng(1).permutation(len(labels))
    assert (random_subset(labels[order], positions[order], 0.5, (0, 0)) == first[order]).all()
    # Another class of another size changes nothing but the counts.
    more_labels, more_positions = np.append(labels, [9] * 10), np.append(positions, 1000 + np.arange(10))
    more = random_subset(more_labels, more_positions, 0.5, (0, 0))[: len(labels)]
    assert (more[labels == 3] == first[labels == 3]).all()


def test_random_subset_is_uniform():
    labels, positions = np.zeros(20, int), np.arange(20)
    times = sum(random_subset(labels, positions, 0.25, (0, trial)).astype(int) for trial in range(2000))
    assert (abs(times / 2000 - 0.25) < 0.05).all()


def test_mean_dissimilarity():
    labels = np.int32([0, 0, 0, 0, 0, 1, 1, 2])
    group = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    kept = np.array([1, 0, 0, 0, 1, 1, 0, 1], bool)
    values = np.array([0, 0.1, 0.3, 0.4, 0, 0, 0.9, 0])
    by_label, overall = mean_dissimilarity(Subset(np.arange(8), labels, group, kept, values, {}))
    assert by_label == pytest.approx({0: (0.2 + 0.4) / 2, 1: 0.9})
    assert overall == pytest.approx((0.2 + 0.4 + 0.9) / 3)
    alone = Subset(np.arange(2), labels[:2], np.arange(2), np.ones(2, bool), np.zeros(2), {})
    assert mean_dissimilarity(alone)[0] == {}
    assert math.isnan(mean_dissimilarity(alone)[1])
