"""How many images of each class are kept, for every method, and how many merges that takes."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np


def num_asked(num_images: int, fraction: float) -> int:
    """`fraction` of the images, half rounded up; the fraction is taken as the decimal it prints as."""
    return int(Fraction(str(float(fraction))) * num_images + Fraction(1, 2))


def class_counts(counts: Mapping[int, int] | Sequence[int] | np.ndarray, fraction: float) -> dict[int, int]:
    """Images to keep of each class: shares proportional to the class sizes, by largest remainder.

    The sum is `fraction` of all images, rounded half up, but at least one image of each class that has any. A class whose
    share is below one keeps one; the others share the rest. Ties go to the lowest label. The fraction is taken as the
    decimal that it prints as, so there are no rounding errors.

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
    left = max(num_asked(total, fraction), len(pool))
    # Each class that is raised to one image lowers the others' share, so another one may fall below one.
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


def merges_needed(counts: Mapping[int, int], fractions: Sequence[float]) -> dict[int, int]:
    """Merges of each class that the fractions need: images of each label to merges of each label."""
    kept = [class_counts(counts, fraction) for fraction in fractions]
    return {label: size - min(of_fraction[label] for of_fraction in kept) for label, size in sorted(counts.items())}


def merges_to_make(counts: Mapping[int, int], fractions: Sequence[float]) -> dict[int, int]:
    """Merges of each class from which any fraction at or above the smallest of `fractions` can be cut; no class is empty."""
    # One more than needed: with largest remainders, a larger fraction may keep one image fewer of a class.
    more = int(min(fractions) < 1)
    return {label: min(number + more, counts[label] - 1) for label, number in merges_needed(counts, fractions).items()}


def rows_by_class(labels: np.ndarray) -> dict[int, np.ndarray]:
    """Rows of each label, ascending: labels [n] int to int64 [n_c] by label."""
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True)) if len(labels) else {}
