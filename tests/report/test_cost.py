"""What a further trial costs, by the times of the trainings there are."""

import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.report.cost import trial_seconds
from redundancy.workdir import Workdir, table

FIELDS = {
    "dataset": "digits",
    "trials": 2,
    "fractions": (0.9, 0.5),
    "methods": ("semantic",),
    "steps": 100,
    "warmup_steps": 0,
}


def swept(root, times, **fields):
    """Runs of two trials: the full set and two fractions; times: (end, seconds) of each in the order of training."""
    config, workdir = config_lib.resolve({**FIELDS, **fields}), Workdir(str(root))
    runs = sorted(table.runs(config, 1000), key=lambda run: (run.trial, -run.fraction))
    for run, (end, seconds) in zip(runs, times, strict=False):
        storage.write_json(workdir.result(run.name), {"seconds": seconds, "time": end})
    return config, workdir


ONE_BY_ONE = [(1000 + 100 * number, 100.0) for number in range(6)]
IN_PACKS = [(1000 + number / 100, 300.0 + number / 100) for number in range(3)] + [(5000, 300.0)] * 3


@pytest.mark.parametrize(("times", "seconds"), [(ONE_BY_ONE, 300), (IN_PACKS, 300), (ONE_BY_ONE[:4], 300)])
def test_a_trial_costs_what_its_trainings_took_and_a_pack_counts_once(tmp_path, times, seconds):
    assert trial_seconds(*swept(tmp_path, times), 1000) == pytest.approx(seconds, rel=0.01)


def test_trainings_of_less_images_are_shorter_with_a_budget_of_epochs(tmp_path):
    times = [(1100, 100.0), (1190, 90.0), (1240, 50.0)]
    assert trial_seconds(*swept(tmp_path, times, budget="epochs"), 1000) == pytest.approx(240)
    assert trial_seconds(*swept(tmp_path / "first", times[:1], budget="epochs"), 1000) == pytest.approx(240)


def test_without_times_the_cost_is_unknown(tmp_path):
    config, workdir = swept(tmp_path, [])
    assert trial_seconds(config, workdir, 1000) is None
    (run, *_) = table.runs(config, 1000)
    for content in (b'{"steps": 100}', b"{", b"[]"):
        storage.write_bytes(workdir.result(run.name), content)
        assert trial_seconds(config, workdir, 1000) is None
