"""What a method keeps of all classes of a data set. Arrays in, arrays out: knows nothing of files."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from redundancy.linkage.complete import Merges
from redundancy.methods import Method
from redundancy.methods.counts import class_counts, rows_by_class


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
    read: Callable[[int, np.ndarray], np.ndarray] | None = None,
    linked: Mapping[int, Merges] | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> list[Choice]:
    """The choices of one method at several fractions and trials; each class is read once, if at all.

    Args:
      method: of the registry.
      labels: [N] int.
      positions: [N] int64 ascending.
      asked: a fraction and a trial (None unless the method draws) for each choice.
      config: has the method's `fields` as attributes.
      read: takes a label and its rows [n] ascending, and returns their embeddings [n, d] float32; only for a method that
        reads embeddings.
      linked: the merges of each label; only for a method that has groups.
      advance: called after each class with its number of images.
    """
    rows_of = rows_by_class(labels)
    sizes = {label: len(rows) for label, rows in rows_of.items()}
    counts = [class_counts(sizes, fraction) for fraction, _ in asked]
    found = [
        Choice(np.zeros(len(labels), bool), np.full(len(labels), -1, np.int64), np.full(len(labels), np.nan))
        for _ in asked
    ]
    first_group = [0] * len(asked)
    for label, rows in rows_of.items():
        vectors = read(label, rows) if method.per_layer else None
        for number, (choice, of_fraction, (_, trial)) in enumerate(zip(found, counts, asked, strict=True)):
            choice.kept[rows], *groups = method.choose(
                label=label, positions=positions[rows], k=of_fraction[label], config=config, trial=trial,
                embeddings=vectors, merges=linked[label] if method.has_groups else None,
            )  # fmt: skip
            if groups:
                choice.group[rows], choice.dissimilarity[rows] = groups[0] + first_group[number], groups[1]
                first_group[number] += of_fraction[label]
        advance(len(rows))
    return found
