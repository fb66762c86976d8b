"""All pairs of a class up to a dissimilarity, by blocked matrix products in JAX; no n × n array ever exists.

The products, in float32 on whatever devices there are, only propose pairs: with a bound on their error they miss none.
Each proposed pair's value is then computed exactly (see `dissimilarity`) and decides. So the result is the same whatever
the block size, the number and the kind of devices. Knows nothing of files and classes.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numba
import numpy as np

from redundancy.selection import dissimilarity
from redundancy.selection.dissimilarity import Units

# On CPU a block of rows meets panels of several blocks, whose product just fits a core's cache; with no more shapes than
# these, XLA compiles few programs whatever the sizes of the classes.
_PANEL_COLUMNS = 2048
_CPU_BLOCKS = (192, 256)
_LARGE_CPU_BLOCK = 512
# An accelerator keeps all blocks, and each meets one at a time.
_ACCELERATOR_BLOCKS = (1024, 2048, 4096, 8192)
_BLOCKS_WANTED = 8
_IN_FLIGHT = 3


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
        """The pairs in the total order of the linkage: by dissimilarity, then i, then j."""
        order = np.argsort(self.dissimilarity)
        value = self.dissimilarity[order]
        same = value[1:] == value[:-1]
        if same.any():
            # Most values occur once: only runs of equal ones are looked at again.
            tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
            some = order[tied]
            order[tied] = some[np.lexsort((self.j[some], self.i[some], value[tied]))]
        return self.take(order)

    def take(self, some: np.ndarray) -> "Pairs":
        return Pairs(self.i[some], self.j[some], self.dissimilarity[some])


class TooManyPairs(Exception):
    """More pairs than the caller has memory for."""

    def __init__(self, num_pairs: int):
        super().__init__(f"at least {num_pairs} pairs")
        self.num_pairs = num_pairs


def concatenate(parts: list[Pairs]) -> Pairs:
    """The pairs of all parts."""
    names = [field.name for field in dataclasses.fields(Pairs)]
    return Pairs(*(np.concatenate([getattr(part, name) for part in [Pairs.none(), *parts]]) for name in names))


@jax.jit
def _proposed(rows, columns, row_bounds, column_bounds):
    """Which pairs may be within the threshold: [r, d], [c, d], [r], [c] float32 to [r, c / 8] uint8.

    Bit k of byte [r, b] is the pair (r, k c / 8 + b): so laid out, XLA's loop over b runs in SIMD.
    """
    product = jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)
    near = (product >= row_bounds[:, None] + column_bounds[None, :]).astype(jnp.uint8)
    width = near.shape[1] // 8
    return functools.reduce(jnp.bitwise_or, (near[:, k * width : (k + 1) * width] << k for k in range(8)))


@jax.jit
def _product(rows, columns):
    return jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)


@numba.njit(nogil=True, cache=True)
def _fill_centred(grid, rows, half):
    n, dimension = grid.shape
    mean = np.zeros(dimension, np.int64)
    for row in range(n):
        for column in range(dimension):
            mean[column] += np.int64(grid[row, column])
    for column in range(dimension):
        mean[column] //= n
    for row in range(n):
        total = 0.0
        for column in range(dimension):
            value = np.float32(np.float64(np.int64(grid[row, column]) - mean[column]) * 2.0**-26)
            rows[row, column] = value
            total += np.float64(value) * np.float64(value)
        half[row] = total / 2


@dataclasses.dataclass(frozen=True)
class Centred:
    """Unit vectors around their mean, where they are short, and with them the errors of float32 products.

    So a class of nearly equal images is told apart as well as any other.

    Attributes:
      rows: [n, d] float32.
      half: [n] float64, half the squared lengths of `rows`.
    """

    rows: np.ndarray
    half: np.ndarray

    @classmethod
    def of(cls, units: Units) -> "Centred":
        rows, half = np.empty(units.grid.shape, np.float32), np.empty(len(units))
        _fill_centred(units.grid, rows, half)
        return cls(rows, half)

    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Dissimilarities, near enough to choose a threshold by: of rows [a] to rows [b], [a, b] float32."""
        product = np.asarray(_product(self.rows[first], self.rows[second]))
        return (self.half[first].astype(np.float32)[:, None] + self.half[second].astype(np.float32)) - product


@numba.njit(nogil=True, cache=True)
def _decide(words, first_row, first_column, low, high, above, threshold, grid, excess, i, j, value):
    """Exact values of the proposed pairs (i, j), i < j, low ≤ i < high, of one block.

    Args:
      words: [r, c / 64] uint64, `_proposed`'s bytes.

    Returns:
      How many are above `above` and up to `threshold`; the first len(i) of them are in i, j, value.
    """
    n, bytes_in_row = len(grid), words.shape[1] * 8
    found = 0
    for row in range(max(0, low - first_row), min(words.shape[0], high - first_row)):
        for number in range(words.shape[1]):
            word = words[row, number]
            if word == 0:
                continue
            for byte in range(8):
                bits = (word >> np.uint64(8 * byte)) & np.uint64(255)
                for bit in range(8):
                    if not (bits >> np.uint64(bit)) & np.uint64(1):
                        continue
                    one = first_row + row
                    other = first_column + bit * bytes_in_row + number * 8 + byte
                    if other <= one or other >= n:
                        continue
                    exact = dissimilarity.pair(grid, excess, one, other)
                    if above < exact <= threshold:
                        if found < len(i):
                            i[found], j[found], value[found] = one, other, exact
                        found += 1
    return found


class _Blocks:
    """Blocks of centred rows, the last one padded with rows that are near to none, on the devices that work on them."""

    def __init__(self, centred: Centred, threshold: float, size: int, first: int, devices: list[jax.Device]):
        n, dimension = centred.rows.shape
        self._size, self._rows = size, centred.rows
        self.num = -(-n // size)
        # |x - y|² / 2 = |x|² / 2 + |y|² / 2 - xy, and rounding moves xy by less than d 2**-24 |x| |y|, which is below
        # d 2**-24 (|x|² + |y|²) / 2; twice as much is allowed for, and a little for the bounds' own rounding.
        slack = (dimension + 64) * 2.0**-23
        self._bounds = np.full(self.num * size, np.inf, np.float32)
        self._bounds[:n] = (1 - slack) * centred.half - threshold / 2 - 2.0**-21 * (centred.half + threshold)
        # Host memory is a CPU's own: nothing needs to be put there.
        self._resident = len(devices) > 1 or devices[0].platform != "cpu"
        self._devices = devices
        self.panel = 1 if self._resident else max(1, _PANEL_COLUMNS // size)
        if self._resident:
            blocks = {block: self._slice(block, 1) for block in range(first, self.num)}
            self._on = [jax.device_put(blocks, device) for device in devices]

    def _slice(self, block: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(block * self._size, (block + count) * self._size)
        rows, bounds = self._rows[part], self._bounds[part]
        if len(rows) < len(bounds):
            rows = np.concatenate([rows, np.zeros((len(bounds) - len(rows), rows.shape[1]), np.float32)])
        return rows, bounds

    def proposed(self, row: int, column: int, count: int) -> jax.Array:
        """`_proposed` of block `row` and of `count` blocks from `column` on; returns before it is computed."""
        if self._resident:
            on = self._on[row % len(self._devices)]
            (rows, row_bounds), (columns, column_bounds) = on[row], on[column]
        else:
            (rows, row_bounds), (columns, column_bounds) = self._slice(row, 1), self._slice(column, count)
        return _proposed(rows, columns, row_bounds, column_bounds)


def block_size(n: int, devices: list[jax.Device]) -> int:
    """Rows of one block for a class of n."""
    if devices[0].platform == "cpu":
        return min(_CPU_BLOCKS, key=lambda size: -(-n // size) * size) if n < 2 * _PANEL_COLUMNS else _LARGE_CPU_BLOCK
    sizes = _ACCELERATOR_BLOCKS
    return max((size for size in sizes if size * _BLOCKS_WANTED * len(devices) <= n), default=sizes[0])


def within(
    units: Units,
    threshold: float,
    above: float = -1.0,
    rows: tuple[int, int] | None = None,
    centred: Centred | None = None,
    devices: list[jax.Device] | None = None,
    size: int | None = None,
    limit: int | None = None,
    advance: Callable[[float], None] | None = None,
) -> Pairs:
    """All pairs i < j of rows with above < dissimilarity ≤ threshold.

    Memory is that of the units, of their float32 copy on each device, of the pairs and of a few blocks' bits.

    Args:
      units: of n images.
      threshold: the greatest dissimilarity wanted.
      above: pairs up to here are left out; below 0 none is.
      rows: (low, high): only pairs with low ≤ i < high; by default all.
      centred: of the same units, where it is there already.
      devices: devices that share the work, block rows dealt out in turn; by default all of this process.
      size: rows of a block, a multiple of 64; by default chosen by n.
      limit: pairs that there is memory for.
      advance: told now and then which share of the work is done.

    Returns:
      The pairs, in an order that depends on `size`.

    Raises:
      TooManyPairs: there are more than `limit`.
    """
    n = len(units)
    low, high = rows or (0, n)
    devices = devices or jax.local_devices()
    size = size or block_size(n, devices)
    first = low // size
    blocks = _Blocks(centred or Centred.of(units), threshold, size, first, devices)
    rows_of_blocks = range(first, min(blocks.num, -(-high // size)))
    total = sum(blocks.num - row for row in rows_of_blocks)
    found, num_found, done = [], 0, 0
    capacity = 1 << 12

    def decide(row, column, count, bits):
        nonlocal capacity, num_found, done
        words = np.asarray(bits).view(np.uint64)
        while True:
            i, j, value = np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity)
            inside = _decide(
                words, row * size, column * size, low, high, above, threshold, units.grid, units.excess, i, j, value
            )
            num_found += inside
            if limit is not None and num_found > limit:
                raise TooManyPairs(num_found)
            if inside <= capacity:
                break
            num_found -= inside
            capacity = 1 << int(inside).bit_length()
        if inside:
            found.append(Pairs(i[:inside].copy(), j[:inside].copy(), value[:inside].copy()))
        done += count
        if advance is not None:
            advance(done / total)

    pending = collections.deque()
    for row in rows_of_blocks:
        for column in range(row, blocks.num, blocks.panel):
            count = min(blocks.panel, blocks.num - column)
            pending.append((row, column, count, blocks.proposed(row, column, count)))
            if len(pending) > _IN_FLIGHT * len(devices):
                decide(*pending.popleft())
    for block in pending:
        decide(*block)
    return concatenate(found)
