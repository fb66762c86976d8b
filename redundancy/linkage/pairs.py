"""Finds all pairs of a class up to a dissimilarity by blocked matrix products in JAX, without an n × n array.

The float32 products only propose pairs; thanks to a bound on their error they miss none. Then the exact value of each
proposed pair (see `dissimilarity`) decides. So the result does not depend on the block size or on the number and kind of
devices. Knows nothing of files and classes.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from redundancy.linkage import bounds, dissimilarity
from redundancy.linkage import devices as devices_of
from redundancy.linkage.bounds import Rows, Shortening
from redundancy.linkage.dissimilarity import Units
from redundancy.linkage.ties import total_order
from redundancy.runtime.compiled import compiled
from redundancy.runtime.in_order import in_order
from redundancy.runtime.machine import cores

# On CPU a block of rows is multiplied by panels of several blocks; the product just fits in a core's cache. There are only
# these shapes, so that XLA compiles few programs for classes of any size.
_PANEL_COLUMNS = 2048
_CPU_BLOCKS = (192, 256)
_LARGE_CPU_BLOCK = 512
# An accelerator holds all blocks, and multiplies one by one.
_ACCELERATOR_BLOCKS = (1024, 2048, 4096, 8192)
_BLOCKS_WANTED = 8
_IN_FLIGHT = 3
_LARGE = 32  # blocks; a class of at least this many uses all cores
_MOST_THREADS = 8
_CAPACITY = 1 << 16  # words with proposed pairs in one transfer from an accelerator


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of rows i < j and their dissimilarities.

    Attributes:
      i: [m] int32.
      j: [m] int32.
      dissimilarity: [m] float64.
    """

    i: np.ndarray
    j: np.ndarray
    dissimilarity: np.ndarray

    @classmethod
    def none(cls) -> "Pairs":
        return cls(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0))

    def __len__(self) -> int:
        return len(self.i)

    def ordered(self) -> "Pairs":
        """The pairs in the total order, see `ties`."""
        return self.take(total_order(self.dissimilarity, self.i, self.j))

    def take(self, some: np.ndarray) -> "Pairs":
        return Pairs(self.i[some], self.j[some], self.dissimilarity[some])


class TooManyPairs(Exception):
    """There are more pairs than the caller has memory for."""

    def __init__(self, num_pairs: int):
        super().__init__(f"at least {num_pairs} pairs")
        self.num_pairs = num_pairs


def concatenate(parts: list[Pairs]) -> Pairs:
    names = [field.name for field in dataclasses.fields(Pairs)]
    return Pairs(*(np.concatenate([getattr(part, name) for part in [Pairs.none(), *parts]]) for name in names))


def decided(i: np.ndarray, j: np.ndarray, above: float, threshold: float, units: Units) -> Pairs:
    """The proposed pairs whose exact value is above < dissimilarity ≤ threshold; i and j, [m] int32, are overwritten."""
    value = np.empty(len(i))
    kept = dissimilarity.decide(i, j, above, threshold, units.grid, units.excess, value)
    return Pairs(i[:kept].copy(), j[:kept].copy(), value[:kept].copy())


def gathered(
    tasks: Iterator[tuple[float, Callable[[], Pairs]]],
    total: float,
    threads: int,
    ahead: int,
    limit: int | None,
    advance: Callable[[float], None] | None,
) -> Pairs:
    """The pairs that all tasks find, in the order of the tasks.

    Args:
      tasks: the amount of work of each task, and the task.
      total: the sum of the amounts of work.
      threads, ahead: see `in_order`.
      limit, advance: see `within`.

    Raises:
      TooManyPairs: there are more than `limit`.
    """
    found, num_found, done = [], 0, 0.0
    with contextlib.closing(in_order(tasks, threads, ahead)) as results:  # on an error, ends the running tasks
        for work, some in results:
            num_found += len(some)
            if limit is not None and num_found > limit:
                raise TooManyPairs(num_found)
            if len(some):
                found.append(some)
            done += work
            if advance is not None:
                advance(done / total)
    return concatenate(found)


def packed(near: jax.Array) -> jax.Array:
    """Packs booleans into bits: [r, c] bool to [r, c / 8] uint8.

    Bit k of byte [r, b] is [r, k c / 8 + b]. With this layout XLA's loop over b uses SIMD.
    """
    width, near = near.shape[1] // 8, near.astype(jnp.uint8)
    return functools.reduce(jnp.bitwise_or, (near[:, k * width : (k + 1) * width] << k for k in range(8)))


@jax.jit
def _proposed(rows, columns, row_limits, column_limits):
    """Marks pairs that may be within the threshold: [r, d], [c, d], [r], [c] float32 to `packed` [r, c / 8] uint8."""
    product = jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)
    return packed(product >= row_limits[:, None] + column_limits[None, :])


@functools.partial(jax.jit, static_argnums=1)
def _compacted(bits, capacity):
    """The words of `packed` that are not 0: their number, and the indices and values of the first `capacity` of them."""
    words = jax.lax.bitcast_convert_type(bits.reshape(-1, 4), jnp.uint32)
    (places,) = jnp.nonzero(words, size=capacity, fill_value=0)
    return jnp.count_nonzero(words), places, words[places]


@compiled
def _compact(words):
    """Indices and values of the words that are not 0: [w] uint32 to [m] int64, [m] uint32."""
    total = 0
    for word in words:
        total += word != 0
    places, values = np.empty(total, np.int64), np.empty(total, np.uint32)
    found = 0
    if total:
        for place in range(len(words)):
            if words[place] != 0:
                places[found], values[found] = place, words[place]
                found += 1
    return places, values


@compiled
def _unpacked(places, words, bytes_in_row):
    """Rows and columns, [m] int32 each, of the bits that are 1 in the words of `packed` with these indices."""
    total = 0
    for word in words:
        bits = np.uint64(word)
        while bits:
            bits &= bits - np.uint64(1)
            total += 1
    rows, columns = np.empty(total, np.int32), np.empty(total, np.int32)
    words_in_row, found = bytes_in_row // 4, 0
    for number in range(len(places)):
        row, first = places[number] // words_in_row, places[number] % words_in_row * 4
        word = np.uint64(words[number])
        for byte in range(4):
            bits = (word >> np.uint64(8 * byte)) & np.uint64(255)
            if bits == 0:
                continue
            for bit in range(8):
                if (bits >> np.uint64(bit)) & np.uint64(1):
                    rows[found], columns[found] = row, bit * bytes_in_row + first + byte
                    found += 1
    return rows, columns


def sent(bits: jax.Array) -> tuple[jax.Array, ...]:
    """Reduces `packed` bits, before an accelerator sends them, to the words that are not 0; see `unpacked`."""
    return (bits, *_compacted(bits, _CAPACITY))


def unpacked(begun: tuple[jax.Array, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Waits for the result of `sent`, or for (bits,); returns rows and columns of the bits that are 1, [m] int32 each."""
    bits, bytes_in_row = begun[0], begun[0].shape[1]
    if len(begun) == 4 and (number := int(begun[1])) <= _CAPACITY:
        return _unpacked(np.asarray(begun[2])[:number], np.asarray(begun[3])[:number], bytes_in_row)
    return _unpacked(*_compact(np.asarray(bits).view(np.uint32).reshape(-1)), bytes_in_row)


class _Blocks:
    """Blocks of rows on the devices that work on them. The last block is padded with rows that are near no other row."""

    def __init__(self, rows: Rows, threshold: float, size: int, first: int, devices: list[jax.Device]):
        n = len(rows.rows)
        self._size, self._rows = size, rows.rows
        self.num = -(-n // size)
        self._limits = np.full(self.num * size, np.inf, np.float32)
        self._limits[:n] = rows.limits(threshold)
        # A single CPU device reads the host's memory, so no copy is needed.
        self._resident = len(devices) > 1 or devices[0].platform != "cpu"
        self._devices = devices
        self.panel = 1 if self._resident else max(1, _PANEL_COLUMNS // size)
        if self._resident:
            blocks = {block: self._slice(block, 1) for block in range(first, self.num)}
            self._on = [jax.device_put(blocks, device) for device in devices]

    def _slice(self, block: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(block * self._size, (block + count) * self._size)
        rows, limits = self._rows[part], self._limits[part]
        if len(rows) < len(limits):
            rows = np.concatenate([rows, np.zeros((len(limits) - len(rows), rows.shape[1]), np.float32)])
        return rows, limits

    def propose(self, row: int, column: int, count: int) -> tuple[jax.Array, ...]:
        """Starts `_proposed` for block `row` and `count` blocks from `column` on; `unpacked` waits for the result."""
        if self._resident:
            on = self._on[row % len(self._devices)]
            (rows, row_limits), (columns, column_limits) = on[row], on[column]
        else:
            (rows, row_limits), (columns, column_limits) = self._slice(row, 1), self._slice(column, count)
        with contextlib.nullcontext() if self._resident else devices_of.on_host():
            bits = _proposed(rows, columns, row_limits, column_limits)
        return sent(bits) if self._resident else (bits,)


def block_size(n: int, devices: list[jax.Device]) -> int:
    """Rows in a block, for a class of n images."""
    if devices[0].platform == "cpu":
        return min(_CPU_BLOCKS, key=lambda size: -(-n // size) * size) if n < 2 * _PANEL_COLUMNS else _LARGE_CPU_BLOCK
    sizes = _ACCELERATOR_BLOCKS
    return max((size for size in sizes if size * _BLOCKS_WANTED * len(devices) <= n), default=sizes[0])


def within(
    units: Units,
    threshold: float,
    above: float = -1.0,
    rows: tuple[int, int] | None = None,
    centred: Rows | None = None,
    shortening: Shortening | None = None,
    devices: list[jax.Device] | None = None,
    size: int | None = None,
    limit: int | None = None,
    advance: Callable[[float], None] | None = None,
) -> Pairs:
    """All pairs i < j of rows with above < dissimilarity ≤ threshold.

    Memory holds the units, their float32 copy on each device, the pairs, and the bits of a few blocks.

    Args:
      units: units of n images.
      threshold: the greatest dissimilarity wanted.
      above: pairs up to this dissimilarity are excluded; a negative number excludes none.
      rows: (low, high): only pairs with low ≤ i < high; by default all.
      centred: `bounds.centred` of the units, if already computed.
      shortening: `bounds.shortening` of the units, if already computed.
      devices: devices that share the rows of blocks in turn; by default those of `devices.for_class`.
      size: rows in a block, a multiple of 32; by default `block_size`.
      limit: number of pairs for which there is memory.
      advance: called from time to time with the share of the work that is done.

    Returns:
      The pairs, in an order that depends on `size`.

    Raises:
      TooManyPairs: there are more than `limit`.
    """
    n = len(units)
    low, high = rows or (0, n)
    devices = devices or devices_of.for_class(n)
    size = size or block_size(n, devices)
    first = low // size
    whole = centred or bounds.centred(units)
    if devices[0].platform == "cpu":
        short = (shortening or bounds.shortening(whole, threshold)).of(whole)
    else:
        short = whole
    blocks = _Blocks(short, threshold, size, first, devices)
    rows_of_blocks = range(first, min(blocks.num, -(-high // size)))

    def decide(row: int, column: int, begun: tuple[jax.Array, ...]) -> Pairs:
        i, j = unpacked(begun)
        i += row * size
        j += column * size
        inside = (low <= i) & (i < high) & (i < j)
        return decided(i[inside], j[inside], above, threshold, units)

    def tasks() -> Iterator[tuple[int, Callable[[], Pairs]]]:
        for row in rows_of_blocks:
            for column in range(row, blocks.num, blocks.panel):
                count = min(blocks.panel, blocks.num - column)
                yield count, functools.partial(decide, row, column, blocks.propose(row, column, count))

    # A large class is linked alone, and all cores check its pairs; several small classes are linked at once.
    threads = min(cores(), _MOST_THREADS) if blocks.num >= _LARGE else 0
    total = sum(blocks.num - row for row in rows_of_blocks)
    return gathered(tasks(), total, threads, _IN_FLIGHT * len(devices) + threads, limit, advance)
