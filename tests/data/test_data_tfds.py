import os
import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets

from redundancy import config
from redundancy.data import dataset, open_dataset
from redundancy.data.tfds import ids as tfds_ids
from redundancy.runtime.errors import ConfigError, DataError

tfds = pytest.importorskip("tensorflow_datasets")


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """60 PNG images of varied size in 3 classes, and 12 without labels."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = {
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "kind": tfds.features.ClassLabel(names=["ape", "bee", "cat"]),
            "id": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(60, True), "test": self._generate_examples(12, False)}

    def _generate_examples(self, count, labelled):
        rng = np.random.default_rng(count)
        for i in range(count):
            shape = (int(rng.integers(8, 20)), int(rng.integers(8, 20)), 3)
            label = i % 3 if labelled else -1
            yield i, {"picture": rng.integers(0, 256, shape, np.uint8), "kind": label, "id": str(i)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Holds tiny_pictures, in 4 shards."""
    folder = tmp_path_factory.mktemp("tfds")
    TinyPictures(data_dir=folder).download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=4))
    return str(folder)


def open_tiny(data_dir, **fields):
    fields = {"test_split": "", "image_size": 8, **fields}
    return open_dataset(config.resolve({"dataset": "tiny_pictures", "data_dir": data_dir, **fields}))


@pytest.fixture(scope="module")
def resident(data_dir):
    return open_tiny(data_dir)


@pytest.fixture(scope="module")
def streaming(data_dir):
    return open_tiny(data_dir, resident_mb=0)


def stored(data_dir, split):
    """The examples in their order, by TFDS itself."""
    read_config = tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1)
    return list(tfds.as_numpy(TinyPictures(data_dir=data_dir).as_dataset(split=split, read_config=read_config)))


def test_positions_are_places_in_stored_order(data_dir, resident):
    examples = stored(data_dir, "train")
    lengths = resident.fingerprint["shard_lengths"]
    assert len(lengths) == 4
    first = {f"-{shard:05d}-of-00004": sum(lengths[:shard]) for shard in range(4)}
    for position, example in enumerate(examples):
        file, index = example["tfds_id"].decode().split("__")
        assert first[file[file.index("-0") :]] + int(index) == position
    labels = {
        p: n for part in (resident.train, resident.test) for p, n in zip(part.positions, part.labels, strict=True)
    }
    assert [labels[p] for p in range(60)] == [example["kind"] for example in examples]


def test_read_decodes_the_same_pixels_always(resident, streaming):
    assert (resident.resident, streaming.resident) == (True, False)
    positions = resident.train.positions
    whole = resident.read("train", positions)
    assert np.array_equal(streaming.read("train", positions), whole)
    assert np.array_equal(streaming.read("train", positions[[9, 2, 9]]), whole[[9, 2, 9]])
    assert streaming.read("train", []).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("every", [1, 3])
def test_evaluation_sees_each_position_once(resident, streaming, every):
    for data in (resident, streaming):
        kept = data.train.positions[::every]
        batches = list(data.stream("train", kept, 7))
        assert np.array_equal(np.concatenate([batch[2] for batch in batches]), kept)
        for pictures, labels, positions in batches:
            assert np.array_equal(pictures, resident.read("train", positions))
            assert np.array_equal(labels, data.train.labels[np.searchsorted(data.train.positions, positions)])
        late = next(data.stream("train", kept, 7, start_step=1))
        assert np.array_equal(late[2], kept[7:14])


@pytest.mark.parametrize("every", [1, 16])
def test_training_stream(resident, streaming, every):
    kept = streaming.train.positions[::every]
    stream = streaming.stream("train", kept, 7, seed=(3, 4))
    batches = [next(stream) for _ in range(14)]
    row = np.concatenate([batch[2] for batch in batches])
    epochs = [row[i : i + len(kept)] for i in range(0, len(row) - len(kept) + 1, len(kept))]
    assert all(np.array_equal(np.sort(epoch), kept) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert all(batch[0].shape == (7, 8, 8, 3) for batch in batches)
    assert np.array_equal(batches[5][0], resident.read("train", batches[5][2]))
    for start in (1, 9):
        late = next(streaming.stream("train", kept, 7, seed=(3, 4), start_step=start))
        assert np.array_equal(late[2], batches[start][2])
        assert np.array_equal(late[0], batches[start][0])
    if every == 1:
        assert not np.array_equal(next(streaming.stream("train", kept, 7, seed=(3, 5)))[2], batches[0][2])


def test_slices_and_prepared_folder(data_dir):
    half = open_tiny(data_dir, train_split="train[:50%]")
    assert half.train.num_stored == 30
    sliced = open_tiny(data_dir, train_split="train[50%:]", test_split="train[:50%]")
    whole = open_tiny(data_dir)
    positions = np.intersect1d(whole.train.positions, np.arange(30, 60))
    assert np.array_equal(sliced.read("train", positions - 30), whole.read("train", positions))
    folder = open_dataset(
        config.resolve({"dataset": f"{data_dir}/tiny_pictures", "image_size": 8, "test_split": "", "holdout": 0.2})
    )
    assert folder.fingerprint == whole.fingerprint


def test_wrong_fields(data_dir):
    with pytest.raises(ConfigError, match=r'train_split.*Did you mean "train"'):
        open_tiny(data_dir, train_split="trian")
    with pytest.raises(ConfigError, match="image_size"):
        open_tiny(data_dir, image_size=0)
    with pytest.raises(DataError, match=r"no labels.*config\.test_split"):
        open_tiny(data_dir, test_split="auto")
    with pytest.raises(ConfigError, match='Did you mean "cifar10"'):
        open_tiny(data_dir, dataset="cifar01")
    with pytest.raises(ConfigError, match='Did you mean "digits"'):
        open_tiny(data_dir, dataset="digit")
    with pytest.raises(ConfigError, match=r"9\.9\.9"):
        open_tiny(data_dir, dataset="cifar10:9.9.9")


def test_failed_preparation_says_what_to_do(data_dir, monkeypatch):
    def fail(self, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(DataError, match=r"no network.*config\.data_dir"):
        open_tiny(data_dir, dataset="mnist")


def test_damaged_records(tmp_path):
    TinyPictures(data_dir=tmp_path).download_and_prepare()
    (file,) = tmp_path.glob("*/*/*train.tfrecord*")
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(DataError, match="tiny_pictures"):
        open_tiny(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("dataset_info.json", None, "", "cannot be opened as a prepared TFDS data set"),
        ("dataset_info.json", '"60"', '"99999999999999"', r"labels of the split 'train' would take .* of memory"),
        ("dataset_info.json", '"60"', '"61"', "60 examples of the split 'train' could be read; wanted 61"),
        ("dataset_info.json", "{DATASET}", "../{DATASET}", "cannot be read .*Prepare the data set again"),
        ("features.json", None, "{}", "cannot be opened as a prepared TFDS data set"),
        ("features.json", "tensorflow_datasets.core.features.text_feature.Text", "ran.X", "'ran.X' is not one of TFDS's own"),
        ("kind.labels.txt", None, "a\nb\x1b\nc", r"the class name 'b\\x1b' holds control characters"),
        ("tiny_pictures-train.tfrecord-00000-of-00001", None, None, "is a pipe, not a file"),
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_prepared_set(tmp_path, monkeypatch, file, old, new, said):
    TinyPictures(data_dir=tmp_path).download_and_prepare()
    (tmp_path / "ran.py").write_text("raise SystemExit('code out of data')")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "tiny_pictures" / "1.2.0" / file
    if new is None:
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_text(new if old is None else path.read_text().replace(old, new))
    with pytest.raises(DataError, match=said):
        open_tiny("", dataset=str(path.parent))
    assert "ran" not in sys.modules


@pytest.mark.soak
def test_digits_are_scikit_learns(tmp_path):
    program = f"""
from redundancy import config
from redundancy.data import open_dataset
print(len(open_dataset(config.resolve({{"data_dir": {str(tmp_path)!r}}})).train.labels))
"""
    # Two at once: neither may see or leave half a data set.
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].split()[-1] for process in both] == ["1347", "1347"]
    data = open_dataset(config.resolve({"data_dir": str(tmp_path)}))
    bundled = sklearn.datasets.load_digits()
    images = np.rint(bundled.images * 255 / 16).astype(np.uint8)[..., None]
    assert np.array_equal(data.read("train", np.arange(1347)), images[:1347])
    assert np.array_equal(data.read("test", np.arange(450)), images[1347:])
    assert np.array_equal(np.concatenate([data.train.labels, data.test.labels]), bundled.target)
    assert data.image_shape == (8, 8, 1)
    assert (data.fingerprint["name"], data.fingerprint["version"]) == ("digits", "1.0.0")


@pytest.mark.soak
def test_digits_open_where_the_home_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()  # no folder can be made in it, not even by root
    (tmp_path / "temporary").mkdir()
    program = f"""
from absl import logging
from redundancy import config
from redundancy.data import open_dataset
logging.set_verbosity(logging.INFO)
for data_dir in ({{}}, {{}}, {{"data_dir": {str(tmp_path / "file" / "data")!r}}}):
    print(len(open_dataset(config.resolve(data_dir)).train.labels))
"""
    env = {**os.environ, "HOME": str(tmp_path / "file" / "home"), "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split().count("1347") == 2, done.stderr
    place = f"{tmp_path}/temporary/redundancy-{os.getuid()}/tensorflow_datasets"
    assert done.stderr.count(f"the digits go to {place}") == 2
    assert "set config.data_dir to where it is" in done.stderr, "a folder that the user names is not replaced"


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("train", "test", False),
        ("train", "train", True),
        ("train[:50%]", "train[50%:]", False),
        ("train[:60%]", "train[50%:]", True),
        ("train+test", "test", True),
        ("all", "train[:1]", True),
    ],
)
def test_splits_that_share_images_are_seen(data_dir, first, second, shared):
    from redundancy.data.tfds import source as tfds_source

    builder = TinyPictures(data_dir=data_dir)
    parts = (tfds_source._stored(builder, name) for name in (first, second))
    assert next(parts).overlaps(next(parts)) == shared


def test_an_empty_slice_is_told(data_dir):
    with pytest.raises((ConfigError, DataError), match="train"):
        open_tiny(data_dir, train_split="train[:0%]")


@pytest.mark.parametrize("split", ["train", "train[30%:80%]", "train[:10]+train[12:50]", "train[40:]"])
def test_the_fingerprint_tells_tfds_ids(data_dir, split):
    data = open_tiny(data_dir, train_split=split)
    ids = [example["tfds_id"].decode() for example in stored(data_dir, split)]
    assert tfds_ids.example_ids(data.fingerprint, np.arange(len(ids))) == ids
    positions = np.arange(len(ids))[::-3]
    assert tfds_ids.example_ids(data.fingerprint, positions) == [ids[position] for position in positions]


def test_files_are_described_in_few_words():
    def shards(count, *skipped):
        return [f"/data/x-train.tfrecord-{n:05d}-of-{count:05d}" for n in range(count) if n not in skipped]

    assert tfds_ids.describe_files(shards(1024), [0] * 1024) == [["x-train.tfrecord-00000-of-01024", 0, 1024]]
    assert tfds_ids.describe_files(shards(4, 1), [7, 0, 0]) == [
        ["x-train.tfrecord-00000-of-00004", 7, 1],
        ["x-train.tfrecord-00002-of-00004", 0, 2],
    ]
    assert tfds_ids.describe_files(["/a/x", "/b/x"], [0, 0]) == []


def test_the_fingerprint_holds_a_checksum_of_the_labels(resident, streaming):
    found = resident.fingerprint["labels_sha256"]
    assert found == streaming.fingerprint["labels_sha256"] == dataset.labels_sha256(resident.train.labels.astype(int))
    assert found != dataset.labels_sha256(resident.train.labels[::-1])
