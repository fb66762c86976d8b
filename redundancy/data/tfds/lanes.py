"""The order in which a training reads a set whose shards can only be read sequentially.

In each epoch the shards are shuffled and assigned to *lanes* that are read in parallel, so that a batch mixes as many shards
as there are lanes. Within a lane, *windows* of some records are shuffled. The order of the full set is drawn first and then
filtered, so a subset keeps its relative order. Knows nothing of files and images.
"""

import dataclasses
import functools
import threading
from typing import NamedTuple

import numpy as np

from redundancy.data import order

LANES = 64
# Records that the lanes of one process hold at a time: the window in use and the next one, which is being read.
BUFFERED_RECORDS = 8192
BUFFERED_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Shards:
    """The parameters of the order."""

    lengths: tuple[int, ...]  # examples in each shard
    window: int  # number of a lane's records that are shuffled together

    @property
    def num_lanes(self) -> int:
        return min(LANES, len(self.lengths))

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """int64 [shards]: position of the first example of each."""
        return np.cumsum((0, *self.lengths[:-1]))

    def __hash__(self):
        return hash((len(self.lengths), sum(self.lengths), self.window))


def make_shards(lengths: tuple[int, ...], record_bytes: float) -> Shards:
    """Parameters for shards of these lengths; the longer the records, the shorter the windows."""
    records = min(BUFFERED_RECORDS, int(BUFFERED_BYTES / max(1.0, record_bytes)))
    return Shards(lengths, max(8, records // (2 * min(LANES, len(lengths)))))


class EpochOrder(NamedTuple):
    """The order of a set, or of the kept part of one, in one epoch. Each lane is spread evenly over it."""

    shards: np.ndarray  # int64 [S]: the shards, lane by lane, in reading order
    splits: np.ndarray  # int64 [lanes + 1]: index in `shards` at which each lane begins
    starts: np.ndarray  # int64 [lanes]: empty slots in each lane's first window before the lane's first record
    positions: np.ndarray  # int64 [n]: positions in the order of the epoch
    lanes: np.ndarray  # uint8 [n]: the lane of each position


@functools.lru_cache(maxsize=2)
def epoch_order(shards: Shards, seed: tuple[int, ...], epoch: int) -> EpochOrder:
    """The full set's order in one epoch, a pure function of the arguments."""
    bits = np.random.Philox(order.seed_sequence(seed, epoch))
    count, lanes = len(shards.lengths), shards.num_lanes
    shuffled = np.argsort(bits.random_raw(count), kind="stable")
    by_lane = [shuffled[lane::lanes] for lane in range(lanes)]
    # First windows have random lengths, so that lanes do not need their next windows all at once, and window borders vary.
    starts = (bits.random_raw(lanes) % np.uint64(shards.window)).astype(np.int64)
    lengths = np.array(shards.lengths)
    positions, windows, times = [], [], []
    first_window = 0
    for start, of_lane in zip(starts, by_lane, strict=True):
        size = int(lengths[of_lane].sum())
        slots = np.arange(size)
        positions += [shards.offsets[shard] + np.arange(lengths[shard]) for shard in of_lane]
        windows.append((slots + start) // shards.window + first_window)
        first_window += (size + start) // shards.window + 1
        times.append((slots + 0.5) / size)
    windows = np.concatenate(windows).astype(np.uint64)
    # One sort by (window, random number); 32 random bits suffice to shuffle a window of some thousand records.
    shuffle = np.argsort(windows << np.uint64(32) | bits.random_raw(len(windows)) >> np.uint64(32), kind="stable")
    spread = np.argsort(np.concatenate(times), kind="stable")
    lane_of = np.repeat(np.arange(lanes, dtype=np.uint8), [len(of_lane) for of_lane in times])
    return EpochOrder(
        shards=np.concatenate(by_lane),
        splits=np.cumsum([0, *map(len, by_lane)]),
        starts=starts,
        positions=np.concatenate(positions)[shuffle][spread],
        lanes=lane_of[spread],
    )


class LaneReading(NamedTuple):
    """The runs of records that a process reads of one lane in one epoch, their windows, and the records that it uses."""

    gap: int  # empty slots at the start of the first window
    shards: np.ndarray  # int64 [s]: the shard of each run, in reading order, as the next three
    skips: np.ndarray
    takes: np.ndarray
    wanted: np.ndarray  # bool [s]: whether a run has used records; if not, its slots are left empty
    splits: np.ndarray  # int64 [windows + 1]: index in `slots` at which each window begins
    slots: np.ndarray  # int64 [n]: place in its window of each used image, in the order of use
    positions: np.ndarray  # int64 [n]: positions of these images


class Plan:
    """The image in each row of each batch, for one process; thread-safe.

    The endless concatenation of epochs, each the full order filtered by `kept`, is divided into batches of `batch_size`. The
    rows of each batch are then sorted by lane. A process takes a fixed range of the rows, which come from few lanes.
    """

    def __init__(
        self,
        shards: Shards,
        kept: np.ndarray,
        batch_size: int,
        seed: tuple[int, ...],
        start_step: int = 0,
        rows: slice | None = None,
    ):
        """Stores the parameters; draws nothing yet.

        Args:
          shards: parameters of the order.
          kept: bool [N], with at least one True.
          batch_size: rows of a batch, of all processes together.
          seed: non-negative integers.
          start_step: the first batch.
          rows: this process's rows of each batch; by default all rows.
        """
        self.shards, self.batch_size, self.seed, self.start_step = shards, batch_size, tuple(seed), start_step
        self._kept, self._rows = kept, rows or slice(0, batch_size)
        self.num_kept = int(kept.sum())
        self._lock = threading.RLock()
        self._touched: dict[int, np.ndarray] = {}
        # A step of a small subset spans several epochs.
        epochs_at_once = 4 + 2 * batch_size // self.num_kept
        self._filtered = functools.lru_cache(maxsize=epochs_at_once)(self._filter)
        self._used = functools.lru_cache(maxsize=epochs_at_once)(self._use)

    @property
    def first_epoch(self) -> int:
        """Epoch of the first row of the first batch."""
        return self.start_step * self.batch_size // self.num_kept

    def steps(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """This process's rows of some batches.

        Returns:
          positions int64, lanes uint8 and epochs int64, each [count, rows].
        """
        begin, end = first * self.batch_size, (first + count) * self.batch_size
        pieces = []
        with self._lock:
            for epoch in range(begin // self.num_kept, -(-end // self.num_kept)):
                found = self._filtered(epoch)
                cut = slice(max(0, begin - epoch * self.num_kept), end - epoch * self.num_kept)
                pieces.append((found.positions[cut], found.lanes[cut], np.full(len(found.lanes[cut]), epoch)))
        columns = [np.concatenate(column).reshape(count, self.batch_size) for column in zip(*pieces, strict=True)]
        # If two epochs share a batch, they are sorted separately, so that each epoch remains contiguous.
        keys = columns[2] * self.shards.num_lanes + columns[1]
        by_lane = np.argsort(keys, axis=1, kind="stable")[:, self._rows]
        return tuple(np.take_along_axis(column, by_lane, axis=1) for column in columns)

    def lane(self, lane: int, epoch: int) -> LaneReading:
        """The reading of one lane in one epoch by this process."""
        with self._lock:
            if epoch in self._touched and not self._touched[epoch][lane]:
                return _NOTHING
            full = self._filtered(epoch)
            used, splits = self._used(epoch)
        positions = used[splits[lane] : splits[lane + 1]]
        if not len(positions):
            return _NOTHING
        shards = full.shards[full.splits[lane] : full.splits[lane + 1]]
        lengths, window = np.array(self.shards.lengths)[shards], self.shards.window
        # Slots are counted from the start of the lane's first window.
        begins = full.starts[lane] + np.cumsum(lengths) - lengths
        shard_of = np.searchsorted(self.shards.offsets, positions, side="right") - 1
        place = np.zeros(len(self.shards.lengths), np.int64)
        place[shards] = begins - self.shards.offsets[shards]
        slots = positions + place[shard_of]
        first, last = slots[0] // window, slots[-1] // window
        low = np.maximum(begins, first * window)
        high = np.minimum(begins + lengths, (last + 1) * window)
        read = low < high
        return LaneReading(
            gap=int(low[read][0] - first * window),
            shards=shards[read],
            skips=(low - begins)[read],
            takes=(high - low)[read],
            wanted=np.isin(shards, shard_of)[read],
            splits=np.searchsorted(slots // window - first, np.arange(last - first + 2)),
            slots=slots % window,
            positions=positions,
        )

    def _filter(self, epoch: int) -> EpochOrder:
        full = epoch_order(self.shards, self.seed, epoch)
        picked = self._kept[full.positions]
        return full._replace(positions=full.positions[picked], lanes=full.lanes[picked])

    def _use(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """This process's images of one epoch by lane, in the order of use, and the index at which each lane begins."""
        first = max(self.start_step, epoch * self.num_kept // self.batch_size)
        last = -(-(epoch + 1) * self.num_kept // self.batch_size)
        if last <= first:
            self._touched[epoch] = np.zeros(self.shards.num_lanes, bool)
            return _NONE, np.zeros(self.shards.num_lanes + 1, np.int64)
        positions, lanes, epochs = self.steps(first, last - first)
        mine = epochs == epoch
        positions, lanes = positions[mine], lanes[mine]
        by_lane = np.argsort(lanes, kind="stable")
        splits = np.searchsorted(lanes[by_lane], np.arange(self.shards.num_lanes + 1))
        self._touched[epoch] = np.diff(splits) > 0
        return positions[by_lane], splits


_NONE = np.zeros(0, np.int64)
_NOTHING = LaneReading(0, _NONE, _NONE, _NONE, np.zeros(0, bool), np.zeros(1, np.int64), _NONE, _NONE)
