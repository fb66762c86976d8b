"""One command at a time in a workdir, or the parts of one sweep; the lease of a dead one expires."""

import concurrent.futures
import contextlib
import json
import re
import subprocess
import sys
import threading
import time
import types

import gcs_emulator
import pytest

from redundancy import storage
from redundancy.runtime.errors import WorkdirError
from redundancy.workdir import lease as lease_lib
from redundancy.workdir.lease import LEASE, LOCK, Lease, is_held
from redundancy.workdir.parts import Part
from tests.waiting import wait_until

HOLD = """
import sys
from redundancy.workdir import parts
from redundancy.workdir import lease
_, root, kind, *part = sys.argv
sys.argv[1:] = ["sweep"]
if kind == "file":
    lease.fcntl = None
lease.RENEW_S = 0.1
lease.Lease(root, *map(parts.parse, part)).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Looks at the leases of others come often, so that their owners may be slow: STALE_S is as long as for users."""
    made = types.SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=lambda s: time.sleep(min(s, 0.1)))
    monkeypatch.setattr(lease_lib, "time", made)
    return made


@pytest.fixture(params=["lock", "file"])
def kind(request, monkeypatch):
    """By a lock, and as on storage without locks."""
    if request.param == "file":
        monkeypatch.setattr(lease_lib, "fcntl", None)
    return request.param


@contextlib.contextmanager
def holder(repo, *arguments):
    """Another process that asks for a lease, and holds it till the end of its input."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child = subprocess.Popen([sys.executable, "-c", HOLD, *map(str, arguments)], cwd=repo, **pipes)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def owner(tmp_path, repo, kind):
    """Another process that holds the lease of tmp_path / "w"."""
    with holder(repo, tmp_path / "w", kind) as child:
        assert child.stdout.readline() == "held\n", child.stderr.read()
        yield child


def test_the_error_of_a_second_process_names_the_first(owner, kind, tmp_path):
    with pytest.raises(WorkdirError, match=rf"w is in use: .* as process {owner.pid} on \S+ since .*kill {owner.pid}"):
        Lease(str(tmp_path / "w")).acquire()


def test_a_dead_owner_holds_nothing(owner, kind, tmp_path, never_stale):
    owner.kill()
    owner.wait()
    with Lease(str(tmp_path / "w")) as lease:
        assert is_held(str(tmp_path / "w"), lease.token)
    assert not (tmp_path / "w").exists() or storage.list_dir(str(tmp_path / "w")) == []


@pytest.fixture
def never_stale(clock):
    """Waiting for an owner to be stale fails."""
    clock.sleep = lambda _: pytest.fail("waits")


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


@pytest.mark.soak
def test_of_many_at_once_one_gets_it(kind, tmp_path, repo):
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(holder(repo, tmp_path / "w", kind)) for _ in range(4)]
        wait_until(lambda: sum(child.poll() is not None for child in children) >= 3)
        # With a lock the others fail at once; with a file they first wait to see whether the owner lives.
        (last,) = [child for child in children if child.poll() is None]
        assert last.stdout.readline() == "held\n"
        held = [child.communicate(timeout=120)[0] == "held\n" for child in children]
    assert sum(held) == 0  # of the others, and the last has said it


def elsewhere(root, **fields):
    """The lease of a process on another machine."""
    storage.write_json(storage.join(root, LEASE), {"token": "t", "host": "far", "pid": 1, "command": "run", **fields})


def test_an_owner_elsewhere_is_watched_before_it_counts_as_dead(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(lease_lib, "fcntl", None)
    monkeypatch.setattr(lease_lib, "STALE_S", 0.5)
    root = str(tmp_path)
    elsewhere(root)
    began = time.monotonic()
    with Lease(root) as lease:
        assert time.monotonic() - began >= 0.5
        assert is_held(root, lease.token)

    elsewhere(root)
    monkeypatch.setattr(lease_lib, "STALE_S", 60.0)
    clock.sleep = lambda _: elsewhere(root, renewed=time.time())
    with pytest.raises(WorkdirError, match="as process 1 on far"):
        Lease(root).acquire()


def test_an_owner_that_was_taken_for_dead_ends_itself(tmp_path, repo):
    with holder(repo, tmp_path, "file") as child:
        assert child.stdout.readline() == "held\n"
        elsewhere(str(tmp_path))
        assert child.wait(timeout=120) == 1
        error = child.stderr.read()
    assert f"another process has taken over {tmp_path}" in error
    assert json.loads((tmp_path / LEASE).read_text())["host"] == "far"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"pid": "x"}'])
def test_a_lease_without_an_owner_expires(content, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(lease_lib, "STALE_S", 0.2)
    (tmp_path / (LOCK if kind == "lock" else LEASE)).write_bytes(content)
    with Lease(str(tmp_path)) as lease:
        assert is_held(str(tmp_path), lease.token)


def test_a_folder_that_cannot_be_made_is_named(kind, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match=r"file/w cannot be written to .* Choose another folder"):
        Lease(str(tmp_path / "file" / "w")).acquire()


@pytest.mark.soak
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
    try:
        wait_until(lambda: (tmp_path / "w" / "config.json").exists() or first.poll() is not None)
        second = redundancy(*arguments, "--config.steps=400")
        assert second.returncode == 1
        assert f'w is in use: "redundancy train" runs there as process {first.pid}' in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1
        first.terminate()
        error = first.communicate(timeout=300)[1]
    finally:
        first.kill()
        first.communicate()
    assert first.returncode == 75, error
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
    monkeypatch.setattr(sys, "argv", ["redundancy", "sweep"])
    if request.param == "file":
        monkeypatch.setattr(lease_lib, "fcntl", None)
    if request.param != "gs":
        yield str(tmp_path / "w")
        return
    for name, value in {**gcs_emulator.environ(request.getfixturevalue("emulator")), "NO_GCE_CHECK": "true"}.items():
        monkeypatch.setenv(name, value)
    from redundancy.storage.gcs import PatientGCSFileSystem

    PatientGCSFileSystem.clear_instance_cache()
    yield f"gs://{gcs_emulator.BUCKET}/{re.sub('[^a-z0-9]+', '-', request.node.name)}"
    PatientGCSFileSystem.clear_instance_cache()


def files(root):
    """What lies there, but for what is being written this moment."""
    return [name for name in storage.list_dir(root, hidden=True) if not name.endswith(".tmp")]


def refused(root, part=None, by=""):
    """That a lease is refused in one line, and leaves what is there as it is."""
    before = files(root)
    with pytest.raises(WorkdirError) as caught:
        Lease(root, part).acquire()
    assert re.search(rf'is in use: "redundancy sweep{by}" runs there as process \d+ on \S+ since', str(caught.value))
    assert files(root) == before


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
def test_a_part_that_was_killed_holds_nothing(root, taker, repo, tmp_path, request):
    kind = "lock" if lease_lib.fcntl else "file"
    with holder(repo, root, kind, "0/2") as child:
        assert child.stdout.readline() == "held\n"
        if taker is None:
            refused(root, by=" --part=0/2")
    assert len(storage.list_dir(root, hidden=True)) == (2 if kind == "lock" and storage.is_local(root) else 1)
    request.getfixturevalue("never_stale")
    with Lease(root, Part(1, 2)):
        pass
    with Lease(root, taker) as lease:
        assert is_held(root, lease.token, taker)
    left = storage.list_dir(root, hidden=True)
    assert left == ([".lock-part-0-of-2"] if taker == Part(1, 3) and kind == "lock" and storage.is_local(root) else [])


def test_parts_elsewhere_are_watched_together_before_they_count_as_dead(root, clock):
    if lease_lib.fcntl and storage.is_local(root):
        pytest.skip("a lock goes with its process")
    slept = []
    clock.sleep, clock.monotonic = slept.append, lambda: sum(slept)
    for number in range(3):
        content = {"token": f"t{number}", "host": "far", "pid": 1, "command": f"sweep --part={number}/4"}
        storage.write_json(storage.join(root, f".lease-part-{number}-of-4.json"), content)
    with Lease(root, Part(3, 4)):
        assert slept == []  # they are no obstacle to the others
    with Lease(root):
        assert lease_lib.STALE_S <= sum(slept) < 2 * lease_lib.STALE_S
        assert storage.list_dir(root, hidden=True) == [LEASE]


def test_of_a_part_and_another_command_at_once_never_both_go_on(root):
    def contend(part):
        barrier.wait()
        lease = Lease(root, part)
        with contextlib.suppress(WorkdirError):
            lease.acquire()
            held.append(part)
        barrier.wait()  # till the other one has an answer, too
        lease.release()

    for parts in ((None, Part(0, 2)), (Part(0, 2), Part(0, 3)), (Part(0, 2), Part(0, 2)), (Part(0, 2), Part(1, 2))):
        barrier, held = threading.Barrier(2, timeout=120), []
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for done in [pool.submit(contend, part) for part in parts]:
                done.result()
        assert len(held) == 2 if parts == (Part(0, 2), Part(1, 2)) else len(held) <= 1
    assert storage.list_dir(root, hidden=True) == []
