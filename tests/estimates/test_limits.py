"""Work that cannot fit is refused before it begins; estimates are near the bytes written; other work is not refused."""

import collections
import dataclasses
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from finished_run import finished, small_config

from redundancy import config as config_lib
from redundancy import estimates, storage
from redundancy.data import open_dataset
from redundancy.embedding import write
from redundancy.estimates import needs
from redundancy.estimates.work import work_of
from redundancy.runtime import machine
from redundancy.runtime.errors import ConfigError, WorkdirError
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.training import memory as device_memory
from redundancy.training.checkpoints import Checkpoints
from redundancy.workdir import STAGES, Workdir

Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture
def small(tmp_path, digits_npz):
    """A small experiment, nothing of it done: config, workdir, data set."""
    config = small_config(digits_npz)
    return config, Workdir(str(tmp_path / "w")), open_dataset(config)


@pytest.fixture
def disk_of(monkeypatch):
    """Gives every disk so many free bytes."""
    return lambda free: monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**50, 0, free))


@pytest.fixture
def memory_of(monkeypatch):
    """Gives the host so many bytes, and its devices others."""

    def give(host, device=2**40):
        monkeypatch.setattr(machine, "available_memory", lambda: host)
        monkeypatch.setattr(device_memory, "device_memory", lambda _: device)

    return give


def near(need, actual, most=2.0):
    """Whether the least is below what was written, and the estimate near it."""
    return need.least < actual and 0.9 * actual < need.about < most * actual


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_needs_are_logged_in_one_line_when_debugging(small, caplog):
    caplog.set_level("INFO", "absl")
    estimates.check(*small, STAGES)
    assert not lines(caplog)
    caplog.set_level("DEBUG", "absl")
    estimates.check(*small, STAGES)
    (line,) = [line for line in lines(caplog) if "what is left to do" in line]
    for part in ("of disk (checkpoints", "embeddings", "that are free", "of memory (", "on each device (cpu)", "sweep"):
        assert part in line


def test_a_disk_that_is_too_small_is_an_error_with_all_needs(small, disk_of):
    disk_of(100_000)
    with pytest.raises(WorkdirError) as raised:
        estimates.check(*small, STAGES)
    for part in (
        small[1].root,
        "checkpoints",
        "embeddings",
        "of 97.7 KiB that are free",
        "at the least",
        "Free some space",
    ):
        assert part in str(raised.value)
    assert not os.path.exists(small[1].root)


def test_work_that_may_just_fit_is_not_refused(small, disk_of, caplog):
    work = work_of(*small, STAGES)
    _, most = needs.disk(work)
    disk_of(int(most.least) + 1)
    estimates.check(*small, STAGES)
    assert any("Free some space" in line for line in lines(caplog))
    caplog.clear()
    disk_of(int(most.about) + 1)
    estimates.check(*small, STAGES)
    assert not any("Free some space" in line for line in lines(caplog))
    disk_of(int(most.least) - 1)
    with pytest.raises(WorkdirError):
        estimates.check(*small, STAGES)


def test_remote_workdirs_have_no_disk(small, disk_of):
    disk_of(0)
    config, _, dataset = small
    estimates.check(config, Workdir("memory://limits/w"), dataset, STAGES)


def test_finished_or_begun_work_needs_no_space(small, disk_of, tmp_path_factory, digits_npz):
    config, whole = finished(tmp_path_factory.getbasetemp(), digits_npz)
    _, _, dataset = small
    disk_of(0)
    estimates.check(config, whole, dataset, STAGES)
    root = small[1].root
    shutil.copytree(whole.root, root)
    for name in ("runs/manifest.json", "runs/full-1.0000-trial0/result.json"):
        storage.remove(storage.join(root, name))
    estimates.check(config, Workdir(root), dataset, STAGES)  # only the evaluation is left
    storage.remove(storage.join(root, "runs/full-1.0000-trial0"))
    with pytest.raises(WorkdirError, match="checkpoints"):
        estimates.check(config, Workdir(root), dataset, STAGES)


def test_estimates_are_near_what_a_run_writes(tmp_path, tmp_path_factory, digits_npz):
    config, whole = finished(tmp_path_factory.getbasetemp(), digits_npz)
    work = work_of(config, Workdir(str(tmp_path / "none")), open_dataset(config), STAGES)
    by_kind, most = needs.disk(work)
    taken = {
        "checkpoints": ("pretrain", "runs"), "embeddings": ("embeddings",), "merges": ("merges",),
        "subsets": ("subsets",), "report": ("report",),
    }  # fmt: skip
    for kind, folders in taken.items():
        assert near(by_kind[kind], sum(needs.written(whole.path(folder)) for folder in folders)), kind
    assert near(most, needs.written(whole.root))


@pytest.mark.soak
def test_estimates_are_near_a_larger_checkpoint(tmp_path):
    config = config_lib.resolve(
        {"dataset": "generated:10:64:16", "image_size": 32, "depth": 20, "warmup_steps": 1, "steps": 100}
    )
    work = work_of(config, Workdir(str(tmp_path / "w")), open_dataset(config), ("train",))
    shapes = jax.eval_shape(work.network.programs["train"].init, jax.ShapeDtypeStruct((), np.uint32))
    generator = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    saved = Checkpoints(str(tmp_path / "run"))
    saved.save(100, state)
    saved.close()
    assert near(needs.disk(work)[1], needs.written(str(tmp_path / "run")), 1.4)


@pytest.mark.parametrize(("sizes", "dimension"), [((4000,) * 5, 64), ((12,) * 300, 16)])
def test_estimates_are_near_what_link_and_select_write(tmp_path, sizes, dimension):
    config = config_lib.resolve({"dataset": "", "fractions": (0.9, 0.5), "trials": 2})
    workdir, n = Workdir(str(tmp_path / "w")), sum(sizes)
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = np.maximum(0, generator.normal(size=(n, dimension))).astype(np.float32) + 0.01
    folder, identity = workdir.embeddings("end"), {"layer": "end", "checkpoint": "none", "fingerprint": None}
    workdir.claim(config)
    parts = write.part_positions(np.arange(n), config.embedding_parts)
    for index, part in enumerate(parts):
        write.write_part(folder, index, len(parts), part, labels[part], vectors[part], identity)
    write.finish(folder, len(parts), identity, [str(label) for label in range(len(sizes))], n)
    todo = ("link", "select")
    work = work_of(config, workdir, None, todo)
    assert (work.images, work.dimensions) == (n, {"end": dimension})
    by_kind, _ = needs.disk(dataclasses.replace(work, todo=todo))
    link(config, workdir)
    select(config, workdir)
    for kind in ("merges", "subsets"):
        assert near(by_kind[kind], needs.written(workdir.path(kind))), kind
    assert near(needs.embeddings(work, "end"), needs.written(folder))


def test_too_little_memory_is_an_error_with_stage_and_remedy(small, memory_of):
    memory_of(50_000)
    with pytest.raises(ConfigError, match=r'The stage "train" takes about .*images .*of 48.8 KiB .*resident_mb=0'):
        estimates.check(*small, STAGES)


@pytest.mark.parametrize(
    ("stage", "host", "way"),
    [("embed", 150_000, "raise config.embedding_parts"), ("link", 1000, "on a cluster"), ("select", 1000, "at a time")],
)
def test_each_stage_has_its_own_remedy(small, memory_of, stage, host, way):
    config, workdir, dataset = small
    memory_of(host)
    with pytest.raises(ConfigError, match=rf'The stage "{stage}" takes .*{way}'):
        estimates.check(config, workdir, dataset, (stage,))


def test_classes_that_a_cluster_links_need_no_memory_here(tmp_path, memory_of, tmp_path_factory, digits_npz):
    config, whole = finished(tmp_path_factory.getbasetemp(), digits_npz)
    workdir = Workdir(str(tmp_path / "w"))
    shutil.copytree(whole.embeddings("end"), workdir.embeddings("end"))
    memory_of(1000)
    with pytest.raises(ConfigError, match='"link"'):
        estimates.check(config, workdir, None, ("link",))
    estimates.check(config, workdir, None, ("link",), cluster=True)


def test_a_sweep_that_will_not_fit_is_an_error_before_the_training(small, memory_of, monkeypatch):
    config, workdir, dataset = small
    config = config_lib.resolve({**config_lib.to_json(config), "pack": 3, "pack_mode": "vmap"})
    work = work_of(config, workdir, dataset, STAGES)
    assert work.network.pack == {"train": 1, "embed": 1, "sweep": 3}
    alone, together = (
        sum(
            device_memory.estimate(
                work.network.programs[stage], work.network.pack[stage], work.network.resident
            ).values()
        )
        for stage in ("train", "sweep")
    )
    assert together > 1.5 * alone
    memory_of(2**40, (alone + together) // 2)
    with pytest.raises(ConfigError, match=r'The stage "sweep" does not fit: a pack of 3 trials .*lower config\.pack'):
        estimates.check(config, workdir, dataset, STAGES)
    estimates.check(config, workdir, dataset, ("train", "embed"))


def test_too_little_device_memory_for_training_or_evaluation_is_an_error(small, memory_of):
    config, workdir, dataset = small
    memory_of(2**40, 100_000)
    with pytest.raises(ConfigError, match=r'The stage "train" does not fit: .*activations'):
        estimates.check(config, workdir, dataset, STAGES)
    config = config_lib.resolve({**config_lib.to_json(config), "eval_batch_size": 1_000_000, "batch_size": 8})
    memory_of(2**40, 2**27)
    with pytest.raises(ConfigError, match=r"1000000 images at a time .*lower config\.eval_batch_size"):
        estimates.check(config, workdir, dataset, STAGES)


def test_only_stages_that_use_devices_initialise_them(small, monkeypatch, tmp_path, tmp_path_factory, digits_npz):
    config, whole = finished(tmp_path_factory.getbasetemp(), digits_npz)

    def none():
        raise AssertionError("devices were initialised")

    for name in ("devices", "local_devices"):
        monkeypatch.setattr(jax, name, none)
    estimates.check(config, whole, small[2], STAGES)
    workdir = Workdir(str(tmp_path / "v"))
    estimates.check(config, workdir, None, ("link",))  # without embeddings nothing can be estimated
    shutil.copytree(whole.embeddings("end"), workdir.embeddings("end"))
    estimates.check(config, workdir, None, ("link", "select"))
    with pytest.raises(AssertionError):
        estimates.check(config, workdir, small[2], ("sweep",))


def test_nothing_is_compiled_or_written(small, monkeypatch):
    monkeypatch.setattr(jax._src.compiler, "compile_or_get_cached", None)
    estimates.check(*small, STAGES)
    assert not pathlib.Path(small[1].root).exists()
