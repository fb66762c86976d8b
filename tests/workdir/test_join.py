"""A sweep that goes on elsewhere: what a copy needs, and the results of copies that went on separately, joined."""

import re
import shutil

import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.experiment import sweep
from redundancy.experiment.join import join
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.status import command as status
from redundancy.status.survey import survey
from redundancy.workdir import Workdir
from redundancy.workdir.parts import Part
from tests.workdir import test_parts

selected, trained, copy_of = test_parts.selected, test_parts.trained, test_parts.copy_of
_OF_A_COPY = re.compile(r"config\.json|subsets/.*|runs/(?!.*/checkpoints/).*|runs/[^/]*/checkpoints/.*")


def carried(workdir, root) -> Workdir:
    """A copy of what docs/reliability.md says to carry: no checkpoints of finished runs, and nothing of earlier stages."""
    for name in storage.listing.list_files(workdir.root):
        run = name.split("/")[1] if name.startswith("runs/") else ""
        of_finished = "/checkpoints/" in name and storage.exists(workdir.result(run))
        if _OF_A_COPY.fullmatch(name) and not of_finished:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(storage.join(workdir.root, name), root / name)
    return Workdir(str(root))


def states(workdir):
    return {stage["stage"]: stage["state"] for stage in survey(workdir.root)["stages"]}


def test_copies_that_went_on_separately_are_joined(selected, trained, tmp_path, monkeypatch):
    config = selected[0]
    whole, first = copy_of(selected, tmp_path / "whole"), copy_of(selected, tmp_path / "first")
    sweep.sweep(config, whole)
    wanted, train_pack = storage.read_bytes(whole.results), sweep.train_pack
    trained.clear()

    def dies(trainer, jobs, *arguments):
        if len(trained) == 1:
            storage.write_text(f"{jobs[0].folder}/checkpoints/4/about", "of an unfinished run")
            raise KeyboardInterrupt
        storage.write_text(f"{jobs[0].folder}/checkpoints/4/about", "of a finished run")
        return train_pack(trainer, jobs, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "train_pack", dies)
        with pytest.raises(KeyboardInterrupt):
            sweep.sweep(config, first)
    second = carried(first, tmp_path / "second")
    names = {name.split("/")[0] for name in storage.listing.list_files(second.root)}
    assert names == {"config.json", "runs", "subsets"}
    kept = [name for name in storage.listing.list_files(second.runs) if "/checkpoints/" in name]
    assert len(kept) == 1
    assert not storage.exists(second.result(kept[0].split("/")[0]))
    assert states(second) == {
        **dict.fromkeys(("embed", "link"), "not here"),
        **dict(train="not here", select="finished", sweep="stopped", report="waiting"),
    }
    assert "train   not here" in status.render(survey(second.root))
    # Each goes on with runs of its own.
    sweep.sweep(config, first, part=Part(0, 2))
    sweep.sweep(config, second, part=Part(1, 2))
    assert not storage.exists(first.results)
    assert not storage.exists(second.results)
    trained.clear()
    before = {name: storage.read_bytes(f"{first.runs}/{name}") for name in storage.listing.list_files(first.runs)}
    join(config, first, second.root)
    sweep.sweep(config, first)
    assert trained == []
    assert storage.read_bytes(first.results) == wanted
    assert {name: storage.read_bytes(f"{first.runs}/{name}") for name in before} == before
    join(config, second, first.root)
    sweep.sweep(config, second)
    assert trained == []
    assert storage.read_bytes(second.results) == wanted


@pytest.fixture
def two(selected, trained, tmp_path):
    """A config, a workdir without results, and one that is done."""
    here, there = copy_of(selected, tmp_path / "here"), copy_of(selected, tmp_path / "there")
    sweep.sweep(selected[0], there)
    trained.clear()
    return selected[0], here, there


def test_nothing_is_overwritten(two, trained):
    config, here, there = two
    name = "semantic-0.8000-trial1"
    own = {**storage.read_json(there.result(name)), "test_correct": 7}
    storage.write_json(here.result(name), own)
    before = storage.read_bytes(here.result(name))
    join(config, here, there.root)
    assert storage.read_bytes(here.result(name)) == before
    sweep.sweep(config, here)
    assert trained == []


def test_runs_of_another_experiment_are_refused_and_the_error_says_what_differs(two):
    config, here, there = two

    def refused(what, kind=WorkdirError):
        with pytest.raises(kind, match=what):
            join(config, here, there.root)
        assert not any(storage.exists(here.result(name)) for name in storage.list_dir(here.runs))

    recorded = storage.read_json(there.config)
    storage.write_json(
        there.config, {**recorded, "config": {**recorded["config"], "seed": 5, "steps": 41, "trials": 9}}
    )
    refused(r"--join=\S+ has runs of another config. Differing: seed: 5 there, 0 here; steps: 41 there, 40 here. Only")
    other_set = {**recorded["dataset"], "num_train": 7}
    storage.write_json(there.config, {**recorded, "dataset": other_set})
    refused("belongs to another data set. Differing: num_train")
    storage.write_json(there.config, recorded)
    path = f"{there.run('semantic-0.8000-trial1')}/run.json"
    claim = storage.read_json(path)
    storage.write_json(path, {**claim, "subset_sha256": "0" * 64})
    refused(r"trained on something else than semantic-0.8000-trial1 here. Differing: subset_sha256: '0{64}' there")
    storage.write_json(path, claim)
    result = storage.read_json(there.result("full-1.0000-trial0"))
    storage.write_json(there.result("full-1.0000-trial0"), {**result, "training": "another"})
    refused("is the result of another training than full-1.0000-trial0 here", DataError)
    storage.write_json(there.result("full-1.0000-trial0"), result)
    join(config, here, there.root)


def test_a_join_with_what_is_no_other_workdir(two, tmp_path):
    config, here, _ = two
    with pytest.raises(ConfigError, match="is the workdir itself; wanted another one"):
        join(config, here, f"{here.root}/")
    with pytest.raises(WorkdirError, match=r"is no workdir: it has no config.json. Check the path"):
        join(config, here, str(tmp_path / "nowhere"))


def test_runs_that_are_not_asked_for_stay_there(two, caplog):
    caplog.set_level("INFO", logger="absl")
    config, here, there = two
    fewer = config_lib.resolve({**config_lib.to_json(config), "trials": 1})
    here.claim(fewer)
    join(fewer, here, there.root)
    assert "5 runs taken from" in caplog.text
    assert "of its others, 0 have a result here already, 5 are not asked for" in caplog.text
    sweep.sweep(fewer, here)
    assert not storage.exists(here.run("full-1.0000-trial1"))


def test_the_flags(redundancy, tmp_path):
    base = ("--config=digits:smoke", f"--workdir={tmp_path}/w")
    for command, flag, what in (
        ("run", "--join=/tmp/x", "--join is a flag of sweep, not of run"),
        ("train", "--stop-after=8m", "--stop-after is a flag of run and sweep, not of train"),
        ("run", "--stop-after=8", "--stop-after=8: wanted a time of 10 s or more, for example 90s, 8m or 1h30m."),
        ("sweep", "--stop-after=9s", "--stop-after=9s: wanted a time of 10 s or more"),
        ("sweep", "--stop-after=", "wanted a time of 10 s or more"),
    ):
        done = redundancy(command, *base, flag)
        assert (done.returncode, what in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "w").exists()
