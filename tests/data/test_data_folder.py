import logging
import pathlib

import numpy as np
import pytest
from PIL import Image

from redundancy import config
from redundancy.data import open_dataset
from redundancy.errors import ConfigError, DataError

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"


def write(path, size=(12, 10), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3)
    image = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(image).convert(mode).save(path)


def open_images(path, **fields):
    return open_dataset(config.resolve({"dataset": str(path), **fields}))


@pytest.fixture
def tree(tmp_path):
    """Two splits, two classes, three images each of one size."""
    for split in ("train", "val"):
        for name in ("cat", "ape"):
            for i in range(3):
                write(tmp_path / "pets" / split / name / f"{i}.png", seed=i)
    return tmp_path / "pets"


def test_layout_with_splits(tree):
    data = open_images(tree)
    assert data.class_names == ("ape", "cat")
    assert (data.train.stored, data.test.stored) == ("train", "val")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.image_shape == (10, 12, 3)
    expected = np.asarray(Image.open(tree / "train" / "cat" / "1.png"))
    assert np.array_equal(data.read("train", [4])[0], expected)


def test_layout_without_splits(tree):
    data = open_images(tree / "train", holdout=0.34)
    assert data.fingerprint["name"] == "train"
    assert data.fingerprint["shard_lengths"] == [6]
    assert len(data.test.positions) == 2


def test_streamed_equals_resident(tree):
    resident, streaming = open_images(tree, image_size=8), open_images(tree, image_size=8, resident_mb=0)
    assert (resident.resident, streaming.resident) == (True, False)
    one, other = (data.stream("train", [0, 2, 3, 5], 3, seed=(1,), start_step=2) for data in (resident, streaming))
    for _ in range(4):
        for first, second in zip(next(one), next(other), strict=True):
            assert np.array_equal(first, second)


def test_varied_sizes_need_image_size(tree):
    write(tree / "train" / "ape" / "wide.JPEG", (300, 40))
    write(tree / "train" / "ape" / "grey.bmp", (20, 30), mode="L")
    write(tree / "train" / "ape" / "animation.gif", (20, 30), mode="P")
    with pytest.raises(ConfigError, match=r"image_size.*differ"):
        open_images(tree)
    data = open_images(tree, image_size=16)
    assert data.read("train", data.train.positions).shape == (9, 16, 16, 3)


def test_corrupt_files_are_named_in_one_error(tree):
    write(tree / "train" / "ape" / "cut.jpg", (200, 200))
    whole = (tree / "train" / "ape" / "cut.jpg").read_bytes()
    (tree / "train" / "ape" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tree / "train" / "cat" / "empty.png").touch()
    (tree / "val" / "cat" / "words.jpg").write_text("no image")
    with pytest.raises(DataError, match="3 of 15") as error:
        open_images(tree)
    assert all(name in str(error.value) for name in ("cut.jpg", "empty.png", "words.jpg"))
    for i in range(20):
        (tree / "train" / "cat" / f"empty{i}.png").touch()
    with pytest.raises(DataError, match="and 13 more"):
        open_images(tree)


def test_file_that_goes_bad_later_is_named(tree):
    data = open_images(tree, resident_mb=0)
    (tree / "train" / "ape" / "2.png").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"2\.png"):
        list(data.stream("train", data.train.positions, 4))


def test_empty_and_extra_classes(tree):
    (tree / "val" / "dog").mkdir()
    with pytest.raises(DataError, match="'dog' is not in the train split"):
        open_images(tree)
    (tree / "val" / "dog").rename(tree / "train" / "dog")
    with pytest.raises(DataError, match="dog: no image"):
        open_images(tree)


def test_other_files_are_ignored_with_a_warning(tree, caplog):
    (tree / "train" / "ape" / "notes.txt").write_text("x")
    with caplog.at_level(logging.WARNING, "absl"):
        data = open_images(tree)
    assert len(data.train.positions) == 6
    assert "1 files" in caplog.text
    assert "notes.txt" in caplog.text


def test_fingerprint_follows_files_not_place(tree):
    before = open_images(tree).fingerprint
    moved = tree.parent / "elsewhere"
    moved.mkdir()
    tree.rename(moved / "pets")
    assert open_images(moved / "pets").fingerprint == before
    write(moved / "pets" / "train" / "ape" / "more.png")
    assert open_images(moved / "pets").fingerprint != before


def test_no_folders(tmp_path):
    with pytest.raises(DataError, match="no folders"):
        open_images(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        open_images(tmp_path / "none")
    with pytest.raises(ConfigError, match="no such folder"):
        open_images("./photos")


@pytest.mark.skipif(not (SHARED / "data" / "photos.tar").exists(), reason="no photos.tar")
def test_photographs(tmp_path):
    import tarfile

    with tarfile.open(SHARED / "data" / "photos.tar") as tar:
        members = [m for m in tar.getmembers() if m.name.startswith("imagenette/") and m.isfile()]
        tar.extractall(tmp_path, members[::10], filter="data")
    data = open_images(tmp_path / "imagenette", image_size=32)
    assert len(data.class_names) == 10
    pictures = data.read("train", data.train.positions)
    assert pictures.shape[1:] == (32, 32, 3)
    assert 60 < pictures.mean() < 180
