"""The groups of a subset, and which of them to show. Pure: arrays in, positions out."""

import dataclasses
import itertools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Groups:
    """All groups of a subset, members of a group side by side, its kept image first, then by dissimilarity.

    Attributes:
      positions: [N] int64, images in that order.
      dissimilarity: [N] float64, to the group's kept image.
      starts, sizes: [G] int64, a group's first row and number of rows.
      labels: [G] int64, its class.
      spread: [G] float64, largest dissimilarity to the kept image; 0 for a group of one.
    """

    positions: np.ndarray
    dissimilarity: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    spread: np.ndarray

    def members(self, index: int) -> np.ndarray:
        """[m] int64 positions of a group, the kept one first."""
        return self.positions[self.starts[index] : self.starts[index] + self.sizes[index]]

    def distances(self, index: int) -> np.ndarray:
        """[m] float64 dissimilarities to the kept image, in the order of `members`."""
        return self.dissimilarity[self.starts[index] : self.starts[index] + self.sizes[index]]


def make_groups(positions, labels, group, kept, dissimilarity) -> Groups:
    """The groups of a subset.

    Args:
      positions, labels, group: [N] integers; group is unique over the data set.
      kept: [N] bool, one True in each group.
      dissimilarity: [N] float, to the group's kept image.
    """
    order = np.lexsort((positions, dissimilarity, ~np.asarray(kept, bool), group))
    group, dissimilarity = np.asarray(group)[order], np.asarray(dissimilarity, np.float64)[order]
    dissimilarity = np.where(np.asarray(kept, bool)[order], 0.0, dissimilarity)
    starts = np.flatnonzero(np.diff(group, prepend=group[:1] - 1)) if group.size else np.zeros(0, np.int64)
    sizes = np.diff(starts, append=group.size)
    return Groups(
        positions=np.asarray(positions)[order],
        dissimilarity=dissimilarity,
        starts=starts,
        sizes=sizes,
        labels=np.asarray(labels)[order][starts].astype(np.int64),
        spread=np.maximum.reduceat(dissimilarity, starts) if starts.size else np.zeros(0),
    )


def choose_groups(groups: Groups, label: int, count: int) -> list[int]:
    """Indices of up to `count` redundant groups of a class: its largest and its tightest, half and half, in the
    order of size (descending), then spread."""
    large, tight = ranked(groups, label)
    mixed = dict.fromkeys([*large[: (count + 1) // 2], *tight])
    chosen = set(list(mixed)[:count])
    return [index for index in large if index in chosen]


def ranked(groups: Groups, label: int | None = None) -> tuple[list[int], list[int]]:
    """Indices of the redundant groups, of a class or (None) of the whole data set, the largest first, and the tightest first.

    Of groups of one size the tighter one comes first, of groups of one spread the larger one.
    """
    found = np.flatnonzero((groups.sizes > 1) & (groups.labels == (groups.labels if label is None else label)))
    large = found[np.lexsort((groups.spread[found], -groups.sizes[found]))]
    tight = found[np.lexsort((-groups.sizes[found], groups.spread[found]))]
    return large.tolist(), tight.tolist()


def telling_labels(groups: Groups) -> list[int]:
    """The labels that have a redundant group, in turn by the largest and by the tightest group of each."""
    orders = ([int(groups.labels[index]) for index in order] for order in ranked(groups))
    turns = itertools.chain.from_iterable(zip(*(dict.fromkeys(order) for order in orders), strict=True))
    return list(dict.fromkeys(turns))


def size_counts(groups: Groups, label: int | None = None) -> dict[int, int]:
    """Number of groups by group size, ones included, of a class or (None) of the whole data set."""
    sizes = groups.sizes if label is None else groups.sizes[groups.labels == label]
    found, counts = np.unique(sizes, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
