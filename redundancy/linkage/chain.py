"""Complete linkage from all pairs by nearest-neighbour chains (Murtagh 1983): O(n²) time and memory, compiled.

For a few clusters of a few images, where nearly all pairs are needed. Ties are broken as in `ties`: the distance of two
clusters is that of their last pair of images in that order. The number of this pair is stored beside the distance.
"""

import numpy as np

from redundancy.linkage.dissimilarity import Units
from redundancy.runtime.compiled import compiled

# Bytes for each pair of clusters: the dissimilarity, and the number of the pair of images that has it.
BYTES_PER_PAIR = 12


@compiled(inline="always")
def _at(n, one, other):
    """Index of a pair in the condensed matrix, in SciPy's order."""
    if one > other:
        one, other = other, one
    return n * one - one * (one + 1) // 2 + (other - one - 1)


@compiled
def _chain(n, value, number):
    left, right = np.empty(n - 1, np.int32), np.empty(n - 1, np.int32)
    height, last = np.empty(n - 1), np.empty(n - 1, np.int64)
    active = np.arange(n)  # the present clusters, each represented by one of its images
    place = np.arange(n)
    num_active = n
    chain = np.empty(n + 1, np.int64)
    length = 0
    for merge in range(n - 1):
        if length == 0:
            chain[0] = active[0]
            length = 1
        while True:
            tip = chain[length - 1]
            best, best_value, best_number = np.int64(-1), np.inf, np.int64(0)
            for position in range(num_active):
                cluster = active[position]
                if cluster == tip:
                    continue
                at = _at(n, tip, cluster)
                if value[at] < best_value or (value[at] == best_value and number[at] < best_number):
                    best, best_value, best_number = cluster, value[at], np.int64(number[at])
            if length > 1 and best == chain[length - 2]:
                break
            chain[length] = best
            length += 1
        one, other = chain[length - 1], chain[length - 2]
        length -= 2
        left[merge], right[merge], height[merge], last[merge] = one, other, best_value, best_number
        # `one` is removed, and `other` represents both.
        num_active -= 1
        moved = active[num_active]
        active[place[one]] = moved
        place[moved] = place[one]
        for position in range(num_active):
            cluster = active[position]
            if cluster == other:
                continue
            of_one, of_other = _at(n, one, cluster), _at(n, other, cluster)
            if value[of_one] > value[of_other] or (
                value[of_one] == value[of_other] and number[of_one] > number[of_other]
            ):
                value[of_other], number[of_other] = value[of_one], number[of_one]
    return left, right, height, last


@compiled
def _small(grid, excess, starts, first, second, height):
    """All merges of small classes, each in its total order; their images are rows `starts[c]` to `starts[c + 1]`."""
    done = 0
    for of_class in range(len(starts) - 1):
        begin, n = starts[of_class], starts[of_class + 1] - starts[of_class]
        value, number = np.empty(n * (n - 1) // 2), np.arange(n * (n - 1) // 2)
        at = 0
        for one in range(begin, begin + n):
            for other in range(one + 1, begin + n):
                total = np.int64(0)
                for column in range(grid.shape[1]):
                    total += np.int64(grid[one, column]) * np.int64(grid[other, column])
                # A copy of `dissimilarity._pair`, which this module may not call: see `compiled`.
                value[at] = (1.0 - total * 2.0**-52) + (excess[one] + excess[other])
                at += 1
        left, right, made, last = _chain(n, value, number)
        order = np.argsort(last)
        order = order[np.argsort(made[order], kind="mergesort")]
        for row in order:
            first[done], second[done], height[done] = begin + left[row], begin + right[row], made[row]
            done += 1


def linkage_of_small(units: Units, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All n - 1 merges of each of several classes, class after class, each in its total order.

    Args:
      units: all images, grouped by class.
      starts: [c + 1] int64, the first row of each class, and the number of rows; no class is empty.

    Returns:
      For each merge, a row of each of the two clusters, two arrays [m] int64, and the height, [m] float64.
    """
    num_merges = len(units) - (len(starts) - 1)
    first, second, height = np.empty(num_merges, np.int64), np.empty(num_merges, np.int64), np.empty(num_merges)
    _small(units.grid, units.excess, starts, first, second, height)
    return first, second, height


def linkage(n: int, condensed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All n - 1 merges in the total order.

    Args:
      n: images, at least 2.
      condensed: [n (n - 1) / 2] float64, overwritten.

    Returns:
      For each merge, an image of each of the two clusters, two arrays [n - 1] int32, and the height, [n - 1] float64.
    """
    number = np.arange(len(condensed), dtype=np.uint32 if len(condensed) <= 2**32 else np.int64)
    left, right, height, last = _chain(n, condensed, number)
    order = np.lexsort((last, height))
    return left[order], right[order], height[order]
