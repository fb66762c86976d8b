"""How many images of each class are kept, for every method, and how many merges that takes."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np


def num_asked(num_images: int, fraction: float) -> int:
    """`fraction` of the images, half rounded up; the fraction is taken as the decimal it prints as."""
    return int(Fraction(str(float(fraction))) * num_images + Fraction(1, 2))


def kept_of_each(sizes: np.ndarray, fraction: float) -> np.ndarray:
    """Images to keep of each class: `fraction` of its size, rounded by largest remainder, and at least one.

    The sum is `fraction` of all images, rounded half up: large classes keep fewer, to compensate for classes whose share is
    below one image. If the fraction is less than one image a class on average, they do not, and the sum is larger. The sum
    for larger fractions is never below that for one image a class. Example: a class of 200 images and 100 classes of one
    image. 0.6 keeps 80 + 100, as asked; 0.2 keeps 40 + 100, not 60; 0.4 keeps 67 + 100, as 101 / 300 (one image a class) does.

    Ties go to the class that comes first. The fraction is taken as the decimal that it prints as, which avoids rounding errors.

    Args:
      sizes: [c] int64, images of each class.
      fraction: kept share, above 0 and up to 1.

    Returns:
      [c] int64, 1…size of the class (0 for an empty one).
    """
    total, least = int(sizes.sum()), np.minimum(sizes, 1)
    asked, classes = num_asked(total, fraction), int(least.sum())
    few = min(asked, classes)
    large = sizes * few >= total
    of_large = (2 * int(sizes[large].sum()) * few + total) // max(2 * total, 1)
    kept = np.where(large, _shares(np.where(large, sizes, 0), few, total, of_large), least)
    if asked < classes or kept.sum() > asked:
        return kept
    pool, left, rest = sizes.copy(), asked, total
    # Raising a class to one image lowers the shares of the others, so another class may fall below one image.
    while (below := (pool > 0) & (pool * left < rest)).any():
        left, rest = left - int(below.sum()), rest - int(pool[below].sum())
        pool[below] = 0
    return np.maximum(least, _shares(pool, left, rest, left))


def _shares(sizes: np.ndarray, numerator: int, denominator: int, wanted: int) -> np.ndarray:
    """sizes * numerator / denominator, [c] int64, rounded by largest remainder so that the sum is `wanted`."""
    shares, remainder = np.divmod(sizes * numerator, max(denominator, 1))  # exact for up to 3e9 images
    shares[np.argsort(-remainder, kind="stable")[: wanted - int(shares.sum())]] += 1
    return shares


def _by_label(counts: Mapping[int, int], of_sizes: Callable[[np.ndarray], np.ndarray]) -> dict[int, int]:
    labels = sorted(counts)
    return dict(zip(labels, of_sizes(np.array([counts[label] for label in labels], np.int64)).tolist(), strict=True))


def class_counts(counts: Mapping[int, int] | Sequence[int] | np.ndarray, fraction: float) -> dict[int, int]:
    """Images to keep of each label, see `kept_of_each`; ties are broken by the order of the labels."""
    counts = counts if isinstance(counts, Mapping) else dict(enumerate(counts))
    return _by_label(counts, lambda sizes: kept_of_each(sizes, fraction))


def _fewest(sizes: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """The smallest number of images that any of the fractions keeps of each class."""
    return np.minimum.reduce([kept_of_each(sizes, fraction) for fraction in fractions])


def merges_needed(counts: Mapping[int, int], fractions: Sequence[float]) -> dict[int, int]:
    """The merges that the fractions need, by label, given the number of images by label."""
    return _by_label(counts, lambda sizes: sizes - _fewest(sizes, fractions))


def merges_to_make(counts: Mapping[int, int], fractions: Sequence[float]) -> dict[int, int]:
    """The merges by label from which any fraction at or above the smallest one can be cut; no class may be empty."""
    # One more than needed: with largest remainders, a larger fraction may keep one image fewer of a class.
    more = int(min(fractions) < 1)
    return _by_label(counts, lambda sizes: np.minimum(sizes - _fewest(sizes, fractions) + more, sizes - 1))


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.3g} %"


def beyond_fraction(sizes: np.ndarray, fraction: float, kept: int | None = None) -> str:
    """A message that explains why more is kept than the fraction asks for; '' if that is not the case.

    Args:
      sizes: [c] int64, images of each class.
      fraction: the requested share.
      kept: number of kept images; None for that of `kept_of_each`.
    """
    total = int(sizes.sum())
    asked, kept = num_asked(total, fraction), int(kept_of_each(sizes, fraction).sum()) if kept is None else kept
    if kept <= asked:
        return ""
    only, least = int((sizes == 1).sum()), int(((sizes > 1) & (sizes * asked < total)).sum())
    why = [f"{only} classes keep their only image" if only > 1 else "1 class keeps its only image"] if only else []
    if least:
        why.append(
            f"{least} classes keep one image, more than their share" if least > 1
            else "1 class keeps one image, more than its share"
        )  # fmt: skip
    return (
        f"at {fraction:g} asked {asked} of {total} images ({_percent(asked, total)}), kept {kept} ({_percent(kept, total)}): "
        f"{' and '.join(why) or 'each class keeps at least one image'}"
    )


def beyond_fractions(sizes: np.ndarray, files: Sequence[Mapping[str, Any]]) -> list[str]:
    """The different messages of `beyond_fraction` for subsets with these manifest entries, the largest fraction first."""
    made = sorted({(file["fraction"], file["size"]) for file in files if "size" in file}, reverse=True)
    return [said for fraction, size in made if (said := beyond_fraction(sizes, fraction, size))]


def rows_by_class(labels: np.ndarray) -> dict[int, np.ndarray]:
    """Rows of each label, ascending: labels [n] int to int64 [n_c] by label."""
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True)) if len(labels) else {}
