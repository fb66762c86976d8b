"""From where images are kept: within each class, from all together, or with a floor for each class, by brute force."""

import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redundancy import methods
from redundancy.methods.choose import choose
from redundancy.methods.counts import kept_of_each, num_asked
from tests.tiers import examples


def plainly(labels, order, fraction, balance):
    """What is kept of images whose order over all is known, image by image."""
    n, sizes = len(labels), np.bincount(labels, minlength=labels.max() + 1)
    share = kept_of_each(sizes, fraction)
    if balance == "class":
        left = share.copy()
    elif balance == "all":
        return set(order[: max(1, num_asked(n, fraction))])
    else:
        left = np.minimum(sizes, np.maximum(1, share // 2))
    kept = set()
    for row in order:
        if left[labels[row]]:
            left[labels[row]] -= 1
            kept.add(row)
    if balance == "floor":
        rest = [row for row in order if row not in kept]
        kept |= set(rest[: max(0, num_asked(n, fraction) - len(kept))])
    return kept


@examples(150)
@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 40), classes=st.integers(1, 5), fraction=st.floats(0.01, 1),
    balance=st.sampled_from(["class", "all", "floor"]), easy=st.booleans(),
)  # fmt: skip
def test_every_balance_keeps_what_its_definition_says(seed, n, classes, fraction, balance, easy):
    rng = np.random.default_rng(seed)
    labels, positions = rng.integers(0, classes, n), np.sort(rng.permutation(3 * n)[:n])
    score = rng.permutation(n).astype(float)
    score[score == n - 1] = np.inf
    config = types.SimpleNamespace(balance=balance, seed=0)
    method = methods.get("el2n_easy" if easy else "el2n")
    (choice,) = choose(method, labels, positions, [(fraction, None)], config, score=score)
    order = np.argsort(score if easy else -score, kind="stable").tolist()
    assert set(np.flatnonzero(choice.kept).tolist()) == plainly(labels, order, fraction, balance)


@pytest.mark.parametrize("balance", ["class", "all", "floor"])
def test_random_subsets_grow_and_their_trials_differ(balance):
    labels, positions = np.repeat([0, 1, 2], [10, 30, 60]), np.arange(100)
    config = types.SimpleNamespace(balance=balance, seed=0)
    asked = [(0.5, 0), (0.2, 0), (0.5, 1)]
    half, fifth, other = (each.kept for each in choose(methods.get("random"), labels, positions, asked, config))
    assert (half.sum(), fifth.sum(), other.sum()) == (50, 20, 50)
    assert half[fifth].all()
    assert (half != other).any()
    if balance == "floor":
        assert np.bincount(labels, fifth).min() >= 1
