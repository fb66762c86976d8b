"""worker.py as a process of a host: starts, ends, and what it tells. Folders stand for the bucket."""

import contextlib
import getpass
import http.server
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from launch import worker
from tests.waiting import wait_until

PROGRAM = """
import os, pathlib, signal, subprocess, sys, time
here = pathlib.Path(sys.argv[1])
def note(name, text):
    with open(here / name, "a") as file: file.write(f"{text}\\n")
def children(code):
    child = [sys.executable, "-S", "-c", "import time; " + code + "; print(1, flush=True); time.sleep(600)"]
    process = subprocess.Popen(child, start_new_session=True, stdout=subprocess.PIPE)
    process.stdout.read(1)
    return process.pid
def alive(pid):
    stat = pathlib.Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
def end(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
note("pids", os.getpid())
"""
UNTIL_STOPPED = "print('step 1', flush=True); time.sleep(600)"
UNTIL_GO = "[time.sleep(.02) for _ in iter((here / 'go').exists, True)];"
_numbers = itertools.count()


class Host:
    """A host with a worker.py that is not as patient as the real one."""

    def __init__(self, folder):
        self.home, self.tree, self.bucket, self.work = (folder / name for name in ("home", "tree", "bucket", "work"))
        for each in (self.home, self.tree / "launch", self.bucket, self.work):
            each.mkdir(parents=True)
        (self.tree / "launch/worker.py").write_text(pathlib.Path(worker.__file__).read_text())
        self.change_worker("patience=30.0", "patience=0.5")
        self.mark = f"test-{os.getpid()}-{next(_numbers)}"
        self.env = {**os.environ, "HOME": str(self.home), "LAUNCH_WORKER": "0"}
        self.job = dict(
            mark=self.mark, argv=[], env={}, mirror_s=0.05, setup=None, expires=1e12, idle_s=0.1, delete=None, devices=[]
        )  # fmt: skip

    def change_worker(self, old, new):
        path = self.tree / "launch/worker.py"
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))

    def program(self, code):
        (self.tree / "program.py").write_text(PROGRAM + code)
        return [sys.executable, "-S", str(self.tree / "program.py"), str(self.work)]

    def command(self, verb, attempt=1, code=UNTIL_STOPPED, **job):
        """Writes the job, and gives the command line for it."""
        values = {**self.job, "argv": self.program(code), "mirror": str(self.bucket / f"attempt-{attempt}"), **job}
        (self.bucket / f"job-{attempt}.json").write_text(json.dumps(values))
        path = self.bucket / f"job-{attempt}.json"
        return [sys.executable, str(self.tree / "launch/worker.py"), verb, str(path), str(attempt)]

    def run(self, verb, attempt=1, code=UNTIL_STOPPED, **job):
        """What it acknowledges."""
        done = subprocess.run(self.command(verb, attempt, code, **job), env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return acknowledged(done.stdout)

    def status(self, attempt=1, number=0):
        return worker.read_json(str(self.bucket / f"attempt-{attempt}/host-{number}.json"))

    def wait(self, attempt=1, number=0, state="ended", line=""):
        """The status, as soon as it is of that state."""
        wait_until(lambda: (self.status(attempt, number) or {}).get("state") == state)
        wait_until(lambda: line in self.status(attempt, number)["line"])
        return self.status(attempt, number)

    def log(self, attempt=1, number=0):
        return (self.bucket / f"attempt-{attempt}/host-{number}.log").read_text()

    def pids(self, name="pids"):
        path = self.work / name
        return list(map(int, path.read_text().split())) if path.exists() else []


def acknowledged(said):
    [line] = said.splitlines()
    assert line.startswith("LAUNCH-ACK ")
    return json.loads(line.removeprefix("LAUNCH-ACK "))


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def running(folder):
    made = Host(folder)
    yield made
    for number in range(2):
        worker.end_marked(worker.mark_of(made.mark, number, folder / "home" / ".launch"), patience=0.0)


@pytest.fixture
def host(tmp_path):
    yield from running(tmp_path / "host")


@pytest.fixture
def other(tmp_path):
    yield from running(tmp_path / "other")


def test_a_program_that_ends_well(host):
    code = "import sample; print(sample.__file__, os.environ['A'], os.environ['LAUNCH_JOB']); print('all done')"
    (host.tree / "sample.py").write_text("")
    ack = host.run("start", code=code, env={"A": "a b"})
    assert (ack["worker"], ack["attempt"], ack["state"]) == (0, 1, "started")
    status = host.wait()
    assert (status["code"], status["line"], status["setup"]) == (0, "all done", False)
    assert {"tail", "stopped", "expired"}.isdisjoint(status)
    assert status["began"] <= status["ended"] <= time.time()
    assert f"{host.tree}/sample.py a b {host.mark}/0/" in host.log()
    assert host.log().endswith("launch: ended with code 0\n")
    wait_until(lambda: not alive(ack["pid"]))
    assert not list(host.bucket.rglob("*.part"))
    # A start that is repeated by then starts nothing.
    assert host.run("start") == ack
    assert len(host.pids()) == 1


def test_starts_of_one_attempt_are_one(host):
    command = host.command("start")
    several = [subprocess.Popen(command, env=host.env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    acks = [acknowledged(each.communicate(timeout=120)[0]) for each in several]
    assert acks[0] == acks[1] == acks[2]
    host.wait(state="running", line="step 1")
    assert host.run("start") == acks[0]
    assert len(host.pids()) == 1


def test_a_later_attempt_ends_all_of_the_earlier_one(host, other):
    other.run("start")
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN)"
    host.run("start", code=f"note('pids', children('pass')); note('pids', children({stubborn!r}));" + UNTIL_STOPPED)
    host.wait(state="running", line="step 1")
    earlier = host.pids()
    assert len(earlier) == 3
    assert all(map(alive, earlier))
    listed = f"print([pid for pid in {earlier} if alive(pid)], flush=True); time.sleep(600)"
    ack = host.run("start", 2, listed)
    assert ack["attempt"] == 2
    assert host.wait(2, state="running", line="[]")["line"] == "[]"
    assert host.run("start", 1)["state"] == "error"  # a start that comes late
    [pid] = other.pids()
    assert alive(pid)


def test_stop_lets_the_program_save(host):
    assert host.run("stop")["state"] == "absent"
    host.run("start")
    host.wait(state="running", line="step 1")
    assert host.run("stop") == {"worker": 0, "attempt": 1, "state": "stopping"}
    status = host.wait()
    assert (status["code"], status["stopped"], status["line"]) == (75, True, "saved")
    assert host.run("stop")["state"] == "stopping"


def test_the_program_ends_when_its_time_is_over(host):
    host.change_worker("time.time() > ", "os.path.exists(os.path.join(self.folder, 'over')) and 2e12 > ")
    host.run("start")
    host.wait(state="running", line="step 1")
    (host.home / ".launch/jobs" / host.mark / "attempt-1/over").touch()
    status = host.wait()
    assert (status["code"], status["expired"]) == (75, True)


def test_a_program_that_does_not_listen_is_killed(host):
    host.change_worker("TERM_S = 120.0", "TERM_S = 0.5")
    host.run("start", code="signal.signal(signal.SIGTERM, signal.SIG_IGN);" + UNTIL_STOPPED)
    host.wait(state="running", line="step 1")
    host.run("stop")
    status = host.wait()
    assert (status["code"], status["stopped"]) == (128 + signal.SIGKILL, True)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_program_that_a_signal_ends(host, signum):
    host.run(
        "start", code=f"print('step 3', flush=True); signal.signal(15, signal.SIG_DFL); os.kill(os.getpid(), {signum})"
    )
    status = host.wait()
    assert (status["code"], status["line"]) == (128 + signum, "step 3")
    assert "stopped" not in status


def test_the_end_of_a_program_that_fails_is_told(host):
    host.run("start", code="[print('line', i) for i in range(100)]; print('50 %\\r100 %'); raise ValueError('ü\\x00')")
    status = host.wait()
    assert (status["code"], status["line"]) == (1, "ValueError: ü\0")
    tail = status["tail"].splitlines()
    assert "Traceback (most recent call last):" in tail
    assert "100 %" in tail
    assert tail[-1] == "launch: ended with code 1"
    assert len(tail) == 60
    assert "line 0\n" in host.log()


def test_what_is_left_in_the_group_of_a_program_is_ended(host):
    child = "note('pids', subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)']).pid)"
    host.run("start", code=child)
    assert host.wait()["code"] == 0
    wait_until(lambda: not any(map(alive, host.pids())))


def test_a_command_that_is_not_there(host):
    host.run("start", argv=["nothing-of-this-name"])
    status = host.wait()
    assert status["code"] == 127
    assert "No such file or directory: 'nothing-of-this-name'" in status["tail"]


def test_setup_comes_first(host):
    setup = f"until [ -e {host.work}/go ]; do sleep 0.02; done; echo made; touch {host.work}/made"
    host.run("start", setup=["sh", "-c", setup], code="print((here / 'made').exists())")
    assert host.status()["state"] == "setup"
    (host.work / "go").touch()
    assert host.wait()["line"] == "True"


@pytest.mark.parametrize(
    ("setup", "code", "more"),
    [("echo no; exit 3", 3, {}), ("sleep 60", 143, {"expires": 1.0})],
    ids=["fails", "too late"],
)
def test_without_setup_no_program(host, setup, code, more):
    host.run("start", setup=["sh", "-c", setup], **more)
    status = host.wait()
    assert (status["code"], status["setup"]) == (code, True)
    assert host.pids() == []


def test_the_program_survives_whoever_started_it(host):
    starter = subprocess.Popen(
        ["bash", "-c", '"$@"; sleep 600', "-", *host.command("start", code=UNTIL_GO + "print('survived')")],
        env=host.env, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    starter.stdout.readline()
    for signum in (signal.SIGHUP, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(starter.pid, signum)
    starter.communicate()
    (host.work / "go").touch()
    assert host.wait()["line"] == "survived"


def test_a_bucket_that_fails_for_a_while(host):
    host.run("start", code=f"print('step 1', flush=True); {UNTIL_GO} print('done')")
    host.wait(state="running", line="step 1")
    folder, aside = host.bucket / "attempt-1", host.bucket / "aside"
    folder.rename(aside)
    folder.write_text("no folder")
    log = host.home / ".launch/jobs" / host.mark / "attempt-1/log"
    wait_until(lambda: "launch: [Errno" in log.read_text())
    assert alive(host.pids()[0])
    folder.unlink()
    host.wait(state="running", line="step 1")
    folder.rename(host.bucket / "aside 2")
    folder.write_text("no folder")
    (host.work / "go").touch()
    wait_until(lambda: "launch: ended with code 0" in log.read_text())
    folder.unlink()
    status = host.wait()
    assert (status["code"], status["line"]) == (0, "done")
    assert "launch: [Errno" in host.log()


def test_a_bucket_that_fails_at_the_start(host):
    (host.bucket / "attempt-1").write_text("no folder")
    ack = host.run("start")
    assert ack["state"] == "error"
    assert "attempt-1" in ack["message"]
    (host.bucket / "attempt-1").unlink()
    assert host.run("start")["state"] == "started"


def test_chips_that_another_holds(host, tmp_path):
    device = tmp_path / "accel0"
    device.touch()
    code = "import sys, time; file = open(sys.argv[1]); print(flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-S", "-c", code, str(device)], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        ack = host.run("start", devices=[f"{tmp_path}/accel*", "/dev/none*"])
        assert (ack["worker"], ack["attempt"], ack["state"]) == (0, 1, "busy")
        [found] = ack["holders"]
        who = f"{device} by process {holder.pid} of {getpass.getuser()}"
        assert found.startswith(f"{who}: {sys.executable} -S -c import sys")
        assert host.status() is None
        assert alive(holder.pid)
    finally:
        holder.kill()
        holder.communicate()
    assert host.run("start", devices=[f"{tmp_path}/accel*"])["state"] == "started"


def test_chips_of_the_earlier_attempt_are_given_back_first(host, tmp_path):
    (tmp_path / "accel0").touch()
    host.run("start", code=f"file = open({str(tmp_path / 'accel0')!r});" + UNTIL_STOPPED)
    host.wait(state="running", line="step 1")
    assert host.run("start", 2, devices=[f"{tmp_path}/accel*"])["state"] == "started"


@pytest.mark.parametrize("number", [0, 1])
def test_the_first_host_of_a_slice_that_nobody_watches_deletes_it(host, number):
    host.env["LAUNCH_WORKER"] = str(number)
    ack = host.run("start", code="print('done')", delete=["touch", str(host.work / "deleted")])
    assert host.wait(number=number)["code"] == 0
    wait_until(lambda: not alive(ack["pid"]))
    assert (host.work / "deleted").exists() == (number == 0)
    assert host.status(number=number).get("deleting", False) == (number == 0)


def test_a_slice_that_goes_on_does_not_delete_itself(host):
    first = host.run("start", code="print('done')", delete=["touch", str(host.work / "deleted")], idle_s=60)
    host.wait()
    assert alive(first["pid"])
    host.run("start", 2)
    assert not alive(first["pid"])
    assert not (host.work / "deleted").exists()


def test_the_number_of_the_host_comes_from_the_machine(monkeypatch):
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path.endswith("/agent-worker-number") and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(b"3\n" if known else b"")

        def log_message(self, *args):
            pass

    for name in ("LAUNCH_WORKER", "TPU_WORKER_ID"):
        monkeypatch.delenv(name, raising=False)
    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_address[1]}")
        assert worker.worker_number() == 3
        monkeypatch.setenv("TPU_WORKER_ID", "2")
        assert worker.worker_number() == 2
        server.shutdown()


def test_a_copy_to_the_bucket_that_hangs_is_given_up(tmp_path, monkeypatch):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text("#!/bin/sh\necho no way >&2\nexec sleep ${SLEEP:-0}\n")
    gcloud.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    worker.put(str(gcloud), "gs://bucket/x")
    monkeypatch.setenv("SLEEP", "600")
    monkeypatch.setattr(worker, "PUT_S", 2.0)
    with pytest.raises(OSError, match="gs://bucket/x cannot be written: no way"):
        worker.put(str(gcloud), "gs://bucket/x")
    monkeypatch.setattr(worker, "PUT_S", 120.0)
    gcloud.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(OSError, match="returned non-zero exit status 1"):
        worker.put(str(gcloud), "gs://bucket/x")
