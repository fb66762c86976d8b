"""The mesh ("trial", "data"): how many trials train at once, and how many devices share one trial's batch."""

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from redundancy.errors import ConfigError


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _shares(config, devices: int) -> list[int]:
    """Numbers of devices that can share one trial's batch, with every BatchNorm group on one device."""
    fits = [d for d in _divisors(devices) if config.batch_size % d == 0]
    if config.bn_group_size:
        fits = [d for d in fits if (config.batch_size // d) % config.bn_group_size == 0]
    return fits


def make_mesh(config, num_trials: int) -> Mesh:
    """A mesh of all devices, or of as many as divide the work, for packs out of `num_trials` trials.

    Trials are spread first, since no collective crosses them; devices that are left over share batches.

    Raises:
      ConfigError: config.data_parallel does not fit the devices or the batch.
    """
    devices = jax.devices()
    shares = _shares(config, len(devices))
    if config.data_parallel:
        data = config.data_parallel
        if data not in shares:
            raise ConfigError(
                f"config.data_parallel is {data}; with {len(devices)} devices, batch_size {config.batch_size} and "
                f"bn_group_size {config.bn_group_size} it can be one of {shares}, or 0 to choose."
            )
        trial = len(devices) // data
    else:
        trial = max(d for d in _divisors(len(devices)) if d <= num_trials)
        data = max(d for d in shares if d <= len(devices) // trial)
    if data > 1 and not config.bn_group_size:
        logging.warning(
            "BatchNorm over the whole batch on %d devices exchanges every statistic between them; "
            "set config.bn_group_size to at most %d to keep them apart.",
            data,
            config.batch_size // data,
        )
    return jax.make_mesh(
        (trial, data), ("trial", "data"), axis_types=(AxisType.Auto,) * 2, devices=devices[: trial * data]
    )


def put(mesh: Mesh, spec: P, tree):
    """Host arrays onto the mesh; every process gives the whole array and keeps its own part."""
    sharding = NamedSharding(mesh, spec)

    def put_one(array):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put_one, tree)


def pack_size(config, mesh: Mesh, num_trials: int) -> int:
    """Trials in one pack: config.pack, or as few as there are, rounded up to a multiple of the mesh's trial axis."""
    axis = mesh.shape["trial"]
    return -(-min(max(config.pack, 1), num_trials) // axis) * axis
