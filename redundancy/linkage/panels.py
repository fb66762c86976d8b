"""Finds pairs by boxes on accelerators: the host walks the tree (`walk`), and a device multiplies many pairs of leaves at once.

Products use all directions of the boxes. As in `walk`, they only propose pairs, with a bound on their rounding, and the exact
value decides. Knows nothing of files and classes.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from redundancy.linkage import pairs, walk
from redundancy.linkage.boxes import Boxes
from redundancy.linkage.dissimilarity import Units
from redundancy.linkage.pairs import Pairs
from redundancy.runtime.in_order import in_order
from redundancy.runtime.machine import cores

AT_ONCE = 4096  # pairs of leaves in one call of the device
_IN_FLIGHT = 3
_WORDS = 32  # a leaf is padded to a multiple of this many rows, so that their bits fill whole words


@functools.partial(jax.jit, static_argnames="width")
def proposed(rows, limits, first, count, width):
    """Marks the pairs of rows that may be near, for some pairs of leaves.

    Args:
      rows: [n, p] float32, in the order of the leaves.
      limits: [n] float32, `Rows.limits` of the rows.
      first, count: [2, k] int32, the first row and the number of rows of both leaves of each pair.
      width: number of rows to which each leaf is padded.

    Returns:
      `pairs.packed` bits, [k width, width / 8] uint8: rows of the first leaf by rows of the second. If both are the same leaf,
      each pair is marked once.
    """
    place = jnp.arange(width)
    at = jnp.minimum(first[:, :, None] + place, len(rows) - 1)
    one, other = rows[at]
    limit = jnp.where(place < count[:, :, None], limits[at], jnp.inf)
    product = jnp.einsum("kap,kbp->kab", one, other, precision=jax.lax.Precision.HIGHEST)
    near = product >= limit[0][:, :, None] + limit[1][:, None, :]
    near &= (first[0] != first[1])[:, None, None] | (place[:, None] < place)
    return pairs.packed(near.reshape(-1, width))


def _ranges(boxes: Boxes, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    return walk.ranges(boxes, begin, end, max(1, min(walk.LEAVES_AT_ONCE, (1 << 22) // boxes.num_leaves)))


def _batches(boxes: Boxes, threshold: float, begin: int, end: int) -> Iterator[tuple[float, np.ndarray]]:
    """Yields pairs of leaves that may hold near rows, [2, k] int32, k ≤ AT_ONCE, and the work done since the last batch."""
    tasks = (
        (work, functools.partial(walk.leaf_pairs, boxes, threshold, low, high))
        for work, low, high in _ranges(boxes, begin, end)
    )
    held, left = np.empty((2, 0), np.int32), 0.0
    for work, found in in_order(tasks, cores(), 2 * cores()):
        held, left = np.concatenate([held, found], axis=1), left + work
        while held.shape[1] >= AT_ONCE:
            yield left, held[:, :AT_ONCE]
            held, left = held[:, AT_ONCE:], 0.0
    yield left, held


def within(
    units: Units,
    boxes: Boxes,
    threshold: float,
    above: float = -1.0,
    leaf_range: tuple[int, int] | None = None,
    devices: list[jax.Device] | None = None,
    limit: int | None = None,
    advance: Callable[[float], None] | None = None,
) -> Pairs:
    """All pairs i < j of rows with above < dissimilarity ≤ threshold, as `pairs.within`.

    Each device holds the projected rows of the boxes, and AT_ONCE pairs of leaves with their products: 0.6 GB for leaves of
    128 rows in 64 directions.

    Args:
      units, boxes, threshold, above, leaf_range: see `walk.within`.
      devices: devices that share the work; by default all devices of this process.
      limit, advance: see `pairs.within`.
    """
    n, levels = len(units), boxes.levels
    begin, end = leaf_range or (0, boxes.num_leaves)
    devices = devices or jax.local_devices()
    borders = (n * np.arange(boxes.num_leaves + 1) >> levels).astype(np.int32)
    width = -(-int(np.diff(borders).max()) // _WORDS) * _WORDS
    on = [jax.device_put((boxes.rows.rows, boxes.rows.limits(threshold)), device) for device in devices]

    def decide(leaf_pairs: np.ndarray, begun: tuple[jax.Array, ...]) -> Pairs:
        row, column = pairs.unpacked(begun)
        first = borders[leaf_pairs]
        pair = row // width
        one, other = boxes.order[first[0, pair] + row % width], boxes.order[first[1, pair] + column]
        return pairs.decided(np.minimum(one, other), np.maximum(one, other), above, threshold, units)

    def tasks() -> Iterator[tuple[float, Callable[[], Pairs]]]:
        for number, (work, leaf_pairs) in enumerate(_batches(boxes, threshold, begin, end)):
            first, last = np.zeros((2, AT_ONCE), np.int32), np.zeros((2, AT_ONCE), np.int32)
            first[:, : leaf_pairs.shape[1]], last[:, : leaf_pairs.shape[1]] = (
                borders[leaf_pairs],
                borders[leaf_pairs + 1],
            )
            bits = proposed(*on[number % len(devices)], first, last - first, width)
            yield work, functools.partial(decide, leaf_pairs, pairs.sent(bits))

    total = sum(work for work, _, _ in _ranges(boxes, begin, end))
    return pairs.gathered(tasks(), total, cores(), _IN_FLIGHT * len(devices) + cores(), limit, advance)
