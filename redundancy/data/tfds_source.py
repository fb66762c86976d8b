"""Data sets that TFDS knows or has prepared, read through tf.data.

A position is an example's place in its split's files, counted shard by shard; it travels with the record from the
file on, so that nothing depends on the number of reader threads. TensorFlow never gets to see an accelerator.
"""

import collections
import contextlib
import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging

from redundancy.data import order, splits, tfds_ids
from redundancy.data.dataset import Dataset, check_image_size
from redundancy.data.digits import Digits
from redundancy.data.quiet_tensorflow import tf, tfds
from redundancy.errors import ConfigError, DataError, nearest

SHUFFLE_BUFFER = 8192
INTERLEAVED_SHARDS = 16


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A stored split, or a slice of one: its files, and how many examples to skip and take in each."""

    files: tuple[str, ...]
    skips: tuple[int, ...]
    takes: tuple[int, ...]

    @property
    def num_examples(self) -> int:
        return sum(self.takes)

    def overlaps(self, other: "_Stored") -> bool:
        """Whether some example is in both."""
        theirs = collections.defaultdict(list)
        for file, skip, take in zip(other.files, other.skips, other.takes, strict=True):
            theirs[file].append((skip, skip + take))
        return any(
            skip < end and start < skip + take
            for file, skip, take in zip(self.files, self.skips, self.takes, strict=True)
            for start, end in theirs[file]
        )


class TfdsDataset(Dataset):
    """Records of a prepared TFDS data set, decoded only after the kept positions have been looked up."""

    def __init__(self, builder, stored: dict[str, _Stored], decode: Callable, **kwargs):
        super().__init__(**kwargs)
        self._builder, self._stored, self._decode_record = builder, stored, decode

    def _read(self, part, positions):
        wanted = np.zeros(part.num_stored, bool)
        wanted[positions] = True
        records = _records(self._builder, self._stored[part.stored], wanted, INTERLEAVED_SHARDS)
        decoded = np.empty((len(positions), *self.image_shape), np.uint8)
        found = np.zeros(len(positions), bool)
        with _errors(self._builder):
            for taken, pictures in self._decoded(records).batch(256).prefetch(2).as_numpy_iterator():
                rows = np.searchsorted(positions, taken)
                decoded[rows], found[rows] = pictures, True
        _check_complete(self._builder, part.stored, int(found.sum()), len(positions))
        return decoded

    def _stream(self, part, positions, batch_size, seed, start_step):
        kept = np.zeros(part.num_stored, bool)
        kept[positions] = True
        stored = self._stored[part.stored]
        skip = start_step * batch_size
        if seed is None:
            records = _records(self._builder, stored, kept, 1).skip(skip)
        else:
            epoch, skip = divmod(skip, len(positions))
            records = _epochs(self._builder, stored, kept, seed, epoch).skip(skip)
        batches = self._decoded(records).batch(batch_size).prefetch(tf.data.AUTOTUNE)
        with _errors(self._builder):
            for taken, pictures in batches.as_numpy_iterator():
                yield pictures, taken

    def _decoded(self, records: tf.data.Dataset) -> tf.data.Dataset:
        def decode(position, record):
            return position, tf.ensure_shape(self._decode_record(record), self.image_shape)

        return records.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def builder_names() -> list[str]:
    """The data sets that can be opened by name alone."""
    return [*tfds.list_builders(with_community_datasets=False), "digits"]


def open_named(config) -> TfdsDataset:
    """Opens a data set by its TFDS name, preparing it in config.data_dir where that has not been done.

    Raises:
      ConfigError, DataError: as `redundancy.data.open_dataset`.
    """
    name = config.dataset
    arguments = {"data_dir": config.data_dir or None}
    try:
        builder = Digits(**arguments) if name in ("digits", "digits:1.0.0") else tfds.builder(name, **arguments)
    except tfds.core.DatasetNotFoundError as error:
        raise ConfigError(
            f"config.dataset is {name!r}, which is neither a TFDS data set nor a folder or file here."
            f"{nearest(re.split('[/:]', name)[0], builder_names())} Give a name from "
            "https://www.tensorflow.org/datasets/catalog, a folder of images, or an .npz file."
        ) from error
    except (AssertionError, ValueError, KeyError) as error:
        raise ConfigError(
            f"config.dataset is {name!r}, which TFDS cannot open: {_short(error)} Wanted: builder, builder/config or "
            "builder/config:version, with a config and version that it has."
        ) from error
    except OSError as error:
        raise DataError(f"config.data_dir is {config.data_dir!r}, which cannot be used: {error}.") from error
    return _open(config, _prepare(builder))


def open_prepared(config, folder: str) -> TfdsDataset:
    """Opens the folder of a prepared TFDS data set, the one that holds dataset_info.json; it may be gs://.

    Raises:
      ConfigError, DataError: as `redundancy.data.open_dataset`.
    """
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:
        raise DataError(
            f"{folder} cannot be opened as a prepared TFDS data set ({_short(error)}); wanted the folder that holds "
            "dataset_info.json and features.json, whole. Prepare it again."
        ) from error
    return _open(config, builder)


def _prepare(builder):
    if builder.info.splits:
        return builder
    place = f"{builder.info.full_name} is not in {builder.data_dir}"
    if not isinstance(builder, Digits):
        logging.warning("%s; TFDS downloads and prepares it now. Offline this fails after some minutes.", place)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare()
    except Exception as error:
        # Another process may have finished the same preparation first: TFDS then cannot rename its own over it.
        if builder.data_path.joinpath("dataset_info.json").exists():
            return tfds.builder_from_directory(builder.data_path)
        raise DataError(
            f"{place}, and preparing it failed: {_short(error)} Check the network, the disk and the folder; or put the "
            "prepared data set there, or set config.data_dir to where it is."
        ) from error
    return builder


def _open(config, builder) -> TfdsDataset:
    where = builder.info.full_name
    _check_readable(builder)
    image_key, label_key = _keys(builder)
    image, label = builder.info.features[image_key], builder.info.features[label_key]
    names = tuple(builder.info.splits)
    train, test = splits.choose(
        config.train_split,
        config.test_split,
        names,
        has=lambda name: _stored(builder, name) is not None,
        overlap=lambda first, second: _stored(builder, first).overlaps(_stored(builder, second)),
    )
    check_image_size(where, image.shape, config.image_size, f"shape {image.shape}")
    stored = {name: _stored(builder, name) for name in (train, test) if name}
    for name, part in stored.items():
        if not part.num_examples:
            raise ConfigError(
                f"the split {name!r} of {where} holds no image; name a larger slice of {', '.join(names)}."
            )
    labels = {name: _labels(builder, name, stored[name], label_key) for name in stored}
    class_names = tuple(label.names or map(str, range(label.num_classes)))
    parts = splits.make(
        where, class_names, (train, labels[train]), (test, labels[test]) if test else None, config.holdout
    )
    size = config.image_size
    return TfdsDataset(
        builder,
        stored,
        functools.partial(_decode, builder, image_key, size),
        name=builder.name,
        class_names=class_names,
        image_shape=(size, size, image.shape[2]) if size else tuple(image.shape),
        fingerprint=_fingerprint(builder, stored, train, test, config.holdout),
        splits=parts,
        resident_mb=config.resident_mb,
    )


def _check_readable(builder) -> None:
    form = builder.info.file_format
    if form not in tfds.core.file_adapters.FileFormat.with_tf_data():
        raise DataError(f"{builder.data_path} is stored as {form.value}, which tf.data cannot read; wanted tfrecord.")


def _keys(builder) -> tuple[str, str]:
    """Names of the image and the label feature."""
    features = builder.info.features
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    keys = builder.info.supervised_keys or ()
    named = len(keys) == 2 and all(str(key) in features for key in keys)
    if not (named and all(isinstance(features[key], kind) for key, kind in zip(keys, kinds, strict=True))):
        found = [[key for key, feature in features.items() if isinstance(feature, kind)] for kind in kinds]
        if [len(each) for each in found] != [1, 1]:
            listing = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features.items())
            raise DataError(
                f"{builder.info.full_name} is not an image-classification set: it has the features {listing}; "
                "wanted one Image and one ClassLabel."
            )
        keys = (found[0][0], found[1][0])
    image = features[keys[0]]
    if np.dtype(image.np_dtype) != np.uint8 or image.shape[2] is None:
        raise DataError(
            f"{builder.info.full_name}: the feature {keys[0]!r} is {np.dtype(image.np_dtype)} {image.shape}; "
            "wanted uint8 images with a known number of channels."
        )
    return str(keys[0]), str(keys[1])


def _stored(builder, name: str) -> _Stored | None:
    """The files of a split or a slice of one; None where there is no such split."""
    try:
        instructions = builder.info.splits[name].file_instructions
    except (KeyError, ValueError, AssertionError):
        return None
    parts = [(str(i.filename), i.skip, i.take) for i in instructions if i.take]
    return _Stored(*zip(*parts, strict=True)) if parts else _Stored((), (), ())


def _fingerprint(builder, stored, train, test, holdout) -> dict:
    found = {
        "name": builder.name,
        "config": builder.builder_config.name if builder.builder_config else "",
        "version": str(builder.version),
        "split": train,
        "shard_lengths": list(stored[train].takes),
    }
    if files := tfds_ids.describe_files(stored[train].files, stored[train].skips):
        found["files"] = files
    return found | (
        {"test_split": test, "test_shard_lengths": list(stored[test].takes)} if test else {"holdout": holdout}
    )


def _records(
    builder, stored: _Stored, wanted: np.ndarray | None, interleaved: int, shuffle_seed: tf.Tensor | None = None
) -> tf.data.Dataset:
    """(position int64, record string) of the wanted positions; in stored order where one shard is read at a time."""
    offsets = np.cumsum((0, *stored.takes[:-1]))
    columns = [np.array(stored.files), *(np.array(each, np.int64) for each in (stored.skips, stored.takes, offsets))]
    if wanted is not None and shuffle_seed is None:
        some = np.add.reduceat(wanted, offsets, dtype=np.int64) > 0
        columns = [column[some] for column in columns]
    shards = tf.data.Dataset.from_tensor_slices(tuple(columns))
    if shuffle_seed is not None:
        shards = shards.shuffle(len(stored.files), shuffle_seed[0], reshuffle_each_iteration=False)
    adapter = tfds.core.file_adapters.ADAPTER_FOR_FORMAT[builder.info.file_format]

    def open_shard(file, skip, take, offset):
        records = adapter.make_tf_data(file).skip(skip).take(take)
        return tf.data.Dataset.zip((tf.data.Dataset.range(offset, offset + take), records))

    records = shards.interleave(
        open_shard, cycle_length=interleaved, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    if wanted is not None and not wanted.all():
        bitmap = tf.constant(wanted)

        def pick(positions, records):
            rows = tf.where(tf.gather(bitmap, positions))[:, 0]
            return tf.gather(positions, rows), tf.gather(records, rows)

        # Looking up many at once is several times as fast as Dataset.filter, which calls a function a record.
        records = records.batch(128).map(pick).unbatch()
    return records


def _epochs(builder, stored: _Stored, kept: np.ndarray, seed: tuple[int, ...], first: int) -> tf.data.Dataset:
    """Endless shuffled epochs from epoch `first` on, each a pure function of (seed, epoch, kept)."""
    base = tf.constant(int(order.seed_sequence(tuple(seed), 0).generate_state(1, np.uint64)[0] >> 1), tf.int64)

    def epoch_records(epoch):
        seeds = tf.random.stateless_uniform(
            [3], tf.stack([base, epoch]), None, None, tf.int64, alg=tf.random.Algorithm.PHILOX
        )
        records = _records(builder, stored, kept, INTERLEAVED_SHARDS, seeds)
        return records.shuffle(SHUFFLE_BUFFER, seeds[1], reshuffle_each_iteration=False)

    return tf.data.Dataset.range(first, np.iinfo(np.int64).max).flat_map(epoch_records)


def _labels(builder, name: str, stored: _Stored, label_key: str) -> np.ndarray:
    """int64 [num_examples]: labels in stored order; images are not decoded."""
    features = tfds.decode.PartialDecoding({label_key: True}).extract_features(builder.info.features)

    def parse(position, record):
        return position, features.deserialize_example(record)[label_key]

    records = _records(builder, stored, None, INTERLEAVED_SHARDS)
    labels, found = np.zeros(stored.num_examples, np.int64), 0
    with _errors(builder):
        for positions, batch in records.map(parse, tf.data.AUTOTUNE).batch(1024).prefetch(2).as_numpy_iterator():
            labels[positions] = batch
            found += len(positions)
    _check_complete(builder, name, found, stored.num_examples)
    return labels


def _decode(builder, image_key: str, size: int, record: tf.Tensor) -> tf.Tensor:
    """uint8 [H, W, C] from a serialized example, its shorter side resized to `size` and its centre cut out."""
    partial = tfds.decode.PartialDecoding({image_key: True})
    image = partial.extract_features(builder.info.features).deserialize_example(record)[image_key]
    if not size:
        return image
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float64))
    scale = tf.cast(size, tf.float64) / tf.minimum(height, width)
    shape = tf.maximum(size, tf.cast(tf.round(tf.stack([height, width]) * scale), tf.int32))
    image = tf.image.resize(image, shape, tf.image.ResizeMethod.BILINEAR, antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    top, left = tf.unstack((shape - size) // 2)
    return image[top : top + size, left : left + size]


def _check_complete(builder, name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise DataError(
            f"{builder.data_path}: {found} examples of the split {name!r} could be read; wanted {wanted}, as "
            "dataset_info.json says. A file is truncated; delete the folder and prepare the data set again."
        )


@contextlib.contextmanager
def _errors(builder, caught=tf.errors.OpError) -> Iterator[None]:
    # Bound as a default, since a stream still open when Python exits is closed after this module's globals are gone.
    try:
        yield
    except caught as error:
        raise DataError(
            f"{builder.data_path} cannot be read: {_short(error)} A file is missing or damaged; delete the folder and "
            "prepare the data set again."
        ) from error


def _short(error: BaseException) -> str:
    """The first line of an error's text, ending in a full stop."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].strip()[:300]
    text = re.sub(r"^\{\{.*?\}\} ", "", text)
    return text if text.endswith(".") else text + "."
