"""One sweep shared by several machines: the same results as on one machine, in any order of ends, also after kills."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.data import shared_dataset
from redundancy.experiment import sweep
from redundancy.importing.stage import Request, import_embeddings
from redundancy.runtime.errors import ConfigError
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.training import packing
from redundancy.training.loop import digest, identity, result_path
from redundancy.training.packing import Packing
from redundancy.workdir import Workdir, lease, parts
from redundancy.workdir.parts import Part
from tests.waiting import ending, wait_until

FIELDS = {
    "augmentation": "none", "depth": 8, "widths": (4, 8, 8), "formulation": "xla", "steps": 40, "warmup_steps": 2,
    "batch_size": 64, "budget": "epochs", "fractions": (0.8, 0.5), "trials": 2, "pack": 2, "log_every": 5,
    "checkpoint_every": 4,
}  # fmt: skip
CONFIG_FILE = """
from redundancy.config import defaults

def get_config(arg=""):
    config = defaults()
    config.update({fields!r})
    return config
"""


@pytest.fixture(scope="module")
def selected(digits_npz, tmp_path_factory):
    """A workdir whose subsets are selected, with its config and a file of that."""
    folder = tmp_path_factory.mktemp("selected")
    fields = {"dataset": str(digits_npz), **FIELDS}
    (folder / "config.py").write_text(CONFIG_FILE.format(fields=fields))
    config, workdir = config_lib.resolve(fields), Workdir(str(folder / "w"))
    data = shared_dataset(config).train
    images = np.load(digits_npz)["train_images"].reshape(len(data.positions), -1)
    np.save(folder / "E.npy", images.astype(np.float32))
    np.save(folder / "Y.npy", data.labels)
    import_embeddings(Request(str(folder / "E.npy"), str(folder / "Y.npy")), workdir, config)
    workdir.claim(config)
    link(config, workdir)
    select(config, workdir)
    return config, folder


def copy_of(selected, root) -> Workdir:
    shutil.copytree(selected[1] / "w", root)
    return Workdir(str(root))


def runs_of(workdir):
    """The result and the metrics of each run, without times."""
    found = {}
    for run in storage.list_dir(workdir.runs):
        if run == "manifest.json":
            continue
        result = storage.read_json(result_path(workdir.run(run)))
        lines = storage.read_bytes(f"{workdir.run(run)}/metrics.jsonl").decode().splitlines()
        for each in (result, *(lines := [json.loads(line) for line in lines])):
            for name in [name for name in each if name in ("time", "seconds") or "images_per_second" in name]:
                del each[name]
        found[run] = result, lines
    return found


@pytest.fixture
def start(selected, repo, child_env):
    """Starts sweeps; those that have not ended are killed."""
    command, children = [sys.executable, "-m", "redundancy", "sweep", f"--config={selected[1] / 'config.py'}"], []

    def begin(workdir, *flags):
        flags = (*flags, f"--workdir={workdir.root}")
        pipe = dict(stderr=subprocess.PIPE, text=True)
        children.append(subprocess.Popen([*command, *flags], cwd=repo, env=child_env, **pipe))
        return children[-1]

    with ending(children):
        yield begin


@pytest.mark.soak
def test_parts_at_once_make_what_one_sweep_makes(selected, start, tmp_path):
    shared, whole = copy_of(selected, tmp_path / "shared"), copy_of(selected, tmp_path / "whole")
    first, second = start(shared, "--part=0/2"), start(shared, "--part=1/2")
    # The second part begins with trial 0 of 80 %; it is killed in the middle of the first pack.
    own = tmp_path / "shared" / "runs" / "random-0.8000-trial0" / "checkpoints" / "4"
    wait_until(lambda: own.exists() or second.poll() is not None, f"no {own}", seconds=300, every=0.005)
    assert second.poll() is None, second.communicate()
    second.kill()
    assert second.communicate()[1].count("is in use") == 0
    _, log = first.communicate(timeout=300)
    assert first.returncode == 0, log
    assert "sweep, part 0/2: 4 of 4 runs to do" in log
    assert "sweep: part 0 of 2 is done; 6 runs are left to other parts" in log
    assert not storage.exists(shared.results)
    again = start(shared, "--part=1/2")
    undivided = start(whole)
    _, log = again.communicate(timeout=300)
    assert again.returncode == 0, log
    assert "sweep, part 1/2 1/6 semantic-0.8000-trial0 and 1 more: continues at step" in log
    _, log = undivided.communicate(timeout=300)
    assert undivided.returncode == 0, log

    assert storage.read_bytes(shared.results) == storage.read_bytes(whole.results)
    manifests = [storage.read_bytes(f"{each.runs}/manifest.json") for each in (shared, whole)]
    assert manifests[0] == manifests[1]
    assert runs_of(shared) == runs_of(whole)
    assert len(runs_of(whole)) == 10
    hidden = {name for name in storage.list_dir(shared.root, hidden=True) if name[0] == "."}
    assert not hidden


@pytest.fixture
def trained(monkeypatch):
    """Replaces training by writing made-up results; lists the runs of each trained pack."""
    packs = []

    def train_pack(trainer, jobs, size, schedule, what, profile):
        packs.append([job.name for job in jobs])
        for job in jobs:
            correct = sum(map(ord, job.name)) % 450
            result = {
                **dict(test_accuracy=correct / 450, test_correct=correct, test_size=450, test_loss=1.0),
                **dict(images=len(job.kept), steps=schedule.steps, seconds=0.0),
                "training": digest(identity(trainer, job, schedule)),
            }
            storage.write_json(result_path(job.folder), result)
        return [result] * len(jobs)

    monkeypatch.setattr(sweep, "Trainer", lambda config, *_: config)
    monkeypatch.setattr(sweep, "train_pack", train_pack)
    return packs


def test_the_part_that_ends_last_writes_the_results(selected, trained, tmp_path):
    config = selected[0]
    whole = copy_of(selected, tmp_path / "whole")
    sweep.sweep(config, whole)
    packs, wanted = sorted(trained), storage.read_bytes(whole.results)
    manifest = storage.read_bytes(f"{whole.runs}/manifest.json")
    for index, order in enumerate(itertools.permutations(range(3))):
        workdir = copy_of(selected, tmp_path / str(index))
        trained.clear()
        for number in order:
            assert not storage.exists(workdir.results)
            # The last one is no part: it trains what is left.
            sweep.sweep(config, workdir, part=Part(number, 3) if index or number != order[-1] else None)
        assert sorted(trained) == packs
        assert storage.read_bytes(workdir.results) == wanted
        assert storage.read_bytes(f"{workdir.runs}/manifest.json") == manifest
        trained.clear()
        sweep.sweep(config, workdir, part=Part(0, 2))
        assert trained == []


def test_an_interrupted_pack_goes_on_as_it_was(selected, trained, tmp_path):
    workdir = copy_of(selected, tmp_path / "w")
    interrupted = ["random-0.5000-trial0", "random-0.5000-trial1"]
    for name in interrupted:
        storage.write_text(f"{workdir.run(name)}/checkpoints/4/about", "")
    sweep.sweep(selected[0], workdir)
    assert trained == [
        interrupted,
        ["full-1.0000-trial0", "full-1.0000-trial1"],
        ["semantic-0.8000-trial0", "random-0.8000-trial0"],
        ["semantic-0.5000-trial0", "semantic-0.5000-trial1"],
        ["semantic-0.8000-trial1", "random-0.8000-trial1"],
    ]


def test_more_parts_than_packs(selected, trained, tmp_path):
    workdir = copy_of(selected, tmp_path / "w")
    for number in (9, 3, 0, 1, 4, 2):
        sweep.sweep(selected[0], workdir, part=Part(number, 10))
    assert len(trained) == 5
    assert storage.exists(workdir.results)


def test_a_part_agrees_before_it_trains(selected, trained, tmp_path):
    agreed = []
    for index, fields in enumerate(({}, {"log_every": 7}, {"pack": 1}, {"lr_per_256": 0.3}, {"trials": 1})):
        config = config_lib.resolve({"dataset": selected[0].dataset, **FIELDS, **fields})
        workdir = copy_of(selected, tmp_path / str(index))
        sweep.sweep(config, workdir, part=Part(index % 2, 2), agree=lambda table: agreed.append((table, len(trained))))
        trained.clear()
    assert [before for _, before in agreed] == [0] * 5
    assert agreed[0] == agreed[1]
    assert len({table for table, _ in agreed}) == 4


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_every_pack_belongs_to_one_part_and_parts_are_even(count):
    rng = np.random.default_rng(count)
    steps = sorted(rng.integers(1, 1000, 40).tolist(), reverse=True)
    shares = parts.shares(steps, count)
    assert len(shares) == len(steps)
    loads = [sum(each for each, part in zip(steps, shares, strict=True) if part == number) for number in range(count)]
    assert max(loads) - min(loads) <= max(steps)
    assert parts.shares([5] * 40, count) == [index % count for index in range(40)]


@pytest.mark.parametrize("stale", [False, True])
def test_parts_that_measure_at_once_make_one_choice(tmp_path, monkeypatch, stale):
    config = config_lib.resolve({**FIELDS, "pack": 0, "pack_mode": "vmap"})
    mesh, path = sweep.make_mesh(config, num_trials=1), str(tmp_path / "packing.json")
    if stale:
        storage.write_json(path, {"pack": 8, "vmap": True, "device": "another", "mesh": {}})
        os.utime(path, (0, 0))

    def choose(rates):
        monkeypatch.setattr(packing, "images_per_second", lambda _, tried, __: rates[tried.pack]())
        return packing.choose(config, (8, 8, 1), 10, mesh, 50, 20, path)

    def other():
        chosen.append(choose({1: lambda: 100.0, 4: lambda: 300.0, 8: lambda: 100.0}))
        return 900.0

    chosen = []
    assert choose({1: lambda: 100.0, 4: lambda: 200.0, 8: other}) == Packing(4, True)
    assert chosen == [Packing(4, True)]
    assert storage.read_json(path)["measured"][1]["images_per_second"] == 300.0


def test_a_claim_keeps_what_another_part_wrote_meanwhile(selected, tmp_path, monkeypatch):
    workdir = copy_of(selected, tmp_path / "w")
    recorded = storage.read_json(workdir.config)
    storage.write_json(workdir.config, {name: value for name, value in recorded.items() if name != "dataset"})
    config = config_lib.resolve({"dataset": selected[0].dataset, **FIELDS, "data_dir": "/another/place"})
    fingerprint, list_dir = shared_dataset(config).fingerprint, storage.list_dir
    waiting = [lambda: Workdir(workdir.root).claim_dataset(fingerprint)]

    def listed(*arguments, **more):
        if waiting:
            waiting.pop()()
        return list_dir(*arguments, **more)

    monkeypatch.setattr(storage, "list_dir", listed)
    workdir.claim(config)
    assert workdir.dataset_fingerprint() == fingerprint
    assert storage.read_json(workdir.config)["config"]["data_dir"] == "/another/place"


@pytest.mark.parametrize("text", ["0/0", "2/2", "x", "-1/2", "1", "", "1/2/3", " 0/2", "0/2 ", "٠/2", "0/20000"])
def test_an_invalid_part_is_an_error_with_what_is_wanted(text):
    with pytest.raises(ConfigError, match=r"wanted I/N, for example 0/4, I below N\.$"):
        parts.parse(text)
    assert parts.parse("3/4") == Part(3, 4)


def test_only_sweep_has_the_flag(redundancy, selected, tmp_path):
    flags = (f"--config={selected[1] / 'config.py'}", f"--workdir={tmp_path}/w")
    for command, flag, message in (
        ("sweep", "--part=-1/2", "--part=-1/2: wanted I/N, for example 0/4, I below N."),
        ("run", "--part=0/2", '--part is a flag of sweep, not of run; see "redundancy --help".'),
    ):
        done = redundancy(command, *flags, flag)
        assert (done.returncode, done.stderr) == (2, f"redundancy: error: {message}\n")
    assert not (tmp_path / "w").exists()


def test_the_command_line_takes_the_lease_of_its_part(redundancy, selected, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["redundancy", "sweep"])
    flags = (f"--config={selected[1] / 'config.py'}", f"--workdir={tmp_path}")
    with lease.Lease(str(tmp_path), Part(0, 2)):
        for command in (("run",), ("sweep",), ("sweep", "--part=0/2"), ("sweep", "--part=0/3")):
            done = redundancy(*command, *flags)
            assert done.returncode == 1
            assert f'{tmp_path} is in use: "redundancy sweep --part=0/2" runs there as process' in done.stderr
            assert done.stderr.count("\n") == 1
        done = redundancy("sweep", "--part=1/2", *flags)
        assert 'run "redundancy select" with this workdir first' in done.stderr
