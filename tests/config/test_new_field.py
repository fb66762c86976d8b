"""A config field that a later version adds: artifacts made without it stay usable and count as having its default."""

import pathlib
import shutil

import finished_run
import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.config import Affects, Field
from redundancy.report import compare
from redundancy.runtime.errors import WorkdirError
from redundancy.training.loop import Job, digest, identity
from redundancy.training.pretrain import train
from redundancy.workdir import STAGES, Workdir
from redundancy.workdir.table import Schedule

SECTIONS = ("Data", "Model", "Training", "A new section")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, digits_npz):
    """A workdir of the version before."""
    return finished_run.finished(tmp_path_factory.getbasetemp(), digits_npz)


@pytest.fixture
def workdir(finished, tmp_path):
    shutil.copytree(finished[1].root, tmp_path / "w")
    return Workdir(str(tmp_path / "w"))


@pytest.fixture
def added(monkeypatch):
    """The later version: a field in each section, with nothing said of what it affects. Returns their names."""
    names = [f"added_{number}" for number in range(len(SECTIONS))]
    for name, section in zip(names, SECTIONS, strict=True):
        monkeypatch.setitem(config_lib.FIELDS, name, Field(section, 3, "whatever"))
    return names


def with_fields(config, **fields):
    return config_lib.resolve({**{name: config[name] for name in config}, **fields})


def files(workdir):
    root = pathlib.Path(workdir.root)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def interrupt(workdir, folder):
    """The files as they were before a training's last checkpoint."""
    root = pathlib.Path(folder)
    shutil.rmtree(root / "checkpoints" / "6")
    for path in (root / "result.json", root / "manifest.json", root.parent / "manifest.json"):
        path.unlink(missing_ok=True)


def test_the_identity_is_the_one_of_before(added):
    def of(**fields):
        return identity(config_lib.resolve(fields), Job("", "", np.arange(9), 1), Schedule(7, 2))

    # As the version before the first such field computed it.
    assert digest(of()) == "70907e1b9316c58d5e33b83a5d0127c9fc17d251ebdc87797fbcd6d579fe9ac5"
    assert of(**{added[0]: 4}) == {**of(), f"config.{added[0]}": 4}


@pytest.mark.soak
def test_a_finished_workdir_stays_as_it_is(finished, workdir, added):
    before = files(workdir)
    finished_run.run_stages(with_fields(finished[0]), workdir)
    assert files(workdir) == before


def test_an_interrupted_workdir_is_finished_with_the_same_results(finished, workdir, added):
    before = files(workdir)
    folders = [workdir.pretrain, workdir.run("full-1.0000-trial0"), workdir.run("semantic-0.5000-trial0")]
    for folder in folders:
        interrupt(workdir, folder)
    storage.remove(workdir.results)
    storage.remove(workdir.report)
    with finished_run.quick_programs():
        finished_run.run_stages(with_fields(finished[0]), workdir, *STAGES[:-1])
    after = files(workdir)
    assert storage.exists(workdir.path("pretrain", "checkpoints", "6"))
    for name in ("config.json", "results.csv", "subsets/manifest.json", "runs/manifest.json"):
        assert after[name] == before[name], name


@pytest.mark.parametrize("number", range(len(SECTIONS)))
def test_another_value_is_refused_by_name(finished, workdir, added, number):
    with pytest.raises(
        WorkdirError, match=rf"Differing: {added[number]}: 3 there, 4 here \({workdir.runs}, {workdir.pretrain}, "
    ):
        workdir.claim(with_fields(finished[0], **{added[number]: 4}))
    for name in ("runs", "results.csv", "report"):
        storage.remove(workdir.path(name))
    with pytest.raises(WorkdirError, match=rf"{added[number]}: 3 there, 4 here \({workdir.pretrain}, "):
        workdir.claim(with_fields(finished[0], **{added[number]: 4}))


@pytest.mark.soak
def test_a_checkpoint_of_another_value_is_not_continued(finished, workdir, added):
    other = with_fields(finished[0], **{added[-1]: 4})
    interrupt(workdir, workdir.pretrain)
    with pytest.raises(WorkdirError, match=rf"another training\. Differing: config\.{added[-1]}: 3 there, 4 now"):
        train(other, workdir)
    storage.remove(workdir.pretrain)
    with finished_run.quick_programs():
        train(other, workdir)
    interrupt(workdir, workdir.pretrain)
    with pytest.raises(WorkdirError, match=rf"another training\. Differing: config\.{added[-1]}: 4 there, 3 now"):
        train(with_fields(finished[0]), workdir)


def test_experiments_that_differ_in_it_are_not_one(finished, workdir, added):
    path = storage.join(workdir.root, "config.json")
    recorded = storage.read_json(path)
    recorded["config"][added[0]] = 3
    storage.write_json(path, recorded)
    one, same = (compare.read_experiment(root) for root in (finished[1].root, workdir.root))
    assert compare._differing([one, same]) == []
    recorded["config"][added[0]] = 4
    storage.write_json(path, recorded)
    assert compare._differing([one, compare.read_experiment(workdir.root)]) == [added[0]]


def test_a_field_may_affect_less(finished, workdir, monkeypatch):
    monkeypatch.setitem(config_lib.FIELDS, "added", Field("Later", 3, "whatever", affects=Affects.REPORT))
    workdir.claim(with_fields(finished[0], added=4))
    assert storage.read_json(workdir.config)["config"]["added"] == 4
