"""Packs of the table's runs, and runs that belong to their subset."""

import itertools

import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy.data import open_dataset
from redundancy.experiment import inputs, sweep
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.selection.subset import Subset, write_subset
from redundancy.workdir import Workdir, table
from redundancy.workdir.table import subset_schedule


def test_packs_hold_runs_of_equal_length_once_each():
    config = config_lib.resolve({"fractions": (0.9, 0.5), "trials": 3, "budget": "epochs"})
    runs = table.runs(config)
    schedules = {run.fraction: subset_schedule(config, 0, run.fraction) for run in runs}
    packs = [pack for _, pack in sweep._packs(runs, schedules, 4)]
    assert sorted(run.name for pack in packs for run in pack) == sorted(run.name for run in runs)
    assert all(len(pack) <= 4 and len({run.steps for run in pack}) == 1 for pack in packs)
    assert [len(pack) for pack in packs] == [3, 4, 4, 2, 2]


@pytest.mark.parametrize("budget", ["steps", "epochs"])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_packs_go_through_the_table_trial_by_trial(budget, size):
    config = config_lib.resolve({"fractions": (0.9, 0.5), "trials": 5, "budget": budget})
    runs = table.runs(config)
    schedules = {run.fraction: subset_schedule(config, 0, run.fraction) for run in runs}
    packs = [pack for _, pack in sweep._packs(runs, schedules, size)]
    assert sorted(run.name for pack in packs for run in pack) == sorted(run.name for run in runs)
    assert [pack[0].trial for pack in packs] == sorted(pack[0].trial for pack in packs)
    kinds = {(run.method, run.fraction) for run in runs}
    ends = [0, *itertools.accumulate(map(len, packs))]
    done = [run for pack in packs for run in pack]
    for end in ends:
        counts = [sum((run.method, run.fraction) == kind for run in done[:end]) for kind in kinds]
        # Runs of other schedules are in other packs, so that a whole pack may be ahead.
        assert max(counts) - min(counts) <= (1 if budget == "steps" else size)
    if budget == "steps":
        assert [(run.trial, run.name) for run in done] == [
            (trial, run.name) for trial in range(5) for run in runs if run.trial == trial
        ]


def test_a_run_of_another_subset_is_refused(tmp_path):
    workdir = Workdir(str(tmp_path))
    run = table.runs(config_lib.resolve({"fractions": (0.9,), "trials": 1}))[1]
    inputs.claim(workdir, run, {"semantic-0.9000": "first"})
    inputs.claim(workdir, run, {"semantic-0.9000": "first"})
    with pytest.raises(WorkdirError, match="subset_sha256"):
        inputs.claim(workdir, run, {"semantic-0.9000": "second"})
    with pytest.raises(DataError, match=r"no semantic-0\.9000"):
        inputs.claim(workdir, run, {})


def test_a_subset_with_other_labels_than_the_data_set_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "set.npz", images=rng.integers(0, 256, (30, 8, 8), np.uint8), labels=np.arange(30) % 3)
    dataset = open_dataset(config_lib.resolve({"dataset": str(tmp_path / "set.npz")}))
    workdir, train = Workdir(str(tmp_path / "w")), dataset.train
    run = table.Run("semantic", "end", 0.9, 0, 10, "semantic-0.9000")
    none = np.full(len(train.positions), -1), np.ones(len(train.positions), bool), np.zeros(len(train.positions))
    metadata = dict(method="semantic", layer="end", fraction=0.9, size=len(train.positions), num_stored=30)
    metadata["fingerprint"] = dataset.fingerprint

    def kept(positions, labels):
        write_subset(workdir.subset("semantic-0.9000"), Subset(positions, labels, *none, metadata))
        return inputs.kept(workdir, run, dataset)

    assert (kept(train.positions, train.labels) == train.positions).all()
    wrong = train.labels.copy()
    wrong[[4, 6]] = (wrong[[4, 6]] + 1) % 3
    said = rf"position {train.positions[4]} has label {wrong[4]}; .* has label {train.labels[4]} \(2 of 24 positions"
    with pytest.raises(DataError, match=said):
        kept(train.positions, wrong)
    held_out = next(position for position in range(30) if position not in train.positions)
    positions = np.sort(np.append(train.positions[1:], held_out))
    labels = (positions % 3).astype(np.int32)
    with pytest.raises(DataError, match=rf"position {held_out} .* has no such training image \(1 of 24"):
        kept(positions, labels)
