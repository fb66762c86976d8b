"""How many of each class, random subsets, and the numbers of Table 1."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redundancy.methods.counts import class_counts
from redundancy.methods.random import random_subset
from redundancy.selection.subset import Subset, mean_dissimilarity


@given(
    sizes=st.lists(st.integers(0, 400), min_size=1, max_size=30).filter(any),
    fraction=st.one_of(st.floats(0.0001, 1), st.sampled_from([0.0001, 0.01, 0.1, 0.5, 0.9, 1.0])),
)
def test_class_counts(sizes, fraction):
    counts = class_counts(sizes, fraction)
    total, classes = sum(sizes), sum(map(bool, sizes))
    size = max(math.floor(Fraction(str(fraction)) * total + Fraction(1, 2)), classes)
    assert sum(counts.values()) == size
    assert all(min(1, n) <= counts[label] <= n for label, n in enumerate(sizes))
    share = [Fraction(n * size, total) for n in sizes]
    if all(part >= 1 for part, n in zip(share, sizes, strict=True) if n):
        assert all(abs(counts[label] - part) < 1 for label, part in enumerate(share))
        rounded_up = [label for label, part in enumerate(share) if counts[label] > part]
        rounded_down = [label for label, part in enumerate(share) if counts[label] < part]
        assert all((share[up] % 1, -up) > (share[down] % 1, -down) for up in rounded_up for down in rounded_down)
    by_label = dict(reversed(list(enumerate(sizes))))
    assert class_counts(by_label, fraction) == counts
    assert class_counts(np.array(sizes), fraction) == counts


def test_class_counts_by_hand():
    assert class_counts([5000] * 10, 0.9) == dict.fromkeys(range(10), 4500)
    assert class_counts({4: 1, 2: 100, 7: 100}, 0.01) == {2: 1, 4: 1, 7: 1}
    assert class_counts([3, 3, 3], 0.5) == {0: 2, 1: 2, 2: 1}
    assert class_counts([50], 0.29) == {0: 15}
    assert class_counts([1, 1, 10], 1.0) == {0: 1, 1: 1, 2: 10}
    # A share below one is raised to one; the other classes give it up between them.
    assert class_counts([1, 1, 1, 97], 0.1) == {0: 1, 1: 1, 2: 1, 3: 7}


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
