"""The order in which a training reads a data set: a pure function of (seed, epoch) and the kept positions.

Knows nothing of images. The order of the full set is drawn first and then filtered, so a subset's images have the same
relative order as in the full set with the same seed.
"""

import functools

import numpy as np


def seed_sequence(seed: tuple[int, ...], epoch: int) -> np.random.SeedSequence:
    """The entropy of (seed, epoch); no two pairs have the same."""
    # Contains the length, because SeedSequence pads with zeros, so (1,) and (1, 0) would be the same.
    return np.random.SeedSequence((len(seed), *seed), spawn_key=(epoch,))


@functools.lru_cache(maxsize=32)
def permutation(size: int, seed: tuple[int, ...], epoch: int) -> np.ndarray:
    """A random order of 0..size-1, read-only int64 [size], a pure function of the arguments."""
    # NumPy guarantees the raw bits of Philox across versions, but not `permutation`.
    bits = np.random.Philox(seed_sequence(seed, epoch)).random_raw(size)
    order = np.argsort(bits, kind="stable")
    order.setflags(write=False)
    return order


def bitmap(num_stored: int, kept: np.ndarray) -> np.ndarray:
    """bool [num_stored], True at the positions `kept`."""
    found = np.zeros(num_stored, bool)
    found[kept] = True
    return found


def epoch_order(num_stored: int, kept: np.ndarray, seed: tuple[int, ...], epoch: int) -> np.ndarray:
    """The order of one epoch.

    Args:
      num_stored: examples in the full stored split.
      kept: int64 [n], distinct positions below num_stored, in any order.
      seed: non-negative integers; the stream of one (seed, epoch) is always the same.
      epoch: from 0.

    Returns:
      int64 [n]: `kept`, in the relative order that the full split has in this epoch.
    """
    order = permutation(num_stored, tuple(seed), epoch)
    return order[bitmap(num_stored, kept)[order]]


def batches(
    num_stored: int, kept: np.ndarray, batch_size: int, seed: tuple[int, ...], start_step: int, num_steps: int
) -> np.ndarray:
    """The positions in the batches of some steps.

    Step k takes items k*batch_size up to (k+1)*batch_size of the endless concatenation of epochs. So batches may cross
    the borders of epochs, and a batch larger than `kept` holds several epochs.

    Args:
      num_stored, kept, seed: as for `epoch_order`; `kept` is not empty.
      batch_size: images per step.
      start_step: first step.
      num_steps: number of steps.

    Returns:
      int64 [num_steps, batch_size].
    """
    size = len(kept)
    if size == 0:
        raise ValueError("kept is empty; a batch needs at least one position")
    first, last = start_step * batch_size, (start_step + num_steps) * batch_size
    if first == last:
        return np.zeros((num_steps, batch_size), np.int64)
    epochs = range(first // size, -(-last // size))
    row = np.concatenate([epoch_order(num_stored, kept, seed, epoch) for epoch in epochs])
    offset = epochs.start * size
    return row[first - offset : last - offset].reshape(num_steps, batch_size)
