"""A data set written as .npz is the same data set."""

import numpy as np

from redundancy.config import resolve
from redundancy.data import open_dataset
from redundancy.data.to_npz import to_npz


def test_round_trip(digits_npz, tmp_path):
    path = str(tmp_path / "again.npz")
    to_npz(resolve({"dataset": str(digits_npz)}), path)
    first, second = (open_dataset(resolve({"dataset": name})) for name in (str(digits_npz), path))
    assert first.class_names == second.class_names
    for split in ("train", "test"):
        one, other = getattr(first, split), getattr(second, split)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(first.read(split, one.positions), second.read(split, other.positions))


def test_what_was_held_out_stays_held_out(digits_npz, tmp_path):
    path = str(tmp_path / "held.npz")
    config = resolve({"dataset": str(digits_npz), "test_split": "", "holdout": 0.25})
    to_npz(config, path)
    held, written = open_dataset(config), open_dataset(resolve({"dataset": path}))
    assert len(written.test.labels) == len(held.test.labels) > 300
    np.testing.assert_array_equal(written.read("test", written.test.positions), held.read("test", held.test.positions))
