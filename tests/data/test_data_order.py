import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from redundancy.data import order
from tests.tiers import examples


@examples(50)
@given(st.integers(1, 60), st.integers(0, 2**40), st.integers(0, 5), st.data())
def test_epoch_is_the_full_order_filtered(num_stored, seed, epoch, data):
    kept = np.array(sorted(data.draw(st.sets(st.integers(0, num_stored - 1)))), np.int64)
    full = order.epoch_order(num_stored, np.arange(num_stored), (seed, 1), epoch)
    assert sorted(full) == list(range(num_stored))
    found = order.epoch_order(num_stored, kept, (seed, 1), epoch)
    assert found.dtype == np.int64
    assert found.tolist() == [position for position in full if position in set(kept)]


@examples(50)
@given(st.integers(1, 20), st.integers(1, 50), st.integers(0, 9), st.integers(0, 9))
def test_batches_are_the_row_of_epochs_cut_in_pieces(num_kept, batch_size, start, steps):
    kept = np.arange(num_kept) * 3
    row = [order.epoch_order(64, kept, (7,), epoch) for epoch in range(1 + batch_size * 20 // num_kept)]
    whole = np.concatenate(row)[: batch_size * 20].reshape(20, batch_size)
    found = order.batches(64, kept, batch_size, (7,), start, steps)
    assert found.shape == (steps, batch_size)
    assert np.array_equal(found, whole[start : start + steps])


def test_seeds_and_epochs_differ():
    kept = np.arange(100)
    orders = {
        tuple(order.epoch_order(100, kept, seed, epoch)) for seed in ((0,), (1,), (0, 1), (1, 0)) for epoch in (0, 1)
    }
    assert len(orders) == 8


def test_order_stays_the_same_over_versions():
    assert order.epoch_order(8, np.arange(8), (1, 2), 3).tolist() == [7, 0, 5, 6, 1, 3, 2, 4]
