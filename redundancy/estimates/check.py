"""Compares the disk and memory that a command needs with those of the machine.

Raises an error only if even a lower bound of the need does not fit; warns if the estimate does not fit.
"""

import functools
import math
import os
import shutil
from collections.abc import Iterable

from absl import logging

from redundancy import storage
from redundancy.data import Dataset
from redundancy.estimates.needs import Need, Needs, disk, memory, total
from redundancy.estimates.work import Work, work_of
from redundancy.runtime import machine
from redundancy.runtime.errors import ConfigError, UserError, WorkdirError
from redundancy.runtime.sizes import binary
from redundancy.workdir import Workdir
from redundancy.workdir.finished import is_finished

_NEAR = 0.8  # share of a device's memory above which `check_fits` of training/memory.py is called
_WAYS = {
    "embed": "take a machine with more memory, or raise config.embedding_parts",
    "link": "link on a machine with more memory or on a cluster (--scheduler), keep a larger fraction, or split the class",
    "select": "take a machine with more memory, or select fewer config.fractions at a time",
}
_WAY = "take a machine with more memory, stream the images (--config.resident_mb=0), or lower config.batch_size"


def _shown(needs: Needs) -> str:
    """'checkpoints 1.2 GiB, embeddings 3.4 MiB', largest first."""
    ordered = sorted(needs.items(), key=lambda item: -item[1].about)
    return ", ".join(f"{name} {binary(need.about)}" for name, need in ordered if need.about >= 1)


def _compare(need: Need, have: float, error: type[UserError], text: str) -> None:
    if need.least > have:
        raise error(text)
    if need.about > have:
        logging.warning("%s", text)


def _check_disk(work: Work) -> str:
    """The disk space needed, in words; raises WorkdirError if less than the lower bound is free."""
    root = os.path.abspath(storage.local_path(work.workdir.root))
    while not os.path.isdir(root) and root != os.path.dirname(root):
        root = os.path.dirname(root)
    free = shutil.disk_usage(root).free
    needs, most = disk(work)
    shown = f"about {binary(most.about)} of disk ({_shown(needs)}) of {binary(free)} that are free"
    ways = ["Free some space", "choose another --workdir"]
    if needs.get("checkpoints", Need()).about > 0.5 * most.about and "sweep" in work.todo:
        ways.append("lower config.trials or take fewer config.fractions, since every run keeps its checkpoints")
    elif needs.get("embeddings", Need()).about > 0.5 * most.about and len(work.config.layers) > 1:
        ways.append("embed fewer config.layers")
    text = f"{work.workdir.root}: what is left to do takes {shown}, at the least {binary(most.least)}. {', or '.join(ways)}."
    _compare(most, free, WorkdirError, text)
    return shown if most.about else ""


def _check_memory(work: Work, cluster: bool) -> str:
    """The memory of the stage that needs most, in words; raises ConfigError if less than a stage's lower bound is available."""
    have = machine.available_memory()
    most, of_most = 0.0, ""
    for stage in work.todo:
        needs = memory(work, stage, cluster)
        need = total(needs.values())
        shown = f"about {binary(need.about)} of memory ({stage}: {_shown(needs)}) of {binary(have)} that are available"
        text = f'The stage "{stage}" takes {shown}, at the least {binary(need.least)}: {_WAYS.get(stage, _WAY)}.'
        _compare(need, have, ConfigError, text)
        if need.about > most:
            most, of_most = need.about, shown
    return of_most


def _check_devices(work: Work) -> str:
    """The memory that programs need on each device, in words; raises ConfigError if one does not fit."""
    from redundancy.training import memory as device_memory

    network, shown, estimate = work.network, [], functools.cache(device_memory.estimate)
    for stage, programs in network.programs.items():
        device, pack = programs.mesh.local_devices[0], network.pack[stage]
        have, wanted = device_memory.device_memory(device), sum(estimate(programs, pack, network.resident).values())
        if wanted > _NEAR * have:
            try:
                device_memory.check_fits(programs, pack, network.resident)
            except ConfigError as error:
                text = f'The stage "{stage}" does not fit: {error}'
                # On CPU, other programs may free memory before the sweep begins.
                if stage != "sweep" or device.platform != "cpu" or wanted > have:
                    raise ConfigError(text) from None
                logging.warning("%s", text)
        _check_forward(work, stage, have)
        shown.append(f"{stage} {binary(wanted)}")
    return f"about {', '.join(shown)} on each device ({device.device_kind}) of {binary(have)}"


def _check_forward(work: Work, stage: str, have: int) -> None:
    """Raises ConfigError if a batch of evaluation or embedding does not fit on a device."""
    network, programs = work.network, work.network.programs[stage]
    trials = network.pack[stage] // programs.mesh.shape["trial"]
    rows = programs.eval_batch_size // programs.mesh.shape["data"]
    pixels = math.prod(programs.image_shape) * (network.resident or rows)
    outputs = Need(1, 3) * (rows * network.largest * (trials if programs.vmap else 1))
    need = outputs + Need(1, 1) * (pixels + trials * network.inference)
    text = (
        f'The stage "{stage}" takes {work.config.eval_batch_size} images at a time through the network, for which each '
        f"device needs about {binary(need.about)}, and it has {binary(have)}: lower config.eval_batch_size."
    )
    _compare(need, have, ConfigError, text)


def check(config, workdir: Workdir, dataset: Dataset | None, stages: Iterable[str], cluster: bool = False) -> None:
    """Estimates the needs of the unfinished stages; raises an error if they cannot fit, and warns if they may not fit.

    With --debug logs all needs in one line. Existing files are left out. Quotas and the space of remote storage are ignored.

    Args:
      config: resolved config.
      workdir: workdir that the config has claimed.
      dataset: data set of the config; None if no stage opens it, and then the embeddings in the workdir give the sizes.
      stages: stages of the command, in order.
      cluster: whether a cluster links the classes, which then need no memory on this machine.

    Raises:
      WorkdirError: the workdir's disk clearly has too little space.
      ConfigError: the host or the devices clearly have too little memory, or the config does not suit the devices or
        the length of a training.
      DataError: a manifest is damaged.
    """
    todo = tuple(stage for stage in stages if not is_finished(config, workdir, stage))
    work = work_of(config, workdir, dataset, todo) if todo else None
    if work is None:
        return
    shown = [
        _check_disk(work) if storage.is_local(workdir.root) else "",
        _check_memory(work, cluster),
        _check_devices(work) if work.network else "",
    ]
    if any(shown):
        logging.debug("what is left to do takes %s", "; ".join(filter(None, shown)))
