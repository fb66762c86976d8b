"""The results of a sweep: determines which runs have one, and makes the table results.csv from them."""

import csv
import io
import re

from absl import logging

from redundancy import storage
from redundancy.config import fraction_name
from redundancy.data import shared_dataset
from redundancy.experiment.inputs import kept
from redundancy.runtime.errors import DataError
from redundancy.storage.listing import list_files
from redundancy.training.loop import Job, digest, identity
from redundancy.workdir import Workdir, need_fields
from redundancy.workdir.table import Run, subset_schedule

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
    return storage.exists(workdir.result(run.name))


def begun(workdir: Workdir) -> list[str]:
    """Names of the runs that have checkpoints."""
    names = (re.match(r"([^/]+)/checkpoints/\d+/", name) for name in list_files(workdir.runs))
    return sorted({found[1] for found in names if found})


def trainings(workdir: Workdir, config, runs: list[Run]) -> dict[str, str]:
    """Checksum of each run's training, by the run's name; the run's result must have the same one."""
    dataset, positions, found = shared_dataset(config), {}, {}
    for run in runs:
        if run.subset not in positions:
            positions[run.subset] = kept(workdir, run, dataset)
        schedule = subset_schedule(config, len(dataset.train.positions), run.fraction)
        found[run.name] = digest(identity(config, Job(run.name, "", positions[run.subset], run.seed), schedule))
    return found


def write_results(workdir: Workdir, config, runs: list[Run]) -> None:
    """Makes results.csv from the result.json of each run, with rows in the table's order.

    Raises:
      DataError: a result is missing, damaged or belongs to another training.
    """
    wanted = trainings(workdir, config, runs)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in runs:
        path = workdir.result(run.name)
        result = need_fields(path, storage.read_json(path), images=int, steps=int, test_correct=int, test_size=int)
        if result.get("training") not in (None, wanted[run.name]):
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


def mend_results(workdir: Workdir, config, runs: list[Run], sha256: str) -> None:
    """Writes results.csv again if it is missing or its SHA-256 is not `sha256`.

    Raises:
      DataError: the result of a run has changed.
    """
    if storage.exists(workdir.results) and storage.sha256(workdir.results) == sha256:
        return
    logging.warning("%s is missing or was changed; it is written again from the runs", workdir.results)
    write_results(workdir, config, runs)
    if storage.sha256(workdir.results) != sha256:
        raise DataError(
            f"{workdir.results}, written again from the runs' own result.json, does not match the checksum in "
            f"{storage.join(workdir.runs, 'manifest.json')}: a result.json was changed, or the manifest belongs to another "
            "sweep. Bring the right files back; or delete that manifest, and the folders of the runs that you do not "
            'trust, and run "redundancy sweep" again.'
        )
