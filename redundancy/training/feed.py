"""Batches for the device programs, from a resident or a streamed data set, behind one interface.

An *item* is what a program gets for one batch; `fetch`, inside the program, turns it into images, labels and
positions. A resident feed's items are row numbers into arrays on the device, a streaming feed's are the images.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from redundancy.data import Dataset, order
from redundancy.training.mesh import put

Item = dict[str, np.ndarray]
Batch = tuple[jax.Array, jax.Array, jax.Array]


def _pad(array: np.ndarray, size: int) -> np.ndarray:
    """`array` with its first row repeated up to `size` rows."""
    return np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)])


class ResidentFeed:
    """The whole set on every device as uint8; batches are gathered there."""

    def __init__(self, dataset: Dataset, mesh: Mesh):
        self._splits = {"train": dataset.train, "test": dataset.test}
        self.arrays = {
            role: put(mesh, P(), {"image": dataset.read(role, split.positions), "label": split.labels})
            for role, split in self._splits.items()
        }

    def _item(self, role: str, positions: np.ndarray) -> Item:
        rows = np.searchsorted(self._splits[role].positions, positions)
        return {"row": rows.astype(np.int32), "position": positions.astype(np.int32)}

    def train_items(
        self, kept: list[np.ndarray], seeds: list[tuple[int, ...]], batch_size: int, start: int, stop: int, block: int
    ) -> Iterator[Item]:
        """Items of steps start..stop-1, `[T, K, B]`, K = `block` (fewer in the last), for T trials."""
        num_stored = self._splits["train"].num_stored
        for first in range(start, stop, block):
            count = min(block, stop - first)
            yield self._item(
                "train",
                np.stack(
                    [
                        order.batches(num_stored, positions, batch_size, seed, first, count)
                        for positions, seed in zip(kept, seeds, strict=True)
                    ]
                ),
            )

    def once(self, role: str, positions: np.ndarray, batch_size: int) -> Iterator[tuple[Item, np.ndarray]]:
        """Each position once in items `[B]`, the last padded; beside each the mask bool `[B]` of real rows."""
        for first in range(0, len(positions), batch_size):
            part = positions[first : first + batch_size]
            yield self._item(role, _pad(part, batch_size)), np.arange(batch_size) < len(part)

    @staticmethod
    def fetch(arrays, item) -> Batch:
        """Inside a program: images uint8 `[B, H, W, C]`, labels int32 `[B]`, positions int32 `[B]` of an item."""
        return (
            jnp.take(arrays["image"], item["row"], axis=0),
            jnp.take(arrays["label"], item["row"], axis=0),
            item["position"],
        )


class StreamingFeed:
    """Batches of decoded images from the host, for sets that do not fit on the device."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self.arrays = {"train": {}, "test": {}}

    @staticmethod
    def _item(images: np.ndarray, labels: np.ndarray, positions: np.ndarray) -> Item:
        return {"image": images, "label": labels.astype(np.int32), "position": positions.astype(np.int32)}

    def train_items(
        self, kept: list[np.ndarray], seeds: list[tuple[int, ...]], batch_size: int, start: int, stop: int, block: int
    ) -> Iterator[Item]:
        """As ResidentFeed.train_items, with images in the items."""
        streams = [
            self._dataset.stream("train", positions, batch_size, seed=seed, start_step=start)
            for positions, seed in zip(kept, seeds, strict=True)
        ]
        for first in range(start, stop, block):
            count = min(block, stop - first)
            trials = []
            for stream in streams:
                steps = [self._item(*next(stream)) for _ in range(count)]
                trials.append(jax.tree.map(lambda *leaves: np.stack(leaves), *steps))
            yield jax.tree.map(lambda *leaves: np.stack(leaves), *trials)

    def once(self, role: str, positions: np.ndarray, batch_size: int) -> Iterator[tuple[Item, np.ndarray]]:
        """As ResidentFeed.once, with images in the items."""
        for batch in self._dataset.stream(role, positions, batch_size):
            mask = np.arange(batch_size) < len(batch[0])
            yield self._item(*(_pad(array, batch_size) for array in batch)), mask

    @staticmethod
    def fetch(arrays, item) -> Batch:
        """Inside a program: as ResidentFeed.fetch."""
        del arrays
        return item["image"], item["label"], item["position"]


def make_feed(dataset: Dataset, mesh: Mesh) -> ResidentFeed | StreamingFeed:
    """The feed that suits the size of the data set (config.resident_mb)."""
    return ResidentFeed(dataset, mesh) if dataset.resident else StreamingFeed(dataset)
