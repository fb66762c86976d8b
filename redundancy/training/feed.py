"""Batches for the device programs, from a resident or a streamed data set, behind one interface.

An *item* is a program's input for one batch; `fetch`, inside the program, turns it into images, labels and positions.
The items of a resident feed are row numbers of arrays on the device; those of a streaming feed are the images themselves.
Items are on the mesh; the next ones are transferred while the device computes.
"""

import collections
import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from redundancy.data import Dataset, order
from redundancy.training.mesh import local_share, put, put_local

Item = dict[str, jax.Array]
Batch = tuple[jax.Array, jax.Array, jax.Array]

_AHEAD = 2  # items on the mesh, or in transfer, besides the one in use
_TRAIN, _ONCE = P("trial", None, "data"), P("data")


def fetch(arrays, item) -> Batch:
    """Inside a program: images uint8 `[B, H, W, C]`, labels int32 `[B]`, positions int32 `[B]` of an item."""
    if "image" in item:
        return item["image"], item["label"], item["position"]
    return (
        jnp.take(arrays["image"], item["row"], axis=0),
        jnp.take(arrays["label"], item["row"], axis=0),
        item["position"],
    )


def _pad(array: np.ndarray, size: int) -> np.ndarray:
    """`array` with its first row repeated up to `size` rows; zeros if it has none."""
    fill = array[:1] if len(array) else np.zeros((1, *array.shape[1:]), array.dtype)
    return np.concatenate([array, np.repeat(fill, size - len(array), axis=0)])


def _ahead(generator: Callable[..., Iterator]) -> Callable[..., Iterator]:
    """Decorates a generator function so that it makes `_AHEAD` items before they are requested."""

    @functools.wraps(generator)
    def made(*args, **kwargs):
        items, waiting = generator(*args, **kwargs), collections.deque()
        while True:
            waiting.extend(itertools.islice(items, _AHEAD + 1 - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft()

    return made


class ResidentFeed:
    """Batches of a data set that every device holds as uint8 and indexes."""

    def __init__(self, dataset: Dataset, mesh: Mesh):
        self._mesh = mesh
        self._splits = {"train": dataset.train, "test": dataset.test}
        self.arrays = {
            role: put(mesh, P(), {"image": dataset.read(role, split.positions), "label": split.labels})
            for role, split in self._splits.items()
        }

    def _item(self, role: str, positions: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.searchsorted(self._splits[role].positions, positions)
        return {"row": rows.astype(np.int32), "position": positions.astype(np.int32)}

    @_ahead
    def train_items(
        self, kept: list[np.ndarray], seeds: list[tuple[int, ...]], batch_size: int, start: int, stop: int, block: int
    ) -> Iterator[Item]:
        """Items of steps start..stop-1, `[T, K, B]`, K = `block` (fewer in the last), for T trials."""
        num_stored = self._splits["train"].num_stored
        for first in range(start, stop, block):
            count = min(block, stop - first)
            batches = [
                order.batches(num_stored, positions, batch_size, seed, first, count)
                for positions, seed in zip(kept, seeds, strict=True)
            ]
            yield put(self._mesh, _TRAIN, self._item("train", np.stack(batches)))

    @_ahead
    def once(
        self, role: str, positions: np.ndarray, batch_size: int, ordered: bool = True
    ) -> Iterator[tuple[Item, jax.Array]]:
        """Items `[B]` that together hold each position once. The last one is padded; a mask bool `[B]` marks its real rows.

        If not `ordered`, positions come in the order that is cheapest to read, and any item may be padded.
        """
        for first in range(0, len(positions), batch_size):
            part = positions[first : first + batch_size]
            mask = np.arange(batch_size) < len(part)
            yield put(self._mesh, _ONCE, (self._item(role, _pad(part, batch_size)), mask))


class StreamingFeed:
    """Batches of images that the host decodes, for data sets that do not fit on the device.

    Every process decodes only the rows of its own trials and devices.
    """

    def __init__(self, config, dataset: Dataset, mesh: Mesh):
        self._dataset, self._mesh = dataset, mesh
        self._trials, self._shard = local_share(mesh)
        self._crop = None
        if "resized_crop" in config.augmentation:
            from redundancy.data.crops import RandomResizedCrop

            self._crop = RandomResizedCrop(tuple(config.crop_area), tuple(config.crop_aspect))
        self.arrays = {"train": {}, "test": {}}

    @staticmethod
    def _item(images: np.ndarray, labels: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": images, "label": labels.astype(np.int32), "position": positions.astype(np.int32)}

    @_ahead
    def train_items(
        self, kept: list[np.ndarray], seeds: list[tuple[int, ...]], batch_size: int, start: int, stop: int, block: int
    ) -> Iterator[Item]:
        """As ResidentFeed.train_items, with images in the items."""
        share = len(kept) // self._mesh.shape["trial"]
        own = range(self._trials.start * share, self._trials.stop * share)
        of = dict(start_step=start, shard=self._shard, crop=self._crop)
        streams = [self._dataset.stream("train", kept[trial], batch_size, seed=seeds[trial], **of) for trial in own]
        for first in range(start, stop, block):
            trials = []
            for stream in streams:
                steps = [self._item(*next(stream)) for _ in range(min(block, stop - first))]
                trials.append(jax.tree.map(lambda *leaves: np.stack(leaves), *steps))
            local = jax.tree.map(lambda *leaves: np.stack(leaves), *trials)
            yield put_local(self._mesh, _TRAIN, local)

    @_ahead
    def once(
        self, role: str, positions: np.ndarray, batch_size: int, ordered: bool = True
    ) -> Iterator[tuple[Item, jax.Array]]:
        """As ResidentFeed.once, with images in the items."""
        _, count = self._shard
        rows = batch_size // count
        batches = self._dataset.stream(role, positions, batch_size, shard=self._shard, runs=not ordered)
        for _, batch in zip(range(0, len(positions), batch_size), batches, strict=True):
            mask = np.arange(rows) < len(batch[0])
            yield put_local(self._mesh, _ONCE, (self._item(*(_pad(array, rows) for array in batch)), mask))


def resident_images(dataset: Dataset) -> int:
    """Number of images that every device holds: all of both splits, or 0 for a streamed set."""
    return len(dataset.train.positions) + len(dataset.test.positions) if dataset.resident else 0


def make_feed(config, dataset: Dataset, mesh: Mesh) -> ResidentFeed | StreamingFeed:
    """The feed that suits the size of the data set (config.resident_mb)."""
    return ResidentFeed(dataset, mesh) if dataset.resident else StreamingFeed(config, dataset, mesh)
