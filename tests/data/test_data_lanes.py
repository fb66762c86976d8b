import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redundancy.data.tfds import lanes
from tests.tiers import examples


def full_order(shards, seed, epoch):
    return lanes.epoch_order(shards, seed, epoch).positions


@examples(60)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(1, 20), st.integers(1, 50), st.integers(0, 9),
    st.integers(0, 2**32), st.data(),
)  # fmt: skip
def test_epochs_are_pieces_of_the_row_and_keep_the_full_sets_order(lengths, window, batch_size, start, seed, data):
    shards = lanes.Shards(tuple(lengths), window)
    num_stored = sum(lengths)
    kept = np.zeros(num_stored, bool)
    kept[sorted(data.draw(st.sets(st.integers(0, num_stored - 1), min_size=1)))] = True
    plan = lanes.Plan(shards, kept, batch_size, (seed, 3))
    steps = start + 1 + 2 * kept.sum() // batch_size
    positions, of_lanes, epochs = plan.steps(0, steps)
    row = positions.reshape(-1)
    for epoch in range(len(row) // kept.sum()):
        full = full_order(shards, (seed, 3), epoch)
        assert np.array_equal(np.sort(full), np.arange(num_stored))
        of_epoch = row[epoch * kept.sum() : (epoch + 1) * kept.sum()]
        assert np.array_equal(np.sort(of_epoch), np.flatnonzero(kept))
        # Batch by batch the same images as the filtered full order; only rows within a batch are sorted.
        wanted = full[kept[full]]
        number = (epoch * kept.sum() + np.arange(kept.sum())) // batch_size
        for step in np.unique(number):
            assert set(of_epoch[number == step]) == set(wanted[number == step])
    late = lanes.Plan(shards, kept, batch_size, (seed, 3), start_step=start)
    assert np.array_equal(late.steps(start, steps - start)[0], positions[start:])
    keys = epochs * 1000 + of_lanes
    assert (np.diff(keys, axis=1) >= 0).all()


@examples(60)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(1, 20), st.integers(1, 12), st.integers(1, 5),
    st.integers(0, 6), st.floats(0.02, 1), st.integers(0, 2**32),
)  # fmt: skip
def test_lanes_read_what_the_rows_of_each_process_want(lengths, window, share, count, start, keep, seed):
    """A model of the reader: runs of records cut in windows, in which the used slots are looked up."""
    shards = lanes.Shards(tuple(lengths), window)
    kept = np.random.default_rng(seed).random(sum(lengths)) < keep
    kept[0] = True
    whole = lanes.Plan(shards, kept, share * count, (seed,), start)
    rows = whole.steps(start, 6)[0]
    for index in range(count):
        plan = lanes.Plan(shards, kept, share * count, (seed,), start, slice(index * share, (index + 1) * share))
        positions, of_lanes, epochs = plan.steps(start, 6)
        assert np.array_equal(positions, rows[:, index * share : (index + 1) * share])
        for epoch in np.unique(epochs):
            for lane in np.unique(of_lanes):
                used = read(plan, shards, lane, epoch)
                wanted = positions[(epochs == epoch) & (of_lanes == lane)]
                assert np.array_equal(used[: len(wanted)], wanted)


def read(plan, shards, lane, epoch):
    reading = plan.lane(lane, epoch)
    slots = [-1] * reading.gap
    for shard, skip, take, wanted in zip(reading.shards, reading.skips, reading.takes, reading.wanted, strict=True):
        first = shards.offsets[shard] + skip
        assert skip + take <= shards.lengths[shard]
        slots += range(first, first + take) if wanted else [-1] * take
    used = []
    for window, (begin, end) in enumerate(zip(reading.splits[:-1], reading.splits[1:], strict=True)):
        records = slots[window * shards.window : (window + 1) * shards.window]
        used += [records[slot] for slot in reading.slots[begin:end]]
    assert used == reading.positions.tolist()
    return np.array(used, np.int64)


def test_batches_mix_shards_and_processes_read_few():
    shards = lanes.make_shards((1250,) * 128, 110_000)
    kept = np.ones(128 * 1250, bool)
    plan = lanes.Plan(shards, kept, 1024, (0,))
    positions, of_lanes, _ = plan.steps(0, 100)
    assert min(len(np.unique(row // 1250)) for row in positions) >= 64
    assert all(len(np.unique(of_lanes[:, i * 256 : (i + 1) * 256])) <= 16 + 2 for i in range(4))
    assert 2 * 64 * shards.window <= lanes.BUFFERED_RECORDS
    assert np.array_equal(plan.steps(0, 100)[0], lanes.Plan(shards, kept, 1024, (0,)).steps(0, 100)[0])
    other = lanes.Plan(shards, kept, 1024, (1,)).steps(0, 100)[0]
    assert np.mean(other == positions) < 0.01


def test_windows_are_short_where_records_are_long():
    assert lanes.make_shards((100,) * 64, 10_000).window == 64
    assert lanes.make_shards((100,) * 64, 10_000_000).window == 8
    assert lanes.make_shards((10_000,), 1000).window == 4096


def test_order_stays_the_same_over_versions():
    order = lanes.epoch_order(lanes.Shards((3, 2, 4), 2), (1, 2), 3)
    assert order.positions.tolist() == [5, 1, 3, 6, 0, 8, 4, 2, 7]
    assert order.lanes.tolist() == [2, 0, 1, 2, 0, 2, 1, 0, 2]


@pytest.mark.parametrize("lengths", [(5,), (1, 1, 1)])
def test_epochs_differ(lengths):
    shards = lanes.Shards(lengths, 4)
    assert len({tuple(full_order(shards, (0,), epoch)) for epoch in range(20)}) > 1
