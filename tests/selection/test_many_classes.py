"""Many small classes: linked and selected together, with the bytes of one class after the other."""

import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import unittest.mock

import numpy as np
import pytest

from redundancy import storage
from redundancy.embedding.store import EmbeddingStore
from redundancy.linkage import batches
from redundancy.runtime import processes
from redundancy.selection import local, merges
from redundancy.selection.link import link
from redundancy.selection.select import select
from redundancy.status.command import render
from redundancy.status.survey import survey
from redundancy.workdir import read_manifest

SIZES = (3, 1, 2, 300, 1, 1, 20, 2, 2, 5, 257, 256, 9, 1, 2, 2, 2, 40, 1)


def _files(workdir):
    """SHA-256 of each file below merges and subsets."""
    return {
        str(path.relative_to(workdir.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("merges", "subsets")
        for path in sorted(pathlib.Path(workdir.path(folder)).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def one_by_one_files(synthetic):
    """The files of link and select where each class is read, linked and cut alone."""

    def make(**fields):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "TOGETHER", 0)
            config, workdir = synthetic("alone", **fields)
            link(config, workdir)
            select(config, workdir)
        return _files(workdir)

    return make


@pytest.mark.parametrize("rule", ["cosine_raw_mean", "cosine_unit_mean", "medoid", "minimax"])
@pytest.mark.parametrize("together", [5, 60, 2048])
def test_classes_together_give_the_bytes_of_one_by_one(synthetic, one_by_one_files, monkeypatch, rule, together):
    fields = dict(sizes=SIZES, fractions=(0.9, 0.5, 0.06), rule=rule, num_parts=2)
    monkeypatch.setattr(batches, "TOGETHER", together)
    config, workdir = synthetic(**fields)
    link(config, workdir)
    select(config, workdir)
    assert _files(workdir) == one_by_one_files(**fields)


@pytest.mark.parametrize("sizes", [(1,) * 30, (2, 1), (1,)])
def test_classes_of_which_nothing_is_merged(synthetic, one_by_one_files, sizes):
    fields = dict(sizes=sizes, fractions=(1.0, 0.5), num_parts=1)
    config, workdir = synthetic(**fields)
    link(config, workdir)
    select(config, workdir)
    assert _files(workdir) == one_by_one_files(**fields)
    assert len(read_manifest(workdir.merges("end"))["parts"]) == min(16, len(sizes))


def test_many_classes_make_few_files_and_reads(synthetic, monkeypatch):
    config, workdir = synthetic(sizes=(2,) * 3000, methods=("semantic",))
    created, reads = [], []
    create, read = storage.create_bytes, EmbeddingStore.read_classes
    monkeypatch.setattr(storage, "create_bytes", lambda path, data: created.append(path) or create(path, data))
    monkeypatch.setattr(
        EmbeddingStore, "read_classes", lambda store, labels: reads.append(len(labels)) or read(store, labels)
    )
    link(config, workdir)
    assert len(created) == 3
    select(config, workdir)
    assert len(reads) == 3 + 3
    assert sum(reads) == 2 * 3000


@pytest.mark.soak
def test_a_killed_link_keeps_the_batches_that_are_finished(synthetic, one_by_one_files, monkeypatch):
    monkeypatch.setattr(batches, "TOGETHER", 40)
    fields = dict(sizes=(2, 3, 4, 1) * 40)
    config, workdir = synthetic(**fields)
    script = f"""
import os, signal
from redundancy import config, storage
from redundancy.linkage import batches
from redundancy.selection.link import link
from redundancy.workdir import Workdir
batches.TOGETHER = 40
create, created = storage.create_bytes, []
def create_then_die(path, data):
    if len(created) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    created.append(path)
    return create(path, data)
storage.create_bytes = create_then_die
workdir = Workdir({workdir.root!r})
link(config.resolve(storage.read_json(workdir.config)["config"]), workdir)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    folder = merges.scratch(workdir.merges("end"))
    before = {name: os.stat(storage.join(folder, name)).st_mtime_ns for name in storage.list_dir(folder)}
    assert 3 <= len(before) <= 4
    assert all(name.startswith("classes-") for name in before)
    pace = survey(workdir.root)["pace"]
    assert pace is None or pace["left"] < sum(fields["sizes"])
    seen = []

    def engine(todo, finished):
        seen.extend(todo)
        local.run(todo, finished)
        now = {name: os.stat(storage.join(folder, name)).st_mtime_ns for name in before}
        assert now == before

    link(config, workdir, engine)
    assert not {task.path.rsplit("/", 1)[-1] for task in seen} & {*before}
    select(config, workdir)
    assert _files(workdir) == one_by_one_files(**fields)


def test_a_link_that_an_earlier_version_began_goes_on(synthetic, one_by_one_files, monkeypatch):
    config, workdir = synthetic(sizes=SIZES)

    def stop(todo, finished):
        local.run(todo[:7], finished)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batches, "TOGETHER", 0)  # as it did
        with pytest.raises(KeyboardInterrupt):
            link(config, workdir, stop)
    there = set(storage.list_dir(merges.scratch(workdir.merges("end"))))
    assert {"class-00003.parquet", "class-00006.parquet"} <= there
    seen = []
    link(config, workdir, lambda todo, finished: (seen.extend(todo), local.run(todo, finished)))
    assert 3 not in {label for task in seen for label in task.labels}  # a large class
    select(config, workdir)
    assert _files(workdir) == one_by_one_files(sizes=SIZES)


def test_a_damaged_batch_is_linked_again(synthetic, one_by_one_files):
    config, workdir = synthetic(sizes=SIZES)

    def damage(todo, finished):
        local.run(todo, finished)
        for task, size in zip(todo, (100, 0), strict=False):
            storage.write_bytes(task.path, storage.read_bytes(task.path)[:size])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        link(config, workdir, damage)
    link(config, workdir)
    select(config, workdir)
    assert _files(workdir) == one_by_one_files(sizes=SIZES)


def test_processes_share_the_batches(synthetic, monkeypatch):
    monkeypatch.setattr(batches, "TOGETHER", 30)
    config, workdir = synthetic(sizes=SIZES)
    shares = []

    def note(todo, finished):
        shares.append(todo)
        raise KeyboardInterrupt

    for count in (1, 3):
        for index in range(count):
            monkeypatch.setattr(processes, "count", lambda count=count: count)
            monkeypatch.setattr(processes, "index", lambda index=index: index)
            monkeypatch.setattr(processes, "together", lambda work: work())
            with pytest.raises(KeyboardInterrupt):
                link(config, workdir, note)
    alone, *three = ({task.identity for task in share} for share in shares)
    assert set.union(*three) == alone  # whatever the number of processes, so that another number goes on
    assert sum(map(len, three)) == len(alone)


@pytest.mark.parametrize("together", [30, 2048])
@pytest.mark.soak
def test_workers_link_batches(synthetic, one_by_one_files, monkeypatch, tmp_path, child_env, together):
    pytest.importorskip("distributed")
    from redundancy.selection.cluster import distributed

    monkeypatch.setattr(batches, "TOGETHER", together)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", child_env["JAX_COMPILATION_CACHE_DIR"])
    config, workdir = synthetic(sizes=SIZES)
    counted = []

    def engine(todo, finished):
        def count(task, images=None):
            counted.append(task.num_images if images is None else images)
            finished(task, images)

        distributed.run(todo, count, scheduler="local:2", split_images=280)

    with unittest.mock.patch.dict(os.environ):  # Dask puts its workers' settings there
        link(config, workdir, engine)
    assert sum(counted) == sum(size for size in SIZES if size > 1)
    select(config, workdir)
    assert _files(workdir) == one_by_one_files(sizes=SIZES)


SAID = "at 0.2 asked 60 of 300 images (20 %), kept 140 (46.7 %): 100 classes keep their only image"


def test_a_fraction_below_one_image_a_class_is_told_everywhere(synthetic, caplog):
    config, workdir = synthetic(sizes=(200, *[1] * 100), fractions=(0.6, 0.2), trials=1)
    link(config, workdir)
    assert [record.getMessage() for record in caplog.records if "asked" in record.getMessage()] == [
        f"link end: {SAID}."
    ]
    assert survey(workdir.root)["beyond"] == [SAID]
    caplog.clear()
    select(config, workdir)
    assert [record.getMessage() for record in caplog.records if "asked" in record.getMessage()] == [f"select: {SAID}."]
    found = survey(workdir.root)
    assert found["beyond"] == [SAID]
    assert SAID in render(found).splitlines()
    sizes = {(file["method"], file["fraction"]): file["size"] for file in read_manifest(workdir.subsets)["files"]}
    assert sizes == {(method, at): size for method in ("semantic", "random") for at, size in ((0.6, 180), (0.2, 140))}
    of_large = [of["merges"] for of in read_manifest(workdir.merges("end"))["classes"].values() if of["images"] > 1]
    assert of_large == [161]
    assert np.all(
        [of["merges"] == 0 for of in read_manifest(workdir.merges("end"))["classes"].values() if of["images"] == 1]
    )
