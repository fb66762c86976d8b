"""Cuts one class into any number of groups, chooses the image to keep of each, and measures how far the others are from it.

Knows nothing of files, classes and fractions. Computed in float64.
"""

import itertools

import numpy as np

from redundancy.linkage import dissimilarity
from redundancy.linkage.complete import Merges
from redundancy.runtime.compiled import compiled

# Scores that are equal in theory differ by rounding: in a group of two vectors of equal length, every rule has a tie.
TIE = 1e-9
_BATCH_ELEMENTS = 1 << 22
_GROUPED_ROWS = 1 << 17  # rows whose scores are computed at once, plus the rest of the last group


@compiled
def _tops(n, left, right):
    """The number of each image's cluster, [n] int64, after the merges of the clusters `left` and `right`, [m] int64."""
    top = np.arange(n + len(left))
    for row in range(len(left) - 1, -1, -1):
        top[left[row]] = top[right[row]] = top[n + row]
    return top[:n].copy()


def groups(merges: Merges, n: int, k: int) -> np.ndarray:
    """The k groups that remain after the first n - k merges, in O(n).

    No two images of a group are further apart than the height of the group's last merge.

    Args:
      merges: at least the first n - k merges of the n images.
      n: images.
      k: groups wanted, n - len(merges) … n.

    Returns:
      [n] int64, each image's group, 0…k-1 in the order of the groups' lowest members.
    """
    if not n - len(merges) <= k <= n:
        raise ValueError(f"{k} groups of {n} images cannot be cut from {len(merges)} merges")
    made = n - k
    left, right = merges.left[:made], merges.right[:made]
    if made and ((np.minimum(left, right) < 0) | (np.maximum(left, right) >= n + np.arange(made))).any():
        raise ValueError("a merge is of clusters that are made after it")
    cluster = _tops(n, left, right)
    images = np.arange(n)
    lowest = np.empty(n + made, np.int64)
    # Of several assignments to a cluster NumPy keeps the last, which is that of its lowest image in this order.
    lowest[cluster[::-1]] = images[::-1]
    number = np.cumsum(lowest[cluster] == images) - 1
    return number[lowest[cluster]]


def _cosine_to_centre(vectors: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Cosine of each row to the mean of its segment; 0 if the mean is zero."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    centres = np.add.reduceat(vectors, starts, axis=0)
    centre_lengths = np.sqrt(np.einsum("gd,gd->g", centres, centres))
    vanishes = centre_lengths <= 1e-12 * np.add.reduceat(lengths, starts)
    centres /= np.where(vanishes, np.inf, centre_lengths)[:, None]
    return np.einsum("nd,nd->n", vectors, np.repeat(centres, sizes, axis=0)) / lengths


def _negative_sum(units: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Minus the sum of each row's dissimilarities to its segment. The sum of 1 - cos depends only on the vectors' sum."""
    totals = np.repeat(np.add.reduceat(units, starts, axis=0), sizes, axis=0)
    return np.einsum("nd,nd->n", units, totals) - np.repeat(sizes, sizes)


def _negative_maximum(units: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Minus the greatest of each row's dissimilarities to its segment."""
    out = np.empty(len(units))
    for size in np.unique(sizes):
        of_size = starts[sizes == size]
        batch = max(1, _BATCH_ELEMENTS // (size * max(size, units.shape[1])))
        for first in range(0, len(of_size), batch):
            rows = of_size[first : first + batch, None] + np.arange(size)
            members = units[rows]
            step = max(1, _BATCH_ELEMENTS // rows.size)
            for row in range(0, size, step):
                some = slice(row, row + step)
                out[rows[:, some]] = -dissimilarity.between_all(members[:, some], members).max(axis=-1)
    return out


def scores(vectors: np.ndarray, starts: np.ndarray, sizes: np.ndarray, rule: str) -> np.ndarray:
    """Scores how well each image represents its group, by a rule; the image with the highest score is kept.

    Args:
      vectors: [m, d] float32 embeddings, grouped.
      starts, sizes: [g] int64, each group's first row and number of rows.
      rule: a rule of `representatives`.

    Returns:
      [m] float64: the cosine to the centre; for medoid, minus the sum of the dissimilarities to the group; for minimax,
      minus the greatest of these dissimilarities.
    """
    if rule == "cosine_raw_mean":
        return _cosine_to_centre(vectors.astype(np.float64), starts, sizes)
    if rule == "cosine_unit_mean":
        return _cosine_to_centre(dissimilarity.normalized(vectors), starts, sizes)
    if rule == "medoid":
        return _negative_sum(dissimilarity.normalized(vectors), starts, sizes)
    if rule == "minimax":
        return _negative_maximum(dissimilarity.unit_vectors(vectors), starts, sizes)
    raise ValueError(f"no rule {rule!r}")


def representatives(embeddings: np.ndarray, group: np.ndarray, rule: str) -> np.ndarray:
    """The image to keep of each group (the paper's section 3.2). Of scores within 1e-9, the lowest index wins.

    Rules:
      cosine_raw_mean: greatest cosine to the mean of the group's embeddings.
      cosine_unit_mean: greatest cosine to the mean of the group's unit vectors.
      medoid: least sum of dissimilarities to the group; the same image as cosine_unit_mean, except for ties.
      minimax: smallest maximum dissimilarity to the group.

    Args:
      embeddings: [n, d] float32, finite and no row zero.
      group: [n] int64, each image's group; every number 0…k-1 occurs.
      rule: one of the above.

    Returns:
      [k] int64, index of the kept image of each group, in the order of the groups.
    """
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    kept = order[starts]
    several = sizes > 1
    if not several.any():
        return kept
    # Most images are alone in their group, so only the others are computed.
    rows = order[np.repeat(several, sizes)]
    sizes = sizes[several]
    starts = np.cumsum(sizes) - sizes
    found = np.empty(len(rows))
    # In blocks, because all embeddings of a large class in float64 would dominate the memory.
    borders = [*np.flatnonzero(np.diff(starts // _GROUPED_ROWS, prepend=-1)).tolist(), len(starts)]
    ends = starts + sizes
    for first, last in itertools.pairwise(borders):
        some = slice(starts[first], ends[last - 1])
        found[some] = scores(embeddings[rows[some]], starts[first:last] - starts[first], sizes[first:last], rule)
    best = np.maximum.reduceat(found, starts)
    tied = found >= np.repeat(best, sizes) - TIE
    kept[several] = rows[np.minimum.reduceat(np.where(tied, np.arange(len(rows)), len(rows)), starts)]
    return kept


def dissimilarity_to(embeddings: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Dissimilarity of each image to the kept image of its group; 0 for the kept image itself.

    Args:
      embeddings: [n, d] float32, finite and no row zero.
      kept: [n] int64, index of the image kept for each image.

    Returns:
      [n] float64.
    """
    out = np.zeros(len(kept))
    dropped = np.flatnonzero(kept != np.arange(len(kept)))
    out[dropped] = dissimilarity.between_rows(
        dissimilarity.unit_vectors(embeddings[dropped]), dissimilarity.unit_vectors(embeddings[kept[dropped]])
    )
    return out
