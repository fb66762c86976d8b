"""The stage `score`: trains its own networks on the full set, and writes scores of every image from their trainings."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
import pyarrow as pa
from absl import logging

from redundancy import methods, storage
from redundancy.data import shared_dataset
from redundancy.runtime import processes
from redundancy.runtime.errors import ConfigError
from redundancy.scoring import files
from redundancy.scoring.files import Score
from redundancy.training import tally
from redundancy.training.checkpoints import Checkpoints
from redundancy.training.feed import resident_images
from redundancy.training.loop import Job, digest, identity, train_pack
from redundancy.training.mesh import make_mesh
from redundancy.training.packing import choose
from redundancy.training.trainer import Trainer
from redundancy.workdir import Workdir, finished, read_manifest, table

FIRST_SEED = 2**20  # larger than the seed of any trial
EARLY = ("el2n", "grand_last", "grand")  # computed at config.score_at
AT_END = ("entropy", "least_confidence", "margin", *tally.NAMES)
_GRADIENTS = {
    "early": "grand",
    "end": "grand_end",
}  # scores that take a gradient for each image: only if they are asked for
_LOW = ("margin", "aum")  # scores that are low for hard images


def score(config, workdir: Workdir) -> None:
    """Writes scores/NAME.parquet for every score that the config's methods read; does nothing if they read none.

    Trains config.score_trials networks on the full set, as in the stage sweep but with seeds that no trial has, and averages
    the scores of each image over the networks.

    Raises:
      ConfigError: the training is too short to see every image.
    """
    wanted = processes.first(lambda: finished.missing_scores(config, read_manifest(workdir.scores, scores=list)))
    if not wanted:
        logging.info(
            "score: finished already" if methods.scores(config) else "score: no method of the config reads a score"
        )
        return
    dataset = shared_dataset(config)
    positions = dataset.train.positions
    schedule = table.full_schedule(config, len(positions))
    if schedule.steps * config.batch_size < len(positions):
        raise ConfigError(
            f"{schedule.steps} steps of {config.batch_size} images do not cover all {len(positions)} training images once, which the "
            f"scores {', '.join(wanted)} in config.methods need. Raise config.steps or batch_size."
        )
    workdir.claim_dataset(dataset.fingerprint, dataset.skipped)
    networks = workdir.path("scores", "networks")
    jobs = [
        Job(f"network {number}", storage.join(networks, f"network{number}"), positions, FIRST_SEED + number)
        for number in range(config.score_trials)
    ]
    stops = {"early": max(1, round(config.score_at * schedule.steps)), "end": schedule.steps}
    mesh = make_mesh(config, num_trials=len(jobs))
    shape, classes = dataset.image_shape, len(dataset.class_names)
    record = storage.join(networks, "packing.json")
    packing = choose(config, shape, classes, mesh, resident_images(dataset), len(jobs), record)
    trainer = Trainer(config, dataset, mesh, packing.pack, packing.vmap, tallied=dataset.train.num_stored)
    trainings = [digest(identity(config, job, schedule)) for job in jobs]
    processes.first(lambda: _check_others(config, workdir, trainings))
    found = []
    for first in range(0, len(jobs), packing.pack):
        pack = jobs[first : first + packing.pack]
        what = f"score {first + 1}/{len(jobs)}"
        found += _of_pack(trainer, pack, packing.pack, schedule, stops, wanted, what)
    processes.first(lambda: _finish(config, workdir, dataset, wanted, found, trainings))
    logging.info("score: wrote %s", ", ".join(wanted))


def _of_pack(
    trainer: Trainer, pack: Sequence[Job], size: int, schedule, stops: dict[str, int], wanted: Sequence[str], what: str
) -> list[dict[str, np.ndarray]]:
    """The scores of each network of a pack, name -> float64 [N]. Reads those that an earlier run has written."""
    found: list[dict[str, np.ndarray]] = [{} for _ in pack]
    for point, step in stops.items():
        gradients = _GRADIENTS[point] in wanted
        places = [storage.join(job.folder, f"{point}.parquet") for job in pack]
        of = [digest(identity(trainer.config, job, schedule)) for job in pack]
        read = processes.first(functools.partial(_read, places, of, gradients, point))
        if read is None:
            processes.first(functools.partial(_start_again, pack, step))
            train_pack(trainer, list(pack), size, schedule, f"{what}, {point}", until=step)
            processes.barrier()  # until the first process has written the checkpoint that all read
            read = _pass(trainer, pack, size, schedule, point, step, gradients)
            processes.first(functools.partial(_write, places, read, of))
        for of_network, values in zip(found, read, strict=True):
            of_network |= values
    return found


def _start_again(pack: Sequence[Job], step: int) -> None:
    """Removes networks that are trained beyond the step, since their state at the step is gone."""
    for job in pack:
        if any(
            part.isdecimal() and int(part) > step for part in storage.list_dir(storage.join(job.folder, "checkpoints"))
        ):
            storage.remove(job.folder)


def _pass(trainer: Trainer, pack: Sequence[Job], size: int, schedule, point: str, step: int, gradients: bool):
    """The scores of a pack's networks at a step: those of a clean pass and, at the end, those of the tally."""
    states = []
    for job in pack:
        checkpoints = Checkpoints(job.folder)
        states.append(checkpoints.restore(step, trainer.init_state(job.seed), identity(trainer.config, job, schedule)))
        checkpoints.close()
    clean = trainer.score(trainer.stack(states + [states[-1]] * (size - len(pack))), gradients)
    if "grand" in clean:
        clean[_GRADIENTS[point]] = clean.pop("grand")
    found = []
    for number, state in enumerate(states):
        names = EARLY if point == "early" else (*AT_END, "grand_end")
        of_network = {name: values[number].astype(np.float64) for name, values in clean.items() if name in names}
        if point == "end":
            of_network |= tally.scores(jax.device_get(state["tally"]), trainer.dataset.train.positions)
        found.append(of_network)
    return found


def _read(
    places: Sequence[str], trainings: Sequence[str], gradients: bool, point: str
) -> list[dict[str, np.ndarray]] | None:
    """Reads what `_write` wrote; None if a file is missing, is of another training, or lacks the wanted gradients."""
    if not all(map(storage.exists, places)):
        return None
    tables = [storage.read_parquet(place) for place in places]
    if [storage.parquet_metadata(table).get("training") for table in tables] != [*trainings]:
        return None
    if gradients and not all(_GRADIENTS[point] in table.column_names for table in tables):
        return None
    return [{name: table[name].to_numpy() for name in table.column_names} for table in tables]


def _write(places: Sequence[str], found: Sequence[dict[str, np.ndarray]], trainings: Sequence[str]) -> None:
    for place, of_network, training in zip(places, found, trainings, strict=True):
        storage.write_parquet(place, [pa.table(of_network)], {"training": training})


def _check_others(config, workdir: Workdir, trainings: Sequence[str]) -> None:
    """Raises WorkdirError if existing scores were made by other trainings."""
    for name in files.listed(workdir):
        if not name.startswith(methods.IMPORTED):
            files.check_made(config, workdir, files.read(workdir, name), trainings)


def _finish(
    config,
    workdir: Workdir,
    dataset,
    wanted: Sequence[str],
    found: Sequence[dict[str, np.ndarray]],
    trainings: Sequence[str],
) -> None:
    made = {
        "trainings": trainings,
        "fingerprint": dataset.fingerprint,
        "num_stored": dataset.train.num_stored,
        **{name: config[name] for name in methods.NETWORK_FIELDS},
    }
    for name in wanted:
        each = np.stack([of_network[name] for of_network in found], axis=1)
        keep = "low" if name in _LOW else "high"
        values = each.mean(axis=1)
        files.write(workdir, Score(name, dataset.train.positions, dataset.train.labels, values, keep, made, each))
