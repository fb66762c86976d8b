"""The launcher from end to end: two processes of this machine, through the controller that slices of a cloud have."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from launch import run, spec, worker
from tests.waiting import wait_until

CONFIG = (
    "--config=configs/digits.py:smoke", "--config.methods=semantic", "--config.trials=1", "--config.fractions=(0.9,)",
)  # fmt: skip
RESULTS = ("results.csv", "merges/end/part-*.parquet", "subsets/*.parquet", "runs/*/result.json")


def arguments(workdir, *more):
    return ["run", *CONFIG, *more, f"--workdir={workdir}"]


@pytest.fixture
def launched(tmp_path, child_env, monkeypatch):
    """Makes a task of two local hosts."""
    for name, value in child_env.items():
        monkeypatch.setenv(name, value)

    def make(command, name="r", **values):
        config = spec.defaults()
        config.backend, config.run, config.bucket, config.hosts = "local", name, str(tmp_path / "bucket"), 2
        config.poll_s, config.mirror_s = 0.3, 0.3
        for field, value in values.items():
            config[field] = value
        said = []
        task = run.Run(spec.resolve(config), command, say=said.append, times={"settle_s": 30.0})
        task.said = said
        return task

    yield make
    for name in ("r", "unbroken"):
        task = make([], name)
        if task.ledger.load():
            task.down()


def content(workdir):
    files = [path for pattern in RESULTS for path in sorted(pathlib.Path(workdir).glob(pattern))]
    assert len(files) >= 5
    # A result also holds how long it took.
    timed = re.compile(rb'\n "(seconds|time|sha256_of_rest)": [^\n]*')
    return {str(path.relative_to(workdir)): timed.sub(b"", path.read_bytes()) for path in files}


def processes(task, host):
    return worker.marked(task.slices.mark("r-0", host))


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def steps(task, until):
    """Looks at the slice until something holds."""
    wait_until(lambda: until() or task.step(0), lambda: "\n".join(task.said), seconds=300, every=0.2)


@pytest.mark.soak
def test_a_host_is_killed_and_the_slice_suspended(launched, tmp_path):
    unbroken = launched(arguments(tmp_path / "unbroken"), "unbroken")
    unbroken.open()
    assert unbroken.run() == 0, "\n".join(unbroken.said)

    task = launched(arguments(tmp_path / "broken"))
    task.open()
    saved = tmp_path / "broken" / "pretrain" / "checkpoints" / "10"
    steps(task, saved.exists)
    victims = [pid for pid in processes(task, 1) if "redundancy" in command_of(pid)]
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    task.slices.set_state("r-0", "SUSPENDED")
    assert task.run() == 0, "\n".join(task.said)

    assert [attempt.outcome for attempt in task.ledger.records[0].attempts] == ["preempted", "done"]
    order = [line.split(": ", 1)[1].split(" (")[0] for line in task.said if "deletes" in line or "asks for" in line]
    assert order == ["asks for a slice in local", "deletes the slice", "asks for a slice in local", "deletes the slice"]
    log = (tmp_path / "bucket/launch/r/slice-0/attempt-2/host-0.log").read_text()
    assert "continues at step 10" in log or "step 10" in log, log[-3000:]
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")
    assert task.slices.existing() == []
    assert processes(task, 0) + processes(task, 1) == []


@pytest.mark.soak
def test_a_bug_stops_after_the_failure_budget_with_its_traceback(launched, tmp_path):
    """Not the launcher's test program but redundancy itself, by a config that fails in training."""
    config = tmp_path / "bug.py"
    config.write_text(
        "import sys\nfrom redundancy.config import defaults\n"
        "from redundancy.training import pretrain\n"
        "def broken(*_, **__):\n    raise RuntimeError('a bug for the test')\n"
        "pretrain.train = broken\n"
        "def get_config():\n    config = defaults()\n    config.dataset = 'digits'\n    return config\n"
    )
    task = launched(["train", f"--config={config}", f"--workdir={tmp_path / 'w'}"], max_failures=2, hosts=1)
    task.open()
    assert task.run() == 1
    assert [attempt.outcome for attempt in task.ledger.records[0].attempts] == ["failed"] * 2
    text = "\n".join(task.said)
    assert text.count("Traceback (most recent call last)") >= 2
    assert "RuntimeError: a bug for the test" in text
    assert "the program failed 2 times (max_failures)" in text
    assert task.slices.existing() == []


@pytest.mark.soak
def test_the_command_line(launched, tmp_path, child_env, repo):
    given = [
        sys.executable, "-m", "launch", "run", "--config=launch/configs/local.py", f"--config.bucket={tmp_path / 'b'}",
    ]  # fmt: skip
    command = ["--", "train", *CONFIG[:1], f"--workdir={tmp_path / 'w'}"]
    done = subprocess.run([*given, *command], cwd=repo, env=child_env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": done: " in done.stdout
    assert (tmp_path / "w" / "pretrain" / "result.json").exists()
    again = subprocess.run([*given, *command], cwd=repo, env=child_env, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0
    assert "asks for" not in again.stdout
