"""Which runs of the table are done, and the stage `sweep` that does the rest."""

import csv
import dataclasses
import functools
import io
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from redundancy import storage
from redundancy.config import differing, fraction_name
from redundancy.data import shared_dataset
from redundancy.experiment import parts, table
from redundancy.experiment.table import Run, Schedule, subset_schedule
from redundancy.runtime import processes
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.selection.subset import check_file, read_subset
from redundancy.training.feed import resident_images
from redundancy.training.loop import Job, digest, identity, result_path, train_pack
from redundancy.training.mesh import make_mesh
from redundancy.training.packing import choose
from redundancy.training.trainer import Trainer
from redundancy.workdir import Workdir, need_fields, need_manifest, read_manifest, write_manifest

COLUMNS = (
    "run",
    "method",
    "layer",
    "fraction",
    "size",
    "trial",
    "seed",
    "steps",
    "test_accuracy",
    "test_correct",
    "test_size",
    "test_loss",
)


def is_done(workdir: Workdir, run: Run) -> bool:
    return storage.exists(result_path(workdir.run(run.name)))


def _kept(workdir: Workdir, run: Run, dataset) -> np.ndarray:
    """Positions that a run trains on, int64 `[n]`.

    Raises:
      WorkdirError: the subset is of another data set.
      DataError: the subset is damaged, or its labels are not the data set's.
    """
    if run.subset is None:
        return dataset.train.positions
    path = workdir.subset(run.subset)
    subset = read_subset(path)
    workdir.check_fingerprint(subset.metadata["fingerprint"], dataset.fingerprint, path)
    train = dataset.train
    rows = np.minimum(np.searchsorted(train.positions, subset.positions), len(train.positions) - 1)
    wrong = (train.positions[rows] != subset.positions) | (train.labels[rows] != subset.labels)
    if wrong.any():
        first = int(np.argmax(wrong))
        there = train.positions[rows[first]] == subset.positions[first]
        right = f"label {train.labels[rows[first]]}" if there else "no such training image"
        raise DataError(
            f"{path}: position {subset.positions[first]} has label {subset.labels[first]}; the data set "
            f"{dataset.name!r} has {right} ({int(wrong.sum())} of {len(wrong)} positions disagree). The embeddings "
            f"have other labels than the data set: delete {workdir.path('embeddings')}, {workdir.path('merges')} and "
            f"{workdir.subsets} and make them again from this data set (import with --config compares the labels)."
        )
    return subset.kept_positions


def _subset_digests(workdir: Workdir) -> dict[str, str]:
    """SHA-256 of every subset file, by the subset's name, as the stage select wrote them; the files are checked.

    Raises:
      WorkdirError: the stage select has not finished.
      DataError: a file is missing or another one than was written.
    """
    digests = {}
    for file in need_manifest(workdir.subsets, "select", files=list)["files"]:
        name = file["file"].removesuffix(".parquet")
        check_file(workdir.subsets, file)
        digests[name] = file["sha256"]
    return digests


def _claim(workdir: Workdir, run: Run, digests: dict[str, str]) -> None:
    """Records what a run trains on, or checks that its folder holds the training of just that.

    Raises:
      DataError: there is no such subset.
      WorkdirError: the folder's checkpoints or result come from another subset or another run.
    """
    if run.subset is not None and run.subset not in digests:
        raise DataError(f'{workdir.subsets} has no {run.subset}. Delete this folder and run "redundancy select" again.')
    path = storage.join(workdir.run(run.name), "run.json")
    wanted = {**dataclasses.asdict(run), "subset_sha256": run.subset and digests[run.subset]}
    if not storage.exists(path) and storage.create_bytes(path, storage.json_bytes(wanted)):
        return
    found = need_fields(path, storage.read_json(path), method=str)
    if fields := differing(found, wanted):
        raise WorkdirError(
            f"{workdir.run(run.name)} was trained on something else (differing: {', '.join(fields)}). "
            "Delete this folder to train the run again, or restore the subset."
        )


def _trainings(workdir: Workdir, config, runs: list[Run]) -> dict[str, str]:
    """What the result of each run must say that it is of."""
    dataset, kept, found = shared_dataset(config), {}, {}
    for run in runs:
        if run.subset not in kept:
            kept[run.subset] = _kept(workdir, run, dataset)
        schedule = subset_schedule(config, len(dataset.train.positions), run.fraction)
        found[run.name] = digest(identity(config, Job(run.name, "", kept[run.subset], run.seed), schedule))
    return found


def write_results(workdir: Workdir, config, runs: list[Run]) -> None:
    """Derives results.csv from the runs' own result.json, rows in the table's order.

    Raises:
      DataError: a result is missing, damaged or another run's.
    """
    trainings = _trainings(workdir, config, runs)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in runs:
        path = result_path(workdir.run(run.name))
        result = need_fields(path, storage.read_json(path), images=int, steps=int, test_correct=int, test_size=int)
        if result.get("training") not in (None, trainings[run.name]):
            raise DataError(
                f"{path} is the result of another training, not of {run.name!r} with this config. Bring the right file "
                f"back, or delete {workdir.run(run.name)} and {storage.join(workdir.runs, 'manifest.json')} and run "
                '"redundancy sweep" again.'
            )
        row = {
            "run": run.name,
            "method": run.method,
            "layer": run.layer,
            "fraction": fraction_name(run.fraction),
            "size": result["images"],
            "trial": run.trial,
            "seed": config.seed,
            **{name: result[name] for name in ("steps", "test_accuracy", "test_correct", "test_size", "test_loss")},
        }
        writer.writerow(row)
    storage.write_text(workdir.results, buffer.getvalue())


def _packs(runs: list[Run], schedules: dict[float, Schedule], size: int) -> list[tuple[Schedule, list[Run]]]:
    """The table cut into packs of up to `size` runs of the same schedule; the longest come first."""
    grouped: dict[Schedule, list[Run]] = {}
    for run in runs:
        grouped.setdefault(schedules[run.fraction], []).append(run)
    return [
        (schedule, same[first : first + size])
        for schedule, same in sorted(grouped.items(), key=lambda item: -item[0].steps)
        for first in range(0, len(same), size)
    ]


def _agreed(config, packs: Sequence[tuple[Schedule, list[Run]]]) -> str:
    """Checksum of what the parts of a sweep have in common: the packs, and how each is trained."""
    nothing = Job("", "", np.zeros(0, np.int64), 0)
    cut = [[run.name for run in pack] for _, pack in packs]
    return digest({"packs": cut, "trainings": [identity(config, nothing, schedule) for schedule, _ in packs]})


def _alone(table: str) -> None:
    """Nobody else works in the workdir."""


def sweep(
    config,
    workdir: Workdir,
    profile: bool = False,
    part: parts.Part | None = None,
    agree: Callable[[str], None] = _alone,
) -> None:
    """Trains every run of the table that has no result, then writes results.csv and runs/manifest.json.

    A part of a sweep trains its own share of the packs, which are those of the whole. Results are written by whoever finds
    every run done.

    Args:
      config: resolved config.
      workdir: with subsets.
      profile: whether some steps of the first pack are traced.
      part: of a sweep that others share; None for the whole.
      agree: called in the first process, before the first training, with a checksum of what all parts have in common;
        raises where another part has another, see `lease.Lease.agree`.

    Raises:
      WorkdirError: the stage select has not finished, the runs there are of other subsets, or other parts divide another
        table.
      DataError: a subset or a result is damaged.
    """
    digests = processes.first(lambda: _subset_digests(workdir))
    num_images = len(shared_dataset(config).train.positions) if config.epochs or config.warmup_epochs else 0
    table.check(config, num_images)
    runs = table.runs(config, num_images)
    done = set(processes.first(lambda: _begin(workdir, config, runs, digests)))
    if len(done) == len(runs) and read_manifest(workdir.runs) is not None:
        logging.info("sweep: finished already")
        return
    dataset = shared_dataset(config)
    workdir.claim_dataset(dataset.fingerprint, dataset.skipped)
    # The mesh and the packs follow from the whole table, not from what is left of it: an interrupted sweep goes on
    # with the same programs, and so with the same bits.
    mesh = make_mesh(config, num_trials=len(runs))
    shape, classes = dataset.image_shape, len(dataset.class_names)
    path = storage.join(workdir.runs, "packing.json")
    packing = choose(config, shape, classes, mesh, resident_images(dataset), len(runs), path)
    size = packing.pack
    schedules = {run.fraction: subset_schedule(config, num_images, run.fraction) for run in runs}
    own, name = _packs(runs, schedules, size), "sweep"
    if part is not None:
        name = f"sweep, part {part}"
        processes.first(functools.partial(agree, _agreed(config, own)))
        of = parts.shares([schedule.steps for schedule, _ in own], part.count)
        own = [pack for pack, number in zip(own, of, strict=True) if number == part.number]
    left = [(schedule, [run for run in pack if run.name not in done]) for schedule, pack in own]
    num_own = sum(len(pack) for _, pack in own)
    finished = num_own - sum(len(pack) for _, pack in left)
    logging.info("%s: %d of %d runs to do", name, num_own - finished, num_own)
    for run in {run.subset: run for _, pack in left for run in pack}.values():
        _kept(workdir, run, dataset)  # a wrong subset is told before the first training, not before its own
    if finished < num_own:
        trainer = Trainer(config, dataset, mesh, size, packing.vmap)
        for schedule, pack in left:
            if not pack:
                continue
            jobs = [Job(run.name, workdir.run(run.name), _kept(workdir, run, dataset), run.seed) for run in pack]
            names = jobs[0].name if len(jobs) == 1 else f"{jobs[0].name} and {len(jobs) - 1} more"
            what = f"{name} {finished + 1}/{num_own} {names}"
            results = train_pack(trainer, jobs, size, schedule, what, profile)
            profile = False
            finished += len(pack)
            for job, result in zip(jobs, results, strict=True):
                logging.info("%s: %s test accuracy %.4f", name, job.name, result["test_accuracy"])
    others = processes.first(lambda: sum(not is_done(workdir, run) for run in runs)) if part is not None else 0
    if others:
        logging.info("sweep: part %d of %d is done; %d runs are left to other parts", part.number, part.count, others)
        return
    processes.first(lambda: _end(workdir, config, runs, digests))


def _begin(workdir: Workdir, config, runs: list[Run], digests: dict[str, str]) -> list[str]:
    """Claims the folders of all runs; names of those that are done. Where all are, results.csv is checked or mended."""
    for run in runs:
        _claim(workdir, run, digests)
    finished = read_manifest(workdir.runs, results_sha256=str)
    if finished is None:
        return [run.name for run in runs if is_done(workdir, run)]
    if not storage.exists(workdir.results) or storage.sha256(workdir.results) != finished["results_sha256"]:
        logging.warning("%s is missing or was changed; it is written again from the runs", workdir.results)
        write_results(workdir, config, runs)
        if storage.sha256(workdir.results) != finished["results_sha256"]:
            raise DataError(
                f"{workdir.results}, written again from the runs' own result.json, is not what "
                f"{storage.join(workdir.runs, 'manifest.json')} says it was: a result.json was changed, or the manifest is "
                "of another sweep. Bring the right files back; or delete that manifest, and the folders of the runs that "
                'you do not trust, and run "redundancy sweep" again.'
            )
    return [run.name for run in runs]


def _end(workdir: Workdir, config, runs: list[Run], digests: dict[str, str]) -> None:
    write_results(workdir, config, runs)
    manifest = {
        "runs": [run.name for run in runs],
        "subsets": {run.subset: digests[run.subset] for run in runs if run.subset is not None},
        "results_sha256": storage.sha256(workdir.results),
    }
    write_manifest(workdir.runs, manifest)
