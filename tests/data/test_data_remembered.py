"""What is remembered of a data set is used while its files stay as they are, and never after."""

import itertools
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from redundancy import config, storage
from redundancy.data import images, open_dataset, remembered
from redundancy.runtime.errors import DataError

tfds = pytest.importorskip("tensorflow_datasets")


def settle(folder):
    """Makes all files an hour old."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)


def opened(data_dir, **fields):
    return open_dataset(config.resolve({"data_dir": str(data_dir), **fields}))


def other_labels(path):
    """Writes other labels into a file of records, whose size stays."""
    from redundancy.data.tfds.quiet import tf

    records = [tf.train.Example.FromString(each.numpy()) for each in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            value = record.features.feature["label"].int64_list.value
            value[0] = 9 - value[0]
            writer.write(record.SerializeToString())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    opened(folder)
    settle(folder)
    return folder


@pytest.fixture
def data_dir(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "data")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "redundancy"


@pytest.fixture
def reads(monkeypatch):
    """Grows with each split that is read."""
    from redundancy.data.tfds import stream as tfds_stream

    seen, unpatched = [], tfds_stream.in_order
    monkeypatch.setattr(tfds_stream, "in_order", lambda *given: seen.append(given) or unpatched(*given))
    return seen


def records(data_dir):
    return next(data_dir.rglob("*train.tfrecord*"))


def test_labels_are_read_once(data_dir, cache, reads):
    first = opened(data_dir)
    assert len(reads) == 2
    again = opened(data_dir)
    assert len(reads) == 2
    assert again.fingerprint == first.fingerprint
    for one, other in ((first.train, again.train), (first.test, again.test)):
        assert np.array_equal(one.labels, other.labels)
    half = opened(data_dir, train_split="train[:50%]")
    assert len(reads) == 3
    assert np.array_equal(half.train.labels, first.train.labels[: len(half.train.labels)])


@pytest.mark.parametrize("same_time", [True, False])
def test_labels_of_changed_files_are_read_anew(data_dir, cache, reads, same_time):
    first, path = opened(data_dir), records(data_dir)
    before = path.stat()
    other_labels(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (0 if same_time else 1_000_000)))
    assert path.stat().st_size == before.st_size
    for expected in (3, 3):
        assert np.array_equal(opened(data_dir).train.labels, 9 - first.train.labels)
        assert len(reads) == expected
    assert len(list(cache.iterdir())) == 2


def test_a_truncated_file_is_found_though_its_labels_are_known(data_dir, cache):
    opened(data_dir)
    path = records(data_dir)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="digits"):
        opened(data_dir)


def test_files_that_changed_a_moment_ago_are_not_remembered(data_dir, cache, reads):
    os.utime(records(data_dir))
    for expected in (2, 3):
        opened(data_dir)
        assert len(reads) == expected  # of the test split, whose file is old, once


def test_files_that_change_while_they_are_read_are_not_remembered(data_dir, cache, reads, monkeypatch):
    from redundancy.data.tfds import source as tfds_source

    path, unpatched = records(data_dir), tfds_source._read_labels

    def read_while_written(builder, name, stored, label_key):
        labels = unpatched(builder, name, stored, label_key)
        if name == "train":
            other_labels(path)
            os.utime(path, (1e9, 1e9))
        return labels

    monkeypatch.setattr(tfds_source, "_read_labels", read_while_written)
    first = opened(data_dir)
    monkeypatch.setattr(tfds_source, "_read_labels", unpatched)
    assert np.array_equal(opened(data_dir).train.labels, 9 - first.train.labels)
    assert len(reads) == 3


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "longer", "exchanged", "folder"])
def test_a_damaged_or_foreign_cache_is_not_used(data_dir, cache, reads, damage):
    first = opened(data_dir)
    paths = sorted(cache.iterdir())
    whole = [path.read_bytes() for path in paths]
    for path, data, other in zip(paths, whole, reversed(whole), strict=True):
        path.unlink()
        if damage == "folder":
            path.mkdir()
            continue
        wrong = {
            "empty": b"", "truncated": data[:-8], "flipped": bytes([*data[:100], data[100] ^ 1, *data[101:]]),
            "longer": data + bytes(8), "exchanged": other,
        }  # fmt: skip
        path.write_bytes(wrong[damage])
    again = opened(data_dir)
    assert len(reads) == 4
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.train.labels, first.train.labels)
    if damage != "folder":
        assert [path.read_bytes() for path in paths] == whole
        opened(data_dir)
        assert len(reads) == 4


def test_without_a_cache_folder_all_goes_on(data_dir, tmp_path, monkeypatch, reads, caplog):
    first = opened(data_dir)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made in it, not even by root
    monkeypatch.setattr(remembered.logging, "_log_counter_per_token", {})
    with caplog.at_level("INFO", logger="absl"):
        for _ in range(2):
            assert opened(data_dir).fingerprint == first.fingerprint
    assert len(reads) == 6
    assert sum("cannot be written" in record.getMessage() for record in caplog.records) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert opened(data_dir).fingerprint == first.fingerprint
    assert len(reads) == 8
    assert not os.path.exists("relative")


def test_nothing_is_remembered_where_files_cannot_be_told_apart(data_dir, cache, reads, monkeypatch):
    def fail(files):
        raise RuntimeError("no credentials")

    for stamps in (fail, lambda files: None):
        monkeypatch.setattr(storage, "stamps", stamps)
        opened(data_dir)
    assert len(reads) == 4
    assert not cache.exists()


def test_image_files_are_checked_once(tmp_path, cache, monkeypatch):
    root = tmp_path / "pets"
    for name, number in itertools.product(("ape", "cat"), range(3)):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 7, 3), number * 20, np.uint8)).save(root / name / f"{number}.png")
    settle(root)
    checked, unpatched = [], images.check
    monkeypatch.setattr(images, "check", lambda path: checked.append(path) or unpatched(path))
    for _ in range(2):
        assert open_dataset(config.resolve({"dataset": str(root)})).image_shape == (9, 7, 3)
        assert len(checked) == 6
    damaged = root / "cat" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    for _ in range(2):
        with pytest.raises(DataError, match=r"cat/1\.png"):
            open_dataset(config.resolve({"dataset": str(root)}))
