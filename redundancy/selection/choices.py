"""Which images a method keeps: how many of each class, which of them, and what the paper's Table 1 says of a choice.

Knows nothing of files.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from redundancy.selection.linkage import cut
from redundancy.selection.linkage.complete import Merges
from redundancy.selection.subset import Subset


def class_counts(counts: Mapping[int, int] | Sequence[int] | np.ndarray, fraction: float) -> dict[int, int]:
    """Images to keep of each class: shares proportional to the class sizes, by largest remainder.

    The sum is `fraction` of all images, half rounded up, but at least one of each class that has any. A class whose
    share is below one keeps one; the others share the rest. Ties go to the lowest label. No rounding error: the
    fraction is taken as the decimal it prints as.

    Args:
      counts: images of each class, by label.
      fraction: kept share, above 0 and up to 1.

    Returns:
      Kept images of each label in `counts`, 1…size of the class (0 for an empty one).
    """
    sizes = dict(counts.items() if isinstance(counts, Mapping) else enumerate(counts))
    sizes = {int(label): int(size) for label, size in sorted(sizes.items())}
    kept = dict.fromkeys(sizes, 0)
    pool = [label for label, size in sizes.items() if size]
    total = sum(sizes.values())
    left = max(int(Fraction(str(float(fraction))) * total + Fraction(1, 2)), len(pool))
    # With every class raised to one image the share of the others falls, and another may come below one.
    while below := [label for label in pool if sizes[label] * left < total]:
        for label in below:
            kept[label] = 1
            left -= 1
            total -= sizes[label]
        pool = [label for label in pool if not kept[label]]
    remainder = {}
    for label in pool:
        kept[label], remainder[label] = divmod(sizes[label] * left, total)
    missing = left - sum(kept[label] for label in pool)
    for label in sorted(pool, key=lambda label: (-remainder[label], label))[:missing]:
        kept[label] += 1
    return kept


def rows_by_class(labels: np.ndarray) -> dict[int, np.ndarray]:
    """Rows of each label, ascending: labels [n] int to int64 [n_c] by label."""
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True)) if len(labels) else {}


def random_subset(labels: np.ndarray, positions: np.ndarray, fraction: float, seed: tuple[int, ...]) -> np.ndarray:
    """A uniformly random subset with the counts of `class_counts`, drawn in each class by itself.

    Depends on the seed and on which positions each class has: not on the order of the rows, nor on other classes
    but for the counts.

    Args:
      labels: [n] int.
      positions: [n] int64, unique.
      fraction: kept share, above 0 and up to 1.
      seed: whole numbers of at least 0, for example (seed, trial).

    Returns:
      [n] bool, whether a row is kept.
    """
    rows = rows_by_class(labels)
    counts = class_counts({label: len(of_class) for label, of_class in rows.items()}, fraction)
    kept = np.zeros(len(labels), bool)
    for label, of_class in rows.items():
        kept[of_class] = random_rows(positions[of_class], counts[label], (*seed, label))
    return kept


def random_rows(positions: np.ndarray, k: int, seed: tuple[int, ...]) -> np.ndarray:
    """Which k of the rows of one class, at positions [n], are kept: [n] bool, whatever the order of the rows."""
    order = np.argsort(positions, kind="stable")
    kept = np.zeros(len(positions), bool)
    kept[order[np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(order))[:k]]] = True
    return kept


def semantic_subset(
    merges: Merges, embeddings: np.ndarray, k: int, rule: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image kept of each redundant group of one class, and the groups (the paper's section 3.2).

    Args:
      merges: at least the first n - k merges of the class.
      embeddings: [n, d] float32.
      k: images to keep.
      rule: which image of a group is kept, see `cut.representatives`.

    Returns:
      kept [n] bool, group [n] int64 in 0…k-1, dissimilarity [n] float64 to the kept image of the group.
    """
    group = cut.groups(merges, len(embeddings), k)
    representatives = cut.representatives(embeddings, group, rule)
    kept = np.zeros(len(embeddings), bool)
    kept[representatives] = True
    return kept, group, cut.dissimilarity_to(embeddings, representatives[group])


def mean_dissimilarity(subset: Subset) -> tuple[dict[int, float], float]:
    """The paper's Table 1: the dropped images' mean dissimilarity to the kept one, averaged over groups of two or more.

    Args:
      subset: of a method that has groups.

    Returns:
      The mean of each label that has such a group, and the mean over all such groups (NaN where there is none).
    """
    dropped = ~subset.kept
    group = subset.group[dropped]
    redundant, first, number, count = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    mean = np.bincount(number, weights=subset.dissimilarity[dropped], minlength=len(redundant)) / count
    label = subset.labels[dropped][first]
    by_label = {of_class: float(mean[label == of_class].mean()) for of_class in np.unique(label).tolist()}
    return by_label, float(mean.mean()) if len(mean) else float("nan")
