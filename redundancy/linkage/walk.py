"""Finds the pairs of a large class up to a dissimilarity by boxes: rows in boxes that are far apart are skipped.

A walk down the tree finds for each leaf the leaves that may hold a near row. In both leaves, the rows near the other leaf's box
are selected and multiplied. All of this only proposes pairs, with a bound on its rounding; the exact value decides. Knows
nothing of files and classes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from redundancy.linkage import bounds
from redundancy.linkage.bounds import Rows
from redundancy.linkage.boxes import LANES, Boxes
from redundancy.linkage.dissimilarity import Units
from redundancy.linkage.pairs import Pairs, TooManyPairs, concatenate, decided, gathered
from redundancy.runtime.compiled import compiled

_FAR = np.float32(1e30)
LEAVES_AT_ONCE, _SAMPLE_LEAVES = 32, 4
_ROOM, _MOST_ROOM = 1 << 16, 1 << 20
# Costs in nanoseconds on one core: of a pair of leaves, of a product of two rows, of a comparison in all directions.
_LEAF_PAIR, _ROW_PAIR, _CLOSE = 3000.0, 0.6, 25.0


@compiled(fastmath=True)
def _gap(low, high, one, other):
    """The squared distance of two boxes."""
    total = np.float32(0)
    for column in range(low.shape[1]):
        gap = max(low[one, column] - high[other, column], low[other, column] - high[one, column])
        gap = max(gap, np.float32(0))
        total += gap * gap
    return total


@compiled
def _near_leaves(leaf, levels, low, high, most_loose, wide, grow, stack, found):
    """Fills `found` with the leaves from `leaf` on that may hold a row near one of its own; returns their number.

    Args:
      wide, grow: see `_propose`.
      stack: [2 levels + 4] int64, overwritten.
      found: [c] int32, c at least the number of leaves from `leaf` on.
    """
    num_leaves = np.int64(1) << levels
    node, count = num_leaves + leaf, 0
    stack[0], height = 1, 1
    while height:
        height -= 1
        other = stack[height]
        shift = 0
        while other << shift < num_leaves:
            shift += 1
        if ((other + 1) << shift) - 1 < node:
            continue
        room = np.float32((wide + most_loose[node] + most_loose[other]) * grow)
        if _gap(low, high, node, other) > room:
            continue
        if other < num_leaves:
            stack[height], stack[height + 1] = 2 * other + 1, 2 * other
            height += 2
        else:
            found[count] = other - num_leaves
            count += 1
    return count


@compiled
def _pairs_of_leaves(begin, end, levels, low, high, most_loose, wide, grow, one, other):
    """Fills one and other, [c] int32, with the pairs of leaves begin…end-1 and their `_near_leaves`; returns their number."""
    stack, found = np.empty(2 * levels + 4, np.int64), 0
    for leaf in range(begin, end):
        count = _near_leaves(leaf, levels, low, high, most_loose, wide, grow, stack, other[found:])
        one[found : found + count] = leaf
        found += count
    return found


@compiled(fastmath=True)
def _near_rows(short, low, high, room, count, gaps, near):
    """Fills `near` with the rows of a leaf [q, w] whose squared distance to a box is at most `room`; returns their number."""
    gaps[:] = np.float32(0)
    for column in range(len(short)):
        begin, end = low[column], high[column]
        for row in range(len(gaps)):
            gap = max(begin - short[column, row], short[column, row] - end)
            gap = max(gap, np.float32(0))
            gaps[row] += gap * gap
    found = 0
    for row in range(count):
        near[found] = row
        found += gaps[row] <= room
    return found


@compiled(fastmath=True)
def _multiply(short, row, columns, length, out):
    """Fills out[:length] with the products of a row of a leaf, [q, w], and columns [q, w]."""
    for column in range(0, len(short), 8):
        a, b, c, d = short[column, row], short[column + 1, row], short[column + 2, row], short[column + 3, row]
        e, f, g, h = short[column + 4, row], short[column + 5, row], short[column + 6, row], short[column + 7, row]
        if column == 0:
            for place in range(length):
                out[place] = (
                    a * columns[0, place] + b * columns[1, place] + c * columns[2, place] + d * columns[3, place]
                    + e * columns[4, place] + f * columns[5, place] + g * columns[6, place] + h * columns[7, place]
                )  # fmt: skip
        else:
            for place in range(length):
                out[place] += (
                    a * columns[column, place] + b * columns[column + 1, place] + c * columns[column + 2, place]
                    + d * columns[column + 3, place] + e * columns[column + 4, place] + f * columns[column + 5, place]
                    + g * columns[column + 6, place] + h * columns[column + 7, place]
                )  # fmt: skip


@compiled(fastmath=True)
def _any_near(products, limit, limits, length):
    found = 0
    for place in range(length):
        found += products[place] >= limit + limits[place]
    return found


@compiled(fastmath=True)
def _apart(rows, one, other):
    total = np.float32(0)
    for column in range(rows.shape[1]):
        gap = rows[one, column] - rows[other, column]
        total += gap * gap
    return total


@compiled
def _propose(
    begin, end, levels, low, high, most_loose, rows, loose, short, limits, wide, grow, order, i, j, work,
):  # fmt: skip
    """Proposes pairs of rows, i < j, that may be near, of leaves begin…end-1 with themselves and later leaves.

    Stops before the first leaf whose pairs do not fit in i and j.

    Args:
      begin, end: leaves.
      levels, low, high, most_loose, short, order: see `Boxes`; rows, loose: of its `rows`.
      limits: [n] float32, `Rows.limits` of the short rows, in the order of the leaves.
      wide: half the squared distance of near rows, without the rows' `loose`.
      grow: twice the factor that compensates for the rounding of a squared distance.
      i, j: [c] int32, filled with the pairs.
      work: [3] int64, to which are added the pairs of leaves, of rows, and of rows near in the short directions; see `Work`.

    Returns:
      The leaf to continue with, the number of pairs found before it, and, if it is not `end`, their number including its own.
    """
    n, width = len(rows), short.shape[2]
    num_leaves = np.int64(1) << levels
    stack, near_leaves = np.empty(2 * levels + 4, np.int64), np.empty(num_leaves, np.int32)
    gaps, products = np.empty(width, np.float32), np.empty(width, np.float32)
    near_one, near_other = np.empty(width, np.int64), np.empty(width, np.int64)
    columns, column_limits = np.zeros(short.shape[1:], np.float32), np.empty(width, np.float32)
    found = 0
    for leaf in range(begin, end):
        before, node = found, num_leaves + leaf
        first = (n * leaf) >> levels
        count = ((n * (leaf + 1)) >> levels) - first
        num_near = _near_leaves(leaf, levels, low, high, most_loose, wide, grow, stack, near_leaves)
        work[0] += num_near
        for second in near_leaves[:num_near]:
            other = num_leaves + second
            first_other = (n * second) >> levels
            count_other = ((n * (second + 1)) >> levels) - first_other
            room = np.float32((wide + most_loose[node] + most_loose[other]) * grow)
            num_one = _near_rows(short[leaf], low[other], high[other], room, count, gaps, near_one)
            if num_one == 0:
                continue
            num_other = _near_rows(short[second], low[node], high[node], room, count_other, gaps, near_other)
            if num_other == 0:
                continue
            work[1] += num_one * num_other
            length = (num_other + LANES - 1) // LANES * LANES
            for column in range(len(columns)):
                for place in range(num_other):
                    columns[column, place] = short[second, column, near_other[place]]
            for place in range(num_other):
                column_limits[place] = limits[first_other + near_other[place]]
            column_limits[num_other:length] = _FAR
            for number in range(num_one):
                one = near_one[number]
                _multiply(short[leaf], one, columns, length, products)
                limit = limits[first + one]
                if _any_near(products, limit, column_limits, length) == 0:
                    continue
                one += first
                for place in range(num_other):
                    if products[place] < limit + column_limits[place]:
                        continue
                    two = first_other + near_other[place]
                    if two <= one and node == other:
                        continue
                    work[2] += 1
                    if _apart(rows, one, two) > np.float32((wide + loose[one] + loose[two]) * grow):
                        continue
                    if found < len(i):
                        i[found], j[found] = min(order[one], order[two]), max(order[one], order[two])
                    found += 1
        if found > len(i):
            return leaf, before, found
    return end, found, found


@dataclasses.dataclass
class Work:
    """Counts of the work done.

    Attributes:
      leaves: pairs of leaves whose boxes are near.
      rows: pairs of rows that were multiplied.
      close: pairs of rows that are near in the first directions and were compared in all.
      proposed: pairs of rows whose exact value was computed.
    """

    leaves: int = 0
    rows: int = 0
    close: int = 0
    proposed: int = 0

    def add(self, looked_at: np.ndarray) -> None:
        """Adds the four counts, [4] int64 in the order above."""
        for field, number in zip(dataclasses.fields(self), looked_at.tolist(), strict=True):
            setattr(self, field.name, getattr(self, field.name) + number)

    def nanoseconds(self, dimension: int) -> float:
        """Estimated time of this work on one core."""
        exact = bounds.EXACT + dimension * bounds.EXACT_NUMBER
        return _LEAF_PAIR * self.leaves + _ROW_PAIR * self.rows + _CLOSE * self.close + exact * self.proposed


class _Search:
    """The pairs of one class up to a threshold."""

    def __init__(self, units: Units, boxes: Boxes, threshold: float, above: float):
        self._units, self._boxes, self._threshold, self._above = units, boxes, threshold, above
        rows = boxes.rows
        short = rows.rows[:, : boxes.short.shape[1]]
        half = np.einsum("np,np->n", short, short, dtype=np.float64) / 2
        self._limits = Rows(short, half, rows.widen, rows.loose).limits(threshold)

    def of_leaves(self, begin: int, end: int, room: int, limit: int | None) -> tuple[Pairs, np.ndarray]:
        """The pairs of leaves begin…end-1 with themselves and later ones; TooManyPairs if a leaf exceeds `limit` by far."""
        boxes, found, work = self._boxes, [], np.zeros(4, np.int64)
        while begin < end:
            i, j = np.empty(room, np.int32), np.empty(room, np.int32)
            begin, num, needed = _propose(
                begin, end, boxes.levels, boxes.low, boxes.high, boxes.most_loose, boxes.rows.rows, boxes.rows.loose,
                boxes.short, self._limits, *_reach(boxes, self._threshold), boxes.order, i, j, work,
            )  # fmt: skip
            work[3] += num
            found.append(decided(i[:num], j[:num], self._above, self._threshold, self._units))
            own = int(needed - num)  # proposed by the next leaf, at 16 bytes each; `limit` counts 88 bytes a pair
            if limit is not None and own > 4 * limit:
                raise TooManyPairs(own)
            room = max(room, own, min(8 * own, _MOST_ROOM))
        return concatenate(found), work


def _reach(boxes: Boxes, threshold: float) -> tuple[float, float]:
    """`wide` and `grow` of `_propose`."""
    return boxes.rows.widen * threshold, 2 * (1 + 2 * (boxes.rows.rows.shape[1] + 64) * 2.0**-24)


def leaf_pairs(boxes: Boxes, threshold: float, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of leaves begin…end-1 with themselves and later leaves that may hold near rows: two arrays [m] int32."""
    most = (end - begin) * (boxes.num_leaves - begin)
    one, other = np.empty(most, np.int32), np.empty(most, np.int32)
    found = _pairs_of_leaves(
        begin, end, boxes.levels, boxes.low, boxes.high, boxes.most_loose, *_reach(boxes, threshold), one, other
    )
    return one[:found].copy(), other[:found].copy()


def sample(boxes: Boxes) -> list[int]:
    """A sample of the leaves, spread evenly."""
    num = min(boxes.num_leaves, _SAMPLE_LEAVES + boxes.num_leaves // 256)
    return [boxes.num_leaves * (2 * number + 1) // (2 * num) for number in range(num)]


def leaf_pairs_left(boxes: Boxes, threshold: float) -> float:
    """Estimated share of the pairs of leaves that may hold near rows, from a sample of the leaves."""
    some = sample(boxes)
    found = sum(len(leaf_pairs(boxes, threshold, leaf, leaf + 1)[0]) for leaf in some)
    return found / sum(boxes.num_leaves - leaf for leaf in some)


def nanoseconds(units: Units, boxes: Boxes, threshold: float, most: float) -> float:
    """Estimated time of `within` on one core, from a sample of the leaves; infinite if it is clearly more than `most`."""
    search = _Search(units, boxes, threshold, threshold)
    work, left = Work(), 0
    for leaf in sample(boxes):
        work.add(search.of_leaves(leaf, leaf + 1, _ROOM, None)[1])
        left += boxes.num_leaves - leaf
        found = work.nanoseconds(units.grid.shape[1]) * boxes.num_leaves * (boxes.num_leaves + 1) / 2 / left
        if found > 4 * most:
            return np.inf
    return found


def ranges(boxes: Boxes, begin: int, end: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Divides leaves begin…end-1 into ranges (work, low, high). Each leaf is compared with later ones, so the last has least."""
    return ((boxes.num_leaves - low, low, min(end, low + step)) for low in range(begin, end, step))


def within(
    units: Units,
    boxes: Boxes,
    threshold: float,
    above: float = -1.0,
    leaf_range: tuple[int, int] | None = None,
    limit: int | None = None,
    advance: Callable[[float], None] | None = None,
    threads: int = 1,
    work: Work | None = None,
) -> Pairs:
    """All pairs i < j of rows with above < dissimilarity ≤ threshold, as `pairs.within`.

    Args:
      units: units of n images.
      boxes: boxes of `bounds.centred` of the units.
      threshold, above: see `pairs.within`.
      leaf_range: only pairs of these leaves with themselves and later leaves; by default of all leaves.
      limit, advance: see `pairs.within`.
      threads: number of threads.
      work: if given, the work done is added to it.
    """
    begin, end = leaf_range or (0, boxes.num_leaves)
    search, looked_at = _Search(units, boxes, threshold, above), []

    def of_leaves(low: int, high: int) -> Pairs:
        found, numbers = search.of_leaves(low, high, _ROOM, limit)
        looked_at.append(numbers)
        return found

    step = max(1, min(LEAVES_AT_ONCE, (end - begin) // (8 * threads)))
    tasks = ((left, functools.partial(of_leaves, low, high)) for left, low, high in ranges(boxes, begin, end, step))
    total = sum(left for left, _, _ in ranges(boxes, begin, end, step))
    found = gathered(tasks, total, threads, 2 * threads, limit, advance)
    if work is not None:
        work.add(sum(looked_at, np.zeros(4, np.int64)))
    return found
