"""One command at a time in a workdir, or the parts of one sweep; and a dead one does not hold it."""

import contextlib
import json
import re
import subprocess
import sys
import threading
import time

import gcs_emulator
import pytest

from redundancy import lease as lease_lib
from redundancy import storage
from redundancy.errors import WorkdirError
from redundancy.lease import LEASE, LOCK, Lease, is_held
from redundancy.parts import Part

HOLD = """
import sys, time
from redundancy import lease, parts
_, root, kind, *part = sys.argv
sys.argv[1:] = ["sweep"]
if kind == "file":
    lease.fcntl = None
lease.RENEW_S = 0.1
lease.Lease(root, *map(parts.parse, part)).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["lock", "file"])
def kind(request, monkeypatch):
    """By a lock, and as on storage without locks."""
    if request.param == "file":
        monkeypatch.setattr(lease_lib, "fcntl", None)
    return request.param


@pytest.fixture
def owner(tmp_path, repo, kind):
    """Another process that holds the lease of tmp_path / "w"."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "w"), kind],
        cwd=repo,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "held\n", child.stderr.read()
    yield child
    child.kill()
    child.communicate()


def test_a_second_process_is_told_who_is_there(owner, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(lease_lib, "STALE_S", 1.0)
    with pytest.raises(WorkdirError, match=rf"w is in use: .* as process {owner.pid} on \S+ since .*kill {owner.pid}"):
        Lease(str(tmp_path / "w")).acquire()


def test_a_dead_owner_holds_nothing(owner, kind, tmp_path):
    owner.kill()
    owner.wait()
    began = time.monotonic()
    with Lease(str(tmp_path / "w")) as lease:
        assert is_held(str(tmp_path / "w"), lease.token)
    assert time.monotonic() - began < 20  # and not STALE_S
    assert not (tmp_path / "w").exists() or storage.list_dir(str(tmp_path / "w")) == []


def test_it_is_free_again_when_it_is_given_back(kind, tmp_path):
    root = str(tmp_path / "w")
    with Lease(root):
        assert [path.name for path in (tmp_path / "w").iterdir()] == [LOCK if kind == "lock" else LEASE]
    assert not (tmp_path / "w").exists()  # nothing was written there, so no folder is left
    with Lease(root) as lease:
        (tmp_path / "w" / "config.json").write_text("{}")
        assert not is_held(root, "another")
        assert is_held(root, lease.token)
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["config.json"]


def test_of_many_at_once_one_gets_it(kind, tmp_path, repo):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD.replace("60", "8"), str(tmp_path / "w"), kind],
            cwd=repo,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    held = [child.communicate(timeout=200)[0] == "held\n" for child in children]
    # With a lock the others are told at once; with a file they first look whether the owner lives, as long as it does.
    assert sum(held) == 1 if kind == "lock" else sum(held) >= 1


def elsewhere(root, **fields):
    """The lease of a process on another machine."""
    storage.write_json(storage.join(root, LEASE), {"token": "t", "host": "far", "pid": 1, "command": "run", **fields})


def test_an_owner_elsewhere_is_watched_before_it_counts_as_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_lib, "fcntl", None)
    monkeypatch.setattr(lease_lib, "STALE_S", 0.5)
    root = str(tmp_path)
    elsewhere(root)
    began = time.monotonic()
    with Lease(root) as lease:
        assert time.monotonic() - began >= 0.5
        assert is_held(root, lease.token)

    def renew(seconds):
        time_sleep(seconds)
        elsewhere(root, renewed=time.time())

    elsewhere(root)
    time_sleep = time.sleep
    monkeypatch.setattr(lease_lib.time, "sleep", renew)
    with pytest.raises(WorkdirError, match="as process 1 on far"):
        Lease(root).acquire()


def test_an_owner_that_was_taken_for_dead_ends_itself(tmp_path, repo):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "file"],
        cwd=repo,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "held\n"
    elsewhere(str(tmp_path))
    _, error = child.communicate(timeout=30)
    assert child.returncode == 1
    assert f"another process has taken {tmp_path} over" in error
    assert json.loads((tmp_path / LEASE).read_text())["host"] == "far"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"pid": "x"}'])
def test_a_lease_that_says_nothing_is_no_obstacle_for_ever(content, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(lease_lib, "STALE_S", 0.2)
    (tmp_path / (LOCK if kind == "lock" else LEASE)).write_bytes(content)
    with Lease(str(tmp_path)) as lease:
        assert is_held(str(tmp_path), lease.token)


def test_a_folder_that_cannot_be_made_is_named(kind, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match=r"file/w cannot be written to .* Choose another folder"):
        Lease(str(tmp_path / "file" / "w")).acquire()


def test_a_second_command_stops_and_the_first_goes_on(redundancy, repo, child_env, digits_npz, tmp_path):
    arguments = [
        "train",
        "--config=configs/digits.py:smoke",
        f"--config.dataset={digits_npz}",
        f"--workdir={tmp_path}/w",
    ]
    command = [sys.executable, "-m", "redundancy", *arguments, "--config.steps=400"]
    first = subprocess.Popen(
        command, cwd=repo, env=child_env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "w" / "config.json").exists():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.02)
    second = redundancy(*arguments, "--config.steps=400")
    assert second.returncode == 1
    assert f'w is in use: "redundancy train" runs there as process {first.pid}' in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    first.terminate()
    assert first.wait(timeout=60) == 75, first.stderr.read()
    first.stderr.close()
    done = redundancy(*arguments, "--config.steps=400")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def emulator():
    with gcs_emulator.running() as url:
        yield url


@pytest.fixture(params=["lock", "file", "gs"])
def root(request, tmp_path, monkeypatch):
    """A workdir, held by locks, by files as on storage without locks, and by files on gs://; they are renewed quickly."""
    monkeypatch.setattr(lease_lib, "RENEW_S", 0.1)
    monkeypatch.setattr(lease_lib, "STALE_S", 3.0)
    monkeypatch.setattr(sys, "argv", ["redundancy", "sweep"])
    if request.param == "file":
        monkeypatch.setattr(lease_lib, "fcntl", None)
    if request.param != "gs":
        yield str(tmp_path / "w")
        return
    for name, value in {**gcs_emulator.environ(request.getfixturevalue("emulator")), "NO_GCE_CHECK": "true"}.items():
        monkeypatch.setenv(name, value)
    from redundancy.gcs import PatientGCSFileSystem

    PatientGCSFileSystem.clear_instance_cache()
    yield f"gs://{gcs_emulator.BUCKET}/{re.sub('[^a-z0-9]+', '-', request.node.name)}"
    PatientGCSFileSystem.clear_instance_cache()


def refused(root, part=None, by=""):
    """That a lease is refused in one line, and leaves what is there as it is."""
    before = storage.list_dir(root, hidden=True)
    with pytest.raises(WorkdirError) as caught:
        Lease(root, part).acquire()
    assert re.search(rf'is in use: "redundancy sweep{by}" runs there as process \d+ on \S+ since', str(caught.value))
    assert storage.list_dir(root, hidden=True) == before


def test_parts_of_one_sweep_work_at_once_and_nobody_beside_them(root):
    with Lease(root, Part(1, 2)) as second:
        with Lease(root, Part(0, 2)) as first:
            for lease, part in ((first, Part(0, 2)), (second, Part(1, 2))):
                assert is_held(root, lease.token, part)
            assert not is_held(root, first.token, Part(1, 2))
            refused(root, by=" --part=[01]/2")
            refused(root, Part(0, 2), " --part=0/2")
            refused(root, Part(1, 2), " --part=1/2")
            refused(root, Part(0, 3), " --part=[01]/2")
            refused(root, Part(0, 4), " --part=[01]/2")
        refused(root, by=" --part=1/2")
        refused(root, Part(0, 3), " --part=1/2")
        with Lease(root, Part(0, 2)):
            pass
    with Lease(root):
        refused(root, Part(0, 2))
        refused(root, Part(5, 9))
    with Lease(root, Part(0, 3)):
        refused(root, Part(0, 2), " --part=0/3")
    assert storage.list_dir(root, hidden=True) == []


def test_parts_that_divide_another_table_do_not_work_at_once(root):
    with Lease(root, Part(0, 3)) as first, Lease(root, Part(2, 3)) as third:
        with Lease(root, Part(1, 3)) as second:
            first.agree("a table")
            second.agree("a table")
            first.agree("a table")
            with pytest.raises(WorkdirError, match=r'sweep --part=[01]/3" runs .* give all parts the same config'):
                third.agree("another")
        third.release()
        first.agree("a third")
        with Lease(root, Part(2, 3)) as again:
            again.agree("a third")
            assert is_held(root, again.token, Part(2, 3))


@pytest.mark.parametrize("taker", [Part(0, 2), Part(1, 3), None])
def test_a_part_that_was_killed_holds_nothing(root, taker, repo, tmp_path):
    kind = "lock" if lease_lib.fcntl else "file"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, root, kind, "0/2"], cwd=repo, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    if taker is None:
        refused(root, by=" --part=0/2")
    child.kill()
    child.communicate()
    assert len(storage.list_dir(root, hidden=True)) == (2 if kind == "lock" and storage.is_local(root) else 1)
    began = time.monotonic()
    with Lease(root, Part(1, 2)):
        pass
    with Lease(root, taker) as lease:
        assert is_held(root, lease.token, taker)
    assert time.monotonic() - began < lease_lib.STALE_S
    left = storage.list_dir(root, hidden=True)
    assert left == ([".lock-part-0-of-2"] if taker == Part(1, 3) and kind == "lock" and storage.is_local(root) else [])


def test_parts_elsewhere_are_watched_together_before_they_count_as_dead(root, monkeypatch):
    if lease_lib.fcntl and storage.is_local(root):
        pytest.skip("a lock goes with its process")
    monkeypatch.setattr(lease_lib, "STALE_S", 1.0)
    for number in range(3):
        content = {"token": f"t{number}", "host": "far", "pid": 1, "command": f"sweep --part={number}/4"}
        storage.write_json(storage.join(root, f".lease-part-{number}-of-4.json"), content)
    began = time.monotonic()
    with Lease(root, Part(3, 4)):
        assert time.monotonic() - began < 1.0  # they are no obstacle to the others
    with Lease(root):
        assert 1.0 <= time.monotonic() - began < 3.0
        assert storage.list_dir(root, hidden=True) == [LEASE]


def test_of_a_part_and_another_command_at_once_never_both_go_on(root):
    def contend(part):
        barrier.wait()
        lease = Lease(root, part)
        with contextlib.suppress(WorkdirError):
            lease.acquire()
            held.append(part)
            most.append(len(held))
            time.sleep(0.5)
            held.remove(part)
        lease.release()

    for parts in ((None, Part(0, 2)), (Part(0, 2), Part(0, 3)), (Part(0, 2), Part(0, 2)), (Part(0, 2), Part(1, 2))):
        barrier, held, most = threading.Barrier(2), [], [0]
        threads = [threading.Thread(target=contend, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(most) == 2 if parts == (Part(0, 2), Part(1, 2)) else max(most) <= 1
    assert storage.list_dir(root, hidden=True) == []
