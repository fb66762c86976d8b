"""Complete linkage of one class: the merges, lowest first, exact. Knows nothing of files, classes and fractions.

Merges up to a height depend only on the pairs up to that height. So pairs are computed up to a threshold, which is estimated
from a sample and raised until there are enough merges (`near`, `counting`). If this would need so many pairs that it is slower,
all pairs are computed at once (by `dense`, or by `chain` if very many tie). All ways give the same merges, those of the total
order of pairs (dissimilarity, i, j): of pairs with equal dissimilarities, the one with the lower images comes first.
"""

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable, Sequence

import numpy as np

from redundancy.linkage import chain, dense, dissimilarity
from redundancy.linkage.bounds import Rows
from redundancy.linkage.counting import Counter
from redundancy.linkage.dissimilarity import Units
from redundancy.linkage.near import Near, Plan
from redundancy.linkage.pairs import Pairs, TooManyPairs
from redundancy.linkage.thresholds import BELOW_ALL, SMALL, Threshold, dense_is_quicker, first_target, next_target
from redundancy.runtime.compiled import compiled
from redundancy.runtime.errors import DataError
from redundancy.runtime.machine import available_memory, cores
from redundancy.runtime.sizes import binary

_BLOCK_ROWS = 256
# Memory of a pair while it is sorted, and of its entry in the table of counts.
_BYTES_PER_PAIR = 2 * 16 + 8 + 48
_MOST_PAIRS = 1 << 27  # most pairs computed between two increases of the threshold
_MANY = 1 << 15  # from this many pairs on, they are sorted in pieces, as needed
_DENSE_MEMORY = 0.5  # share of the available memory that computing all pairs may take if it is only the faster way
_MUCH = 1 << 27  # bytes; classes that take more are linked one at a time
_much_memory = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Merges:
    """The first merges of a class of n images, in SciPy's numbering: row i makes cluster n + i, images are 0…n-1.

    Attributes:
      left: [m] int64, the lower of the two clusters' numbers.
      right: [m] int64, the higher.
      height: [m] float64, non-decreasing: the greatest dissimilarity within the new cluster.
      size: [m] int64, images in the new cluster.
    """

    left: np.ndarray
    right: np.ndarray
    height: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.left)


NO_MERGES = Merges(*(np.empty(0, dtype) for dtype in (np.int64, np.int64, np.float64, np.int64)))


def concatenate(merges: Sequence[Merges]) -> Merges:
    names = [field.name for field in dataclasses.fields(Merges)]
    return Merges(*(np.concatenate([getattr(each, name) for each in (NO_MERGES, *merges)]) for name in names))


@compiled
def numbered(n, first, second):
    """Numbers of the two clusters of each merge, and the size of the new one, given an image of each; see `Merges`."""
    parent, number, size = np.arange(n), np.arange(n), np.ones(n, np.int64)
    left, right = np.empty(len(first), np.int64), np.empty(len(first), np.int64)
    total = np.empty(len(first), np.int64)
    for row in range(len(first)):
        roots = np.empty(2, np.int64)
        for side in range(2):
            image = np.int64(first[row] if side == 0 else second[row])
            while parent[image] != image:
                parent[image] = parent[parent[image]]
                image = parent[image]
            roots[side] = image
        one, other = roots
        left[row], right[row] = min(number[one], number[other]), max(number[one], number[other])
        if size[one] > size[other]:
            one, other = other, one
        parent[one] = other
        size[other] += size[one]
        number[other], total[row] = n + row, size[other]
    return left, right, total


@compiled
def _hashes(grid, factors):
    out = np.empty(len(grid), np.uint64)
    for row in range(len(grid)):
        total = np.uint64(0)
        for column in range(grid.shape[1]):
            total += np.uint64(np.int64(grid[row, column])) * factors[column]
        out[row] = total
    return out


def duplicates(grid: np.ndarray) -> np.ndarray:
    """Numbers the u distinct rows, 0…u-1, and returns for each row of [n, d] int32 the number of its equal: [n] int64.

    Distinct rows are numbered in the order of their last occurrences.
    """
    n = len(grid)
    factors = np.random.default_rng(0).integers(1, 2**63, grid.shape[1], np.uint64, endpoint=True) * 2 + 1
    hashes = _hashes(grid, factors)
    order = np.argsort(hashes, kind="stable")
    equal = hashes[order[1:]] == hashes[order[:-1]]
    suspects = np.flatnonzero(equal)
    if not len(suspects):
        return np.arange(n)
    for start in range(0, len(suspects), 4096):
        some = suspects[start : start + 4096]
        equal[some] = (grid[order[some + 1]] == grid[order[some]]).all(axis=1)
        if not equal[some].all():
            # Different rows with the same hash may alternate. Sorted by all columns, equal rows are neighbours.
            order = np.lexsort((np.arange(n), *grid.T))
            equal = (grid[order[1:]] == grid[order[:-1]]).all(axis=1)
            break
    run = np.concatenate(([0], np.cumsum(~equal)))
    last = np.empty(run[-1] + 1, np.int64)
    last[run] = order  # rows ascend within a run, and NumPy keeps the last assignment
    rank = np.empty(len(last), np.int64)
    rank[np.argsort(last)] = np.arange(len(last))
    out = np.empty(n, np.int64)
    out[order] = rank[run]
    return out


def _merges_of_duplicates(distinct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The merges of equal rows, at height 0, in the total order: for each, an image of each of the two clusters.

    The k-th of several equal rows merges with those before it at its pair with the (k-1)-th, the last of its pairs with them.
    """
    order = np.argsort(distinct, kind="stable")
    again = distinct[order[1:]] == distinct[order[:-1]]
    first, second = order[:-1][again], order[1:][again]
    order = np.argsort(first)  # `first` has no repeats: at most one equal image directly follows an image
    return first[order], second[order]


def _condensed(units: Units) -> np.ndarray:
    """Dissimilarities of all pairs i < j in SciPy's order: [n (n - 1) / 2] float64."""
    n = len(units)
    out = np.empty(n * (n - 1) // 2, np.float64)
    at = 0
    vectors = units.grid * 2.0**-26
    for start in range(0, n - 1, _BLOCK_ROWS):
        block = dissimilarity.between_all(vectors[start : start + _BLOCK_ROWS], vectors[start:])
        for row in range(min(_BLOCK_ROWS, n - 1 - start)):
            length = n - 1 - start - row
            out[at : at + length] = block[row, row + 1 :]
            at += length
    return out


class Linker:
    """The linkage of one class, in rounds with rising thresholds.

    `run` does all of it. Otherwise call `feed` with pairs that were computed elsewhere.
    """

    def __init__(self, units: Units, num_merges: int):
        """Prepares the first `num_merges` merges of n images, 0…n-1 of them.

        Equal images are merged first and then treated as one image, so that n copies do not give n² / 2 pairs.
        """
        n = len(units)
        self._n, self._wanted = n, num_merges
        distinct = duplicates(units.grid)
        self._last = np.empty(distinct.max(initial=-1) + 1, np.int64)
        self._last[distinct] = np.arange(n)
        self.units = units if len(self._last) == n else units.take(self._last)
        self.near = Near(self.units)
        self._equal = _merges_of_duplicates(distinct)
        self._counter = Counter(len(self._last), max(0, num_merges - len(self._equal[0])))
        self._dense = None
        self._num_pairs = 0
        self._sample = None
        self.threshold = BELOW_ALL

    @property
    def done(self) -> bool:
        made = len(self._dense[0]) if self._dense is not None else self._counter.num_merges
        return len(self._equal[0]) + made >= self._wanted

    @property
    def centred(self) -> Rows:
        return self.near.centred

    def next_threshold(self) -> float | None:
        """The next threshold up to which pairs are needed, or None if all pairs should be computed at once.

        Raises:
          DataError: the pairs do not fit in the available memory.
        """
        n, wanted = len(self.units), self._wanted - len(self._equal[0])
        every = n * (n - 1) // 2
        if n <= SMALL:
            return None
        target = first_target(n, wanted)
        if self.threshold > BELOW_ALL:
            target = next_target(max(target, self._num_pairs), self._counter.num_merges, wanted)
        available = available_memory()
        quicker = dense_is_quicker(n, self.units.grid.shape[1], target - self._num_pairs)
        share = 1 if target >= every else _DENSE_MEMORY
        if quicker and self._dense_bytes <= share * available:
            return None
        # Only as many pairs as fit in half of the memory, since more pairs than estimated may be within the threshold.
        room = min(_MOST_PAIRS, available // _BYTES_PER_PAIR // 2)
        target = min(target, self._num_pairs + room, every)
        if room < min(n, every - self._num_pairs):
            if self._dense_bytes <= available:
                return None
            raise self._too_large(self._num_pairs + n)
        self._sample = self._sample or Threshold(self.centred, target)
        return self._sample.at(target, self.threshold)

    @property
    def _dense_bytes(self) -> int:
        n = len(self.units)
        at_once = _BLOCK_ROWS * (cores() if self.units.grid.shape[1] >= dense.LONG else 1)
        return chain.BYTES_PER_PAIR * (n * (n - 1) // 2) + 8 * n * (self.units.grid.shape[1] + at_once)

    def _too_large(self, num_pairs: int) -> DataError:
        needed = min(self._dense_bytes, _BYTES_PER_PAIR * num_pairs)
        return DataError(
            f"{len(self.units)} different images of one class need {binary(needed)} of memory or more for the "
            f"dissimilarities of their pairs, and {binary(available_memory())} are available. Link on a machine with "
            "more memory, keep a larger fraction, or split the class."
        )

    def within(
        self,
        threshold: float,
        part: tuple[int, int] = (0, 1),
        plan: Plan | None = None,
        advance: Callable[[float], None] | None = None,
    ) -> Pairs:
        """The pairs of `units` above the last threshold and up to this one, see `Near.within`.

        Raises:
          DataError: they do not fit in the available memory.
        """
        plan = plan or self.near.plan(threshold)  # before memory is measured, since it makes the boxes, which take some
        limit = available_memory() // _BYTES_PER_PAIR
        try:
            return self.near.within(threshold, self.threshold, part, plan, limit, advance)
        except TooManyPairs as error:
            raise self._too_large(error.num_pairs) from error

    def feed(self, found: Pairs, threshold: float) -> None:
        """Takes all pairs of `units` above the last threshold and up to this one, in any order.

        Raises:
          DataError: there are too many to count.
        """
        value = found.dissimilarity
        # The nearer half is often enough, so pairs are sorted only as far as they are needed.
        places = [len(value) >> shift for shift in (3, 2, 1)] if len(value) >= _MANY else []
        borders = [self.threshold, *(np.partition(value, places)[places] if places else ()), threshold]
        for above, up_to in itertools.pairwise(borders):
            some = found.take(np.flatnonzero((above < value) & (value <= up_to))).ordered()
            if not self._counter.has_room(len(some)):
                raise DataError(
                    "One class needs more than 2**30 pairs of clusters at once, the most that can be counted. Keep a larger fraction, "
                    "or split the class."
                )
            self._counter.feed(some.i, some.j, some.dissimilarity)
            if self.done:
                break
        self._num_pairs += len(found)
        self.threshold = threshold

    def link_all(self) -> None:
        """Links the class from all pairs, computed at once."""
        wanted, much = self._wanted - len(self._equal[0]), self._dense_bytes > _MUCH
        # Several classes may be linked in parallel, but those that take much memory one at a time, on all cores.
        with _much_memory if much else contextlib.nullcontext():
            made = dense.linkage(self.units, wanted, cores() if much else 1)
            if made is None:
                made = chain.linkage(len(self.units), _condensed(self.units))
        self._dense = tuple(column[:wanted] for column in made)

    def run(self, advance: Callable[[float], None] | None = None) -> None:
        """Makes all merges, computing pairs here.

        Args:
          advance: called with the share of the first threshold's pairs that is done; a second threshold is rare.
        """
        while not self.done:
            threshold = self.next_threshold()
            if threshold is not None:
                try:
                    found = self.within(threshold, advance=advance)
                except DataError:
                    # So many pairs have the same dissimilarity that no lower threshold helps.
                    if self._dense_bytes > available_memory():
                        raise
                    threshold = None
            if threshold is None:
                self.link_all()
            else:
                self.feed(found, threshold)
            advance = None

    def merges(self) -> Merges:
        first, second, height = self._dense if self._dense is not None else self._counter.merges()
        equal = self._equal
        columns = (
            (equal[0], self._last[first]), (equal[1], self._last[second]), (np.zeros(len(equal[0])), height),
        )  # fmt: skip
        first, second, height = (np.concatenate(column)[: self._wanted] for column in columns)
        left, right, size = numbered(self._n, first, second)
        return Merges(left, right, height.copy(), size)


def complete_linkage(embeddings: np.ndarray, num_merges: int, advance: Callable[[float], None] | None = None) -> Merges:
    """The first merges of agglomerative clustering with complete linkage (the paper's section 3.2).

    The result is exact, and the same on every machine and with any number of threads and devices: dissimilarities have the
    same bits everywhere (see `dissimilarity`). Ties are broken by the total order of pairs (dissimilarity, i, j).

    Args:
      embeddings: [n, d] float32, finite and no row zero.
      num_merges: merges wanted, 0…n-1; n - num_merges clusters remain.
      advance: see `Linker.run`.

    Raises:
      DataError: the necessary pairs do not fit in memory.
    """
    n = len(embeddings)
    if not 0 <= num_merges <= max(0, n - 1):
        raise ValueError(f"num_merges is {num_merges} for {n} images; wanted 0…{max(0, n - 1)}")
    if num_merges == 0:
        return NO_MERGES
    units = dissimilarity.units(embeddings)
    del embeddings  # frees them, unless the caller keeps a reference
    linker = Linker(units, num_merges)
    linker.run(advance)
    return linker.merges()
