"""Runs on a host: starts the program detached, watches it, and mirrors its log and status to the bucket.

    worker.py start|stop JOB ATTEMPT      JOB: gs:// or local path of job.json; prints one line, LAUNCH-ACK {...}
    worker.py supervise FOLDER            the background process that `start` leaves

Uses only the standard library and Python 3.8, because it runs before anything is installed. Commands may be repeated at any
time: a repeated one only acknowledges the first. Processes are found by a variable in their environment, never by name.
"""

import contextlib
import fcntl
import glob
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

HOME = os.path.join(os.path.expanduser("~"), ".launch")
MARK = "LAUNCH_JOB"
TERM_S = 120.0  # time that a program has for saving, after it was asked to end
PUT_S = 300.0  # time limit of a copy to the bucket, during which the worker reads no requests
HOLD_S = 5.0  # time for which an ending process may hold the chips
LIBTPU_LOCK = "/tmp/libtpu_lockfile"
_METADATA = "http://{}/computeMetadata/v1/instance/attributes/agent-worker-number"


def fetch(uri):
    """The content of a small file."""
    if uri.startswith("gs://"):
        argv = ["gcloud", "storage", "cat", uri]
        return subprocess.run(argv, check=True, stdout=subprocess.PIPE, timeout=PUT_S).stdout
    with open(uri, "rb") as file:
        return file.read()


def put(path, uri):
    """Copies a file to the bucket atomically."""
    if uri.startswith("gs://"):
        argv = ["gcloud", "storage", "cp", path, uri]
        pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            subprocess.run(argv, check=True, timeout=PUT_S, **pipes)
        except subprocess.SubprocessError as error:
            said = (error.output or b"").decode(errors="replace").strip()[-500:]
            raise OSError(f"{uri} cannot be written: {said or error}") from error
        return
    os.makedirs(os.path.dirname(uri), exist_ok=True)
    shutil.copyfile(path, f"{uri}.{os.getpid()}.part")
    os.replace(f"{uri}.{os.getpid()}.part", uri)


def write_json(path, value):
    with open(path + ".part", "w") as file:
        file.write(json.dumps(value) + "\n")
    os.replace(path + ".part", path)


def read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def worker_number():
    """The number of this host in the slice, from 0."""
    for name in ("LAUNCH_WORKER", "TPU_WORKER_ID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    url = _METADATA.format(os.environ.get("GCE_METADATA_HOST", "metadata.google.internal"))
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return int(answer.read())


def mark_of(job, worker, home):
    """The mark of a host's processes in their environment; it includes the folder, since hosts may share a machine."""
    return f"{job}/{worker}/{home}"


def marked(mark):
    """Numbers of the processes on this machine that have the mark."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(path.split("/")[2]))
        except OSError:
            continue
    return sorted(set(found) - {os.getpid()})


def kill(pid, signum, send=os.kill):
    with contextlib.suppress(ProcessLookupError):
        send(pid, signum)


def end_marked(mark, patience=30.0):
    """Ends all processes that have the mark, with SIGTERM first."""
    deadline, asked = time.monotonic() + patience, set()
    left = marked(mark)
    while left and time.monotonic() < deadline + 10.0:
        late = time.monotonic() > deadline
        for pid in left:
            if late or pid not in asked:
                kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked.update(left)
        time.sleep(0.1)
        left = marked(mark)


def holders(patterns, sudo=True):
    """Describes processes that hold one of the devices; those of other users only if sudo needs no password."""
    devices = {path for pattern in patterns for path in glob.glob(pattern)}
    if devices and sudo and os.geteuid() != 0:
        argv = ["sudo", "-n", sys.executable, os.path.abspath(__file__), "holders", *patterns]
        with contextlib.suppress(OSError, ValueError, subprocess.CalledProcessError):
            return json.loads(subprocess.check_output(argv, stderr=subprocess.DEVNULL))
    found = {}
    for link in glob.glob("/proc/[0-9]*/fd/*") if devices else ():
        with contextlib.suppress(OSError):
            device, pid = os.readlink(link), int(link.split("/")[2])
            if device in devices:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()[:200]
                uid = os.stat(f"/proc/{pid}").st_uid
                user = next((each.pw_name for each in pwd.getpwall() if each.pw_uid == uid), uid)
                found[pid] = f"{device} by process {pid} of {user}: {command}"
    return [found[pid] for pid in sorted(found)]


def start(uri, attempt):
    """Starts the program, unless this attempt was already started; returns the acknowledgement."""
    job, worker = json.loads(fetch(uri)), worker_number()
    folder = os.path.join(HOME, "jobs", job["mark"])
    here, tree = os.path.join(folder, f"attempt-{attempt}"), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    os.makedirs(here, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read_json(os.path.join(folder, "started.json")) or {"attempt": 0}
        if known["attempt"] == attempt:
            return known
        if known["attempt"] > attempt:
            return {"state": "error", "message": "attempt {} was started here already".format(known["attempt"])}
        mark = mark_of(job["mark"], worker, HOME)
        end_marked(mark)
        deadline = time.monotonic() + HOLD_S
        busy = holders(job["devices"])
        while busy and time.monotonic() < deadline:
            time.sleep(1.0)
            busy = holders(job["devices"])
        if busy:
            return {"state": "busy", "holders": busy}
        if job["devices"] and os.path.exists(LIBTPU_LOCK):  # left behind, since no process holds the chips
            with contextlib.suppress(OSError):
                subprocess.run(["sudo", "-n", "rm", "-f", LIBTPU_LOCK], stderr=subprocess.DEVNULL)
        write_json(os.path.join(here, "job.json"), dict(job, attempt=attempt, worker=worker, tree=tree))
        error = Supervisor(here).mirror("setup" if job["setup"] else "running")
        if error:
            return {"state": "error", "message": error}
        with open(os.path.join(here, "log"), "ab") as log:
            argv = [sys.executable, os.path.abspath(__file__), "supervise", here]
            detached = dict(stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            process = subprocess.Popen(argv, cwd=tree, env=dict(os.environ, **{MARK: mark}), **detached)
        state = {"attempt": attempt, "state": "started", "pid": process.pid}
        write_json(os.path.join(folder, "started.json"), state)
        return state


def stop(uri, attempt):
    """Asks the program to save and end; returns the acknowledgement."""
    here = os.path.join(HOME, "jobs", json.loads(fetch(uri))["mark"], f"attempt-{attempt}")
    if not os.path.isdir(here):
        return {"state": "absent"}
    open(os.path.join(here, "stop"), "w").close()
    return {"state": "stopping"}


class Supervisor:
    """Runs one attempt of the program in a folder, and reports on it."""

    def __init__(self, folder):
        self.folder, self.log = folder, os.path.join(folder, "log")
        self.job = read_json(os.path.join(folder, "job.json"))
        self.beat, self.copied = 0, 0
        self.asked = {}

    def tail(self, lines=60):
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, os.path.getsize(self.log) - 16384))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [line.rsplit("\r", 1)[-1] for line in text.splitlines() if line.strip()][-lines:]

    def mirror(self, state, **values):
        """Copies the log and then the status to the bucket, since the controller deletes the slice when the status is "ended".

        Returns the reason of a failure, or None.
        """
        job, error = self.job, None
        base, status = "{}/host-{}".format(job["mirror"], job["worker"]), os.path.join(self.folder, "status.json")
        size = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        # The whole log is copied each time, so the longer it is, the more new text is awaited.
        copy = size - self.copied > (0 if state == "ended" else size // 20 if size > 2**22 else 0)
        self.beat += 1
        tail = self.tail()
        line = ([line for line in tail if not line.startswith("launch: ")] or tail or [""])[-1][:300]
        report = dict(worker=job["worker"], attempt=job["attempt"], host=socket.gethostname(), state=state, line=line)
        report.update(beat=[os.getpid(), self.beat], time=time.time(), setup=state == "setup")
        write_json(status, dict(report, **values))
        for path, uri in [(self.log, base + ".log")] * copy + [(status, base + ".json")]:
            try:
                put(path, uri)
                self.copied = size if path == self.log else self.copied
            except OSError as failure:
                error = str(failure)
                print(f"launch: {error}", file=sys.stderr, flush=True)
        return error

    def run(self, argv, state, env):
        """Runs a command until it ends, somebody asks it to end, or its time is over; returns the exit code."""
        print("launch: {}".format(" ".join(argv)), flush=True)
        try:
            quiet = dict(stdin=subprocess.DEVNULL, start_new_session=True)
            process = subprocess.Popen(argv, cwd=self.job["tree"], env=env, **quiet)
        except OSError as error:
            print(f"launch: {error}", flush=True)
            return 127
        deadline, mirrored, code = None, 0.0, None
        while code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(min(1.0, self.job["mirror_s"]))
                break
            if os.path.exists(os.path.join(self.folder, "stop")):
                self.asked["stopped"] = True
            if time.time() > self.job["expires"]:
                self.asked["expired"] = True
            if self.asked and deadline is None:
                deadline = time.monotonic() + TERM_S
                kill(process.pid, signal.SIGTERM)
            elif self.asked and time.monotonic() > deadline:
                kill(process.pid, signal.SIGKILL, os.killpg)
            if time.monotonic() - mirrored > self.job["mirror_s"]:
                self.mirror(state)
                mirrored = time.monotonic()
        kill(process.pid, signal.SIGKILL, os.killpg)  # processes that it left behind
        return code if code >= 0 else 128 - code

    def supervise(self):
        """Runs setup and program, reports their end, and deletes the slice if nothing else does."""
        signal.signal(signal.SIGTERM, lambda *_: self.asked.update(ended=True))
        job, stage, code, began = self.job, "setup", 0, time.time()
        env = dict(os.environ, **job["env"])
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (job["tree"], env.get("PYTHONPATH"))))
        if job["setup"]:
            code = self.run(job["setup"], stage, env)
        if code == 0 and self.asked:
            code = 75
        elif code == 0:
            stage = "running"
            code = self.run(job["argv"], stage, env)
        print(f"launch: ended with code {code}", flush=True)
        values = dict(self.asked, code=code, began=began, ended=time.time(), setup=stage == "setup")
        if code != 0:
            values["tail"] = "\n".join(self.tail())
        for pause in (1, 5, 15, 60, 0):
            if not self.mirror("ended", **values) or "ended" in self.asked:
                break
            time.sleep(pause)
        if not job["delete"] or job["worker"] != 0:
            return
        deadline = time.monotonic() + job["idle_s"]
        while time.monotonic() < deadline and "ended" not in self.asked:
            time.sleep(min(1.0, job["idle_s"]))
        if "ended" not in self.asked:
            print("launch: nobody has deleted this slice; it deletes itself", flush=True)
            self.mirror("ended", deleting=True, **values)
            subprocess.run(job["delete"], stdin=subprocess.DEVNULL)
            self.mirror("ended", deleting=True, **values)  # the slice still exists; the log gives the reason


def main(verb, *args):
    if verb == "supervise":
        Supervisor(args[0]).supervise()
    elif verb == "holders":
        print(json.dumps(holders(args, sudo=False)))
    else:
        worker, attempt = worker_number(), int(args[1])
        said = {"start": start, "stop": stop}[verb](args[0], attempt)
        print("LAUNCH-ACK " + json.dumps(dict(said, worker=worker, attempt=attempt)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
