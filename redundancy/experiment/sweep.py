"""The stage `sweep`: trains all runs of the table that have no result, in packs."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from redundancy import storage
from redundancy.data import shared_dataset
from redundancy.experiment.inputs import claim, kept, subset_digests
from redundancy.experiment.results import begun, is_done, mend_results, write_results
from redundancy.runtime import processes
from redundancy.training.feed import resident_images
from redundancy.training.loop import Job, digest, identity, train_pack
from redundancy.training.mesh import make_mesh
from redundancy.training.packing import choose
from redundancy.training.trainer import Trainer
from redundancy.workdir import Workdir, finished, parts, read_manifest, table, write_manifest
from redundancy.workdir.table import Run, Schedule, subset_schedule


def _packs(runs: list[Run], schedules: dict[float, Schedule], size: int) -> list[tuple[Schedule, list[Run]]]:
    """Divides runs into packs of up to `size` with the same schedule, sorted by trial and then by length, the longest first.

    So at any time, about the same number of paired trials is done for each subset.
    """
    grouped: dict[Schedule, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.trial):
        grouped.setdefault(schedules[run.fraction], []).append(run)
    packs = [
        (schedule, same[first : first + size])
        for schedule, same in grouped.items()
        for first in range(0, len(same), size)
    ]
    return sorted(packs, key=lambda pack: (pack[1][0].trial, -pack[0].steps))


def _agreed(config, packs: Sequence[tuple[Schedule, list[Run]]]) -> str:
    """Checksum of everything on which the parts of a sweep must agree: the packs, and how each is trained."""
    nothing = Job("", "", np.zeros(0, np.int64), 0)
    cut = [[run.name for run in pack] for _, pack in packs]
    return digest({"packs": cut, "trainings": [identity(config, nothing, schedule) for schedule, _ in packs]})


def _alone(table: str) -> None:
    """The default of `agree`: there are no other parts, so nothing is compared."""


def sweep(
    config,
    workdir: Workdir,
    profile: bool = False,
    part: parts.Part | None = None,
    agree: Callable[[str], None] = _alone,
) -> None:
    """Trains every run of the table that has no result, then writes results.csv and runs/manifest.json.

    Runs that the config does not include stay, but results.csv leaves them out.

    A part of a sweep trains its share of the packs of the whole sweep. The part that finds all runs done writes the
    results.

    Args:
      config: resolved config.
      workdir: workdir with subsets.
      profile: whether to trace some steps of the first pack.
      part: part of a sweep that several machines share; None for the whole sweep.
      agree: called in process 0, before the first training, with a checksum of everything on which parts must agree; raises
        if another part has a different checksum, see `lease.Lease.agree`.

    Raises:
      WorkdirError: the stage select has not finished, existing runs belong to other subsets, or another part divides a
        different table.
      DataError: a subset or a result is damaged.
    """
    digests = processes.first(lambda: subset_digests(workdir))
    num_images = len(shared_dataset(config).train.positions) if config.epochs or config.warmup_epochs else 0
    table.check(config, num_images)
    runs = table.runs(config, num_images)
    done, started = map(set, processes.first(lambda: _begin(workdir, config, runs, digests)))
    if len(done) == len(runs):
        if finished.swept(config, read_manifest(workdir.runs)):
            logging.info("sweep: finished already")
        else:
            logging.info("sweep: 0 of %d runs to do", len(runs))
            processes.first(lambda: _end(workdir, config, runs, digests))
        return
    dataset = shared_dataset(config)
    workdir.claim_dataset(dataset.fingerprint, dataset.skipped)
    # The mesh and the size of packs depend on the whole table, not on the remaining runs. So an interrupted sweep continues with
    # the same programs and gets the same bits, which do not depend on which runs share a pack.
    mesh = make_mesh(config, num_trials=len(runs))
    shape, classes = dataset.image_shape, len(dataset.class_names)
    path = storage.join(workdir.runs, "packing.json")
    packing = choose(config, shape, classes, mesh, resident_images(dataset), len(runs), path)
    size = packing.pack
    schedules = {run.fraction: subset_schedule(config, num_images, run.fraction) for run in runs}
    own, name = runs, "sweep"
    if part is not None:
        name, packs = f"sweep, part {part}", _packs(runs, schedules, size)
        processes.first(functools.partial(agree, _agreed(config, packs)))
        of = parts.shares([schedule.steps for schedule, _ in packs], part.count)
        own = [run for (_, pack), number in zip(packs, of, strict=True) if number == part.number for run in pack]
    left = [run for run in own if run.name not in done]
    num_done = len(own) - len(left)
    logging.info("%s: %d of %d runs to do", name, len(left), len(own))
    for run in {run.subset: run for run in left}.values():
        kept(workdir, run, dataset)  # reports a wrong subset before the first training
    if left:
        trainer = Trainer(config, dataset, mesh, size, packing.vmap)
        # Started runs are packed separately, so that an interrupted pack, whose runs have the same step, continues as it was.
        for schedule, pack in (
            *_packs([run for run in left if run.name in started], schedules, size),
            *_packs([run for run in left if run.name not in started], schedules, size),
        ):
            jobs = [Job(run.name, workdir.run(run.name), kept(workdir, run, dataset), run.seed) for run in pack]
            names = jobs[0].name if len(jobs) == 1 else f"{jobs[0].name} and {len(jobs) - 1} more"
            what = f"{name} {num_done + 1}/{len(own)} {names}"
            results = train_pack(trainer, jobs, size, schedule, what, profile)
            profile = False
            num_done += len(pack)
            for job, result in zip(jobs, results, strict=True):
                logging.info("%s: %s test accuracy %.4f", name, job.name, result["test_accuracy"])
    others = processes.first(lambda: sum(not is_done(workdir, run) for run in runs)) if part is not None else 0
    if others:
        logging.info("sweep: part %d of %d is done; %d runs are left to other parts", part.number, part.count, others)
        return
    processes.first(lambda: _end(workdir, config, runs, digests))


def _begin(workdir: Workdir, config, runs: list[Run], digests: dict[str, str]) -> tuple[list[str], list[str]]:
    """Claims the folders of all runs; returns the names of finished runs and of those that have checkpoints.

    If the manifest lists these runs, all are finished, and results.csv is checked or rewritten.
    """
    for run in runs:
        claim(workdir, run, digests)
    manifest = read_manifest(workdir.runs, results_sha256=str)
    if manifest is not None and finished.swept(config, manifest):
        mend_results(workdir, config, runs, manifest["results_sha256"])
        return [run.name for run in runs], []
    return [run.name for run in runs if is_done(workdir, run)], begun(workdir)


def _end(workdir: Workdir, config, runs: list[Run], digests: dict[str, str]) -> None:
    write_results(workdir, config, runs)
    manifest = {
        "runs": [run.name for run in runs],
        "subsets": {run.subset: digests[run.subset] for run in runs if run.subset is not None},
        "results_sha256": storage.sha256(workdir.results),
    }
    write_manifest(workdir.runs, manifest)
