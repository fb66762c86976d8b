"""Linking on a cluster: the same bytes as on one machine even if workers die, and errors that say what to do.

Clusters are real processes on 127.0.0.1; "killed" is SIGKILL.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import unittest.mock

import gcs_emulator
import pyarrow.parquet as pq
import pytest
from absl import logging
from dask_processes import Cluster, sabotage

import redundancy
from redundancy import storage
from redundancy.embedding.store import EmbeddingStore
from redundancy.runtime.errors import ConfigError, DataError, UserError
from redundancy.selection import merges, tasks
from redundancy.selection.cluster import dask_cluster, dask_worker, distributed
from redundancy.selection.link import link

pytest.importorskip("distributed")
pytestmark = pytest.mark.usefixtures("one_by_one")

SIZES = tuple(20 + number % 7 for number in range(40))


@pytest.fixture(autouse=True)
def environment():
    """Dask puts its workers' settings into the environment of the process that starts them."""
    with unittest.mock.patch.dict(os.environ):
        yield


@pytest.fixture
def cluster(tmp_path, child_env):
    """A cluster of the test's own, with nothing started yet."""
    with contextlib.closing(Cluster(tmp_path, child_env)) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory, child_env):
    """A cluster of two workers that no test harms."""
    with contextlib.closing(Cluster(tmp_path_factory.mktemp("shared"), child_env)) as made:
        made.scheduler()
        made.worker()
        made.worker()
        yield made


def _files(workdir):
    """SHA-256 of each file below the merges."""
    root = pathlib.Path(workdir.path("merges"))
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _classes(workdir):
    """Of each finished class's file inode and time."""
    folder = merges.scratch(workdir.merges("end"))
    found = {name: os.stat(storage.join(folder, name)) for name in storage.list_dir(folder)}
    return {name: (of.st_ino, of.st_mtime_ns) for name, of in found.items()}


def _engine(scheduler, at=None, do=None, **arguments):
    """An engine on the scheduler that calls `do` when `at` classes are finished."""

    def run(todo, finished):
        count = 0

        def counted(task):
            nonlocal count
            finished(task)
            count += 1
            if count == at:
                do()

        distributed.run(todo, counted, scheduler=scheduler, **arguments)

    return run


@pytest.fixture
def expected(synthetic):
    """The merges of one machine, linked without Dask: expected(**make_workdir's arguments) -> the files."""

    def make(**arguments):
        config, workdir = synthetic("expected", **{"sizes": SIZES, **arguments})
        link(config, workdir)
        return _files(workdir)

    return make


@pytest.mark.soak
def test_local_workers_make_the_same_bytes_and_each_file_once(synthetic, expected, child_env, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", child_env["JAX_COMPILATION_CACHE_DIR"])
    config, workdir = synthetic(sizes=SIZES)
    first = {}

    def twice(todo, finished):
        def seen(task):
            first.setdefault(task.label, _classes(workdir)[os.path.basename(task.path)])

        distributed.run([task for task in todo for _ in range(2)], seen, scheduler="local:2")
        assert len(first) == len(todo) == len(SIZES)
        assert first == {task.label: _classes(workdir)[os.path.basename(task.path)] for task in todo}

    link(config, workdir, twice)
    assert _files(workdir) == expected()


def test_a_class_is_written_once_by_many_threads(synthetic):
    config, workdir = synthetic(sizes=(50,))
    written = []

    def engine(todo, finished):
        threads = [threading.Thread(target=tasks.link_class, args=todo) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        written.append(_classes(workdir))
        tasks.link_class(*todo)
        written.append(_classes(workdir))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        link(config, workdir, engine)
    assert written[0] == written[1]
    assert len(written[0]) == 1


@pytest.mark.soak
def test_a_large_class_is_split_and_makes_the_same_bytes(synthetic, expected, shared, monkeypatch):
    monkeypatch.setattr(distributed, "_PAIRS_PER_BLOCK", 300_000)
    sizes = (30, 700, 1300, 40)
    config, workdir = synthetic(sizes=sizes)
    counted, calls = dict.fromkeys(range(4), 0), []
    real = tasks.link_split
    monkeypatch.setattr(tasks, "link_split", lambda task, blocks, run: calls.append(blocks) or real(task, blocks, run))

    def engine(todo, finished):
        def count(task, images=None):
            counted[task.label] += task.num_images if images is None else images

        distributed.run(todo, count, scheduler=shared.address, split_images=600)

    link(config, workdir, engine)
    assert calls == [3, 2]
    assert tuple(counted.values()) == sizes
    assert _files(workdir) == expected(sizes=sizes)


@pytest.mark.soak
def test_workers_take_ranges_of_the_leaves_of_a_class(synthetic, expected, shared, monkeypatch):
    made = dict(sizes=(17_000, 30), dimension=3, fractions=(0.95,))
    config, workdir = synthetic(**made)
    rounds, real = [], tasks.link_split

    def noted(task, blocks, run):
        def run_noted(*arguments):
            results = run(*arguments)
            rounds.extend(result for result in results if result is not None)
            return results

        real(task, blocks, run_noted)

    monkeypatch.setattr(tasks, "link_split", noted)
    monkeypatch.setattr(distributed, "_PAIRS_PER_BLOCK", 30_000_000)
    link(
        config,
        workdir,
        lambda *arguments: distributed.run(*arguments, scheduler=shared.address, split_images=600),
    )
    assert rounds[0].plan.order
    assert rounds[0].num_blocks > 1
    assert _files(workdir) == expected(**made)


@pytest.mark.soak
@pytest.mark.parametrize(("number", "killed"), [(1, 0), (3, 1)])
def test_any_number_of_workers_take_the_leaves_even_if_one_is_killed(
    synthetic, expected, cluster, monkeypatch, number, killed
):
    made = dict(sizes=(40_000, 30), dimension=3, fractions=(0.95,))
    config, workdir = synthetic(**made)
    cluster.scheduler()
    workers = [cluster.worker() for _ in range(number)]
    monkeypatch.setattr(distributed, "_PAIRS_PER_BLOCK", 30_000_000)
    steps = []

    def engine(todo, finished):
        def count(task, images=None):
            steps.append(task.label)
            if len(steps) == 1:
                for worker in workers[:killed]:
                    cluster.kill(worker)
            finished(task, images)

        distributed.run(todo, count, scheduler=cluster.address, split_images=600)

    link(config, workdir, engine)
    assert steps.count(0) > 2
    assert _files(workdir) == expected(**made)


@pytest.mark.soak
def test_a_killed_machine_costs_nothing_but_time(synthetic, expected, cluster):
    config, workdir = synthetic(sizes=SIZES)
    sabotage(workdir, sleep=0.3)
    cluster.scheduler()
    workers = [cluster.worker() for _ in range(3)]
    seen = []

    def kill():
        seen.append(len(_classes(workdir)))
        cluster.kill(workers[0])

    link(config, workdir, _engine(f"file:{cluster.file}", at=10, do=kill))
    assert 10 <= seen[0] < 40
    assert workers[0].returncode == -signal.SIGKILL
    assert _files(workdir) == expected()


@pytest.mark.soak
def test_a_lost_scheduler_is_an_error_and_a_new_cluster_continues(synthetic, expected, cluster, shared):
    config, workdir = synthetic(sizes=SIZES)
    sabotage(workdir, sleep=0.3)
    scheduler = cluster.scheduler()
    cluster.worker()
    cluster.worker()

    def kill():
        cluster.kill(scheduler)

    with pytest.raises(
        UserError, match=r"scheduler tcp://.* is gone.* [123]\d of this run's 40 classes are.* same command"
    ):
        link(config, workdir, _engine(cluster.address, at=10, do=kill))
    before = _classes(workdir)
    assert 10 <= len(before) < 40
    kept = []
    link(config, workdir, _engine(shared.address, at=1, do=lambda: kept.append(_classes(workdir))))
    assert before.items() <= kept[0].items()
    assert _files(workdir) == expected()


@pytest.mark.soak
def test_a_class_that_cannot_be_read_ends_the_run_with_its_own_error(synthetic, expected, shared):
    config, workdir = synthetic(sizes=SIZES, num_parts=1)
    part = pathlib.Path(workdir.embeddings("end"), "part-00000-of-00001.parquet")
    whole = part.read_bytes()

    def damaged(todo, finished):
        column = pq.read_metadata(part).row_group(5).column(2)
        first = column.dictionary_page_offset or column.data_page_offset
        data = bytearray(whole)
        data[first : first + column.total_compressed_size] = bytes(column.total_compressed_size)
        part.write_bytes(data)
        distributed.run(todo, finished, scheduler=shared.address)

    with pytest.raises(DataError) as raised:
        link(config, workdir, damaged)
    with pytest.raises(DataError, match="cannot be read as Parquet") as own:
        EmbeddingStore(workdir.embeddings("end"), check=False).read_class(5)
    assert str(raised.value) == str(own.value)
    assert 0 < len(_classes(workdir)) < 40
    storage.write_bytes(str(part), whole)
    link(config, workdir)
    assert _files(workdir) == expected(num_parts=1)


@pytest.mark.soak
def test_what_fails_for_no_fault_of_the_user_is_tried_again(synthetic, expected, shared, monkeypatch):
    monkeypatch.setattr(dask_cluster, "_RETRY_S", 0.01)
    config, workdir = synthetic(sizes=SIZES)
    sabotage(workdir, fail=[9])
    with pytest.raises(
        UserError, match=r'class "class 9".* failed 4 times: on worker .*: ConnectionResetError: the network'
    ):
        link(config, workdir, _engine(shared.address))
    sabotage(workdir, **{"fail once": 9})
    os.remove(workdir.path("failed"))
    link(config, workdir, _engine(shared.address))
    assert storage.exists(workdir.path("failed"))
    assert _files(workdir) == expected()


@pytest.mark.soak
def test_a_class_that_kills_its_workers_is_named_when_all_others_are_done(synthetic, cluster):
    config, workdir = synthetic(sizes=SIZES)
    sabotage(workdir, exit=7, sleep=0.02)
    cluster.scheduler(DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    for _ in range(3):
        cluster.worker("--no-nanny")
    with pytest.raises(DataError) as raised:
        link(config, workdir, _engine(cluster.address))
    assert 'class "class 7" (label 7, 20 images): 1 workers died while linking it' in str(raised.value)
    assert "more memory" in str(raised.value)
    assert "39 of this run's 40 classes are finished" in str(raised.value)
    assert len(_classes(workdir)) == 39


def test_an_unreachable_scheduler_is_an_error(synthetic, monkeypatch):
    monkeypatch.setattr(distributed, "_CONNECT_S", 0.5)
    config, workdir = synthetic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"no Dask scheduler at {address}.*dask scheduler"):
            link(config, workdir, _engine(address))


@pytest.mark.parametrize(
    ("scheduler", "kind", "what"),
    [
        ("127.0.0.1:8786", ConfigError, "wanted: tcp://HOST:PORT"),
        ("local:0", ConfigError, "wanted: .*local:WORKERS"),
        ("local:many", ConfigError, "wanted: .*local:WORKERS"),
        ("localhost", ConfigError, "wanted: tcp://HOST:PORT"),
        ("file:absent.json", UserError, "absent.json is not a scheduler file.*--scheduler-file"),
        ("tls://127.0.0.1:8786", UserError, "certificates"),
    ],
)
def test_a_wrong_scheduler_is_refused(synthetic, scheduler, kind, what):
    config, workdir = synthetic()
    with pytest.raises(kind, match=what):
        link(config, workdir, _engine(scheduler))


def test_without_dask_the_extra_is_named(synthetic, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    config, workdir = synthetic()
    with pytest.raises(UserError, match=r'pip install "redundancy\[distributed\]"'):
        link(config, workdir, _engine("local:2"))


# Makes a worker report another version of this package, or none.
OTHER = """
import importlib.metadata
from distributed import versions
def version(package):
    if package == "redundancy":
        {what}
    return importlib.metadata.version(package)
versions.version = version
"""


@pytest.mark.soak
def test_workers_with_another_version_or_none_are_an_error(synthetic, cluster, monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda line, *values: lines.append(line % values))
    config, workdir = synthetic()
    cluster.scheduler()
    preload = pathlib.Path(workdir.root, "other.py")
    for what, message in (
        ("return '0.0.9'", r"redundancy .* here, 0\.0\.9 on worker tcp.*Install the same"),
        ("raise ValueError", r"redundancy .* here, not installed on worker tcp.*Install the same"),
    ):
        preload.write_text(OTHER.format(what=what))
        process = cluster.worker("--no-nanny", preload=preload)
        with pytest.raises(UserError, match=message):
            link(config, workdir, _engine(cluster.address))
        cluster.kill(process)
    assert any("no workers" in line and f"dask worker {cluster.address}" in line for line in lines)


def test_a_worker_with_other_sources_is_an_error():
    with pytest.raises(
        UserError, match=r"has redundancy .*, sources .*; the command has 0, sources 0\. Install the same"
    ):
        dask_worker.call("0, sources 0", "", "", 0.0, print, ())


@pytest.mark.parametrize("file", ["linkage/pairs.py", "selection/cluster/dask_worker.py", "runtime/machine.py"])
def test_the_version_of_a_worker_changes_with_every_source(tmp_path, monkeypatch, file):
    shutil.copytree(redundancy.__path__[0], tmp_path / "redundancy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(redundancy, "__file__", str(tmp_path / "redundancy/__init__.py"))
    version = dask_worker.version.__wrapped__
    before = version()
    with (tmp_path / "redundancy" / file).open("a") as source:
        source.write("\n")
    assert version() != before


def test_the_version_of_a_worker_is_that_of_a_checkout_and_its_wheel(tmp_path, monkeypatch, repo):
    shutil.copytree(redundancy.__path__[0], tmp_path / "redundancy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(repo / "configs", tmp_path / "redundancy/configs")
    version = dask_worker.version.__wrapped__
    before = version()
    monkeypatch.setattr(redundancy, "__file__", str(tmp_path / "redundancy/__init__.py"))
    assert version() == before


def test_a_worker_that_does_not_see_the_workdir_is_an_error(tmp_path):
    with pytest.raises(DataError, match=rf"does not see {tmp_path}/merges.*gs://BUCKET"):
        dask_worker.call(dask_worker.version(), f"{tmp_path}/merges", ".run-x", 0.0, print, ())


# Links a workdir on gs:// with local workers, in a process of its own, since gcsfs reads the environment once. A run
# that was interrupted before has left a class.
GCS = """
import contextlib, sys
sys.path[:0] = [{tests!r}]
import conftest
from redundancy import storage
from redundancy.selection import tasks
from redundancy.selection.cluster import distributed
from redundancy.selection.link import link
def interrupted(todo, finished):
    tasks.link_class(todo[0])
    raise KeyboardInterrupt
if __name__ == "__main__":
    config, workdir = conftest.make_workdir("gs://{bucket}/w", sizes={sizes!r})
    with contextlib.suppress(KeyboardInterrupt):
        link(config, workdir, interrupted)
    link(config, workdir, lambda *arguments: distributed.run(*arguments, scheduler="local:2", split_images=600))
    folder = workdir.merges("end")
    for name in storage.list_dir(folder):
        print(name, storage.sha256(storage.join(folder, name)))
"""


@pytest.mark.soak
def test_on_gs_the_bytes_are_those_of_a_local_path(tmp_path, expected, child_env):
    sizes = (30, 1, 700, 12)
    script = tmp_path / "link_on_gs.py"
    tests = str(pathlib.Path(__file__).parent)
    script.write_text(GCS.format(tests=tests, bucket=gcs_emulator.BUCKET, sizes=sizes))
    with gcs_emulator.running() as url:
        done = subprocess.run(
            [sys.executable, str(script)],
            env={**child_env, **gcs_emulator.environ(url)},
            capture_output=True,
            text=True,
            timeout=400,
        )
    assert done.returncode == 0, done.stderr
    found = {f"end/{name}": sha256 for name, sha256 in map(str.split, done.stdout.splitlines())}
    assert found == expected(sizes=sizes)
