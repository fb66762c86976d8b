"""Checks the subsets that the runs of a table train on, and claims the runs' folders."""

import dataclasses
from typing import Any

import numpy as np

from redundancy import storage
from redundancy.config import differing
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.selection.subset import check_file, read_subset
from redundancy.workdir import Workdir, need_fields, need_manifest
from redundancy.workdir.table import Run


def kept(workdir: Workdir, run: Run, dataset) -> np.ndarray:
    """Positions that a run trains on, int64 `[n]`.

    Raises:
      WorkdirError: the subset belongs to another data set.
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


def subset_digests(workdir: Workdir) -> dict[str, str]:
    """Checks every subset file that the stage select wrote; returns subset name -> SHA-256.

    Raises:
      WorkdirError: the stage select has not finished.
      DataError: a file is missing or was changed.
    """
    digests = {}
    for file in need_manifest(workdir.subsets, "select", files=list)["files"]:
        name = file["file"].removesuffix(".parquet")
        check_file(workdir.subsets, file)
        digests[name] = file["sha256"]
    return digests


def wanted_claim(workdir: Workdir, run: Run, digests: dict[str, str]) -> dict[str, Any]:
    """The record of what a run trains on, for its folder; raises DataError if its subset does not exist."""
    if run.subset is not None and run.subset not in digests:
        raise DataError(f'{workdir.subsets} has no {run.subset}. Delete this folder and run "redundancy select" again.')
    return {**dataclasses.asdict(run), "subset_sha256": run.subset and digests[run.subset]}


def claim(workdir: Workdir, run: Run, digests: dict[str, str]) -> None:
    """Records in a run's folder what the run trains on, or checks that the folder belongs to this training.

    Raises:
      DataError: the run's subset does not exist.
      WorkdirError: the folder's checkpoints or result belong to another subset or another run.
    """
    wanted = wanted_claim(workdir, run, digests)
    path = storage.join(workdir.run(run.name), "run.json")
    if not storage.exists(path) and storage.create_bytes(path, storage.json_bytes(wanted)):
        return
    found = need_fields(path, storage.read_json(path), method=str)
    if fields := differing(found, wanted):
        raise WorkdirError(
            f"{workdir.run(run.name)} was trained on something else (differing: {', '.join(fields)}). "
            "Delete this folder to train the run again, or restore the subset."
        )
