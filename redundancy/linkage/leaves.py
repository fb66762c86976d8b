"""Sorts rows so that near ones are neighbours: by the leaves of a kd-tree in principal directions.

Every node is halved at its median, so the borders of the leaves depend only on their number. The order is the same on every
machine and with any number of threads: sums are taken in a fixed order, without fused operations. So several workers may each
process a range of leaves. Knows nothing of thresholds.
"""

import concurrent.futures
import functools

import numpy as np

from redundancy.runtime.compiled import compiled

LEAF = 128
_MOST_DIRECTIONS = 64
_SPLIT_DIRECTIONS = 16
_SAMPLE = 1024
_ROUNDS = 4
_TOP = 5  # in these upper levels threads split single nodes in parallel; below, each thread splits a whole subtree
_NONE = 1e-10  # a direction whose squared length falls to this share consists of rounding errors


@compiled
def _iterated(sample, directions, rounds):
    """Orthogonal iteration: [s, d] and [d, p] float64 to [d, p] float64, orthonormal columns or 0."""
    size, num = directions.shape
    for _ in range(rounds):
        sums = np.zeros((size, num))
        scores = np.empty(num)
        for row in range(len(sample)):
            scores[:] = 0.0
            for column in range(size):
                for one in range(num):
                    scores[one] += sample[row, column] * directions[column, one]
            for column in range(size):
                for one in range(num):
                    sums[column, one] += sample[row, column] * scores[one]
        columns = sums.T.copy()
        for one in range(num):
            before = 0.0
            for column in range(size):
                before += columns[one, column] * columns[one, column]
            for _ in range(2):  # the second pass removes what rounding left
                for other in range(one):
                    product = 0.0
                    for column in range(size):
                        product += columns[one, column] * columns[other, column]
                    for column in range(size):
                        columns[one, column] -= product * columns[other, column]
            after = 0.0
            for column in range(size):
                after += columns[one, column] * columns[one, column]
            if after > _NONE * before:
                length = np.sqrt(after)
                for column in range(size):
                    columns[one, column] /= length
            else:
                columns[one, :] = 0.0
        directions = columns.T.copy()
    return directions


def directions(rows: np.ndarray) -> np.ndarray:
    """Directions in which the rows vary most, roughly in descending order: [n, d] float32 to [p, d] float32.

    They are orthonormal up to rounding; one in which the rows do not vary is 0.
    """
    n, dimension = rows.shape
    num = min(dimension, _MOST_DIRECTIONS)
    sample = rows[np.arange(min(n, _SAMPLE)) * n // min(n, _SAMPLE)].astype(np.float64)
    sample -= np.add.accumulate(sample)[-1] / len(sample)
    sample /= max(np.abs(sample).max(initial=0.0), np.finfo(np.float64).tiny)
    if num == dimension:
        begin = np.eye(dimension)
    else:
        begin = np.random.default_rng(0).uniform(-1, 1, (dimension, num))
    return _iterated(sample, begin, _ROUNDS).T.astype(np.float32)


@compiled
def project(rows, order, low, high, across, out):
    """Fills out[low:high] with the projections of the rows order[low:high] onto some directions.

    Args:
      rows: [n, d] float32.
      order: [n] int32.
      low, high: indices into `order`.
      across: [d, p] float32, the directions as columns.
      out: [n, p] float32.
    """
    dimension, num = across.shape
    for place in range(low, high):
        row, to = rows[order[place]], out[place]
        to[:] = np.float32(0)
        for column in range(dimension):
            value = row[column]
            for one in range(num):
                to[one] += value * across[column, one]


@compiled(inline="always")
def border(n, levels, leaf):
    """The index of the first row of a leaf, of 2**levels leaves."""
    return (np.int64(n) * np.int64(leaf)) >> np.int64(levels)


@compiled
def _select(rows, order, low, high, middle, column):
    """Reorders low…high so that no row before `middle` is above one after it in the column (Hoare 1961)."""
    num = rows.shape[1]
    last = high - 1
    while low < last:
        one, two, three = rows[low, column], rows[(low + last) // 2, column], rows[last, column]
        pivot = max(min(one, two), min(max(one, two), three))
        up, down = low, last
        while up <= down:
            while rows[up, column] < pivot:
                up += 1
            while rows[down, column] > pivot:
                down -= 1
            if up <= down:
                for other in range(num):
                    rows[up, other], rows[down, other] = rows[down, other], rows[up, other]
                order[up], order[down] = order[down], order[up]
                up += 1
                down -= 1
        if middle <= down:
            last = down
        elif middle >= up:
            low = up
        else:
            return


@compiled
def _split(rows, order, depth, index):
    """Halves a node of the tree at the median of its widest direction."""
    n, num = rows.shape
    low, high = border(n, depth, index), border(n, depth, index + 1)
    mean, spread = np.zeros(num), np.zeros(num)
    for place in range(low, high):
        for column in range(num):
            mean[column] += np.float64(rows[place, column])
    mean /= max(high - low, 1)
    for place in range(low, high):
        for column in range(num):
            difference = np.float64(rows[place, column]) - mean[column]
            spread[column] += difference * difference
    widest = 0
    for column in range(num):
        if spread[column] > spread[widest]:
            widest = column
    _select(rows, order, low, high, border(n, depth + 1, 2 * index + 1), widest)


@compiled
def _split_below(rows, order, levels, depth, index):
    for below in range(depth, levels):
        for node in range(index << (below - depth), (index + 1) << (below - depth)):
            _split(rows, order, below, node)


def num_levels(n: int, leaf: int = LEAF) -> int:
    """How often n rows must be halved until a leaf has at most `leaf` rows."""
    return max(0, (-(-n // leaf) - 1).bit_length())


def order(rows: np.ndarray, found: np.ndarray, levels: int, threads: int) -> np.ndarray:
    """The numbers of the rows, in the order of the leaves.

    Args:
      rows: [n, d] float32.
      found: `directions` of the rows.
      levels: the tree has 2**levels leaves; leaf k begins at index n k >> levels.
      threads: number of threads.

    Returns:
      [n] int32.
    """
    n = len(rows)
    across = np.ascontiguousarray(found[:_SPLIT_DIRECTIONS].T)
    short, out = np.empty((n, across.shape[1]), np.float32), np.arange(n, dtype=np.int32)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        cuts = [n * part // (4 * threads) for part in range(4 * threads + 1)]
        list(pool.map(functools.partial(project, rows, out), cuts, cuts[1:], [across] * len(cuts), [short] * len(cuts)))
        top = min(levels, _TOP)
        for depth in range(top):
            list(pool.map(functools.partial(_split, short, out, depth), range(1 << depth)))
        list(pool.map(functools.partial(_split_below, short, out, levels, top), range(1 << top)))
    return out
