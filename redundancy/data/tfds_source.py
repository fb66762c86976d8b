"""Data sets that TFDS knows or has prepared: finds, prepares, checks and opens them; tfds_stream.py reads them.

A position is an example's place in its split's files, counted shard by shard; it travels with the record from the
file on, so that nothing depends on the number of reader threads. TensorFlow never gets to see an accelerator.
"""

import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging

from redundancy import storage
from redundancy.data import lanes, splits, tfds_decode, tfds_ids, tfds_stream
from redundancy.data.crops import RandomResizedCrop
from redundancy.data.dataset import Dataset, check_image_size
from redundancy.data.digits import Digits
from redundancy.data.inputs import check_memory, check_names, unfit
from redundancy.data.quiet_tensorflow import tf, tfds
from redundancy.data.remembered import remembered
from redundancy.data.tfds_stream import INTERLEAVED_SHARDS, Stored
from redundancy.runtime.errors import ConfigError, DataError, nearest
from redundancy.runtime.progress import Progress

_LOOKED_THROUGH = 16_384  # images, for the one that cannot be decoded


class TfdsDataset(Dataset):
    """Records of a prepared TFDS data set, decoded only after the kept positions have been looked up."""

    def __init__(self, builder, stored: dict[str, Stored], image_key: str, image_size: int, eval_crop: float, **kwargs):
        super().__init__(**kwargs)
        self._builder, self._stored, self._image_key = builder, stored, image_key
        self._image_size, self._eval_crop = image_size, eval_crop

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
            yield from super()._in_order(part, positions, batch_size)
            return
        for taken, pictures in self._decoded(part, positions, 1, batch_size):
            yield pictures, taken

    def _shuffled(self, part, positions, batch_size, seed, start_step, rows, crop):
        stored = self._stored[part.stored]
        size = self._builder.info.dataset_size / max(1, self._builder.info.splits.total_num_examples)
        shards = lanes.make_shards(stored.takes, size)

        def groups_from(step):
            plan = lanes.Plan(shards, _bitmap(part, positions), batch_size, tuple(seed), step, rows)
            if tfds_stream.random_access(self._builder):
                order = tfds_stream.planned(plan, crop)
                return tfds_stream.fetched(self._builder, stored, self._image_key, order)
            images = tfds_stream.shuffled(self._builder, stored, self._image_key, plan, crop)
            return functools.partial(images.batch, drop_remainder=True)

        share, step = rows.stop - rows.start, start_step
        together = tfds_stream.together(share)
        groups = groups_from(start_step)
        with _errors(self._builder, lambda: self._find_bad(part, groups_from(step), crop)):
            for taken, pictures in tfds_stream.decoded(groups, self._decoder(crop), share, self.image_shape, together):
                yield pictures, taken
                step += 1

    def _decoded(self, part, positions, interleaved, batch_size):
        """Positions and pixels; ascending where one shard is read at a time."""
        stored = self._stored[part.stored]

        def groups_of(positions, interleaved):
            if tfds_stream.random_access(self._builder):
                order = tf.data.Dataset.from_tensor_slices((positions,))
                return tfds_stream.fetched(self._builder, stored, self._image_key, order)
            records = tfds_stream.in_order(self._builder, stored, _bitmap(part, positions), interleaved)
            images = records.map(lambda taken, some: (taken, tfds_stream.image_bytes(self._image_key, some)))
            return functools.partial(images.unbatch().batch, drop_remainder=True)

        together = tfds_stream.together(batch_size) if tfds_stream.random_access(self._builder) else 1
        # Groups are whole: the last position fills up the last one, and is cut off again.
        filled = np.concatenate([positions, np.repeat(positions[-1:], -len(positions) % together)])
        groups, left, seen = groups_of(filled, interleaved), len(positions), np.zeros(part.num_stored, bool)
        with _errors(self._builder, lambda: self._find_bad(part, groups_of(positions[~seen[positions]], 1))):
            for taken, pictures in tfds_stream.decoded(groups, self._decoder(), batch_size, self.image_shape, together):
                yield taken[:left], pictures[:left]
                left -= len(taken)
                seen[taken] = True

    def _find_bad(self, part, groups, crop: RandomResizedCrop | None = None) -> str:
        """Which image a stream could not go on with, in words; '' where it is not found.

        Args:
          part: the split.
          groups: of encoded images from there on, see `tfds_stream.decoded`.
          crop: of the stream.
        """
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

    def _decoder(self, crop: RandomResizedCrop | None = None) -> tfds_decode.Decoder:
        channels = self._builder.info.features[self._image_key].shape[2]
        return tfds_decode.Decoder(channels, self._image_size, self._eval_crop, crop)


def _bitmap(part, positions: np.ndarray) -> np.ndarray:
    wanted = np.zeros(part.num_stored, bool)
    wanted[positions] = True
    return wanted


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
    # What lies prepared in data_dir is somebody's file: damaged, it makes TFDS raise nearly anything.
    except Exception as error:
        raise DataError(
            f"config.dataset is {name!r}, which TFDS cannot open: {_short(error)} Where it lies prepared in config.data_dir, "
            "a file there is damaged: delete its folder and prepare it again."
        ) from error
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
        check_memory(str(builder.data_path), f"labels of the split {name!r}", 24 * part.num_examples)
        for file in filter(storage.is_local, part.files):
            if problem := unfit(file):
                raise DataError(f"{file} {problem}; wanted a file of records. Prepare the data set again.")
    labels = {name: _labels(builder, name, stored[name], label_key) for name in stored}
    class_names = tuple(label.names or map(str, range(label.num_classes)))
    check_names(where, class_names)
    parts = splits.make(
        where, class_names, (train, labels[train]), (test, labels[test]) if test else None, config.holdout
    )
    size = config.image_size
    return TfdsDataset(
        builder,
        stored,
        image_key,
        size,
        config.eval_crop,
        name=builder.name,
        class_names=class_names,
        image_shape=(size, size, image.shape[2]) if size else tuple(image.shape),
        fingerprint=_fingerprint(builder, stored, train, test, config.holdout),
        splits=parts,
        resident_mb=config.resident_mb,
        augmentation=config.augmentation,
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


def _stored(builder, name: str) -> Stored | None:
    """The files of a split or a slice of one; None where there is no such split."""
    try:
        instructions = builder.info.splits[name].file_instructions
    except (KeyError, ValueError, AssertionError):
        return None
    parts = [(str(i.filename), i.skip, i.take) for i in instructions if i.take]
    return Stored(*zip(*parts, strict=True)) if parts else Stored((), (), ())


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


def _labels(builder, name: str, stored: Stored, label_key: str) -> np.ndarray:
    """int64 [num_examples]: labels in stored order, read once for as long as the files stay as they are."""
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
    """int64 [num_examples]: labels in stored order; every record is read, images are not decoded."""
    features = tfds.decode.PartialDecoding({label_key: True}).extract_features(builder.info.features)

    def parse(position, record):
        return position, features.deserialize_example(record)[label_key]

    records = tfds_stream.in_order(builder, stored, None, INTERLEAVED_SHARDS).unbatch()
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
    """Turns TensorFlow's errors into DataErrors; `find` looks for the image that is to blame."""
    # `caught` is bound as a default, since a stream still open when Python exits is closed after this module's globals
    # are gone.
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
    """The first line of an error's text, ending in a full stop."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].strip()[:300]
    text = re.sub(r"^\{\{.*?\}\} | \[Op:.*", "", text)
    return text if text.endswith(".") else text + "."
