"""Boxes around the leaves of a kd-tree and around its other nodes, for `walk`.

Rows are projected onto a few directions (see `bounds`) and sorted by leaf. The borders of a box are coordinates of its rows, so
they add no rounding error. Knows nothing of thresholds.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib

import numpy as np

from redundancy.linkage import bounds, leaves
from redundancy.linkage.bounds import Rows
from redundancy.runtime.compiled import compiled

SHORT = 16  # directions in which rows are first compared
LANES = 8


@compiled
def _fill_boxes(rows, loose, levels, low, high, most_loose):
    """Fills the bounding boxes, low and high [2 m, p] float32, and most_loose [2 m] float64 of all nodes; see `Boxes`."""
    n, num = rows.shape
    first = np.int64(1) << levels
    low[:], high[:], most_loose[:] = np.inf, -np.inf, 0
    for leaf in range(first):
        node = first + leaf
        for place in range((n * leaf) >> levels, (n * (leaf + 1)) >> levels):
            for column in range(num):
                low[node, column] = min(low[node, column], rows[place, column])
                high[node, column] = max(high[node, column], rows[place, column])
            most_loose[node] = max(most_loose[node], loose[place])
    for node in range(first - 1, 0, -1):
        for column in range(num):
            low[node, column] = min(low[2 * node, column], low[2 * node + 1, column])
            high[node, column] = max(high[2 * node, column], high[2 * node + 1, column])
        most_loose[node] = max(most_loose[2 * node], most_loose[2 * node + 1])


@compiled
def _fill_short(rows, levels, short):
    """Fills short [m, q, w] float32 with the first q directions of each leaf's rows, and with 0 where a leaf has no row."""
    n, num = len(rows), short.shape[1]
    short[:] = 0
    for leaf in range(np.int64(1) << levels):
        begin, end = (n * leaf) >> levels, (n * (leaf + 1)) >> levels
        for place in range(begin, end):
            for column in range(num):
                short[leaf, column, place - begin] = rows[place, column]


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Rows in the order of leaves, and a box around each node of their tree.

    Attributes:
      order: [n] int32, the original number of each row.
      levels: the tree has m = 2**levels leaves.
      rows: the rows, projected onto a few directions, in the order of the leaves.
      low, high: [2 m, p] float32, the boxes; node 1 is the root, and the halves of node k are 2 k and 2 k + 1.
      most_loose: [2 m] float64, the greatest of `rows.loose` in each node.
      short: [m, q, w] float32, the first directions of each leaf's rows.
    """

    order: np.ndarray
    levels: int
    rows: Rows
    low: np.ndarray
    high: np.ndarray
    most_loose: np.ndarray
    short: np.ndarray

    @property
    def num_leaves(self) -> int:
        return 1 << self.levels

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the order and the number of leaves, which together define the rows in a range of leaves."""
        return hashlib.sha256(self.order.astype("<i4").tobytes() + bytes([self.levels])).hexdigest()


def make(whole: Rows, threads: int, leaf: int = leaves.LEAF) -> Boxes | None:
    """Boxes of the rows; None if rounding left the directions not orthonormal enough for a bound."""
    n = len(whole.rows)
    directions = leaves.directions(whole.rows)
    growth = bounds.growth(directions)
    if growth > bounds.SHARE:
        return None
    levels = leaves.num_levels(n, leaf)
    order = leaves.order(whole.rows, directions, levels, threads)
    num = -(-len(directions) // LANES) * LANES
    across = np.zeros((whole.rows.shape[1], num), np.float32)
    across[:, : len(directions)] = directions.T
    rows = np.empty((n, num), np.float32)
    cuts = [n * part // (4 * threads) for part in range(4 * threads + 1)]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda low, high: leaves.project(whole.rows, order, low, high, across, rows), cuts, cuts[1:]))
    ordered = bounds.projected_rows(whole, rows, order, growth)
    low, high = np.empty((2 << levels, num), np.float32), np.empty((2 << levels, num), np.float32)
    most_loose = np.empty(2 << levels)
    _fill_boxes(rows, ordered.loose, levels, low, high, most_loose)
    width = -(-n // (1 << levels))
    short = np.empty((1 << levels, min(num, SHORT), -(-width // LANES) * LANES), np.float32)
    _fill_short(rows, levels, short)
    return Boxes(order, levels, ordered, low, high, most_loose, short)
