"""The driver for one machine: order, threads, progress, and which files stay if a class fails."""

import os
import threading

import numpy as np
import pytest
import threadpoolctl

from redundancy import storage
from redundancy.embedding.store import EmbeddingStore
from redundancy.linkage import complete, near
from redundancy.runtime.errors import DataError
from redundancy.selection import local, merges, tasks
from redundancy.selection.link import link
from redundancy.workdir import read_manifest

SIZES = (4, 30, 9, 21, 2)


@pytest.fixture
def todo(synthetic):
    _, workdir = synthetic(sizes=SIZES)
    folder = workdir.embeddings("end")
    return [
        tasks.ClassTask(folder, storage.sha256(storage.join(folder, "manifest.json")), workdir.merges("end"), (label,), (n,), (n // 2,))
        for label, n in enumerate(SIZES)
    ]  # fmt: skip


def test_the_largest_class_comes_first_and_each_once(todo, monkeypatch):
    begun, finished = [], []
    monkeypatch.setattr(local, "cores", lambda: 1)
    monkeypatch.setattr(tasks, "link_class", lambda task, advance=None: begun.append(task.num_images))
    local.run(todo, lambda task, images=None: finished.append(task.label))
    assert begun == sorted(SIZES, reverse=True)
    assert sorted(finished) == list(range(len(SIZES)))


def test_classes_run_at_once_each_with_one_blas_thread(todo, monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 2)
    both, seen = threading.Barrier(2, timeout=30), []

    def link(task, advance=None):
        if task.num_images > 20:
            both.wait()  # passes only when two classes are at it
        seen.extend(info["num_threads"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas")

    monkeypatch.setattr(tasks, "link_class", link)
    before = [info["num_threads"] for info in threadpoolctl.threadpool_info()]
    local.run(todo, lambda task, images=None: None)
    assert set(seen) == {1}
    assert [info["num_threads"] for info in threadpoolctl.threadpool_info()] == before


def test_a_large_class_tells_of_its_progress(todo, monkeypatch):
    monkeypatch.setattr(local, "LARGE", 30)
    reported = []
    monkeypatch.setattr(tasks, "link_class", lambda task, advance=None: [advance(share) for share in (0.2, 0.7, 1.0)])
    local.run([task for task in todo if task.num_images == 30], lambda task, images=None: reported.append(images))
    assert sum(reported) == 30
    assert len(reported) == 4


def test_linked_classes_stay_if_another_fails(todo, monkeypatch):
    link = tasks.link_class

    def fail(task, advance=None):
        if task.num_images == 2:
            raise DataError("label 4 is damaged")
        link(task)

    monkeypatch.setattr(tasks, "link_class", fail)
    with pytest.raises(DataError, match="label 4 is damaged"):
        local.run(todo, lambda task, images=None: None)
    there = {task.label for task in todo if storage.exists(task.path)}
    assert there == {0, 1, 2, 3}


def test_a_class_is_created_once_whoever_retries(todo):
    task = todo[1]
    threads = [threading.Thread(target=tasks.link_class, args=(task,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = os.stat(task.path)
    tasks.link_class(task)
    after = os.stat(task.path)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert os.listdir(os.path.dirname(task.path)) == ["class-00001.parquet"]
    found = merges.read_task(task.path, task.identity)
    vectors = EmbeddingStore(task.embeddings).read_class(1)[1]
    assert np.array_equal(found["height"], complete.complete_linkage(vectors, 15).height)


@pytest.mark.parametrize("by_boxes", [False, True])
@pytest.mark.parametrize("num_blocks", [1, 3, 40])
@pytest.mark.parametrize("fraction", [0.9, 0.3, 0.05])
def test_a_split_class_is_byte_identical(synthetic, monkeypatch, by_boxes, num_blocks, fraction):
    config, whole = synthetic("whole", sizes=(1100, 700), fractions=(fraction,))
    link(config, whole)
    if by_boxes:
        monkeypatch.setattr(near, "LEAST", 2)
        monkeypatch.setattr(near.walk, "nanoseconds", lambda *arguments: 40e9)
        monkeypatch.setattr(near, "_WORTH", float("inf"))
        monkeypatch.delattr(near.pairs, "within")
    config, split = synthetic("split", sizes=(1100, 700), fractions=(fraction,))

    def engine(todo, finished):
        for task in todo:
            tasks.link_split(task, num_blocks, lambda function, calls: [function(*call) for call in calls])
            assert not storage.exists(task.scratch)
            finished(task)

    link(config, split, engine)
    assert read_manifest(whole.merges("end")) == read_manifest(split.merges("end"))


def test_a_split_class_continues_after_an_interruption(synthetic):
    config, workdir = synthetic(sizes=(1500,), fractions=(0.9,))
    calls = []

    def run(function, arguments):
        results = []
        for number, call in enumerate(arguments):
            if function is tasks.compute_pairs and len(calls) < 5 and number == 2:
                raise ConnectionError("the scheduler is gone")
            calls.append(function.__name__)
            results.append(function(*call))
        return results

    def engine(todo, finished):
        for task in todo:
            tasks.link_split(task, 4, run)

    with pytest.raises(ConnectionError):
        link(config, workdir, engine)
    [task_folder] = storage.list_dir(merges.scratch(workdir.merges("end")))
    blocks = storage.join(merges.scratch(workdir.merges("end")), task_folder)
    before = {name: os.stat(storage.join(blocks, name)).st_mtime_ns for name in storage.list_dir(blocks)}
    assert len(before) == 2
    kept = []

    def look(todo, finished):
        def watched(function, arguments):
            if function is tasks.continue_class and len(arguments[0][1]) == 1:
                kept.append({name: os.stat(storage.join(blocks, name)).st_mtime_ns for name in before})
            return [function(*call) for call in arguments]

        tasks.link_split(todo[0], 4, watched)

    link(config, workdir, look)
    assert kept == [before]
    again, unbroken = synthetic("unbroken", sizes=(1500,), fractions=(0.9,))
    link(again, unbroken)
    assert read_manifest(unbroken.merges("end")) == read_manifest(workdir.merges("end"))
