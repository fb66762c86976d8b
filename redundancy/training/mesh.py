"""The mesh ("trial", "data"): how many trials train at once, and how many devices share one trial's batch."""

from collections.abc import Sequence

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from redundancy.runtime.errors import ConfigError


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _shares(config, devices: int) -> list[int]:
    """Possible numbers of devices that share one trial's batch, such that each has whole BatchNorm groups and micro-batches."""
    fits = [d for d in _divisors(devices) if config.batch_size % d == 0]
    for whole in (config.bn_group_size, config.micro_batch):
        if whole:
            fits = [d for d in fits if (config.batch_size // d) % whole == 0]
    return fits


def make_mesh(config, num_trials: int, devices: Sequence | None = None) -> Mesh:
    """A mesh of all devices, or of the largest number of them among which the work can be divided.

    Trials are spread over devices first, since they need no collectives between them; remaining devices share batches.

    Args:
      config: resolved config.
      num_trials: number of trials of all packs together.
      devices: devices to choose from; by default JAX's.

    Raises:
      ConfigError: config.data_parallel does not suit the devices or the batch, or all devices of a host would be idle.
    """
    real, devices = devices is None, jax.devices() if devices is None else list(devices)
    shares = _shares(config, len(devices))
    if config.data_parallel:
        data = config.data_parallel
        if data not in shares:
            raise ConfigError(
                f"config.data_parallel is {data}; with {len(devices)} devices, batch_size {config.batch_size}, "
                f"bn_group_size {config.bn_group_size} and micro_batch {config.micro_batch} it can be one of {shares}, or 0 "
                "to choose."
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
    used = devices[: trial * data]
    if real and {device.process_index for device in used} != {device.process_index for device in devices}:
        raise ConfigError(
            f"{trial} trials at once of {data} devices each leave whole hosts without work: with batch_size "
            f"{config.batch_size}, bn_group_size {config.bn_group_size} and micro_batch {config.micro_batch} a batch can "
            f"be shared by {shares} of the {len(devices)} devices. Raise config.batch_size, lower the others, or use "
            "fewer hosts."
        )
    return jax.make_mesh((trial, data), ("trial", "data"), axis_types=(AxisType.Auto,) * 2, devices=used)


def put(mesh: Mesh, spec: P, tree):
    """Puts host arrays on the mesh; every process passes the whole array and holds its own part."""
    sharding = NamedSharding(mesh, spec)

    def put_one(array):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put_one, tree)


def put_local(mesh: Mesh, spec: P, tree):
    """Puts host arrays on the mesh; every process passes only its own part."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), tree)


def local_share(mesh: Mesh) -> tuple[range, tuple[int, int]]:
    """This process's part of the mesh: its range on the axis "trial", and (index, count) of its share of "data".

    Raises:
      ConfigError: the process's devices do not form a rectangle of the mesh, or shares differ in size.
    """
    own = np.array([[device.process_index == jax.process_index() for device in row] for row in mesh.devices])
    trials, columns = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
    width = len(columns)
    ordered = all(
        len(part) and np.array_equal(part, np.arange(part[0], part[0] + len(part))) for part in (trials, columns)
    )
    if not (ordered and own.sum() == len(trials) * width and mesh.shape["data"] % width == columns[0] % width == 0):
        raise ConfigError(
            f"the devices of process {jax.process_index()} are not a rectangle of the mesh {dict(mesh.shape)}; set "
            f"config.data_parallel to a divisor or a multiple of the {jax.local_device_count()} devices of a process."
        )
    return range(int(trials[0]), int(trials[-1]) + 1), (int(columns[0]) // width, mesh.shape["data"] // width)


def fetch_to_host(tree):
    """Device arrays -> whole NumPy arrays on every process. All processes must call it in the same order."""

    def fetch(array):
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    jax.tree.map(lambda array: array.is_fully_addressable and array.copy_to_host_async(), tree)
    return jax.tree.map(fetch, tree)


def pack_size(config, mesh: Mesh, num_trials: int) -> int:
    """Trials in one pack: config.pack, at most `num_trials`, rounded up to a multiple of the mesh's axis "trial"."""
    axis = mesh.shape["trial"]
    return -(-min(max(config.pack, 1), num_trials) // axis) * axis
