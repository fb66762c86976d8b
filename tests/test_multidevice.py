"""One or eight devices: the same training to float tolerance, no communication between trials."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from redundancy.scoring import files
from redundancy.workdir import Workdir

EIGHT = "--xla_force_host_platform_device_count=8"


@pytest.fixture
def eight(child_env, monkeypatch):
    """Called, it gives processes eight devices."""
    return lambda: monkeypatch.setitem(child_env, "XLA_FLAGS", f"{EIGHT} {child_env['XLA_FLAGS']}")


@pytest.fixture(scope="module")
def measured(digits_npz, child_env, repo):
    child = subprocess.run(
        [sys.executable, repo / "tests" / "multidevice_child.py", digits_npz],
        env={**child_env, "XLA_FLAGS": f"{EIGHT} {child_env['XLA_FLAGS']}"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])


@pytest.mark.parametrize(("group", "mesh"), [(0, "(2, 1)"), (0, "(2, 4)"), (0, "(1, 8)"), (4, "(2, 4)")])
@pytest.mark.soak
def test_training_does_not_depend_on_the_mesh(measured, group, mesh):
    assert measured["devices"] == 8
    one, several = measured[f"{group} (1, 1)"], measured[f"{group} {mesh}"]
    np.testing.assert_allclose(several["loss"], one["loss"], rtol=2e-5)
    np.testing.assert_allclose(several["embedding"], one["embedding"], rtol=1e-4, atol=1e-6)
    assert several["size"] == 450


@pytest.mark.parametrize("group", [0, 4])
@pytest.mark.soak
def test_trials_that_share_devices_or_go_on_on_more_are_the_same(measured, group):
    alone = measured[f"{group} (1, 1)"]["loss"]
    np.testing.assert_allclose(measured[f"{group} looped"], 2 * alone, rtol=2e-5)  # two on each share of the devices
    np.testing.assert_allclose(
        measured[f"{group} moved"], alone, rtol=2e-5
    )  # stopped on one device, continued on eight


@pytest.mark.soak
def test_the_batch_norm_rule_matters(measured):
    assert abs(measured["0 (1, 1)"]["loss"][0] - measured["4 (1, 1)"]["loss"][0]) > 1e-4


@pytest.mark.soak
def test_no_collective_crosses_trials(measured):
    """On the mesh (2, 4) devices 0-3 hold one trial and 4-7 the other."""
    for group in (0, 4):
        found = measured[f"{group} collectives"]
        assert "all-reduce" in {kind for kind, _ in found}
        for _, text in found:
            listed = [set(map(int, part.split(","))) for part in re.findall(r"\{([\d,]+)\}", text)]
            compact = text.startswith("[2,4]<=[8]")
            assert compact or (listed and all(part <= {0, 1, 2, 3} or part <= {4, 5, 6, 7} for part in listed)), text


@pytest.mark.soak
def test_batch_norm_groups_within_a_device_need_no_exchange_of_statistics(measured):
    # With groups of 4 of the 8 images a device holds, only gradients and metrics are reduced.
    counts = [[kind for kind, _ in measured[f"{group} collectives"]].count("all-reduce") for group in (4, 0)]
    assert counts[0] < counts[1]


@pytest.mark.soak
def test_trials_are_spread_before_batches(measured):
    assert measured["auto"] == {
        "1": {"trial": 1, "data": 8}, "2": {"trial": 2, "data": 4}, "3": {"trial": 2, "data": 4},
        "8": {"trial": 8, "data": 1}, "100": {"trial": 8, "data": 1},
    }  # fmt: skip


@pytest.mark.soak
def test_scores_on_eight_devices_are_those_of_one(redundancy, digits_npz, eight, tmp_path):
    flags = [
        "--config=configs/digits.py:smoke", f"--config.dataset={digits_npz}", "--config.steps=45", "--config.score_trials=2",
        "--config.methods=el2n,grand_end,aum,dual",
    ]  # fmt: skip
    found = []
    for name in ("one", "eight"):
        if name == "eight":
            eight()
        done = redundancy("score", *flags, f"--workdir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        workdir = Workdir(str(tmp_path / name))
        found.append({score: files.read(workdir, score).each for score in files.listed(workdir)})
    assert {*found[0]} == {"el2n", "grand_end", "aum", "dual"}
    for score, values in found[0].items():
        assert np.median(np.abs(values - found[1][score])) < 1e-3 * np.median(np.abs(values)), score


@pytest.mark.soak
def test_subsets_of_the_same_embeddings_are_identical_on_eight_devices(redundancy, digits_npz, eight, tmp_path):
    first, second = tmp_path / "one", tmp_path / "eight"
    flags = ["--config=configs/digits.py:smoke", f"--config.dataset={digits_npz}"]
    for stage in ("train", "embed"):
        done = redundancy(stage, *flags, f"--workdir={first}")
        assert done.returncode == 0, done.stderr
    shutil.copytree(first, second)
    for workdir in (first, second):
        if workdir == second:
            eight()
        for stage in ("link", "select"):
            done = redundancy(stage, *flags, f"--workdir={workdir}")
            assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (first / "subsets").iterdir())
    assert len(names) == 2 + 4 + 1
    for name in names:
        assert (first / "subsets" / name).read_bytes() == (second / "subsets" / name).read_bytes()


@pytest.mark.soak
def test_a_sweep_interrupted_on_eight_devices_ends_with_the_same_results(redundancy, digits_npz, eight, tmp_path):
    workdir = tmp_path / "w"
    command = ("run", "--config=configs/digits.py:smoke", f"--config.dataset={digits_npz}", f"--workdir={workdir}")
    eight()
    assert redundancy(*command).returncode == 0
    results = (workdir / "results.csv").read_bytes()
    # As after a kill: of the first pack one run has its result, the last pack has not begun.
    for name in ("full-1.0000-trial1", "semantic-0.9000-trial0", "random-0.5000-trial1"):
        shutil.rmtree(workdir / "runs" / name)
    (workdir / "runs" / "manifest.json").unlink()
    (workdir / "results.csv").unlink()
    done = redundancy(*command)
    assert done.returncode == 0, done.stderr
    assert "3 of 10 runs to do" in done.stderr
    assert (workdir / "results.csv").read_bytes() == results
