"""An experiment that grows: more trials, fractions, methods and layers, each of which makes only what lacks."""

import itertools
import re
import shutil

import pytest

from redundancy import storage
from redundancy.experiment import sweep
from redundancy.report.stage import report
from redundancy.runtime.errors import WorkdirError
from redundancy.training.loop import digest, identity, result_path
from redundancy.workdir import STAGES, Workdir, finished, read_manifest, run_name
from tests.finished_run import quick_programs, run_stages, small_config
from tests.tiers import soaked

FIRST = dict(trials=2, fractions=(0.9,), methods=("semantic",), report_classes=1)
MORE = (
    dict(trials=3),
    dict(fractions=(0.9, 0.7)),
    dict(methods=("semantic", "random")),
    dict(layers=("end", "start")),
)
RUNS = (4, 2, 3, 6, 6)  # that each step lacks, the first one included
BEFORE = STAGES[:2]  # train and embed


def asked(*steps):
    """The fields after these steps."""
    return {name: value for step in (FIRST, *steps) for name, value in step.items()}


def files(workdir, *folders):
    """Bytes of all files below these folders, without manifests."""
    return {
        f"{folder}/{name}": storage.read_bytes(workdir.path(folder, name))
        for folder in folders
        for name in storage.listing.list_files(workdir.path(folder))
        if not name.endswith("manifest.json")
    }


def run(config, workdir, caplog, *names):
    """Runs the stages; returns how many runs the sweep had to do, and of how many."""
    caplog.clear()
    caplog.set_level("INFO", logger="absl")
    run_stages(config, workdir, *names)
    said = [re.search(r"^sweep: (\d+) of (\d+) runs to do", record.getMessage()) for record in caplog.records]
    return [tuple(map(int, found.groups())) for found in said if found]


@pytest.fixture(scope="module", autouse=True)
def quick():
    with quick_programs():
        yield


@pytest.fixture(scope="module")
def embedded(digits_npz, tmp_path_factory):
    """A workdir whose stage embed is finished."""
    workdir = Workdir(str(tmp_path_factory.mktemp("embedded") / "w"))
    run_stages(small_config(digits_npz, **FIRST), workdir, *BEFORE)
    return workdir


@pytest.mark.soak
def test_each_step_makes_only_what_lacks(embedded, digits_npz, tmp_path, caplog):
    def step(name, *steps):
        config = small_config(digits_npz, **asked(*steps))
        return run(config, Workdir(str(tmp_path / name)), caplog, *STAGES[:-1])

    for name in ("w", "once"):
        shutil.copytree(embedded.root, tmp_path / name)
    workdir, at_once = (Workdir(str(tmp_path / name)) for name in ("w", "once"))
    before, total = {}, 0
    for number, count in enumerate(RUNS[:4]):
        total += count
        assert step("w", *MORE[:number]) == [(count, total)]
        now = files(workdir, "pretrain", "embeddings", "subsets", "runs")
        assert now.items() >= before.items()
        before = now
    assert step("w", *MORE[:3]) == []
    assert step("once", *MORE[:3]) == [(total, total)]
    for folder in ("subsets", "merges"):
        assert files(workdir, folder) == files(at_once, folder)
    assert storage.read_bytes(workdir.results) == storage.read_bytes(at_once.results)
    assert len(storage.read_json(workdir.config)["asked"]) == 3


@pytest.fixture
def grow(embedded, digits_npz, tmp_path, caplog, monkeypatch):
    """Runs the stages from embed on, with made-up trainings, in a workdir with these fields; returns it and as `run`."""

    def train_pack(trainer, jobs, size, schedule, what, profile):
        for job in jobs:
            correct = sum(map(ord, job.name)) % 450
            result = {
                **dict(test_accuracy=correct / 450, test_correct=correct, test_size=450, test_loss=1.0),
                **dict(images=len(job.kept), steps=schedule.steps, training=digest(identity(trainer, job, schedule))),
            }
            storage.write_json(result_path(job.folder), result)
        return [result] * len(jobs)

    monkeypatch.setattr(sweep, "Trainer", lambda config, *_: config)
    monkeypatch.setattr(sweep, "train_pack", train_pack)

    def grow(name, *stages, **fields):
        workdir = Workdir(str(tmp_path / name))
        if not storage.exists(workdir.root):
            shutil.copytree(embedded.root, workdir.root)
        return workdir, run(small_config(digits_npz, **fields), workdir, caplog, *(stages or STAGES[1:]))

    return grow


ORDERS = [(2, 0, 3, 1), *soaked(((3, 2, 1, 0),), ((1, 3, 0, 2),), ((0, 1, 2, 3),))]


@pytest.mark.parametrize("order", ORDERS)
def test_in_any_order_the_results_are_those_of_one_sweep_with_everything(grow, order):
    at_once, _ = grow("once", *STAGES[1:6], **asked(*MORE))
    for number in range(5):
        workdir, said = grow("w", *STAGES[1:6], **asked(*(MORE[each] for each in order[:number])))
        assert len(said) == 1
    assert said[0][1] == sum(RUNS)
    assert storage.read_bytes(workdir.results) == storage.read_bytes(at_once.results)
    assert files(workdir, "subsets", "merges") == files(at_once, "subsets", "merges")


@pytest.mark.soak
def test_runs_that_are_not_asked_for_stay_and_the_page_says_so(grow):
    workdir, _ = grow("w", **asked(*MORE[:1]))
    whole, page = storage.read_bytes(workdir.results), workdir.path("report", "index.html")
    assert b"left out" not in storage.read_bytes(page)
    before = files(workdir, "runs")
    workdir, said = grow("w", **FIRST)
    assert said == [(0, 4)]
    assert files(workdir, "runs") == before
    assert run_name("full", 1.0, 2) not in storage.read_bytes(workdir.results).decode()
    assert b"2 more trainings in the workdir are left out: the config does not ask for them." in storage.read_bytes(
        page
    )
    workdir, said = grow("w", **asked(*MORE[:1]))
    assert said == [(0, 6)]
    assert storage.read_bytes(workdir.results) == whole
    assert b"left out" not in storage.read_bytes(page)


@pytest.mark.soak
def test_a_page_of_runs_that_lack_is_an_interim_one_and_one_of_other_choices_is_written(grow, digits_npz):
    workdir, _ = grow("w", **FIRST)
    config = small_config(digits_npz, **FIRST)
    more = small_config(digits_npz, **asked(*MORE[:1]))
    workdir.claim(more)
    states = {name: finished.is_finished(more, workdir, name) for name in ("link", "select", "sweep")}
    assert states == {"link": True, "select": True, "sweep": False}
    report(more, workdir)
    page = workdir.path("report", "index.html")
    assert b"This sweep is unfinished: 2 of 3 trials are complete" in storage.read_bytes(page)
    assert not finished.finished(more, "report", {"report": read_manifest(workdir.report)})
    with pytest.raises(
        WorkdirError, match=r'no complete trial .* 4 of 6 runs are done. Run "redundancy sweep" with the same'
    ):
        report(small_config(digits_npz, **asked(MORE[1])), workdir)
    assert finished.is_finished(config, workdir, "sweep")
    report(config, workdir)
    assert b"unfinished" not in storage.read_bytes(page)
    before = storage.read_bytes(page)
    other = small_config(digits_npz, **FIRST, report_margin=0.05)
    run_stages(other, workdir)
    assert storage.read_bytes(page) != before
    assert b"5 points" in storage.read_bytes(page)


def test_what_a_run_is_may_not_change_and_the_error_names_what_holds_it(grow, digits_npz):
    workdir, _ = grow("w", *STAGES[2:6], **FIRST)
    with pytest.raises(WorkdirError) as caught:
        workdir.claim(small_config(digits_npz, **asked(*MORE), seed=1, rule="medoid"))
    said = str(caught.value)
    assert "trials" not in said
    runs, pretrain, end, subsets = workdir.runs, workdir.pretrain, workdir.embeddings("end"), workdir.subsets
    assert f"rule: 'cosine_raw_mean' there, 'medoid' here ({runs}, {subsets} made with it)" in said
    assert f"seed: 0 there, 1 here ({runs}, {pretrain}, {end} made with it)" in said


def test_growing_after_an_interruption_trains_what_lacks(grow, monkeypatch):
    train_pack, left = sweep.train_pack, itertools.count(3, -1)

    def dies(*arguments):
        if not next(left):
            raise KeyboardInterrupt
        return train_pack(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "train_pack", dies)
        with pytest.raises(KeyboardInterrupt):
            grow("w", **asked(*MORE[:2]))
    _, said = grow("w", *STAGES[2:6], **asked(*MORE[:3]))
    assert said == [(12, 15)]
