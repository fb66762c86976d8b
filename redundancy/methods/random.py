"""The method random: images drawn uniformly from each class (the paper's baseline)."""

import numpy as np

from redundancy.methods.counts import class_counts, rows_by_class


def random_subset(labels: np.ndarray, positions: np.ndarray, fraction: float, seed: tuple[int, ...]) -> np.ndarray:
    """A uniformly random subset with the counts of `class_counts`, drawn in each class by itself.

    Depends on the seed and on the positions of each class, not on the order of the rows. Other classes only change the
    counts.

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
    """Draws k rows of one class with positions [n]; returns [n] bool. The order of the rows does not matter."""
    kept = np.zeros(len(positions), bool)
    kept[random_order(positions, seed)[:k]] = True
    return kept


def random_order(positions: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """The rows of positions [n] in random order, [n] int64; the first k are the draw of k."""
    order = np.argsort(positions, kind="stable")
    return order[np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(order))]
