"""Complete linkage by counting pairs in ascending order: the compiled core of `linkage`.

Two clusters merge when the last of the pairs between them is taken; the height is that pair's dissimilarity. So the merges
up to any height depend only on the pairs up to that height. The method is known from HPC-CLUST (Matias Rodrigues, von Mering
2013) and SparseHC (Nguyen, Schmidt, Kwoh 2014), and used by GSHAC (arXiv 2604.11656). Knows nothing of embeddings.
"""

import numpy as np

from redundancy.runtime.compiled import compiled

_NONE = -1
_FULL = 0.6  # the hash table is rebuilt when this share of its slots is in use


@compiled(inline="always")
def _find(parent, image):
    while parent[image] != image:
        parent[image] = parent[parent[image]]
        image = parent[image]
    return image


@compiled(inline="always")
def _slot(keys, one, other):
    """Slot of the unordered pair's key, or the empty slot where the key belongs."""
    if one > other:
        one, other = other, one
    key = (np.int64(one) << 32) | np.int64(other)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    mask = len(keys) - 1
    slot = np.int64(mixed >> np.uint64(20)) & mask
    while keys[slot] != _NONE and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot, key


@compiled
def _rebuilt(count, owner, num_edges):
    """Makes a hash table of the live edges only, at most a third full."""
    live = 0
    for edge in range(num_edges):
        live += count[edge] > 0
    size = 1024
    while size < 3 * live:
        size *= 2
    keys, edges = np.full(size, _NONE, np.int64), np.empty(size, np.int32)
    for edge in range(num_edges):
        if count[edge] > 0:
            slot, key = _slot(keys, owner[2 * edge], owner[2 * edge + 1])
            keys[slot], edges[slot] = key, edge
    return keys, edges, live


@compiled
def _grown(values, used):
    out = np.empty(max(1024, used + used // 2), values.dtype)
    out[:used] = values[:used]
    return out


@compiled
def _consume(first, second, value, wanted, clusters, edges, table, made, numbers):
    """Takes pairs in ascending order until `wanted` merges are made.

    An edge represents two clusters of which at least one pair was taken. It holds the number of these pairs (0 once the edge is
    dead) and is in the lists of both clusters. A cluster's list is traversed once, when one with a longer list absorbs it.
    """
    parent, size, head, length = clusters
    count, owner, following = edges
    keys, edge_of = table
    left, right, height = made
    num_edges, used, num_merges = numbers
    for row in range(len(value)):
        if num_merges == wanted:
            break
        one, other = _find(parent, first[row]), _find(parent, second[row])
        needed = np.int64(size[one]) * np.int64(size[other])
        edge = -1
        seen = np.int64(1)
        if needed > 1:
            slot, key = _slot(keys, one, other)
            if keys[slot] == key:
                edge = edge_of[slot]
                count[edge] += 1
                seen = count[edge]
            else:
                if num_edges == len(count):
                    count = _grown(count, num_edges)
                    owner, following = _grown(owner, 2 * num_edges), _grown(following, 2 * num_edges)
                edge = num_edges
                num_edges += 1
                count[edge] = 1
                for side, cluster in ((0, one), (1, other)):
                    owner[2 * edge + side] = cluster
                    following[2 * edge + side] = head[cluster]
                    head[cluster] = 2 * edge + side
                    length[cluster] += 1
                keys[slot], edge_of[slot] = key, edge
                used += 1
        if seen < needed:
            if used > _FULL * len(keys):
                keys, edge_of, used = _rebuilt(count, owner, num_edges)
            continue
        if edge >= 0:
            count[edge] = 0
        left[num_merges], right[num_merges], height[num_merges] = one, other, value[row]
        num_merges += 1
        if length[one] > length[other]:
            one, other = other, one
        # `one` is absorbed: its edges become edges of `other`, or are added to existing ones.
        half = head[one]
        while half != _NONE:
            after = following[half]
            edge = half // 2
            if count[edge] > 0:
                third = owner[half ^ 1]
                slot, key = _slot(keys, other, third)
                if keys[slot] == key:
                    count[edge_of[slot]] += count[edge]
                    count[edge] = 0
                else:
                    owner[half] = other
                    following[half] = head[other]
                    head[other] = half
                    length[other] += 1
                    keys[slot], edge_of[slot] = key, edge
                    used += 1
                    if used > _FULL * len(keys):
                        keys, edge_of, used = _rebuilt(count, owner, num_edges)
            half = after
        head[one] = _NONE
        parent[one] = other
        size[other] += size[one]
    return (count, owner, following), (keys, edge_of), (num_edges, used, num_merges)


class Counter:
    """The state of the linkage of n images between batches of pairs."""

    def __init__(self, n: int, wanted: int):
        self._wanted = wanted
        self._clusters = (
            np.arange(n, dtype=np.int32), np.ones(n, np.int32), np.full(n, _NONE, np.int32), np.zeros(n, np.int32),
        )  # fmt: skip
        self._edges = np.empty(1024, np.int64), np.empty(2048, np.int32), np.empty(2048, np.int32)
        self._table = np.full(1024, _NONE, np.int64), np.empty(1024, np.int32)
        self._made = np.empty(wanted, np.int32), np.empty(wanted, np.int32), np.empty(wanted)
        self._numbers = (0, 0, 0)

    @property
    def num_merges(self) -> int:
        """Merges made so far."""
        return self._numbers[2]

    def has_room(self, num_pairs: int) -> bool:
        """Whether the table can hold this many more pairs: each has two entries, and an entry's number has 31 bits."""
        return self._numbers[0] + num_pairs <= 1 << 30

    def feed(self, first: np.ndarray, second: np.ndarray, dissimilarity: np.ndarray) -> None:
        """Takes pairs in the total order; all must come after those of earlier calls.

        Args:
          first, second: [m] int32, rows of the two images, below n.
          dissimilarity: [m] float64.
        """
        self._edges, self._table, self._numbers = _consume(
            first, second, dissimilarity, self._wanted, self._clusters, self._edges, self._table, self._made,
            self._numbers,
        )  # fmt: skip

    def merges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The merges so far: an image of each of the two clusters, two arrays [m] int32, and the height, [m] float64."""
        return tuple(column[: self.num_merges] for column in self._made)
