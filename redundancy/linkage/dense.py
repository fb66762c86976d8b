"""Complete linkage of all pairs of a class by nearest-neighbour chains (Murtagh 1983), in O(n²) time and 8 to 12 bytes a pair.

For deep cuts, which need so many pairs that counting them (`counting`) takes longer. Dissimilarities are stored as float32,
rounded from the exact values. Rounding and the maximum both preserve order, so a strictly smallest float32 value is also the
exact minimum. Where float32 values tie, the exact pairs decide, as in `ties`. Heights are computed exactly at the end.

Memory is read and written only along rows. When two clusters have merged, each row replaces its two numbers by their maximum
the next time it is read. Columns are never written, since each number of a column lies on another page.
"""

import concurrent.futures
import contextlib

import numpy as np

from redundancy.linkage.dissimilarity import Units
from redundancy.runtime.compiled import compiled

_ROWS, _COLUMNS = 64, 128  # size of a tile of products
_AT_ONCE = 256  # rows that one thread fills at a time
_STEP = 8  # dimensions that are multiplied at a time
_CHUNK = 256  # numbers of a row whose minimum is found at a time
# Above all dissimilarities. The bits of non-negative floats, read as integers, have the same order as the floats.
_FAR = np.float32(8).view(np.int32)
_SHRUNK = 0.6  # unused columns are removed once only this share is in use
# From this dimension on, BLAS multiplies, and rounded values are kept to find the pair of a height; below, they are recomputed.
LONG = 256
_SETTLED = 1 / 8  # largest share of the pairs that may be recomputed for ties


@compiled(fastmath={"reassoc", "contract"})
def _products(rows, columns, out, height, width):
    """Fills out[:height, :width] with products of rows [h, d] and columns [d, w], d a multiple of `_STEP`; sums are exact."""
    for first in range(0, len(columns), _STEP):
        for row in range(height):
            a, b, c, d = rows[row, first], rows[row, first + 1], rows[row, first + 2], rows[row, first + 3]
            e, f, g, h = rows[row, first + 4], rows[row, first + 5], rows[row, first + 6], rows[row, first + 7]
            if first == 0:
                for place in range(width):
                    out[row, place] = (
                        a * columns[first, place] + b * columns[first + 1, place] + c * columns[first + 2, place]
                        + d * columns[first + 3, place] + e * columns[first + 4, place] + f * columns[first + 5, place]
                        + g * columns[first + 6, place] + h * columns[first + 7, place]
                    )  # fmt: skip
            else:
                for place in range(width):
                    out[row, place] += (
                        a * columns[first, place] + b * columns[first + 1, place] + c * columns[first + 2, place]
                        + d * columns[first + 3, place] + e * columns[first + 4, place] + f * columns[first + 5, place]
                        + g * columns[first + 6, place] + h * columns[first + 7, place]
                    )  # fmt: skip


@compiled(inline="always")
def _place(n, one, other):
    """Index of a pair, one < other, among all pairs of n, in SciPy's order."""
    return n * one - one * (one + 1) // 2 + (other - one - 1)


@compiled
def _fill(vectors, excess, values, kept, begin, end, known):
    """Fills in the rounded dissimilarities of rows begin…end-1 to themselves and later rows, on both sides of the diagonal.

    Args:
      vectors: [n, d] float64, units as floats, padded with zeros to a d that is a multiple of `_STEP`.
      excess: see `Units`.
      values: [n, n] float32.
      kept: [n (n - 1) / 2] float32, filled with a copy of the values i < j in SciPy's order; or [0] for no copy.
      known: [end - begin, n - begin] float64, products of vectors begin…end-1 with those from begin on; [0, 0] if unknown.
    """
    n, dimension = vectors.shape
    columns, products = np.empty((dimension, _COLUMNS)), np.empty((_ROWS, _COLUMNS))
    for left in range(begin, n, _COLUMNS):
        width = min(_COLUMNS, n - left)
        for first in range(0, 0 if len(known) else dimension, _STEP):
            for place in range(width):
                for column in range(first, first + _STEP):
                    columns[column, place] = vectors[left + place, column]
        of_columns = excess[left : left + width]
        for top in range(begin, min(end, left + width), _ROWS):
            height = min(_ROWS, end - top)
            if len(known):
                products[:height, :width] = known[
                    top - begin : top - begin + height, left - begin : left - begin + width
                ]
            else:
                _products(vectors[top : top + height], columns, products, height, width)
            for row in range(height):
                of_row, of_both, out = excess[top + row], products[row], values[top + row, left : left + width]
                for place in range(width):
                    # A copy of `dissimilarity._pair`, which this module may not call: see `compiled`.
                    out[place] = np.float32((1.0 - of_both[place]) + (of_row + of_columns[place]))
                for place in range(max(0, top + row + 1 - left) if len(kept) else width, width):
                    kept[_place(n, top + row, left + place)] = out[place]
            for place in range(width):
                out = values[left + place, top : top + height]
                for row in range(height):
                    out[row] = values[top + row, left + place]
    for row in range(begin, end):
        values[row, row] = 8.0


@compiled
def _least(row):
    """The minimum of a row [m] int32, the index of its first occurrence, and a number above 1 if it occurs again."""
    least, times, place, width = _FAR, 0, np.int64(0), len(row)
    for begin in range(0, width, _CHUNK):
        some = row[begin : begin + _CHUNK]
        found = some[0]
        for column in range(len(some)):
            found = some[column] if some[column] < found else found
        if found < least:
            least, times, place = found, 1, begin
        elif found == least:
            times += 1
    some, first = row[place : place + _CHUNK], 0
    for column in range(len(some) - 1, -1, -1):
        if some[column] == least:
            first = column
            times += 1
    return least, place + first, times - 1


@compiled(inline="always")
def _caught_up(row, one, other, begin, end):
    """Applies the merges begin…end-1, of the clusters `one` and `other`, to a row of distances."""
    for number in range(begin, end):
        first, second = row[one[number]], row[other[number]]
        row[one[number]] = first if first > second else second
        row[other[number]] = _FAR


@compiled(fastmath={"reassoc", "contract"})
def _dot(one, other):
    """Product of two rows [d] float64 of `_fill`; the sum is exact, in any order."""
    total = 0.0
    for column in range(len(one)):
        total += one[column] * other[column]
    return total


@compiled
def _last(one, num_one, other, num_other, following, kept, vectors, excess):
    """The last pair in the total order between the clusters that begin with the images one and other: value, i, j.

    Args:
      following: see `_linked`.
      kept, vectors, excess: see `_fill`.
    """
    greatest, value, i, j = np.float32(-1), -1.0, np.int64(0), np.int64(0)
    for _ in range(num_one):
        second = other
        for _ in range(num_other):
            low, high = (one, second) if one < second else (second, one)
            rounded = kept[_place(len(vectors), low, high)] if len(kept) else greatest
            if rounded >= greatest:
                greatest = rounded
                exact = (1.0 - _dot(vectors[one], vectors[second])) + (excess[one] + excess[second])
                if exact > value or (exact == value and (low > i or (low == i and high > j))):
                    value, i, j = exact, low, high
            second = following[second]
        one = following[one]
    return value, i, j


@compiled
def _linked(bits, kept, vectors, excess, most):
    """All merges, in any order; fewer if breaking ties would take more than `most` exact values.

    Args:
      bits: [n n] int32, the bits of the values from `_fill`; overwritten.
      kept, vectors, excess: see `_fill`.

    Returns:
      For each merge, the first image of each of the two clusters, two arrays [m] int64, their sizes, two arrays [m] int64, and
      the bits of the height, [m] int32; and for each image the next one in its cluster, [n] int64.
    """
    n = len(vectors)
    first, second, rounded = np.empty(n - 1, np.int64), np.empty(n - 1, np.int64), np.empty(n - 1, np.int32)
    num_first, num_second = np.empty(n - 1, np.int64), np.empty(n - 1, np.int64)
    following = np.full(n, -1)
    # For each column's cluster: its first and last image, and its size, 0 if it has merged into another.
    begins, ends, size = np.arange(n), np.arange(n), np.ones(n, np.int64)
    width, active, start = n, n, 0
    # The log of merges, which rows apply when they are next read, and how many of them each row has applied.
    one, other, logged, taken = np.empty(n, np.uint32), np.empty(n, np.uint32), 0, np.zeros(n, np.int64)
    chain, length, settled = np.empty(n + 1, np.int64), 0, 0
    for merge in range(n - 1):
        if length == 0:
            while size[start] == 0:
                start += 1
            chain[0] = start
            length = 1
        while True:
            tip = chain[length - 1]
            row = bits[tip * width : (tip + 1) * width]
            _caught_up(row, one, other, taken[tip], logged)
            taken[tip] = logged
            least, best, times = _least(row)
            if times > 1:
                best_value, best_i, best_j = np.inf, np.int64(0), np.int64(0)
                for cluster in range(best, width):
                    if row[cluster] != least:
                        continue
                    settled += size[tip] * size[cluster]
                    if settled > most:
                        return first[:merge], second[:merge], num_first, num_second, rounded, following
                    value, i, j = _last(
                        begins[tip], size[tip], begins[cluster], size[cluster], following, kept, vectors, excess
                    )
                    if value < best_value or (value == best_value and (i < best_i or (i == best_i and j < best_j))):
                        best, best_value, best_i, best_j = cluster, value, i, j
            if length > 1 and best == chain[length - 2]:
                break
            chain[length] = best
            length += 1
        length -= 2
        gone = bits[best * width : (best + 1) * width]
        _caught_up(gone, one, other, taken[best], logged)
        for column in range(width):
            row[column] = row[column] if row[column] > gone[column] else gone[column]
        first[merge], second[merge], rounded[merge] = begins[tip], begins[best], least
        num_first[merge], num_second[merge] = size[tip], size[best]
        following[ends[tip]], ends[tip] = begins[best], ends[best]
        size[tip], size[best] = size[tip] + size[best], 0
        one[logged], other[logged] = tip, best
        logged += 1
        taken[tip] = logged
        active -= 1
        if active > _SHRUNK * width or active < 16:
            continue
        stay, new = np.flatnonzero(size[:width]).astype(np.uint32), np.empty(width, np.int64)
        for place in range(active):
            cluster = stay[place]
            new[cluster] = place
            row, out = bits[cluster * width : (cluster + 1) * width], bits[place * active : (place + 1) * active]
            _caught_up(row, one, other, taken[cluster], logged)
            for column in range(active):
                out[column] = row[stay[column]]  # never overwrites what is still to be read
            begins[place], ends[place], size[place] = begins[cluster], ends[cluster], size[cluster]
        for number in range(length):
            chain[number] = new[chain[number]]
        width, start, logged = active, 0, 0
        taken[:] = 0
    return first, second, num_first, num_second, rounded, following


@compiled
def _heights(first, num_first, second, num_second, following, kept, vectors, excess, value, i, j):
    """Fills in `_last` of the two clusters of each merge, [m] each."""
    for row in range(len(first)):
        value[row], i[row], j[row] = _last(
            first[row], num_first[row], second[row], num_second[row], following, kept, vectors, excess
        )


def linkage(units: Units, num_merges: int, threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The first merges in the total order; None if so many dissimilarities tie that `chain` is faster.

    Args:
      units: n different images, at least 2.
      num_merges: 1…n-1.
      threads: number of threads.

    Returns:
      For each merge, an image of each of the two clusters, two arrays [m] int64, and the height, [m] float64.
    """
    n, dimension = units.grid.shape
    vectors = np.zeros((n, -(-dimension // _STEP) * _STEP))
    np.multiply(units.grid, 2.0**-26, out=vectors[:, :dimension])
    values = np.empty((n, n), np.float32)
    kept = np.empty(n * (n - 1) // 2 if dimension >= LONG else 0, np.float32)

    def fill(begin):
        end, known = min(n, begin + _AT_ONCE), np.empty((0, 0))
        if dimension >= LONG:
            known = vectors[begin:end] @ vectors[begin:].T
        _fill(vectors, units.excess, values, kept, begin, end, known)

    with concurrent.futures.ThreadPoolExecutor(threads) if threads > 1 else contextlib.nullcontext() as pool:
        list((pool.map if pool else map)(fill, range(0, n, _AT_ONCE)))
    bits = values.view(np.int32).reshape(-1)
    first, second, num_first, num_second, rounded, following = _linked(
        bits, kept, vectors, units.excess, int(_SETTLED * n * (n - 1) / 2)
    )
    if len(first) < n - 1:
        return None
    some = np.flatnonzero(rounded <= np.partition(rounded, num_merges - 1)[num_merges - 1])
    height, i, j = np.empty(len(some)), np.empty(len(some), np.int64), np.empty(len(some), np.int64)
    _heights(
        first[some], num_first[some], second[some], num_second[some], following, kept, vectors, units.excess, height, i, j,
    )  # fmt: skip
    order = np.lexsort((j, i, height))[:num_merges]
    return first[some[order]], second[some[order]], height[order]
