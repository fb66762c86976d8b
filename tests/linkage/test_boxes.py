"""Pairs by boxes: those of all blocks, each once, whatever the leaves, the ranges of them and the threads."""

import functools
import os
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from redundancy.linkage import bounds, boxes, dissimilarity, leaves, pairs, panels, walk
from tests.tiers import examples


def _embeddings(kind, n, dimension, seed=0):
    generator = np.random.default_rng(seed)
    normal = generator.normal(size=(n, dimension))
    match kind:
        case "random":
            return normal
        case "clumps":
            return generator.normal(size=(5, dimension))[generator.integers(5, size=n)] + 1e-3 * normal
        case "two clumps":
            return np.where(np.arange(n)[:, None] % 2, 1.0, np.linspace(3, -2, dimension)) + 1e-4 * normal
        case "ties":
            return np.concatenate([generator.integers(0, 3, size=(n, dimension)), np.ones((n, 1))], axis=1)
        case "duplicates":
            return normal[generator.integers(max(1, n // 3), size=n)]
        case "equal":
            return np.repeat(normal[:1], n, axis=0)
        case "a line":
            return np.linspace(1, 2, n)[:, None] * np.linspace(1, 2, dimension) + 1.0
        case "one far":
            return np.where(np.arange(n)[:, None] == n // 2, -1.0, 1 + 1e-5 * normal)
        case "few directions":
            return generator.normal(size=(n, 2)) @ generator.normal(size=(2, dimension))


KINDS = (
    "random", "clumps", "two clumps", "ties", "duplicates", "equal", "a line", "one far", "few directions",
)  # fmt: skip


def _units(kind, n, dimension, seed=0):
    return dissimilarity.units(_embeddings(kind, n, dimension, seed).astype(np.float32))


def _columns(found):
    found = found.ordered()
    return found.i.tolist(), found.j.tolist(), found.dissimilarity.tobytes()


def _threshold(units, share):
    """A value that occurs, below which are about so many of the pairs."""
    everything = pairs.within(units, 2.5).ordered().dissimilarity
    return float(everything[min(int(share * len(everything)), len(everything) - 1)]) if len(everything) else 0.0


@hypothesis.given(
    kind=strategies.sampled_from(KINDS),
    n=strategies.integers(1, 90),
    dimension=strategies.sampled_from([1, 2, 3, 9, 17, 70]),
    seed=strategies.integers(0, 2**32 - 1),
    share=strategies.sampled_from([0.0, 0.01, 0.1, 0.6, 1.0]),
    leaf=strategies.integers(2, 11),
    threads=strategies.integers(1, 3),
)
@examples(300)
def test_the_pairs_are_those_of_all_blocks(kind, n, dimension, seed, share, leaf, threads):
    units = _units(kind, n, dimension, seed)
    threshold = _threshold(units, share)
    made = boxes.make(bounds.centred(units), threads, leaf)
    expected = pairs.within(units, threshold)
    assert _columns(walk.within(units, made, threshold, threads=threads)) == _columns(expected)
    cut = seed % (made.num_leaves + 1)
    parts = [
        walk.within(units, made, threshold, leaf_range=leaf_range, threads=threads)
        for leaf_range in ((0, cut), (cut, made.num_leaves))
    ]
    assert _columns(pairs.concatenate(parts)) == _columns(expected)
    above = threshold / 2
    found = walk.within(units, made, threshold, above=above, threads=threads)
    assert _columns(found) == _columns(pairs.within(units, threshold, above=above))


@pytest.fixture
def few_at_once(monkeypatch):
    """Several dispatches even of a small class."""
    monkeypatch.setattr(panels, "AT_ONCE", 64)


@hypothesis.given(
    kind=strategies.sampled_from(KINDS),
    seed=strategies.integers(0, 2**32 - 1),
    share=strategies.sampled_from([0.0, 0.01, 0.1, 0.6, 1.0]),
    leaf=strategies.integers(2, 11),
)
@examples(30)
def test_a_device_finds_the_same_pairs(few_at_once, kind, seed, share, leaf):
    units = _units(kind, 90, 3, seed)  # of one size, so that the device's program is compiled once
    threshold = _threshold(units, share)
    made = boxes.make(bounds.centred(units), 1, leaf)
    cut = seed % (made.num_leaves + 1)
    ranges = (0, cut), (cut, made.num_leaves)
    parts = [panels.within(units, made, threshold, leaf_range=leaf_range) for leaf_range in ranges]
    assert _columns(pairs.concatenate(parts)) == _columns(pairs.within(units, threshold))
    above = threshold / 2
    found = panels.within(units, made, threshold, above=above)
    assert _columns(found) == _columns(pairs.within(units, threshold, above=above))


@pytest.mark.soak
def test_eight_devices_find_the_same_pairs():
    script = """
import hashlib, jax, numpy as np
from redundancy.linkage import bounds, boxes, dissimilarity, pairs, panels, walk
panels.AT_ONCE, used = 4, {"proposed": set(), "_proposed": set()}
def note(module, name):
    real = getattr(module, name)
    def noted(*arguments):
        used[name].add(arguments[0].devices().pop())
        return real(*arguments)
    setattr(module, name, noted)
generator = np.random.default_rng(0)
units = dissimilarity.units((generator.normal(size=(1500, 3)) @ generator.normal(size=(3, 24))).astype(np.float32))
made = boxes.make(bounds.centred(units), 2)
def digest(found):
    found = found.ordered()
    return hashlib.sha256(found.i.tobytes() + found.j.tobytes() + found.dissimilarity.tobytes()).hexdigest()
expected = digest(pairs.within(units, 1e-3, devices=jax.local_devices()[:1]))
note(panels, "proposed")
note(pairs, "_proposed")
assert digest(panels.within(units, made, 1e-3)) == expected
assert digest(walk.within(units, made, 1e-3, threads=3)) == expected
assert digest(pairs.within(units, 1e-3, size=64)) == expected
assert [len(devices) for devices in used.values()] == [8, 8], used
pairs._CAPACITY = 2  # of more words than that all are sent
assert digest(panels.within(units, made, 1e-3)) == digest(pairs.within(units, 1e-3, size=64)) == expected
"""
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [2, 64, 130])
def test_leaves_as_they_are_used(few_at_once, kind, dimension):
    units = _units(kind, 700, dimension)
    made = boxes.make(bounds.centred(units), 2)
    for threshold in (0.0, _threshold(units, 0.001), _threshold(units, 0.05)):
        expected = _columns(pairs.within(units, threshold))
        assert _columns(walk.within(units, made, threshold, threads=2)) == expected
        assert _columns(panels.within(units, made, threshold)) == expected


@pytest.mark.parametrize(("n", "leaf"), [(1, 2), (2, 2), (5, 2), (128, 128), (129, 128), (1000, 7)])
def test_leaves_hold_each_row_once_and_none_is_empty_or_too_large(n, leaf):
    levels = leaves.num_levels(n, leaf)
    sizes = np.diff(n * np.arange((1 << levels) + 1) >> levels)
    assert 1 <= sizes.min() <= sizes.max() <= leaf
    rows = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    order = leaves.order(rows, leaves.directions(rows), levels, 2)
    assert sorted(order.tolist()) == list(range(n))


def test_the_order_does_not_depend_on_threads():
    rows = bounds.centred(_units("clumps", 3000, 40)).rows
    directions = leaves.directions(rows)
    orders = [leaves.order(rows, directions, 7, threads).tobytes() for threads in (1, 2, 7)]
    assert len(set(orders)) == 1


def test_few_leaves_are_looked_at_where_rows_lie_in_few_directions():
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(20_000, 3)) @ generator.normal(size=(3, 32))
    units = dissimilarity.units(embeddings.astype(np.float32))
    made = boxes.make(bounds.centred(units), 2)
    work = walk.Work()
    found = walk.within(units, made, 1e-4, threads=2, work=work)
    assert 0 < len(found) <= work.proposed < 1.1 * len(found)
    assert work.leaves < 0.05 * made.num_leaves**2 / 2
    assert work.rows < 0.5 * work.leaves * leaves.LEAF**2


@pytest.mark.parametrize("kind", ["random", "one far", "clumps"])
def test_the_bounds_hold_for_every_pair(kind):
    # With nothing to spare for rounding, some pair would lie further apart in the few directions than it may.
    units = _units(kind, 500, 12)
    made = boxes.make(bounds.centred(units), 1)
    everything = pairs.within(units, 2.5)
    place = np.empty(len(units), np.int64)
    place[made.order] = np.arange(len(units))
    one, other = place[everything.i], place[everything.j]
    rows = made.rows.rows.astype(np.float64)
    distance = ((rows[one] - rows[other]) ** 2).sum(axis=1) / 2
    loose = made.rows.loose
    assert (distance > everything.dissimilarity).any()
    assert (distance <= made.rows.widen * everything.dissimilarity + loose[one] + loose[other]).all()


def test_more_pairs_than_there_is_memory_for():
    units = _units("random", 500, 4)
    made = boxes.make(bounds.centred(units), 1)
    for within in (walk.within, panels.within):
        with pytest.raises(pairs.TooManyPairs):
            within(units, made, 2.0, limit=1000)


def test_a_leaf_with_more_pairs_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(walk, "_ROOM", 4)
    units = _units("clumps", 700, 5)
    made = boxes.make(bounds.centred(units), 1)
    assert _columns(walk.within(units, made, 1e-5)) == _columns(pairs.within(units, 1e-5))


@pytest.mark.parametrize("within", [functools.partial(walk.within, threads=2), panels.within], ids=["walk", "panels"])
def test_progress_ends_at_one(within):
    told = []
    units = _units("random", 1500, 4)
    within(units, boxes.make(bounds.centred(units), 1, 8), 0.001, advance=told.append)
    assert told == sorted(told)
    assert told[-1] == 1
