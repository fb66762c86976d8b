"""Batches from the record files of a prepared TFDS data set, through tf.data.

From files on a local disk, only the necessary records are read (`planned`, `fetched`). Other files, such as those in gs://, are
read sequentially, many in parallel, and unnecessary records are skipped unparsed (`shuffled`, `in_order`). The order is the
same.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator

import numpy as np

from redundancy.data.crops import TRIES, RandomResizedCrop
from redundancy.data.tfds import lanes
from redundancy.data.tfds.quiet import tf, tfds
from redundancy.data.tfds.records import RecordFiles

INTERLEAVED_SHARDS = 16
_DRAWS = (TRIES, 4)  # shape of one crop's draws
_LOOKED_UP_AT_ONCE = 128
_PLANNED_AT_ONCE = 4096
_DECODED_AT_ONCE = 8
_READ_AT_ONCE = 8
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Stored:
    """A stored split, or a slice of one: its files, and the numbers of examples to skip and to take in each."""

    files: tuple[str, ...]
    skips: tuple[int, ...]
    takes: tuple[int, ...]

    @property
    def num_examples(self) -> int:
        return sum(self.takes)

    def overlaps(self, other: "Stored") -> bool:
        """Whether both contain a common example."""
        theirs = collections.defaultdict(list)
        for file, skip, take in zip(other.files, other.skips, other.takes, strict=True):
            theirs[file].append((skip, skip + take))
        mine = zip(self.files, self.skips, self.takes, strict=True)
        return any(skip < end and start < skip + take for file, skip, take in mine for start, end in theirs[file])


def open_file(builder, file) -> tf.data.Dataset:
    """The records of one file, as strings."""
    return tfds.core.file_adapters.ADAPTER_FOR_FORMAT[builder.info.file_format].make_tf_data(file)


def in_order(builder, stored: Stored, wanted: np.ndarray | None, interleaved: int) -> tf.data.Dataset:
    """(positions int64 [n], records string [n]) at the positions that `wanted` (bool [N], or None for all) marks.

    Only files with such records are opened, and read up to the last such record. `interleaved` files are read in parallel; with
    1, positions ascend.
    """
    offsets = np.cumsum((0, *stored.takes[:-1]))
    columns = [np.array(stored.files), *(np.array(each, np.int64) for each in (stored.skips, stored.takes, offsets))]
    if wanted is not None:
        last = np.maximum.reduceat(np.where(wanted, np.arange(len(wanted)), -1), offsets)
        columns[2] = last - offsets + 1
        columns = [column[last >= 0] for column in columns]
    shards = tf.data.Dataset.from_tensor_slices(tuple(columns))
    bitmap = None if wanted is None or wanted.all() else tf.constant(wanted)

    def open_shard(file, skip, take, offset):
        records = open_file(builder, file).skip(skip).take(take)
        numbered = tf.data.Dataset.zip(tf.data.Dataset.range(offset, offset + take), records)
        # Filtering batches is several times as fast as Dataset.filter, which calls a function for every record.
        some = numbered.batch(_LOOKED_UP_AT_ONCE)
        return some if bitmap is None else some.map(pick)

    def pick(positions, records):
        rows = tf.where(tf.gather(bitmap, positions))[:, 0]
        return tf.gather(positions, rows), tf.gather(records, rows)

    return shards.interleave(
        open_shard, cycle_length=interleaved, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def image_bytes(image_key: str, records: tf.Tensor) -> tf.Tensor:
    """The encoded images, string [n], in serialized examples, string [n]."""
    return tf.io.parse_example(records, {image_key: tf.io.FixedLenFeature([], tf.string)})[image_key]


def shuffled(
    builder, stored: Stored, image_key: str, plan: lanes.Plan, crop: RandomResizedCrop | None
) -> tf.data.Dataset:
    """Endless stream of (position, encoded image[, draws of its crop]), one by one, in the order of `plan`.

    Each lane is a separate pipeline that reads its shards sequentially; the plan determines which lane is next.
    """
    files, window = tf.constant(stored.files), plan.shards.window
    first_records = np.array(stored.skips, np.int64)

    def read_lane(lane, epoch):
        reading = plan.lane(int(lane), int(epoch))
        reading = reading._replace(skips=reading.skips + first_records[reading.shards])
        return [np.asarray(column, np.int64) for column in reading]

    def draw(epoch, positions):
        return crop.draws(plan.seed, epoch, positions)

    def open_epoch(lane, epoch):
        found = tf.numpy_function(read_lane, [lane, epoch], [tf.int64] * 8, stateful=False)
        for number, column in enumerate(found):
            column.set_shape([None] if number else [])
        gap, shards, skips, takes, wanted, splits, slots, positions = found

        def open_run(shard, skip, take, wanted):
            records = open_file(builder, files[shard]).skip(skip).take(wanted * take)
            return empty.repeat((1 - wanted) * take).concatenate(records)

        def use(number, records):
            used = slice(splits[number], splits[number + 1])
            taken = positions[used]
            images = image_bytes(image_key, tf.gather(records, slots[used]))
            if crop is None:
                return taken, images
            draws = tf.numpy_function(draw, [epoch, taken], tf.float64, stateful=False)
            return taken, images, tf.ensure_shape(draws, (None, *_DRAWS))

        empty = tf.data.Dataset.from_tensors("")
        runs = tf.data.Dataset.from_tensor_slices((shards, skips, takes, wanted))
        windows = empty.repeat(gap).concatenate(runs.flat_map(open_run)).batch(window)
        return windows.enumerate().map(use)

    def open_lane(lane):
        epochs = tf.data.Dataset.range(plan.first_epoch, np.iinfo(np.int64).max)
        # An epoch ends with an empty window, at which a lane stops if nothing more is requested from it.
        end = tf.data.Dataset.from_tensors(_empty_window(crop))
        windows = epochs.flat_map(lambda epoch: open_epoch(lane, epoch).concatenate(end))
        return windows.prefetch(1).unbatch()

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
    def lane_variant(lane):
        # Traced once and called for each lane, which is a hundred times as fast as building every lane.
        return tf.data.experimental.to_variant(open_lane(lane))

    spec = open_lane(tf.constant(0, tf.int64)).element_spec
    every = [tf.data.experimental.from_variant(lane_variant(lane), spec) for lane in range(plan.shards.num_lanes)]
    mixed = tf.data.Dataset.choose_from_datasets(every, _choices(plan))
    mixed.kept_alive = lane_variant
    return mixed


def _empty_window(crop: RandomResizedCrop | None):
    window = (tf.zeros([0], tf.int64), tf.zeros([0], tf.string))
    return window if crop is None else (*window, tf.zeros((0, *_DRAWS), tf.float64))


def _choices(plan: lanes.Plan) -> tf.data.Dataset:
    """The lane of each element, int64."""
    count = max(1, _PLANNED_AT_ONCE // plan.batch_size)

    def choose(step):
        return plan.steps(int(step), count)[1].reshape(-1).astype(np.int64)

    def chosen(step):
        return tf.ensure_shape(tf.numpy_function(choose, [step], tf.int64, stateful=False), [None])

    steps = tf.data.Dataset.range(plan.start_step, np.iinfo(np.int64).max - count, count)
    return steps.map(chosen).prefetch(1).unbatch()


def random_access(builder) -> bool:
    """Whether reading single records is as cheap as reading sequentially."""
    local = "://" not in str(builder.data_path)
    return local and builder.info.file_format == tfds.core.file_adapters.FileFormat.TFRECORD


def planned(plan: lanes.Plan, crop: RandomResizedCrop | None) -> tf.data.Dataset:
    """Endless stream of (position[, draws of its crop]), one by one, in the order of `plan`."""

    def rows(step):
        (positions,), _, (epochs,) = plan.steps(int(step), 1)
        return (positions,) if crop is None else (positions, crop.draws(plan.seed, epochs, positions))

    @tf.autograph.experimental.do_not_convert
    def make(step):
        kinds = [tf.int64, tf.float64][: 1 if crop is None else 2]
        found = tf.numpy_function(rows, [step], kinds, stateful=False)
        return tuple(
            tf.ensure_shape(each, shape) for each, shape in zip(found, [(None,), (None, *_DRAWS)], strict=False)
        )

    return tf.data.Dataset.range(plan.start_step, np.iinfo(np.int64).max).map(make).prefetch(2).unbatch()


def fetched(stored: Stored, image_key: str, positions: tf.data.Dataset) -> Callable[[int], tf.data.Dataset]:
    """Adds encoded images, read one by one, to groups of (position[, draws]); returns a function of the size of groups."""
    files = RecordFiles(stored.files, stored.skips, stored.takes)

    @tf.autograph.experimental.do_not_convert
    def fetch(positions, *draws):
        records = tf.ensure_shape(
            tf.numpy_function(files.read, [positions], tf.string, stateful=False), positions.shape
        )
        return positions, image_bytes(image_key, records), *draws

    def together(count):
        groups = positions.batch(count, drop_remainder=True)
        return groups.map(fetch, num_parallel_calls=_READ_AT_ONCE, deterministic=True)

    return together


def decoded(
    groups: Callable[[int], tf.data.Dataset],
    decode: Callable,
    batch_size: int,
    image_shape: tuple[int, ...],
    together: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of positions int64 [b] and pixels uint8 [b, H, W, C], computed ahead; the last one may be short.

    Args:
      groups: function from a number k to a data set of k positions, k encoded images, and other inputs of `decode`.
      decode: function from string [k] and the other inputs to uint8 [k, H, W, C].
      batch_size, image_shape: b and (H, W, C).
      together: images decoded in one call; a divisor of the batch size saves a copy.
    """

    @tf.autograph.experimental.do_not_convert
    def decode_some(positions, *encoded):
        return positions, tf.ensure_shape(decode(*encoded), (together, *image_shape))

    # A fixed number of threads, because tf.data's autotuning starts late and often stays at one.
    images = groups(together).map(decode_some, num_parallel_calls=_CORES, deterministic=True)
    if batch_size % together:
        images, together = images.unbatch(), 1
    batched = images.batch(batch_size // together).prefetch(2)
    for positions, pixels in batched.as_numpy_iterator():
        yield positions.reshape(-1), pixels.reshape(-1, *image_shape)


def together(batch_size: int) -> int:
    """Number of images to decode in one call: a divisor of the batch size, if there is a suitable one."""
    divisors = [number for number in range(4, _DECODED_AT_ONCE + 1) if batch_size % number == 0]
    return max(divisors, default=min(batch_size, _DECODED_AT_ONCE))
