"""One command at a time in a workdir, and a dead one does not hold it."""

import json
import subprocess
import sys
import time

import pytest

from redundancy import lease as lease_lib
from redundancy import storage
from redundancy.errors import WorkdirError
from redundancy.lease import LEASE, LOCK, Lease, is_held

HOLD = """
import sys, time
from redundancy import lease
if sys.argv[2] == "file":
    lease.fcntl = None
lease.RENEW_S = 0.1
lease.Lease(sys.argv[1]).acquire()
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


@pytest.mark.slow
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
