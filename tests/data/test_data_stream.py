"""Streams of JPEG data sets: the same images whatever the number of processes, and the right pixels."""

import io
import itertools
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from redundancy import config
from redundancy.data import open_dataset
from redundancy.data.crops import RandomResizedCrop
from redundancy.data.tfds import lanes
from redundancy.runtime.errors import ConfigError, DataError
from tests.tiers import soaked

tfds = pytest.importorskip("tensorflow_datasets")
COUNT, SIZE = 90, 16
CROP = RandomResizedCrop((0.1, 1.0), (0.6, 1.6))


def encoded(number: int) -> bytes:
    """A smooth image of a size of its own; most are JPEG, some of them grey, some PNG."""
    rng = np.random.default_rng(number)
    size = tuple(int(side) for side in rng.integers(12, 200, 2))
    coarse = rng.integers(60, 196, (size[1] // 20 + 2, size[0] // 20 + 2, 3), np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    if number % 9 == 4:
        image.save(buffer, "PNG")
    else:
        image.convert("L" if number % 9 == 2 else "RGB").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


class Photos(tfds.core.GeneratorBasedBuilder):
    """Encoded images, stored in the order of their numbers."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=3),
            "number": np.int64,
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(COUNT):
            yield i, {"image": io.BytesIO(encoded(i)), "label": i % 3, "number": i}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    Photos(data_dir=folder).download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=7))
    return open_photos(f"{folder}/photos/1.0.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder") / "photos"
    for i in range(COUNT):
        (root / str(i % 3)).mkdir(parents=True, exist_ok=True)
        (root / str(i % 3) / f"{i:03d}.jpg").write_bytes(encoded(i))
    return open_photos(root)


def open_photos(path, **fields):
    fields = {"image_size": SIZE, "test_split": "", "augmentation": "resized_crop_flip", **fields}
    return open_dataset(config.resolve({"dataset": str(path), **fields}))


def number_of(data, position):
    """Of the image at a position: the folder's go by class, and the TFDS set's as they were written."""
    return (
        int(position) if data.name == "photos" and "version" in data.fingerprint else position % 30 * 3 + position // 30
    )


@pytest.fixture
def random_access_is(monkeypatch):
    """Makes files of records seem to have random access or not."""
    from redundancy.data.tfds import stream

    return lambda value: monkeypatch.setattr(stream, "random_access", lambda builder: value)


def resized(image, window=None):
    """A part of an image, as integers: by default the whole, at the size of the data set."""
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, window), int)


def take(data, count, kept, batch_size, **fields):
    return list(itertools.islice(data.stream("train", kept, batch_size, seed=(5, 1), **fields), count))


def side_by_side(streams):
    return [tuple(np.concatenate(parts) for parts in zip(*step, strict=True)) for step in zip(*streams, strict=True)]


def same(first, second):
    return all(
        np.array_equal(one, other) for a, b in zip(first, second, strict=True) for one, other in zip(a, b, strict=True)
    )


@pytest.mark.parametrize(("kind", "count"), [("photos", 3), ("folder", 2), ("folder", 5)])
@pytest.mark.soak
def test_processes_side_by_side_are_one(kind, count, request):
    data = request.getfixturevalue(kind)
    assert not data.resident
    kept = data.train.positions[::2]
    whole = take(data, 4, kept, 30, crop=CROP)
    parts = [take(data, 4, kept, 30, crop=CROP, shard=(index, count)) for index in range(count)]
    assert all(len(step[2]) == 30 // count for part in parts for step in part)
    assert same(side_by_side(parts), whole)
    late = take(data, 2, kept, 30, crop=CROP, shard=(count - 1, count), start_step=2)
    assert same(late, parts[-1][2:])


@pytest.mark.parametrize("kind", ["photos", "folder"])
@pytest.mark.parametrize("count", [4, *soaked(1)])
def test_evaluation_by_processes(kind, count, request):
    data = request.getfixturevalue(kind)
    kept = data.train.positions[:37]
    parts = [list(data.stream("train", kept, 12, shard=(index, count))) for index in range(count)]
    assert {len(part) for part in parts} == {4}
    assert all(len(image) == len(position) for part in parts for image, _, position in part)
    steps = side_by_side(parts)
    assert [len(step[2]) for step in steps] == [12, 12, 12, 1]
    assert np.array_equal(np.concatenate([step[2] for step in steps]), kept)
    assert np.array_equal(np.concatenate([step[0] for step in steps]), data.read("train", kept))


@pytest.mark.parametrize("kind", ["photos", "folder"])
@pytest.mark.parametrize("count", [3, *soaked(1, 2, 4, 5)])
@pytest.mark.soak
def test_evaluation_by_processes_of_neighbouring_positions(kind, count, request, random_access_is):
    data, batch = request.getfixturevalue(kind), 3 * count
    random_access_is(False)
    for kept in (data.train.positions[:1], data.train.positions[: batch + 1], data.train.positions[:74:2]):
        shards = [(index, count) for index in range(count)]
        parts = [list(data.stream("train", kept, batch, shard=shard, runs=True)) for shard in shards]
        assert {len(part) for part in parts} == {-(-len(kept) // batch)}
        assert all(len(image) == len(position) <= 3 for part in parts for image, _, position in part)
        one_by_one = [step for part in parts for step in part]
        images, labels, positions = (np.concatenate(column) for column in zip(*one_by_one, strict=True))
        assert np.array_equal(positions, kept)
        assert np.array_equal(images, data.read("train", kept))
        assert np.array_equal(labels, data.train.labels[np.searchsorted(data.train.positions, kept)])
    late = list(data.stream("train", kept, batch, shard=shards[-1], runs=True, start_step=1))
    assert same(late, parts[-1][1:])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_process_needs_the_files_of_its_neighbouring_positions_alone(photos, tmp_path, random_access_is, count):
    random_access_is(False)
    root = shutil.copytree(photos._builder.data_path, tmp_path / "photos" / "1.0.0")
    data, wanted = open_photos(root), photos.train.positions
    files = [pathlib.Path(file) for file in data._stored["train"].files]
    ends = np.cumsum(data._stored["train"].takes)
    for index in range(count):
        own = wanted[index * len(wanted) // count : (index + 1) * len(wanted) // count]
        needed = set(np.searchsorted(ends, own, side="right"))
        assert len(needed) <= len(files) / count + 2
        others = [file for number, file in enumerate(files) if number not in needed]
        for file in others:
            file.rename(f"{file}.away")
        steps = list(data.stream("train", wanted, 4 * count, shard=(index, count), runs=True))
        assert np.array_equal(np.concatenate([step[2] for step in steps]), own)
        for file in others:
            pathlib.Path(f"{file}.away").rename(file)


def test_a_batch_must_divide(photos):
    with pytest.raises(ConfigError, match="multiples of 3"):
        photos.stream("train", [0], 32, seed=(0,), shard=(0, 3))
    with pytest.raises(ValueError, match="without a seed"):
        photos.stream("train", [0], 32, crop=CROP)
    with pytest.raises(ValueError, match="with a seed"):
        photos.stream("train", [0], 32, seed=(0,), runs=True)


@pytest.mark.parametrize("kind", ["photos", "folder"])
def test_random_crops_are_cut_from_the_whole_image(kind, request):
    data = request.getfixturevalue(kind)
    kept = data.train.positions
    epoch_of = np.arange(0, 4 * 36).reshape(4, 36) // len(kept)
    seen = {}
    for (images, _, positions), epochs in zip(take(data, 4, kept, 36, crop=CROP), epoch_of, strict=True):
        for image, position, epoch in zip(images, positions, epochs, strict=True):
            whole = Image.open(io.BytesIO(encoded(number_of(data, position)))).convert("RGB")
            draws = CROP.draws((5, 1), int(epoch), np.array([position]))
            window = CROP.windows(draws, np.array([whole.height]), np.array([whole.width]))
            ((top, left, height, width),) = window.tolist()
            part = whole.crop((left, top, left + width, top + height))
            difference = np.abs(image - resized(part))
            # Decoding at a part of the size is another, about as good, average over pixels.
            halved = min(height, width) >= 2 * SIZE
            assert difference.mean() < (2.5 if halved else 1.5), (difference.mean(), height, width)
            seen[halved] = seen.get(halved, 0) + 1
    assert min(seen[True], seen[False]) > 10


def test_the_same_crop_whatever_the_batch(photos):
    kept = photos.train.positions
    small, large = take(photos, 20, kept, 7, crop=CROP), take(photos, 3, kept, 45, crop=CROP)
    found = [
        {
            (index // len(kept), int(position)): image
            for index, (position, image) in enumerate(
                (position, image)
                for images, _, positions in steps
                for position, image in zip(positions, images, strict=True)
            )
        }
        for steps in (small, large)
    ]
    both = found[0].keys() & found[1].keys()
    assert len(both) > 100
    assert all(np.array_equal(found[0][key], found[1][key]) for key in both)


def test_a_subset_decodes_its_own_images_alone(photos, monkeypatch):
    from redundancy.data.tfds import decode as tfds_decode

    decoded, unpatched = [], tfds_decode.Decoder._resize

    def resize(self, boxes, *parts):
        decoded.append(len(parts))
        return unpatched(self, boxes, *parts)

    monkeypatch.setattr(tfds_decode.Decoder, "_resize", resize)
    kept = photos.train.positions[::10]
    assert len(list(photos.stream("train", kept, 4))) == -(-len(kept) // 4)
    assert sum(decoded) == len(kept)


def test_a_subset_keeps_the_full_sets_order(photos):
    full, kept = photos.train.positions, photos.train.positions[::3]
    wanted, found = (
        np.concatenate([step[2] for step in take(photos, len(positions) // 8, positions, 8)])
        for positions in (full, kept)
    )
    place = {position: number // 8 for number, position in enumerate(wanted)}
    # Rows are sorted within batches, so the full set's batches come in their order as far as they differ.
    for start in range(0, len(found) - 8, 8):
        before, after = found[start : start + 8], found[start + 8 : start + 16]
        assert max(place.get(position, -1) for position in before) <= min(place.get(position, 99) for position in after)


@pytest.mark.parametrize("kind", ["photos", "folder"])
def test_eval_crop_takes_the_centre(kind, request):
    data = request.getfixturevalue(kind)
    root = data._builder.data_path if kind == "photos" else data._root
    zoomed = open_photos(root, eval_crop=0.5, augmentation="none")
    for position, image in zip(range(20), zoomed.read("train", zoomed.train.positions[:20]), strict=False):
        whole = Image.open(io.BytesIO(encoded(number_of(data, zoomed.train.positions[position])))).convert("RGB")
        side = min(whole.size) / 2
        left, top = (whole.width - side) / 2, (whole.height - side) / 2
        assert np.abs(resized(whole, (left, top, left + side, top + side)) - image).mean() < 3


def test_arrays_are_cropped_too(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 30, 24, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20) % 2)
    data = open_photos(tmp_path / "a.npz")
    ((found, _, positions),) = take(data, 1, data.train.positions, 8, crop=CROP)
    draws = CROP.draws((5, 1), 0, positions)
    for image, position, (top, left, height, width) in zip(
        found, positions, CROP.windows(draws, np.full(8, 30), np.full(8, 24)), strict=True
    ):
        part = Image.fromarray(images[position, top : top + height, left : left + width])
        assert np.abs(image - resized(part)).max() <= 1


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Images at the positions 40 and 67 are cut off."""

    class Damaged(Photos):
        def _generate_examples(self):
            for i in range(COUNT):
                image = io.BytesIO(encoded(i)[: 200 if i in (40, 67) else None])
                yield i, {"image": image, "label": i % 3, "number": i}

    folder = tmp_path_factory.mktemp("damaged")
    Damaged(data_dir=folder).download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
    return f"{folder}/damaged/1.0.0"


@pytest.mark.parametrize("random_access", [True, *soaked(False)])
def test_a_damaged_image_is_an_error_that_names_the_position(damaged, random_access, random_access_is):
    random_access_is(random_access)
    data = open_photos(damaged)
    said = r"damaged/1\.0\.0 cannot be read: the image at position (40|67) of 'train' cannot be decoded: .*prepare"
    with pytest.raises(DataError, match=said):
        take(data, 10, data.train.positions, 16, crop=CROP)
    with pytest.raises(DataError, match=said):
        list(data.stream("train", data.train.positions, 8))
    with pytest.raises(DataError, match=said.replace("(40|67)", "40")):
        data.read("train" if 40 in data.train.positions else "test", [40])
    good = np.setdiff1d(data.train.positions, [40, 67])
    assert len(list(data.stream("train", good, 8))) == -(-len(good) // 8)


@pytest.mark.parametrize(("records", "every"), [(8192, 1), *soaked((1, 12), (1, 1), (8192, 12))])
def test_files_read_from_their_start_on_give_the_same(photos, monkeypatch, random_access_is, records, every):
    monkeypatch.setattr(lanes, "BUFFERED_RECORDS", records)
    kept = photos.train.positions[::every]
    fields = {"crop": CROP, "shard": (1, 2), "start_step": 3}
    found = []
    for random_access in (True, False):
        random_access_is(random_access)
        found.append(take(photos, 9, kept, 20, **fields) + list(photos.stream("train", kept, 8)))
    assert same(*found)


def test_generated_images():
    data = open_dataset(config.resolve({"dataset": "generated", "image_size": 32, "augmentation": "resized_crop"}))
    assert (len(data.train.positions), len(data.test.positions), len(data.class_names)) == (1_281_167, 50_000, 1000)
    ((images, labels, positions),) = take(data, 1, data.train.positions, 16, crop=CROP)
    assert images.shape == (16, 32, 32, 3)
    assert np.array_equal(labels, positions % 1000)
    assert len(np.unique(images.reshape(16, -1), axis=0)) == 16
    assert np.array_equal(data.read("train", positions), images)
    small = open_dataset(config.resolve({"dataset": "generated:2:10:4", "image_size": 8}))
    assert small.resident
    assert len(small.read("test", [0, 3])) == 2
    for name in ("generated:2:10", "generated:0:1:1", "generated:5:4:1", "generated:a:b:c"):
        with pytest.raises(ConfigError, match="generated:CLASSES:TRAIN:TEST"):
            open_dataset(config.resolve({"dataset": name, "image_size": 8}))
    with pytest.raises(ConfigError, match="image_size"):
        open_dataset(config.resolve({"dataset": "generated"}))
