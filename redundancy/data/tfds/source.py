"""Data sets that TFDS knows or has prepared: finds, prepares, checks and opens them; stream.py reads them.

A position is an example's index in its split's files, counted shard by shard. It is attached to the record when the file is
read, so that nothing depends on the number of reader threads.
"""

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging

from redundancy import storage
from redundancy.data import splits
from redundancy.data.crops import RandomResizedCrop
from redundancy.data.dataset import Dataset, final_shape
from redundancy.data.digits import Digits
from redundancy.data.inputs import check_memory, check_names, unfit
from redundancy.data.order import bitmap
from redundancy.data.remembered import remembered
from redundancy.data.tfds import ids, lanes, stream
from redundancy.data.tfds.decode import Decoder
from redundancy.data.tfds.quiet import tf, tfds
from redundancy.data.tfds.stream import INTERLEAVED_SHARDS, Stored
from redundancy.runtime.errors import ConfigError, DataError, StorageError, nearest
from redundancy.runtime.progress import Progress

_LOOKED_THROUGH = 16_384  # largest number of images among which the one that cannot be decoded is searched


class TfdsDataset(Dataset):
    """Records of a prepared TFDS data set; only those at kept positions are decoded."""

    def __init__(self, config, builder, stored: dict[str, Stored], image_key: str, **kwargs):
        super().__init__(config, **kwargs)
        self._builder, self._stored, self._image_key = builder, stored, image_key

    def _read(self, part, positions):
        decoded = np.empty((len(positions), *self.image_shape), np.uint8)
        found = np.zeros(len(positions), bool)
        for taken, pictures in self._decoded(part, positions, INTERLEAVED_SHARDS, 256):
            rows = np.searchsorted(positions, taken)
            decoded[rows], found[rows] = pictures, True
        _check_complete(self._builder, part.stored, int(found.sum()), len(positions))
        return decoded

    def _in_order(self, part, positions, batch_size):
        if self.resident:
            return super()._in_order(part, positions, batch_size)
        return ((pictures, taken) for taken, pictures in self._decoded(part, positions, 1, batch_size))

    def _shuffled(self, part, positions, batch_size, seed, start_step, rows, crop):
        stored = self._stored[part.stored]
        size = self._builder.info.dataset_size / max(1, self._builder.info.splits.total_num_examples)
        shards, kept = lanes.make_shards(stored.takes, size), bitmap(part.num_stored, positions)

        def groups_from(step):
            plan = lanes.Plan(shards, kept, batch_size, tuple(seed), step, rows)
            if stream.random_access(self._builder):
                order = stream.planned(plan, crop)
                return stream.fetched(stored, self._image_key, order)
            images = stream.shuffled(self._builder, stored, self._image_key, plan, crop)
            return functools.partial(images.batch, drop_remainder=True)

        share, step = rows.stop - rows.start, start_step
        together = stream.together(share)
        groups = groups_from(start_step)
        with _errors(self._builder, lambda: self._find_bad(part, groups_from(step), crop)):
            for taken, pictures in stream.decoded(groups, self._decoder(crop), share, self.image_shape, together):
                yield pictures, taken
                step += 1

    def _decoded(self, part, positions, interleaved, batch_size):
        """Positions and pixels, ascending if shards are read one at a time."""
        stored = self._stored[part.stored]

        def groups_of(positions, interleaved):
            if stream.random_access(self._builder):
                order = tf.data.Dataset.from_tensor_slices((positions,))
                return stream.fetched(stored, self._image_key, order)
            records = stream.in_order(self._builder, stored, bitmap(part.num_stored, positions), interleaved)
            images = records.map(lambda taken, some: (taken, stream.image_bytes(self._image_key, some)))
            return functools.partial(images.unbatch().batch, drop_remainder=True)

        together = stream.together(batch_size) if stream.random_access(self._builder) else 1
        # All groups are full: the last position is repeated to fill the last group, and the repeats are cut off again.
        filled = np.concatenate([positions, np.repeat(positions[-1:], -len(positions) % together)])
        groups, left, seen = groups_of(filled, interleaved), len(positions), np.zeros(part.num_stored, bool)
        with _errors(self._builder, lambda: self._find_bad(part, groups_of(positions[~seen[positions]], 1))):
            for taken, pictures in stream.decoded(groups, self._decoder(), batch_size, self.image_shape, together):
                yield taken[:left], pictures[:left]
                left -= len(taken)
                seen[taken] = True

    def _find_bad(self, part, groups, crop: RandomResizedCrop | None = None) -> str:
        """Names the image among `groups` (see `stream.decoded`) at which a stream failed; '' if unknown."""
        decoder = self._decoder(crop)
        decode = tf.function(lambda encoded, *draws: decoder(encoded, *draws), autograph=False)
        for positions, *encoded in groups(1).take(_LOOKED_THROUGH):
            try:
                wrong = f"it has the shape {found}" if (found := decode(*encoded).shape[1:]) != self.image_shape else ""
            except tf.errors.OpError as error:
                wrong = _short(error)
            if wrong:
                return f"the image at position {int(positions[0])} of {part.stored!r} cannot be decoded: {wrong}"
        return ""

    def _decoder(self, crop: RandomResizedCrop | None = None) -> Decoder:
        channels = self._builder.info.features[self._image_key].shape[2]
        return Decoder(channels, self._image_size, self._eval_crop, crop)


def builder_names() -> list[str]:
    """The data sets that can be opened by name alone."""
    return [*tfds.list_builders(with_community_datasets=False), "digits"]


def open_named(config) -> TfdsDataset:
    """Opens a data set by its TFDS name, prepared in config.data_dir first if it is not; raises as `open_dataset`."""
    name, data_dir = config.dataset, config.data_dir or None
    wrong = f"config.dataset is {name!r}, which TFDS cannot open:"
    try:
        known = name in ("digits", "digits:1.0.0")
        builder = Digits(data_dir=data_dir) if known else tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ConfigError(
            f"config.dataset is {name!r}, which is neither a TFDS data set nor a folder or file here."
            f"{nearest(re.split('[/:]', name)[0], builder_names())} Give a name from "
            "https://www.tensorflow.org/datasets/catalog, a folder of images, or an .npz file."
        ) from error
    except (AssertionError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{wrong} {_short(error)} Wanted: builder, builder/config or builder/config:version, all of which it has."
        ) from error
    except OSError as error:
        raise DataError(f"config.data_dir is {config.data_dir!r}, which cannot be used: {error}.") from error
    # TFDS raises many kinds of exceptions for damaged files in data_dir.
    except Exception as error:
        cause = error
        while cause is not None:
            if isinstance(cause, StorageError):
                raise cause from error
            cause = cause.__cause__ or cause.__context__
        raise DataError(
            f"{wrong} {_short(error)} If it lies prepared in config.data_dir, a file there is damaged: delete its folder and "
            "prepare it again."
        ) from error
    return _open(config, _prepare(builder, elsewhere=known and data_dir is None))


def open_prepared(config, folder: str) -> TfdsDataset:
    """Opens the folder, local or gs://, of a prepared TFDS data set, with dataset_info.json; raises as `open_dataset`."""
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:
        raise DataError(
            f"{folder} cannot be opened as a prepared TFDS data set ({_short(error)}); wanted the folder that holds "
            "dataset_info.json and features.json, whole. Prepare it again."
        ) from error
    return _open(config, builder)


def _prepare(builder, elsewhere: bool = False):
    """The builder, prepared. With `elsewhere`, the digits use the temporary folder if their usual folder is not writable."""
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
        # TFDS cannot rename its result if another process has finished the same preparation first.
        if builder.data_path.joinpath("dataset_info.json").exists():
            return tfds.builder_from_directory(builder.data_path)
        if elsewhere and isinstance(error, OSError):
            folder = os.path.join(tempfile.gettempdir(), f"redundancy-{os.getuid()}", "tensorflow_datasets")
            logging.info("%s, which cannot be written (%s); the digits go to %s", place, error.strerror, folder)
            return _prepare(Digits(data_dir=folder))
        raise DataError(
            f"{place}, and preparing it failed: {_short(error)} Check the network, the disk and the folder; or put the "
            "prepared data set there, or set config.data_dir to where it is."
        ) from error
    return builder


def _open(config, builder) -> TfdsDataset:
    where, form = builder.info.full_name, builder.info.file_format
    if form not in tfds.core.file_adapters.FileFormat.with_tf_data():
        raise DataError(f"{builder.data_path} is stored as {form.value}, which tf.data cannot read; wanted tfrecord.")
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
    shape = final_shape(where, tuple(image.shape), config.image_size, f"shape {image.shape}")
    stored = {name: _stored(builder, name) for name in (train, test) if name}
    for name, part in stored.items():
        if not part.num_examples:
            raise ConfigError(
                f"the split {name!r} of {where} holds no image; name a larger slice of {', '.join(names)}."
            )
        check_memory(str(builder.data_path), f"labels of the split {name!r}", 24 * part.num_examples)
        for file in filter(storage.is_local, part.files):
            if problem := unfit(file):
                raise DataError(f"{file} {problem}; wanted a file of records. Prepare the data set again.")
    labels = {name: _labels(builder, name, stored[name], label_key) for name in stored}
    class_names = tuple(label.names or map(str, range(label.num_classes)))
    check_names(where, class_names)
    parts = splits.make(where, class_names, labels, train, test, config.holdout)
    return TfdsDataset(
        config,
        builder,
        stored,
        image_key,
        name=builder.name,
        class_names=class_names,
        image_shape=shape,
        fingerprint=_fingerprint(builder, stored, parts, config.holdout),
        splits=parts,
    )


def _keys(builder) -> tuple[str, str]:
    """Names of the image feature and the label feature."""
    features, where = builder.info.features, builder.info.full_name
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    found = [[key for key, feature in features.items() if isinstance(feature, kind)] for kind in kinds]
    keys = builder.info.supervised_keys or ()
    if len(keys) != 2 or keys[0] not in found[0] or keys[1] not in found[1]:
        if [len(each) for each in found] != [1, 1]:
            listing = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features.items())
            raise DataError(
                f"{where} is not an image-classification set: it has the features {listing}; wanted one Image and one "
                "ClassLabel."
            )
        keys = (found[0][0], found[1][0])
    kind, shape = np.dtype(features[keys[0]].np_dtype), features[keys[0]].shape
    if kind != np.uint8 or shape[2] is None:
        raise DataError(
            f"{where}: the feature {keys[0]!r} is {kind} {shape}; wanted uint8 images with a known number of channels."
        )
    return str(keys[0]), str(keys[1])


def _stored(builder, name: str) -> Stored | None:
    """The files of a split, or of a slice of one; None if there is no such split."""
    try:
        instructions = builder.info.splits[name].file_instructions
    except (KeyError, ValueError, AssertionError):
        return None
    parts = [(str(i.filename), i.skip, i.take) for i in instructions if i.take]
    return Stored(*zip(*parts, strict=True)) if parts else Stored((), (), ())


def _fingerprint(builder, stored: dict[str, Stored], parts, holdout: float) -> dict:
    train = parts[0].stored
    of_splits = splits.fingerprint(parts, holdout, {name: list(each.takes) for name, each in stored.items()})
    files = ids.describe_files(stored[train].files, stored[train].skips)
    return {
        "name": builder.name,
        "config": builder.builder_config.name if builder.builder_config else "",
        "version": str(builder.version),
        "split": train,
        "shard_lengths": of_splits["shard_lengths"],
        **({"files": files} if files else {}),
        **of_splits,
    }


def _labels(builder, name: str, stored: Stored, label_key: str) -> np.ndarray:
    """int64 [num_examples]: labels in stored order, cached until the files change."""
    identity = {
        "made": "labels of TFDS records",
        "name": builder.info.full_name,
        "folder": str(builder.data_path),
        "format": builder.info.file_format.value,
        "split": name,
        "label": label_key,
        "skips": stored.skips,
        "takes": stored.takes,
    }
    return remembered(identity, stored.files, lambda: _read_labels(builder, name, stored, label_key))


def _read_labels(builder, name: str, stored: Stored, label_key: str) -> np.ndarray:
    """As `_labels`, but not cached; reads every record without decoding images."""
    features = tfds.decode.PartialDecoding({label_key: True}).extract_features(builder.info.features)

    def parse(position, record):
        return position, features.deserialize_example(record)[label_key]

    records = stream.in_order(builder, stored, None, INTERLEAVED_SHARDS).unbatch()
    labels, found = np.zeros(stored.num_examples, np.int64), 0
    parsed = records.map(parse, tf.data.AUTOTUNE).batch(1024).prefetch(2)
    with _errors(builder), Progress(f"read labels of {name}", stored.num_examples, "images") as progress:
        for positions, batch in parsed.as_numpy_iterator():
            labels[positions] = batch
            found += len(positions)
            progress.advance(len(positions))
    _check_complete(builder, name, found, stored.num_examples)
    return labels


def _check_complete(builder, name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise DataError(
            f"{builder.data_path}: {found} examples of the split {name!r} could be read; wanted {wanted}, as "
            "dataset_info.json says. A file is truncated; delete the folder and prepare the data set again."
        )


@contextlib.contextmanager
def _errors(builder, find: Callable[[], str] = str, caught=tf.errors.OpError) -> Iterator[None]:
    """Converts TensorFlow's errors into DataErrors; `find` searches for the image that caused the error."""
    try:
        yield
    except caught as error:
        try:
            found = find()
        except caught:
            found = ""
        raise DataError(
            f"{builder.data_path} cannot be read: {found or _short(error)} A file is missing or damaged; delete the folder "
            "and prepare the data set again."
        ) from error


def _short(error: BaseException) -> str:
    """The first line of an error's text, with a full stop at the end."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].strip()[:300]
    text = re.sub(r"^\{\{.*?\}\} | \[Op:.*", "", text)
    return text if text.endswith(".") else text + "."
