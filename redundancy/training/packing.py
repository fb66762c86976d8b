"""Chooses how many trials train at once on each device, and in which mode. Measures if that may help, and records the choice.

If the trials of a device run one after the other, a larger pack gains little. Batched into one network, they keep a large
device busy, provided that its kernels for batched convolutions are fast. A measurement decides.
"""

import dataclasses
import time

import jax
import numpy as np
from absl import logging
from jax.sharding import PartitionSpec as P

from redundancy import storage
from redundancy.runtime.errors import ConfigError
from redundancy.training.memory import check_fits
from redundancy.training.mesh import pack_size, put
from redundancy.training.programs import Programs

_TRIED = (4, 8)  # trials per device that are measured
_WORTH = 1.1  # factor by which a larger pack must be faster


@dataclasses.dataclass(frozen=True)
class Packing:
    """Trials in a pack, and whether a device's trials are batched into one network."""

    pack: int
    vmap: bool


def candidates(config, mesh, num_runs: int) -> list[Packing]:
    """The packings that may be fastest, the simplest first; only one if there is nothing to measure."""
    axis = mesh.shape["trial"]
    smallest = pack_size(config, mesh, num_runs)
    modes = {"loop": [False], "vmap": [True]}.get(config.pack_mode)
    if modes is None:
        # On CPU batched convolutions are slower than separate ones (docs/performance.md).
        modes = [False] if mesh.devices.flat[0].platform == "cpu" else [False, True]
    if jax.process_count() > 1:
        modes = modes[:1]  # no measurement, since every process must make the same choice
    found = [Packing(smallest, vmap) for vmap in modes if smallest > axis] or [Packing(smallest, False)]
    if not config.pack and True in modes and jax.process_count() == 1:
        found += [Packing(axis * each, True) for each in _TRIED if axis * each <= num_runs]
    return found


def images_per_second(programs: Programs, packing: Packing, num_images: int) -> float:
    """Measures the training steps of a pack on noise images."""
    rng = np.random.default_rng(0)
    mesh, block, batch = programs.mesh, programs.block, programs.config.batch_size
    arrays = {
        "image": rng.integers(0, 256, (num_images, *programs.image_shape), np.uint8),
        "label": np.zeros(num_images, np.int32),
    }
    rows = rng.integers(0, num_images, (packing.pack, block, batch), np.int32)
    states = [jax.device_get(programs.init(np.uint32(trial))) for trial in range(packing.pack)]
    state = put(mesh, P("trial"), jax.tree.map(lambda *leaves: np.stack(leaves), *states))
    arrays, items = put(mesh, P(), arrays), put(mesh, P("trial", None, "data"), {"row": rows, "position": rows})
    lengths = {"steps": np.float32(1e6), "warmup_steps": np.float32(1e3)}
    seeds, seconds = np.arange(packing.pack, dtype=np.uint32), []
    with jax.set_mesh(mesh):
        for _ in range(4):
            began = time.perf_counter()
            state, metrics = programs.train(state, seeds, lengths, arrays, items)
            jax.block_until_ready(metrics)
            seconds.append(time.perf_counter() - began)
    return packing.pack * block * batch / min(seconds[1:])


def choose(config, image_shape, num_classes: int, mesh, num_images: int, num_runs: int, path: str) -> Packing:
    """The packing of a sweep.

    The choice is written to `path`. A resumed sweep on an equal mesh of the same kind of devices keeps it, since another
    packing rounds differently. If parts of a sweep measure at the same time, all use the choice that is written first.

    Args:
      config: resolved config.
      image_shape: (height, width, channels).
      num_classes: classes of the data set.
      mesh: mesh of the sweep.
      num_images: images of a resident set; 0 for a streamed one, which is not measured, since input limits its speed.
      num_runs: runs in the table.
      path: file of the choice, local or gs://.
    """
    tried = candidates(config, mesh, num_runs)
    if len(tried) == 1 or not num_images:
        return tried[0]
    kind, shape = mesh.devices.flat[0].device_kind, dict(mesh.shape)

    def recorded() -> Packing | None:
        if storage.exists(path):
            found = storage.read_json(path)
            packing = Packing(found.get("pack"), found.get("vmap"))
            if packing in tried and found.get("device") == kind and found.get("mesh") == shape:
                return packing
        return None

    seen = storage.generation(path)
    if packing := recorded():
        return packing
    best, rates = None, {}
    for packing in tried:
        programs = Programs(config, image_shape, num_classes, mesh, resident=True, vmap=packing.vmap)
        try:
            check_fits(programs, packing.pack, num_images)
            rate = images_per_second(programs, packing, min(num_images, 4096))
        except (ConfigError, jax.errors.JaxRuntimeError) as error:
            logging.info("packs of %d do not fit: %s", packing.pack, str(error).splitlines()[0])
            continue
        rates[packing] = rate
        logging.info("packs of %d%s: %.0f images/s", packing.pack, " (batched)" if packing.vmap else "", rate)
        if best is None or rate > _WORTH * rates[best]:
            best = packing
    best = best or tried[0]
    measured = [{**dataclasses.asdict(packing), "images_per_second": rate} for packing, rate in rates.items()]
    choice = {**dataclasses.asdict(best), "device": kind, "mesh": shape, "measured": measured}
    if storage.change_json(path, seen, choice):
        return best
    return recorded() or best  # another part of the sweep may have written its choice meanwhile
