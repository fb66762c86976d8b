"""What a method keeps of all classes of a data set. Arrays in, arrays out: knows nothing of files."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from redundancy.linkage.batches import batches
from redundancy.linkage.classes import Linked
from redundancy.methods import Method
from redundancy.methods.counts import kept_of_each


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is kept of N images, in their order.

    Attributes:
      kept: [N] bool.
      group: [N] int64, number of the redundant group, unique over the classes; -1 if the method has no groups.
      dissimilarity: [N] float64 to the kept image of the group, 0 for that image; NaN if there are no groups.
    """

    kept: np.ndarray
    group: np.ndarray
    dissimilarity: np.ndarray


def choose(
    method: Method,
    labels: np.ndarray,
    positions: np.ndarray,
    asked: Sequence[tuple[float, int | None]],
    config: Any,
    read: Callable[[Sequence[int], np.ndarray], np.ndarray] | None = None,
    linked: Linked | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> list[Choice]:
    """The choices of one method at several fractions and trials; each class is read once, if at all.

    Args:
      method: of the registry.
      labels: [N] int.
      positions: [N] int64 ascending.
      asked: a fraction and a trial (None unless the method draws) for each choice.
      config: has the method's `fields` as attributes.
      read: takes some labels, ascending, and their rows [n], class by class and ascending in each, and returns the rows'
        embeddings [n, d] float32; only for a method that reads embeddings.
      linked: the merges of each label; only for a method that has groups.
      advance: called after some classes with their number of images.
    """
    order = np.argsort(labels, kind="stable")
    different, sizes = np.unique(labels, return_counts=True)
    counts = [kept_of_each(sizes, fraction) for fraction, _ in asked]
    found = [
        Choice(np.zeros(len(labels), bool), np.full(len(labels), -1, np.int64), np.full(len(labels), np.nan))
        for _ in asked
    ]
    first_group = [0] * len(asked)
    stop = 0
    for batch in batches(dict(zip(different.tolist(), sizes.tolist(), strict=True))):
        classes = np.searchsorted(different, batch)
        rows = order[stop : stop + int(sizes[classes].sum())]
        stop += len(rows)
        vectors = read(batch, rows) if method.per_layer else None
        for number, (choice, of_fraction, (_, trial)) in enumerate(zip(found, counts, asked, strict=True)):
            kept, of_trial = of_fraction[classes], {"config": config, "trial": trial}
            if method.has_groups:
                merges = linked.together(different[classes], sizes[classes], sizes[classes] - kept)
                choice.kept[rows], choice.group[rows], choice.dissimilarity[rows] = method.choose(
                    positions=positions[rows], k=int(kept.sum()), embeddings=vectors, merges=merges, **of_trial
                )
                choice.group[rows] += first_group[number]
                first_group[number] += int(kept.sum())
                continue
            ends = np.cumsum(sizes[classes]).tolist()
            for label, end, size, k in zip(batch, ends, sizes[classes].tolist(), kept.tolist(), strict=True):
                own = slice(end - size, end)
                choice.kept[rows[own]] = k == size or method.choose(
                    label=label, positions=positions[rows[own]], k=k, merges=None,
                    embeddings=None if vectors is None else vectors[own], **of_trial,
                )[0]  # fmt: skip
        advance(len(rows))
    return found
