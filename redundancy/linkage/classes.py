"""Links many classes, the small ones together, and stores the merges of all of them, class after class.

Knows nothing of files and fractions.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from redundancy.linkage import chain, dissimilarity
from redundancy.linkage.complete import Merges, complete_linkage, numbered


def link(
    embeddings: np.ndarray,
    sizes: Sequence[int],
    num_merges: Sequence[int],
    advance: Callable[[float], None] | None = None,
) -> Merges:
    """The first merges of one class, as from `complete_linkage`, or of several small classes, as from `link_small`."""
    if len(sizes) == 1:
        return complete_linkage(embeddings, num_merges[0], advance)
    return link_small(embeddings, sizes, num_merges)


def link_small(embeddings: np.ndarray, sizes: Sequence[int], num_merges: Sequence[int]) -> Merges:
    """The first merges of several classes, class after class; they equal those of `complete_linkage`.

    All pairs of a class are computed, so it should have no more than `batches.SMALL` images.

    Args:
      embeddings: [n, d] float32, finite and no row zero, grouped by class.
      sizes: images of each class, at least one.
      num_merges: merges wanted of each class, below its size.
    """
    sizes, wanted = np.asarray(sizes), np.asarray(num_merges)
    n, starts = len(embeddings), np.concatenate(([0], np.cumsum(sizes)))
    first, second, height = chain.linkage_of_small(dissimilarity.units(embeddings), starts)
    taken = ranges(starts[:-1] - np.arange(len(sizes)), wanted)
    left, right, size = numbered(n, first[taken], second[taken])
    begin = np.repeat(starts[:-1], wanted)
    made = np.repeat(np.cumsum(wanted) - wanted - sizes, wanted) + n  # shift of a class's cluster numbers
    left, right = (np.where(each < n, each - begin, each - made) for each in (left, right))
    return Merges(left, right, height[taken], size)


def ranges(first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenates ranges: lengths[0] numbers from first[0] on, then lengths[1] numbers from first[1] on, …"""
    return np.repeat(first - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))


@dataclasses.dataclass(frozen=True)
class Linked(Mapping[int, Merges]):
    """The merges of each label.

    Attributes:
      labels: [c] int64 ascending.
      starts: [c + 1] int64, the index in `merges` at which those of each label begin.
      merges: the merges of all labels, in the order of `labels`; images and clusters are numbered within each class.
    """

    labels: np.ndarray
    starts: np.ndarray
    merges: Merges

    @classmethod
    def of(cls, labels: np.ndarray, num_merges: np.ndarray, merges: Merges) -> "Linked":
        """Makes it from the number of merges of each label."""
        return cls(np.asarray(labels), np.concatenate(([0], np.cumsum(num_merges))), merges)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[int]:
        return iter(self.labels.tolist())

    def __getitem__(self, label: int) -> Merges:
        place = int(np.searchsorted(self.labels, label))
        if place == len(self.labels) or self.labels[place] != label:
            raise KeyError(label)
        rows = slice(self.starts[place], self.starts[place + 1])
        return Merges(*(getattr(self.merges, field.name)[rows] for field in dataclasses.fields(Merges)))

    @property
    def num_merges(self) -> np.ndarray:
        """[c] int64, merges of each label."""
        return np.diff(self.starts)

    def together(self, labels: np.ndarray, sizes: np.ndarray, num_merges: np.ndarray) -> Merges:
        """The first merges of several classes, renumbered as those of one class that consists of all their images.

        Args:
          labels: [c] the classes, ascending.
          sizes: [c] images of each class.
          num_merges: [c] merges to take from each class.
        """
        first = self.starts[np.searchsorted(self.labels, labels)]
        taken, n = ranges(first, num_merges), int(sizes.sum())
        size_of = np.repeat(sizes, num_merges)
        begin = np.repeat(np.cumsum(sizes) - sizes, num_merges)
        made = np.repeat(np.cumsum(num_merges) - num_merges - sizes, num_merges) + n
        left, right = self.merges.left[taken], self.merges.right[taken]
        if len(taken) and min(left.min(), right.min()) < 0:
            raise ValueError("a merge is of a cluster below 0")
        left, right = (np.where(each < size_of, each + begin, each + made) for each in (left, right))
        return Merges(left, right, self.merges.height[taken], self.merges.size[taken])
