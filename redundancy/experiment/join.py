"""Takes over results from another workdir, in which the same experiment continued elsewhere."""

from collections.abc import Mapping
from typing import Any

from absl import logging

from redundancy import config as config_lib
from redundancy import storage
from redundancy.config import Affects
from redundancy.experiment.inputs import claim, subset_digests, wanted_claim
from redundancy.experiment.results import is_done, trainings
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.workdir import Workdir, need_fields, table
from redundancy.workdir.table import Run


def join(config, workdir: Workdir, root: str) -> None:
    """Copies the results of runs that are missing here from another workdir. Overwrites nothing; does not copy checkpoints.

    All results are checked before the first one is copied.

    Args:
      config: resolved config that has claimed the workdir.
      workdir: workdir with subsets.
      root: path of the other workdir, which is only read.

    Raises:
      ConfigError: `root` is this workdir.
      WorkdirError: `root` is not a workdir, or its runs have another config, data set or subset; names the differences.
      DataError: a result there is damaged, or belongs to another training.
    """
    other = Workdir(root)
    if other.root == workdir.root:
        raise ConfigError(f"--join={root} is the workdir itself; wanted another one.")
    _check_configs(workdir, other)
    digests, runs = subset_digests(workdir), table.runs(config)
    lacking = [run for run in runs if not is_done(workdir, run) and is_done(other, run)]
    wanted = trainings(workdir, config, lacking)
    for run in lacking:
        _check(other, run, wanted_claim(workdir, run, digests), wanted[run.name])
    for run in lacking:
        claim(workdir, run, digests)
        for name in ("metrics.jsonl", "result.json"):
            source, target = (storage.join(each.run(run.name), name) for each in (other, workdir))
            if storage.exists(source) and not storage.exists(target):
                storage.create_bytes(target, storage.read_bytes(source))
        logging.info("sweep: %s taken from %s", run.name, other.root)
    names = {run.name for run in runs}
    others = sum(name not in names and storage.exists(other.result(name)) for name in storage.list_dir(other.runs))
    logging.info(
        "sweep: %d runs taken from %s; of its others, %d have a result here already, %d are not asked for",
        len(lacking),
        other.root,
        sum(is_done(other, run) for run in runs) - len(lacking),
        others,
    )


def _recorded(workdir: Workdir) -> Mapping[str, Any]:
    """The contents of config.json, plus defaults for fields that an earlier version did not have."""
    try:
        found = need_fields(workdir.config, storage.read_json(workdir.config), config=dict)
    except FileNotFoundError:
        raise WorkdirError(
            f"--join={workdir.root} is no workdir: it has no config.json. Check the path; wanted a workdir, or a copy of one."
        ) from None
    return {**found, "config": {**config_lib.to_json(config_lib.defaults()), **found["config"]}}


def _check_configs(workdir: Workdir, other: Workdir) -> None:
    """Raises WorkdirError if the configs of the two workdirs make their runs incomparable."""
    theirs, ours = _recorded(other), _recorded(workdir)
    fields = [
        name
        for name in config_lib.differing(theirs["config"], ours["config"])
        if name not in config_lib.FIELDS or config_lib.FIELDS[name].affects & (Affects.IDENTITY | Affects.COMPARISON)
    ]
    if fields:
        shown = "; ".join(
            f"{name}: {theirs['config'].get(name, 'absent')!r} there, {ours['config'].get(name, 'absent')!r} here"
            for name in fields
        )
        raise WorkdirError(
            f"--join={other.root} has runs of another config. Differing: {shown}. Only runs that are the same trainings can be "
            "joined: choose the workdir of this experiment, or leave --join out."
        )
    if theirs.get("dataset") and ours.get("dataset"):
        workdir.check_fingerprint(ours["dataset"], theirs["dataset"], workdir.config)


def _check(other: Workdir, run: Run, wanted: Mapping[str, Any], training: str) -> None:
    """Raises an error if a run in the other workdir was trained differently than the same run here would be."""
    path = storage.join(other.run(run.name), "run.json")
    found = need_fields(path, storage.read_json(path), method=str)
    if fields := config_lib.differing(found, wanted):
        shown = "; ".join(f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} here" for name in fields)
        raise WorkdirError(
            f"{other.run(run.name)} was trained on something else than {run.name} here. Differing: {shown}. Bring both to the "
            "same subsets, or leave --join out."
        )
    path = other.result(run.name)
    fields = dict(images=int, steps=int, test_correct=int, test_size=int, training=str)
    if need_fields(path, storage.read_json(path), **fields)["training"] != training:
        raise DataError(
            f"{path} is the result of another training than {run.name} here: its checksum of config, seed and images, "
            "'training', differs. Bring the right file back, or delete that folder."
        )
