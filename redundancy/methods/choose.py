"""Applies a method to all classes of a data set. Arrays in, arrays out: knows nothing of files."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from redundancy.linkage.batches import batches
from redundancy.linkage.classes import Linked
from redundancy.methods import Method
from redundancy.methods.counts import kept_of_each, num_asked


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which of N images are kept, in the order of the images.

    Attributes:
      kept: [N] bool.
      group: [N] int64, number of the redundant group, unique over the classes; -1 if the method has no groups.
      dissimilarity: [N] float64, to the kept image of the group, 0 for that image; NaN if there are no groups.
    """

    kept: np.ndarray
    group: np.ndarray
    dissimilarity: np.ndarray


ALL = 2**31  # replaces the label in draws from all classes together


def choose(
    method: Method,
    labels: np.ndarray,
    positions: np.ndarray,
    asked: Sequence[tuple[float, int | None]],
    config: Any,
    read: Callable[[Sequence[int], np.ndarray], np.ndarray] | None = None,
    linked: Linked | None = None,
    advance: Callable[[int], None] = lambda images: None,
    score: np.ndarray | None = None,
) -> list[Choice]:
    """The choices of one method at several fractions and trials; each class is read at most once.

    Args:
      method: a method of the registry.
      labels: [N] int.
      positions: [N] int64 ascending.
      asked: a fraction and a trial (None unless the method draws) for each choice.
      config: has the method's `fields` as attributes.
      read: takes some labels, ascending, and their rows [n], class by class and ascending within each class; returns the
        embeddings of the rows, [n, d] float32. Needed only for a method that reads embeddings.
      linked: the merges of each label; only for a method that has groups.
      advance: called after some classes with their number of images.
      score: [N] float64, the highest is kept first; only for a method that reads one.
    """
    if method.easy:
        score = -score
    found = [
        Choice(np.zeros(len(labels), bool), np.full(len(labels), -1, np.int64), np.full(len(labels), np.nan))
        for _ in asked
    ]
    if method.over_classes and config.balance != "class":
        _over_classes(method, labels, positions, asked, config, score, found)
        return found
    order = np.argsort(labels, kind="stable")
    different, sizes = np.unique(labels, return_counts=True)
    counts = [kept_of_each(sizes, fraction) for fraction, _ in asked]
    first_group = [0] * len(asked)
    stop = 0
    for batch in batches(dict(zip(different.tolist(), sizes.tolist(), strict=True))):
        classes = np.searchsorted(different, batch)
        rows = order[stop : stop + int(sizes[classes].sum())]
        stop += len(rows)
        vectors = read(batch, rows) if method.per_layer else None
        if method.has_groups:
            for number, (choice, of_fraction, (_, trial)) in enumerate(zip(found, counts, asked, strict=True)):
                kept = of_fraction[classes]
                merges = linked.together(different[classes], sizes[classes], sizes[classes] - kept)
                choice.kept[rows], choice.group[rows], choice.dissimilarity[rows] = method.choose(
                    positions=positions[rows], k=int(kept.sum()), embeddings=vectors, merges=merges, config=config, trial=trial,
                )  # fmt: skip
                choice.group[rows] += first_group[number]
                first_group[number] += int(kept.sum())
        else:
            ends = np.cumsum(sizes[classes]).tolist()
            for at, label, end, size in zip(classes.tolist(), batch, ends, sizes[classes].tolist(), strict=True):
                own = slice(end - size, end)
                _of_class(
                    method, rows[own], [int(of_fraction[at]) for of_fraction in counts], [trial for _, trial in asked], found,
                    label=label, positions=positions[rows[own]], config=config, merges=None,
                    embeddings=None if vectors is None else vectors[own],
                    score=None if score is None else score[rows[own]],
                )  # fmt: skip
        advance(len(rows))
    return found


def _of_class(method: Method, rows, counts: Sequence[int], trials: Sequence[int | None], found, **of_class) -> None:
    """Marks the kept ones of some rows in each choice; an order is computed once for all choices of a trial."""
    for trial in dict.fromkeys(trials):
        of_trial = [(choice, k) for choice, k, other in zip(found, counts, trials, strict=True) if other == trial]
        if method.order and (most := max((k for _, k in of_trial if k < len(rows)), default=0)):
            order = rows[method.order(k=most, trial=trial, **of_class)]
        for choice, k in of_trial:
            if k == len(rows):
                choice.kept[rows] = True
            elif method.order:
                choice.kept[order[:k]] = True
            else:
                choice.kept[rows] = method.choose(k=k, trial=trial, **of_class)[0]


def _over_classes(method: Method, labels, positions, asked, config, score, found) -> None:
    """Marks the kept images of all classes together: each class's floor, if there is one, then the first of the order."""
    n = len(labels)
    rows, trials = np.arange(n), [trial for _, trial in asked]
    counts = [min(n, max(1, num_asked(n, fraction))) for fraction, _ in asked]
    of_all = dict(label=ALL, positions=positions, config=config, embeddings=None, merges=None, score=score)
    if config.balance == "all":
        _of_class(method, rows, counts, trials, found, **of_all)
        return
    _, of_row, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    for choice, k, (fraction, trial) in zip(found, counts, asked, strict=True):
        order = method.order(k=n, trial=trial, **of_all)
        floor = np.minimum(sizes, np.maximum(1, kept_of_each(sizes, fraction) // 2))
        place = np.empty(n, np.int64)
        place[order] = rows
        # Ranks of the rows within their class, by the common order.
        inside = np.lexsort((place, of_row))
        rank = np.empty(n, np.int64)
        rank[inside] = rows - np.repeat(starts, sizes)
        first = rank < floor[of_row]
        choice.kept[np.lexsort((place, ~first))[: max(k, int(floor.sum()))]] = True
