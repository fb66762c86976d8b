"""The orders of a class against their definitions, computed the plain way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redundancy.methods import orders
from redundancy.methods.samplers import BINS, ccs


def vectors(n, d=5, seed=0, whole=False):
    rng = np.random.default_rng(seed)
    found = rng.integers(1, 4, (n, d)) if whole else rng.normal(size=(n, d))
    return found.astype(np.float32)


def cosines(embeddings):
    units = embeddings / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return units @ units.T


def naive_k_center(embeddings, k, first):
    away = np.linalg.norm(embeddings[:, None].astype(np.float64) - embeddings[None], axis=2)
    chosen = [first]
    while len(chosen) < k:
        near = away[:, chosen].min(axis=1)
        near[chosen] = -1
        chosen.append(int(near.argmax()))
    return chosen


def naive_herding(embeddings, k):
    values, chosen = embeddings.astype(np.float64), []
    while len(chosen) < k:
        t, total = len(chosen), values[chosen].sum(axis=0)
        errors = np.linalg.norm((t + 1) * values.mean(axis=0) - total - values, axis=1)
        errors[chosen] = np.inf
        chosen.append(int(errors.argmin()))
    return chosen


@given(n=st.integers(1, 40), d=st.integers(1, 6), seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_greedy_orders_are_those_of_naive_greedy(n, d, seed, share):
    embeddings = vectors(n, d, seed)
    k = max(1, int(share * n))
    first = int(np.random.default_rng(seed).integers(n))
    assert orders.k_center(embeddings, k, np.random.default_rng(seed)).tolist() == naive_k_center(embeddings, k, first)
    assert orders.herding(embeddings, k).tolist() == naive_herding(embeddings, k)


@given(n=st.integers(1, 40), seed=st.integers(0, 1000))
def test_every_image_of_facility_location_gains_the_most(n, seed):
    embeddings = vectors(n, 5, seed)
    similarity, nearest = (1 + cosines(embeddings)) / 2, np.zeros(n)
    order = orders.facility_location(embeddings, n).tolist()
    assert sorted(order) == list(range(n))
    for at, row in enumerate(order):
        gains = np.maximum(similarity, nearest).sum(axis=1) - nearest.sum()
        assert gains[row] >= np.delete(gains, order[:at]).max() - 1e-9
        nearest = np.maximum(nearest, similarity[row])


def test_facility_location_of_a_large_class_computes_similarities_when_asked(monkeypatch):
    embeddings = vectors(60)
    whole = orders.facility_location(embeddings, 30)
    monkeypatch.setattr(orders, "_DENSE", 10)
    assert orders.facility_location(embeddings, 30).tolist() == whole.tolist()


@pytest.mark.parametrize(
    "method", [orders.herding, orders.facility_location, orders.semdedup, orders.moderate, orders.prototypes]
)
def test_every_order_is_nested_and_does_not_depend_on_the_order_of_rows(method):
    embeddings = vectors(50)
    whole = method(embeddings, 50)
    assert sorted(whole.tolist()) == list(range(50))
    assert method(embeddings, 20).tolist() == whole[:20].tolist()
    moved = np.random.default_rng(1).permutation(50)
    assert (
        moved[method(embeddings[moved], 10)].tolist() == whole[:10].tolist()
    )  # later, gains may be equal but for rounding


def test_duplicates_come_last_in_k_center_and_semdedup():
    embeddings = np.concatenate([vectors(20), vectors(20)[:7]])
    for order in (orders.k_center(embeddings, 27, np.random.default_rng(0)), orders.semdedup(embeddings, 27)):
        assert len({row if row < 20 else row - 20 for row in order[:20].tolist()}) == 20


def test_semdedup_by_hand():
    """Angles of 0, 10, 50, 130 and 133 degrees: far from the centre come first, and 130 is near 133 but not before it."""
    angles = np.radians([0, 10, 50, 130, 133])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    # The centroid is at about 64 degrees, so the order is 133, 130, 0, 10, 50; nearest before: none, 3, 130, 10, 40 degrees.
    assert orders.semdedup(embeddings, 5).tolist() == [4, 0, 2, 1, 3]
    similar = cosines(embeddings)
    far_first = [4, 3, 0, 1, 2]
    for threshold in (0.5, 0.9, 0.99):
        kept = [
            row for at, row in enumerate(far_first) if all(similar[row, other] <= threshold for other in far_first[:at])
        ]
        assert sorted(orders.semdedup(embeddings, len(kept)).tolist()) == sorted(kept)


def test_nearest_before_in_tiles(monkeypatch):
    units = vectors(70)
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    wanted = np.array([-np.inf, *((units[row] @ units[:row].T).max() for row in range(1, 70))])
    monkeypatch.setattr(orders, "_TILE", 16)
    np.testing.assert_allclose(orders.nearest_before(units), wanted, rtol=1e-5)


def test_herding_takes_the_nearest_not_the_farthest():
    """DeepCore's herding takes argmax; its first image is the one farthest from the mean."""
    embeddings = vectors(100)
    away = np.linalg.norm(embeddings - embeddings.mean(axis=0), axis=1)
    assert orders.herding(embeddings, 1)[0] == away.argmin()
    few = [embeddings[orders.herding(embeddings, 20)], embeddings[np.random.default_rng(0).permutation(100)[:20]]]
    herded, drawn = (np.linalg.norm(each.mean(axis=0) - embeddings.mean(axis=0)) for each in few)
    assert herded < drawn / 3


def test_moderate_keeps_the_middle_not_the_extremes():
    """D2's baseline of this name keeps the images that Moderate drops."""
    embeddings = np.arange(1, 12, dtype=np.float32)[:, None] ** 2
    away = np.abs(embeddings[:, 0] - np.median(embeddings[:, 0]))
    ranks = np.argsort(np.argsort(away, kind="stable"), kind="stable")
    assert sorted(ranks[orders.moderate(embeddings, 5)].tolist()) == [3, 4, 5, 6, 7]


def test_prototypes_and_the_reverse():
    embeddings = vectors(30)
    mean = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).mean(axis=0)
    cosine = embeddings @ mean / np.linalg.norm(embeddings, axis=1)
    assert orders.prototypes(embeddings, 30).tolist() == np.argsort(cosine).tolist()
    assert orders.prototypes_easy(embeddings, 30).tolist() == np.argsort(-cosine).tolist()


def test_ties_of_scores_are_drawn_or_go_to_the_lowest_row():
    score = np.array([1.0, 3.0, 1.0, 1.0, 2.0])
    assert orders.by_score(score).tolist() == [1, 4, 0, 2, 3]
    drawn = {tuple(orders.by_score(score, np.random.default_rng(seed)).tolist()) for seed in range(50)}
    assert {each[:2] for each in drawn} == {(1, 4)}
    assert len(drawn) == 6


def test_ccs_by_hand():
    """Ten images at 0.0 and 0.1 ... after the hardest two are dropped: one bin of six at the low end, two of one each."""
    score = np.array([0, 0, 0, 0, 0, 0, 0.5, 1.0, 7.0, 9.0])
    for seed in range(20):
        kept = ccs(score, 4, 0.2, np.random.default_rng(seed))
        assert kept[6:].tolist() == [True, True, False, False]
        assert kept[:6].sum() == 2
    assert ccs(score, 8, 0.2, np.random.default_rng(0)).sum() == 8
    with pytest.raises(ValueError, match="9 of 10"):
        ccs(score, 9, 0.2, np.random.default_rng(0))


@given(n=st.integers(1, 200), share=st.floats(0.01, 1), seed=st.integers(0, 100), whole=st.booleans())
def test_ccs_keeps_as_many_as_asked_alike_from_all_bins(n, share, seed, whole):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 5, n).astype(float) if whole else rng.normal(size=n)
    k = max(1, int(share * n))
    kept = ccs(score, k, 0.0, np.random.default_rng(seed))
    assert kept.sum() == k
    width = (score.max() - score.min()) / BINS
    number = np.minimum(((score - score.min()) / width).astype(int), BINS - 1) if width else np.zeros(n, int)
    sizes, counts = np.bincount(number), np.bincount(number, kept)
    some = sizes > 0
    partly = some & (counts < sizes)
    if partly.any():  # what is not whole has as many as any other, up to the rounding of what is left
        assert counts.max() - counts[partly].min() <= 1
