import subprocess
import sys

import numpy as np
import pytest

from redundancy import config
from redundancy.data import open_dataset, order
from redundancy.runtime.errors import DataError


def make_arrays(n=60, classes=3, shape=(6, 6, 3), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % classes


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    images, labels = make_arrays()
    test_images, test_labels = make_arrays(20, seed=1)
    path = tmp_path_factory.mktemp("npz") / "small.npz"
    np.savez(
        path, train_images=images, train_labels=labels, test_images=test_images, test_labels=test_labels,
        label_names=np.array(["ape", "bee", "cat"]),
    )  # fmt: skip
    return path


def open_npz(path, **fields):
    return open_dataset(config.resolve({"dataset": str(path), **fields}))


@pytest.mark.parametrize("resident_mb", [0, 100])
def test_read_and_stream_agree(path, resident_mb):
    data = open_npz(path, resident_mb=resident_mb)
    images, labels = make_arrays()
    assert data.resident == bool(resident_mb)
    assert data.class_names == ("ape", "bee", "cat")
    assert np.array_equal(data.read("train", np.arange(60)), images)
    assert np.array_equal(data.read("train", [5, 3, 5]), images[[5, 3, 5]])
    assert data.read("train", []).shape == (0, 6, 6, 3)
    kept = np.arange(0, 60, 2)
    wanted = order.batches(60, kept, 16, (3, 1), 0, 6)
    stream = data.stream("train", kept, 16, seed=(3, 1))
    for row, (pictures, found, positions) in zip(wanted, stream, strict=False):
        assert np.array_equal(positions, row)
        assert np.array_equal(pictures, images[row])
        assert np.array_equal(found, labels[row])
        assert (pictures.dtype, found.dtype, positions.dtype) == (np.uint8, np.int32, np.int64)
    late = next(data.stream("train", kept, 16, seed=(3, 1), start_step=4))
    assert np.array_equal(late[2], wanted[4])


@pytest.mark.parametrize("resident_mb", [0, 100])
def test_evaluation_sees_each_image_once(path, resident_mb):
    data = open_npz(path, resident_mb=resident_mb)
    batches = list(data.stream("test", data.test.positions[::-1], 8))
    assert [len(batch[2]) for batch in batches] == [8, 8, 4]
    assert np.array_equal(np.concatenate([batch[2] for batch in batches]), np.arange(20))
    assert list(data.stream("test", [], 8)) == []


def test_positions_outside_the_split(path):
    data = open_npz(path, test_split="", holdout=0.5)
    with pytest.raises(DataError, match="position 60 "):
        data.read("train", [data.train.positions[0], 60])
    with pytest.raises(DataError, match="not in the train split"):
        data.stream("train", data.test.positions, 4)
    with pytest.raises(DataError, match="at least one"):
        data.stream("train", [], 4, seed=(0,))


def test_keras_and_plain_keys(tmp_path):
    images, labels = make_arrays(shape=(6, 6))
    np.savez(tmp_path / "k.npz", x_train=images, y_train=labels[:, None], x_test=images[:9], y_test=labels[:9, None])
    data = open_npz(tmp_path / "k.npz")
    assert data.image_shape == (6, 6, 1)
    assert data.class_names == ("0", "1", "2")
    assert np.array_equal(data.read("test", np.arange(9))[..., 0], images[:9])
    np.savez(tmp_path / "p.npz", images=images, labels=labels.astype(np.uint64))
    plain = open_npz(tmp_path / "p.npz", holdout=0.1)
    assert len(plain.test.positions) == 6
    assert plain.fingerprint["holdout"] == 0.1
    assert plain.fingerprint["sha256"] != data.fingerprint["sha256"]


def test_resizing(path):
    data = open_npz(path, image_size=4)
    assert data.image_shape == (4, 4, 3)
    assert data.read("train", [1, 0]).shape == (2, 4, 4, 3)
    assert data.read("train", np.arange(60)).shape == (60, 4, 4, 3)


def test_needs_no_tensorflow(path):
    program = f"""
import sys
from redundancy import config
from redundancy.data import open_dataset
data = open_dataset(config.resolve({{"dataset": {str(path)!r}}}))
data.read("train", [0, 1])
next(data.stream("train", data.train.positions, 8, seed=(0,)))
assert not [name for name in sys.modules if name.startswith("tensorflow")], "TensorFlow imported"
"""
    subprocess.run([sys.executable, "-c", program], check=True)
