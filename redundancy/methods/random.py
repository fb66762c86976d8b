"""The method random: images drawn uniformly from each class (the paper's baseline)."""

import numpy as np

from redundancy.methods.counts import class_counts, rows_by_class


def random_subset(labels: np.ndarray, positions: np.ndarray, fraction: float, seed: tuple[int, ...]) -> np.ndarray:
    """A uniformly random subset with the counts of `class_counts`, drawn separately in each class.

    It depends on the seed and on the positions of each class, not on the order of the rows. Other classes affect only the
    counts.

    Args:
      labels: [n] int.
      positions: [n] int64, unique.
      fraction: kept share, above 0 and up to 1.
      seed: non-negative integers, for example (seed, trial).

    Returns:
      [n] bool, True for kept rows.
    """
    rows = rows_by_class(labels)
    counts = class_counts({label: len(of_class) for label, of_class in rows.items()}, fraction)
    kept = np.zeros(len(labels), bool)
    for label, of_class in rows.items():
        kept[of_class] = random_rows(positions[of_class], counts[label], (*seed, label))
    return kept


def random_rows(positions: np.ndarray, k: int, seed: tuple[int, ...]) -> np.ndarray:
    """Draws k rows of a class with positions [n]; returns [n] bool. The draw does not depend on the order of the rows."""
    kept = np.zeros(len(positions), bool)
    kept[random_order(positions, seed)[:k]] = True
    return kept


def random_order(positions: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """The rows of positions [n] in random order, [n] int64; `random_rows` draws the first k of them."""
    order = np.argsort(positions, kind="stable")
    return order[np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(order))]
