"""The choice between boxes and all blocks: made where it pays, and no pair, merge or part depends on it."""

import dataclasses
import hashlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from oracle import assert_same

from redundancy.linkage import complete, dissimilarity, leaves, near, pairs
from redundancy.linkage.near import Near
from redundancy.runtime.errors import DataError
from tests.tiers import examples


@pytest.fixture
def small(monkeypatch):
    """Boxes are tried for classes of any size."""
    monkeypatch.setattr(near, "LEAST", 2)


def _few_directions(n, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(n, 3)) @ generator.normal(size=(3, 24))).astype(np.float32)


def _all_directions(n):
    return np.random.default_rng(0).normal(size=(n, 64)).astype(np.float32)


def _columns(found):
    found = found.ordered()
    return found.i.tolist(), found.j.tolist(), found.dissimilarity.tobytes()


def test_boxes_are_chosen_where_rows_lie_in_few_directions():
    search = Near(dissimilarity.units(_few_directions(20_000)))
    assert search.plan(1e-4).order
    assert not search.plan(2.5).order  # all pairs


def test_blocks_are_chosen_where_boxes_keep_nothing_apart(small):
    assert not Near(dissimilarity.units(_all_directions(4000))).plan(0.4).order


def test_small_classes_are_not_tried(monkeypatch):
    monkeypatch.delattr(near.boxes, "make")
    assert not Near(dissimilarity.units(_few_directions(5000))).plan(1e-4).order


@pytest.mark.parametrize("by_boxes", [False, True])
@pytest.mark.parametrize("num_parts", [1, 3, 50])
def test_parts_add_up(small, by_boxes, num_parts):
    units = dissimilarity.units(_few_directions(3000))
    search = Near(units)
    plan = search.plan(1e-4)
    assert plan.order
    plan = plan if by_boxes else dataclasses.replace(plan, order="")
    # Each by another worker.
    parts = [Near(units).within(1e-4, part=(part, num_parts), plan=plan) for part in range(num_parts)]
    assert _columns(pairs.concatenate(parts)) == _columns(pairs.within(units, 1e-4))


def test_a_worker_with_another_order_is_refused(small):
    units = dissimilarity.units(_few_directions(3000))
    plan = dataclasses.replace(Near(units).plan(1e-4), order="of another machine")
    with pytest.raises(DataError, match="another order"):
        Near(units).within(1e-4, plan=plan)


@hypothesis.given(
    n=strategies.integers(2, 120),
    dimension=strategies.integers(1, 6),
    seed=strategies.integers(0, 2**32 - 1),
    kind=strategies.sampled_from(["distinct", "ties", "duplicates", "tight"]),
    share=strategies.floats(0, 1),
)
@examples(100)
def test_merges_are_the_same_either_way(n, dimension, seed, kind, share):
    generator = np.random.default_rng(seed)
    normal = generator.normal(size=(n, dimension))
    embeddings = {
        "distinct": normal,
        "ties": np.concatenate([generator.integers(0, 3, size=(n, dimension)), np.ones((n, 1))], axis=1),
        "duplicates": normal[generator.integers(max(1, n // 2), size=n)],
        "tight": 1 + 1e-4 * normal,
    }[kind].astype(np.float32)
    num_merges = 1 + int(share * (n - 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(complete, "SMALL", 0)
        patch.setattr(complete, "dense_is_quicker", lambda *sizes: False)
        patch.setattr(complete, "_MOST_PAIRS", 50)  # several thresholds
        expected = complete.complete_linkage(embeddings, num_merges)
        patch.setattr(near, "LEAST", 2)
        patch.setattr(near.walk, "nanoseconds", lambda *arguments: 0.0)
        patch.delattr(near.pairs, "within")
        make = near.boxes.make
        patch.setattr(near.boxes, "make", lambda rows, threads: make(rows, threads, 2 + seed % 7))
        found = complete.complete_linkage(embeddings, num_merges)
    assert len(found) == num_merges
    assert_same(found, expected)


def test_the_order_of_the_leaves_is_the_same_on_every_processor():
    # Workers share it: sums that are fused, or taken in another order, would give another one.
    generator = np.random.default_rng(0)
    rows = generator.integers(-500, 500, size=(3000, 40)) * np.arange(41, 1, -1)
    rows = np.float32(2.0**-15) * rows.astype(np.float32)
    found = leaves.directions(rows)
    assert hashlib.sha256(found.astype("<f4").tobytes()).hexdigest()[:16] == "c153a8cf8ad011b8"
    order = leaves.order(rows, found, 5, 2)
    assert hashlib.sha256(order.astype("<i4").tobytes()).hexdigest()[:16] == "3baa519e8e3e54d8"
