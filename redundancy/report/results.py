"""The results that the page shows: those of a finished sweep, or the complete trials of an unfinished one."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from redundancy import storage
from redundancy.config import fraction_name
from redundancy.report import statistics
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.workdir import Workdir, finished, need_fields, read_manifest, table


@dataclasses.dataclass(frozen=True)
class Results:
    """What the page compares.

    Attributes:
      runs: one for each training that is shown.
      sha256: checksum of the results that were read.
      trials, asked: trials that are complete, which are shown, and those that the config asks for.
      left_out: trainings with a result that the config does not ask for.
    """

    runs: list[statistics.Run]
    sha256: str
    trials: int
    asked: int
    left_out: int

    @property
    def interim(self) -> bool:
        """Whether the sweep has more to do."""
        return self.trials < self.asked


def read(config, workdir: Workdir, subsets: Mapping[str, Any]) -> Results:
    """The results of a config's runs.

    Args:
      config: resolved config.
      workdir: workdir with a sweep that has begun.
      subsets: manifest of the subsets.

    Raises:
      WorkdirError: no trial is complete, or the results belong to other subsets.
      DataError: a file is missing or damaged.
    """
    present = {entry["file"].removesuffix(".parquet"): entry["sha256"] for entry in subsets["files"]}
    asked, sweep = table.runs(config), read_manifest(workdir.runs, results_sha256=str)
    others = {*storage.list_dir(workdir.runs)} - {run.name for run in asked}
    left_out = sum(_has_result(workdir, name) for name in others)
    if finished.swept(config, sweep):
        runs, sha256 = _of_sweep(workdir, sweep, present), sweep["results_sha256"]
        return Results(runs, sha256, config.trials, config.trials, left_out)
    lacking = [run for run in asked if not _has_result(workdir, run.name)]
    incomplete = {run.trial for run in lacking}
    if len(incomplete) == config.trials:
        raise WorkdirError(
            f"{workdir.runs} has no complete trial of this config yet. A trial needs a result for the full set and for every subset: "
            f'{len(asked) - len(lacking)} of {len(asked)} runs are done. Run "redundancy sweep" with the same config first: it '
            "trains only those that lack."
        )
    runs = [_of_run(workdir, run, present) for run in asked if run.trial not in incomplete]
    content = json.dumps([dataclasses.astuple(run) for run in runs])
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return Results(runs, sha256, config.trials - len(incomplete), config.trials, left_out)


def _has_result(workdir: Workdir, name: str) -> bool:
    return storage.exists(workdir.result(name))


def _of_sweep(workdir: Workdir, sweep: Mapping[str, Any], present: Mapping[str, str]) -> list[statistics.Run]:
    """The rows of results.csv."""
    path = workdir.results
    if not storage.exists(path) or storage.sha256(path) != sweep["results_sha256"]:
        raise DataError(
            f"{path} is missing or was changed since the sweep. "
            'Run "redundancy sweep" again: it writes the file from the runs, without training.'
        )
    runs = statistics.parse_results(storage.read_bytes(path).decode())
    if not runs:
        raise DataError(f"{path} has no rows; delete it and runs/manifest.json, and run the sweep again.")
    for name, sha256 in sweep.get("subsets", {}).items():
        _check_subset(workdir, path, name, sha256, present)
    return runs


def _of_run(workdir: Workdir, run: table.Run, present: Mapping[str, str]) -> statistics.Run:
    """A run's own result."""
    folder = workdir.run(run.name)
    path = storage.join(folder, "run.json")
    claimed = need_fields(path, storage.read_json(path), method=str)
    if run.subset is not None:
        _check_subset(workdir, folder, run.subset, claimed.get("subset_sha256"), present)
    path = workdir.result(run.name)
    result = need_fields(path, storage.read_json(path), images=int, test_accuracy=(int, float), test_size=int)
    fraction = float(fraction_name(run.fraction))
    numbers = (result["images"], run.trial, float(result["test_accuracy"]), result["test_size"])
    return statistics.Run(run.method, run.layer, fraction, *numbers)


def _check_subset(workdir: Workdir, what: str, name: str, sha256: str | None, present: Mapping[str, str]) -> None:
    """Raises WorkdirError if a training was done on another subset than the present one of that name."""
    if present.get(name) != sha256:
        raise WorkdirError(
            f"The runs of {what} were trained on another {workdir.subset(name)} than the present one. Bring the right subsets "
            f'back; or: Delete {workdir.runs} and run "redundancy sweep" again.'
        )
