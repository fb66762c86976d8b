"""What every data set offers, wherever its images come from: two splits, `read` and `stream`.

Sources (arrays.py, folder.py, tfds_source.py) supply `_read`, and `_stream` where they have a better way than reading batch
by batch. This module never imports TensorFlow or JAX.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import math
from collections.abc import Iterator

import numpy as np

from redundancy.data import order
from redundancy.errors import ConfigError, DataError

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Split:
    """One role's share of the data.

    Attributes:
      name: 'train' or 'test', the role in the experiment.
      stored: the stored split it is, or is a part of.
      num_stored: examples in the stored split; positions are below it.
      positions: int64 [n], ascending: all of the stored split, or what hold-out left.
      labels: int32 [n], of those positions.
    """

    name: str
    stored: str
    num_stored: int
    positions: np.ndarray
    labels: np.ndarray


def labels_sha256(labels: np.ndarray) -> str:
    """Checksum of the labels int [n] in ascending position, for fingerprints: 16 hex digits of SHA-256."""
    return hashlib.sha256(np.ascontiguousarray(labels, "<i4").tobytes()).hexdigest()[:16]


class Dataset:
    """A labelled image set with a train and a test split.

    Attributes:
      name: short name, without folders.
      class_names: names of the classes; a label is an index into them.
      image_shape: (height, width, channels) of all images that `read` and `stream` return.
      fingerprint: JSON that identifies what positions mean: name, config, version, split, shard lengths, …, and
        labels_sha256, the checksum of the training labels.
      train, test: the splits.
      resident: whether all images of both splits, decoded, fit in config.resident_mb.
    """

    def __init__(
        self,
        name: str,
        class_names: tuple[str, ...],
        image_shape: tuple[int, int, int],
        fingerprint: dict,
        splits: tuple[Split, Split],
        resident_mb: float,
    ):
        self.name = name
        self.class_names = class_names
        self.image_shape = image_shape
        self.train, self.test = splits
        self.fingerprint = {**fingerprint, "labels_sha256": labels_sha256(self.train.labels)}
        images = len(self.train.positions) + len(self.test.positions)
        self.resident = images * math.prod(image_shape) <= resident_mb * 1e6
        self._whole: dict[str, np.ndarray] = {}
        self._labels = {part.name: _by_position(part) for part in splits}

    def read(self, split: str, positions) -> np.ndarray:
        """Images of the given positions; only those are decoded, unless the set is resident and most are asked for.

        Args:
          split: 'train' or 'test'.
          positions: int [n], of the split, in any order, repeats allowed.

        Returns:
          uint8 [n, H, W, C], maybe read-only.

        Raises:
          DataError: a position outside the split, or an image that cannot be decoded.
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

    def stream(
        self,
        split: str,
        positions,
        batch_size: int,
        seed: tuple[int, ...] | None = None,
        start_step: int = 0,
    ) -> Iterator[Batch]:
        """Batches of images, labels and positions.

        Without a seed: each position once, ascending, the last batch short. With one: endless shuffled epochs, full
        batches that run over the borders of epochs; the same for the same (split, positions, batch_size, seed).
        Where the source has random access, or the set is resident, the order is that of `order.batches`. A TFDS set
        that streams has an order of its own, seeded too, which does not keep a subset in the full set's order.

        Args:
          split: 'train' or 'test'.
          positions: int [n], of the split; repeats count once.
          batch_size: images a batch.
          seed: non-negative numbers, or None.
          start_step: batches to leave out at the start; the rest equals the unbroken stream.

        Returns:
          an iterator of (uint8 [b, H, W, C], int32 [b] labels, int64 [b] positions).

        Raises:
          DataError: a position outside the split, no position at all with a seed, or an unreadable image.
        """
        part = self._part(split)
        positions = np.unique(self._checked(part, positions))
        if seed is not None and not len(positions):
            raise DataError(f"{self.name}: no position of the {split} split to draw batches from; wanted at least one.")
        if self.resident and len(positions):
            self._all(part)
            batches = self._stream_by_reading(part, positions, batch_size, seed, start_step)
        else:
            batches = self._stream(part, positions, batch_size, seed, start_step)
        labels = self._labels[split]
        return ((images, labels[taken], taken) for images, taken in batches)

    def _read(self, part: Split, positions: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, C] of ascending, different positions of the stored split."""
        raise NotImplementedError

    def _stream(self, part, positions, batch_size, seed, start_step) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return _ahead(self._stream_by_reading(part, positions, batch_size, seed, start_step))

    def _stream_by_reading(self, part, positions, batch_size, seed, start_step):
        if seed is None:
            starts = range(start_step * batch_size, len(positions), batch_size)
            rows = (positions[start : start + batch_size] for start in starts)
        else:
            rows = _endless(part.num_stored, positions, batch_size, seed, start_step)
        return ((self.read(part.name, row), row) for row in rows)

    def _part(self, split: str) -> Split:
        if split not in ("train", "test"):
            raise ValueError(f"split is {split!r}; wanted 'train' or 'test'")
        return self.train if split == "train" else self.test

    def _checked(self, part: Split, positions) -> np.ndarray:
        positions = np.asarray(positions, np.int64).reshape(-1)
        outside = (positions < 0) | (positions >= part.num_stored)
        outside |= self._labels[part.name][np.where(outside, 0, positions)] < 0
        if outside.any():
            left = "" if len(part.positions) == part.num_stored else ", as far as hold-out left them to it"
            raise DataError(
                f"{self.name}: position {positions[outside][0]} is not in the {part.name} split; wanted positions of "
                f"{part.stored!r}, 0 to {part.num_stored - 1}{left} ({int(outside.sum())} of {len(positions)} are "
                "not). They belong to another data set or split."
            )
        return positions

    def _all(self, part: Split) -> np.ndarray:
        if part.stored not in self._whole:
            images = self._read(part, np.arange(part.num_stored))
            images.setflags(write=False)
            self._whole[part.stored] = images
        return self._whole[part.stored]


def _by_position(part: Split) -> np.ndarray:
    """int32 [num_stored]: the label of each position of the split, -1 elsewhere."""
    labels = np.full(part.num_stored, -1, np.int32)
    labels[part.positions] = part.labels
    return labels


def _endless(num_stored, kept, batch_size, seed, start_step, chunk=64):
    while True:
        yield from order.batches(num_stored, kept, batch_size, seed, start_step, chunk)
        start_step += chunk


def _ahead(batches: Iterator, depth: int = 2) -> Iterator:
    """The same items, made in a thread up to `depth` ahead of whoever takes them."""
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1, "read-ahead") as pool:
        waiting = collections.deque(pool.submit(next, batches, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, batches, end))
            yield item


def check_image_size(where: str, shape: tuple, image_size: int, found: str) -> None:
    """Raises ConfigError where images of unknown or varying size (a None in `shape`) have no config.image_size."""
    if None in shape[:2] and not image_size:
        raise ConfigError(
            f"config.image_size is 0, but the images of {where} differ in size ({found}); "
            "set the side in pixels to resize and crop them to, for example --config.image_size=64."
        )
