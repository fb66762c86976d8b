"""The interface of all data sets, whatever the source of their images: two splits, `read` and `stream`.

Subclasses implement `_read` and `_read_crops`; also `_in_order` and `_shuffled` if reading batch by batch is not the fastest
way. This module never imports TensorFlow or JAX.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator

import numpy as np

from redundancy.data import order
from redundancy.data.crops import RandomResizedCrop
from redundancy.runtime.errors import ConfigError, DataError

_PLANNED_AT_ONCE = 64  # batches
Images = tuple[np.ndarray, np.ndarray]
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Split:
    """The data of one role in the experiment."""

    name: str  # the role, 'train' or 'test'
    stored: str  # the stored split that this split is equal to, or a part of
    num_stored: int  # examples in the stored split; positions are below it
    positions: np.ndarray  # int64 [n], ascending: the whole stored split, or a part if some is held out
    labels: np.ndarray  # int32 [n], of these positions


def labels_sha256(labels: np.ndarray) -> str:
    """Checksum of the labels int [n] in ascending position, for fingerprints: 16 hex digits of SHA-256."""
    return hashlib.sha256(np.ascontiguousarray(labels, "<i4").tobytes()).hexdigest()[:16]


class Dataset:
    """A labelled image set with a train and a test split.

    Attributes:
      name: short name, without folders.
      class_names: names of the classes; labels are indices into them.
      image_shape: (height, width, channels) of all images that `read` and `stream` return.
      fingerprint: JSON that identifies the images behind positions: name, config, version, split, shard lengths, …, and
        labels_sha256, the checksum of the training labels.
      train, test: the splits.
      resident: whether the decoded images of both splits fit in config.resident_mb, and training needs no other crops.
      skipped: (file, reason) of each file that config.bad_images leaves out; files are relative to the data set's folder, in
        the order of positions.
    """

    skipped: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        config,
        name: str,
        class_names: tuple[str, ...],
        image_shape: tuple[int, int, int],
        fingerprint: dict,
        splits: tuple[Split, Split],
    ):
        self.name, self.class_names, self.image_shape = name, class_names, image_shape
        self.train, self.test = splits
        self.fingerprint = {**fingerprint, "labels_sha256": labels_sha256(self.train.labels)}
        self._image_size, self._eval_crop = config.image_size, config.eval_crop
        pixels = (len(self.train.positions) + len(self.test.positions)) * math.prod(image_shape)
        # resized_crop needs the original images, of which decoded copies are not kept.
        self.resident = "resized" not in config.augmentation and pixels <= config.resident_mb * 1e6
        self._whole: dict[str, np.ndarray] = {}
        self._labels = {part.name: np.full(part.num_stored, -1, np.int32) for part in splits}  # -1: not in the split
        for part in splits:
            self._labels[part.name][part.positions] = part.labels

    def read(self, split: str, positions) -> np.ndarray:
        """Images at the given positions. Only these are decoded, unless the set is resident and most images are requested.

        Args:
          split: 'train' or 'test'.
          positions: int [n], of the split, in any order, repeats allowed.

        Returns:
          uint8 [n, H, W, C], possibly read-only.

        Raises:
          DataError: a position is not in the split, or an image cannot be decoded.
        """
        part = self._part(split)
        positions = self._checked(part, positions)
        if self.resident and (part.stored in self._whole or 2 * len(positions) >= part.num_stored):
            whole = self._all(part)
            every = len(positions) == len(whole) and np.array_equal(positions, np.arange(len(whole)))
            return whole if every else whole[positions]
        unique, inverse = np.unique(positions, return_inverse=True)
        images = self._read(part, unique)
        return images if np.array_equal(unique, positions) else images[inverse]

    @property
    def folder(self) -> str | None:
        """The local folder that `file_names` are relative to; None if images are not single files."""
        return None

    def file_names(self, split: str, positions) -> list[str] | None:
        """Paths of the images at positions int [n], relative to `folder`; None if images are not single files."""
        return None

    def stream(
        self,
        split: str,
        positions,
        batch_size: int,
        seed: tuple[int, ...] | None = None,
        start_step: int = 0,
        shard: tuple[int, int] = (0, 1),
        crop: RandomResizedCrop | None = None,
        runs: bool = False,
    ) -> Iterator[Batch]:
        """Batches of images, labels and positions.

        Without a seed, the stream has each position once, ascending, and the last batch may be short. With a seed, it has
        endless shuffled epochs in full batches, a pure function of (split, positions, batch_size, seed), in which a subset
        keeps the relative order of the full set. The order is that of `order.batches`, or of `lanes.Plan` for a TFDS set that
        is not resident.

        With `shard` = (index, count), a process gets its share of the rows of every batch; concatenated, the shares are the
        batch. Without a seed all processes get the same number of batches, and a share of the last one may be short or empty.
        With `runs` a process gets neighbouring positions instead, so that it reads few files.

        Args:
          split: 'train' or 'test'.
          positions: int [n], of the split; repeats count once.
          batch_size: images per batch, of all processes together.
          seed: non-negative integers, or None.
          start_step: number of batches to skip at the start; the rest equals the uninterrupted stream.
          shard: index of this process, and number of processes.
          crop: cuts out a random part of each image; only with a seed.
          runs: whether each process gets neighbouring positions; only without a seed.

        Returns:
          an iterator of (uint8 [b, H, W, C], int32 [b] labels, int64 [b] positions).

        Raises:
          ConfigError: the batch cannot be divided evenly.
          DataError: a position is not in the split, there are no positions but a seed, or an image cannot be read.
        """
        part = self._part(split)
        positions = np.unique(self._checked(part, positions))
        rows = _rows(batch_size, *shard)
        if seed is None and crop is not None:
            raise ValueError("crop is given without a seed; a random crop is drawn from (seed, epoch, position)")
        if seed is not None and runs:
            raise ValueError("runs is given with a seed; shuffled batches have no neighbours")
        if seed is not None and not len(positions):
            raise DataError(f"{self.name}: no position of the {split} split to draw batches from; wanted at least one.")
        if seed is None:
            steps = -(-len(positions) // batch_size)
            if runs:  # as evenly as possible: a process has as many batches as without `runs`, or one fewer
                first, last = ((shard[0] + more) * len(positions) // shard[1] for more in (0, 1))
                own = positions[first:last]
            else:
                number = np.arange(len(positions)) % batch_size
                own = positions[(number >= rows.start) & (number < rows.stop)]
            batches = self._once(part, own, rows.stop - rows.start, steps, start_step)
        elif self.resident and crop is None:
            self._all(part)
            batches = self._shuffled_by_reading(part, positions, batch_size, seed, start_step, rows, None)
        else:
            batches = self._shuffled(part, positions, batch_size, seed, start_step, rows, crop)
        labels = self._labels[split]
        return ((images, labels[taken], taken) for images, taken in batches)

    def _read(self, part: Split, positions: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, C] at ascending, distinct positions of the stored split."""
        raise NotImplementedError

    def _read_crops(self, part: Split, positions: np.ndarray, crop: RandomResizedCrop, draws: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, C]: the crops that result from `draws`, at positions in any order, repeats allowed."""
        raise NotImplementedError

    def _in_order(self, part: Split, positions: np.ndarray, batch_size: int) -> Iterator[Images]:
        """Images at ascending positions, and the positions, `batch_size` at a time; the last batch may be short."""
        starts = range(0, len(positions), batch_size)
        rows = (positions[start : start + batch_size] for start in starts)
        batches = ((self.read(part.name, row), row) for row in rows)
        return batches if self.resident else _ahead(batches)

    def _shuffled(self, part, positions, batch_size, seed, start_step, rows, crop) -> Iterator[Images]:
        """The rows `rows` of each of the endless batches from `start_step` on; `crop` may be None."""
        return _ahead(self._shuffled_by_reading(part, positions, batch_size, seed, start_step, rows, crop))

    def _once(self, part, own, share, steps, start_step) -> Iterator[Images]:
        """A process's positions, `share` at a time, in batches `start_step` to `steps` - 1."""
        own = own[start_step * share :]
        if self.resident and len(own):
            self._all(part)
        found = start_step
        for images, taken in self._in_order(part, own, share):
            found += 1
            yield images, taken
        # Only in the last batch may this process have no rows.
        if found < steps:
            yield np.zeros((0, *self.image_shape), np.uint8), np.zeros(0, np.int64)

    def _shuffled_by_reading(self, part, positions, batch_size, seed, start_step, rows, crop):
        for step in itertools.count(start_step):
            if (number := (step - start_step) % _PLANNED_AT_ONCE) == 0:
                planned = order.batches(part.num_stored, positions, batch_size, seed, step, _PLANNED_AT_ONCE)
            taken = planned[number, rows]
            if crop is None:
                yield self.read(part.name, taken), taken
            else:
                epochs = (step * batch_size + np.arange(rows.start, rows.stop)) // len(positions)
                yield self._read_crops(part, taken, crop, crop.draws(seed, epochs, taken)), taken

    def _part(self, split: str) -> Split:
        return {"train": self.train, "test": self.test}[split]

    def _checked(self, part: Split, positions) -> np.ndarray:
        positions = np.asarray(positions, np.int64).reshape(-1)
        outside = (positions < 0) | (positions >= part.num_stored)
        outside |= self._labels[part.name][np.where(outside, 0, positions)] < 0
        if outside.any():
            left = "" if len(part.positions) == part.num_stored else ", but not those held out for the other split"
            raise DataError(
                f"{self.name}: position {positions[outside][0]} is not in the {part.name} split; wanted positions of "
                f"{part.stored!r}, 0 to {part.num_stored - 1}{left} ({int(outside.sum())} of {len(positions)} are not). They "
                "belong to another data set or split."
            )
        return positions

    def _all(self, part: Split) -> np.ndarray:
        if part.stored not in self._whole:
            images = self._read(part, np.arange(part.num_stored))
            images.setflags(write=False)
            self._whole[part.stored] = images
        return self._whole[part.stored]


def _rows(batch_size: int, index: int, count: int) -> slice:
    """A process's rows of each batch."""
    if batch_size % count:
        raise ConfigError(
            f"a batch of {batch_size} images cannot be shared evenly by {count} processes; set config.batch_size and "
            f"config.eval_batch_size to multiples of {count}."
        )
    share = batch_size // count
    return slice(index * share, (index + 1) * share)


def _ahead(batches: Iterator, depth: int = 2) -> Iterator:
    """Yields the same items, which a thread computes up to `depth` items ahead."""
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1, "read-ahead") as pool:
        waiting = collections.deque(pool.submit(next, batches, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, batches, end))
            yield item


def final_shape(where: str, shape: tuple, image_size: int, found: str) -> tuple[int, int, int]:
    """Shape of images after resizing to config.image_size; raises ConfigError if that is 0 and `shape` contains None."""
    if image_size:
        return image_size, image_size, shape[2]
    if None in shape[:2]:
        raise ConfigError(
            f"config.image_size is 0, but the images of {where} differ in size ({found}); "
            "set the side in pixels to resize and crop them to, for example --config.image_size=64."
        )
    return tuple(shape)
