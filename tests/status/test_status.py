"""`status` reports what the files show, in finished, empty, running, killed and damaged workdirs, local and on gs://."""

import io
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import finished_run
import gcs_emulator
import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy import storage
from redundancy.report import noninferiority, words
from redundancy.runtime.errors import ConfigError, WorkdirError
from redundancy.status import command as status
from redundancy.status import pace
from redundancy.status.survey import survey
from redundancy.workdir import STAGES, last_error, lease, table
from redundancy.workdir.parts import Part
from tests.tiers import soaked
from tests.waiting import wait_until

# A sweep as the command line runs it, of the config in the workdir.
SWEEP = """
import sys
from redundancy import config as config_lib, storage
from redundancy.experiment.sweep import sweep
from redundancy.workdir.lease import Lease
from redundancy.workdir import Workdir
root, sys.argv[1:] = sys.argv[1], ["sweep"]
config = config_lib.resolve(storage.read_json(root + "/config.json")["config"])
with Lease(root):
    sweep(config, Workdir(root))
"""
COUNT = """
import json, sys
from redundancy.status import survey
from redundancy.storage import gcs
asked = []
once = gcs._request_once
async def counted(self, method, path, *args, **kwargs):
    asked.append((method, path))
    return await once(self, method, path, *args, **kwargs)
gcs._request_once = counted
found = survey.survey(sys.argv[1])
print(json.dumps([len(asked), sorted({method for method, _ in asked}), found["runs"]["done"], found["runs"]["runs"]]))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, digits_npz):
    return finished_run.finished(tmp_path_factory.getbasetemp(), digits_npz)


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished[1].root, tmp_path / "w")
    return tmp_path / "w"


def tree(root):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in pathlib.Path(root).rglob("*")}


def states(found):
    return [stage["state"] for stage in found["stages"]]


def test_finished_and_nothing_is_written(finished, copied):
    before = tree(copied)
    found = survey(str(copied))
    assert tree(copied) == before
    assert states(found) == ["finished"] * (len(STAGES) - 1)  # no method reads a score
    assert (found["at_work"], found["errors"], found["damaged"], found["pace"]) == ([], [], [], None)
    results = [*copied.glob("runs/*/result.json")]
    assert found["runs"]["done"] == found["runs"]["runs"] == len(results) == len(table.runs(finished[0]))
    for row in found["runs"]["table"]:
        of_row = [path for path in results if path.parent.name.startswith(f"{row['method']}-{row['fraction']:.4f}")]
        assert (row["done"], row["running"], row["left"]) == (len(of_row), 0, 0)
    files = [path for path in copied.rglob("*") if path.is_file()]
    assert found["bytes"]["all"] == sum(path.stat().st_size for path in files)
    text = status.render(found)
    assert "6 of 6 stages finished" in text
    assert "nobody is at work" in text


def processor_seconds():
    """Processor seconds of the ended child processes, which other programs do not change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_it_imports_little_and_is_fast(copied, repo, child_env):
    code = (
        "import sys; from redundancy.cli import main; code = main.entry(['redundancy', 'status', '--workdir', sys.argv[1]]);"
        "print(code, {'jax', 'tensorflow', 'matplotlib', 'tensorboard', 'scipy'} & {*sys.modules})"
    )
    seconds = []
    for _ in range(3):
        began = processor_seconds()
        done = subprocess.run(
            [sys.executable, "-c", code, str(copied)], cwd=repo, env=child_env, capture_output=True, text=True
        )
        seconds.append(processor_seconds() - began)
        assert done.stdout.splitlines()[-1] == "0 set()", done.stdout + done.stderr
    assert min(seconds) < 1.5


def prepare(copied, steps):
    """Puts the workdir back before its sweep and makes the sweep a long one."""
    for name in ("runs", "report"):
        shutil.rmtree(copied / name)
    (copied / "results.csv").unlink()
    path = str(copied / "config.json")
    recorded = storage.read_json(path)
    recorded["config"] |= {"steps": steps, "log_every": 10, "checkpoint_every": 50}
    storage.write_json(path, recorded)


def upload(folder, url):
    for path in folder.rglob("*"):
        if path.is_file():
            name = urllib.parse.quote(f"w/{path.relative_to(folder)}", safe="")
            target = f"{url}/upload/storage/v1/b/{gcs_emulator.BUCKET}/o?uploadType=media&name={name}"
            urllib.request.urlopen(urllib.request.Request(target, path.read_bytes(), method="POST")).read()


@pytest.mark.parametrize("kind", ["local", *soaked("gs")])
@pytest.mark.soak
def test_a_sweep_that_runs_elsewhere_and_is_killed(copied, repo, child_env, kind):
    prepare(copied, steps=100_000)
    if kind == "local":
        _watch_and_kill(str(copied), repo, child_env, lambda: {str(p) for p in copied.glob("runs/*/result.json")})
        return
    with gcs_emulator.running() as url:
        upload(copied, url)
        env = {**child_env, **gcs_emulator.environ(url)}
        _watch_and_kill(f"gs://{gcs_emulator.BUCKET}/w", repo, env, lambda: listed(url, "w/runs/", "/result.json"))


def listed(url, prefix, end):
    """Names of objects, of which the sweep may remove some at any time."""
    with urllib.request.urlopen(f"{url}/storage/v1/b/{gcs_emulator.BUCKET}/o?prefix={prefix}") as answer:
        names = {item["name"] for item in json.load(answer).get("items", [])}
    return {name for name in names if name.endswith(end)}


def _watch_and_kill(root, repo, env, results):
    def ask(*flags):
        command = [sys.executable, "-m", "redundancy", "status", f"--workdir={root}", *flags]
        done = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in flags else done.stdout

    def trains():
        """The status, once there are rates; else None."""
        assert child.poll() is None, child.stderr.read().decode()
        found = ask("--json")
        rates = [of["steps_per_second"] for of in found["runs"]["training"]]
        return found if found["runs"]["running"] and found["pace"] is not None and any(rates) else None

    child = subprocess.Popen(
        [sys.executable, "-c", SWEEP, root], cwd=repo, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        found = wait_until(trains, lambda: ask("--json"), seconds=300, every=0.3)
        (owner,) = found["at_work"]
        assert (owner["command"], owner["pid"], owner["state"]) == ("sweep", child.pid, "working")
        assert states(found) == [*["finished"] * 4, "running", "waiting"]
        runs = found["runs"]
        assert runs["done"] == len(results()) == 0
        assert runs["done"] + runs["running"] + runs["left"] == runs["runs"] == 3
        of = runs["training"][0]
        assert (of["run"], of["state"], of["steps"]) == ("full-1.0000-trial0", "running", 100_000)
        assert of["step"] > 0
        assert of["loss"] > 0
        left = found["pace"]["left"]
        assert 100_000 * runs["runs"] - of["step"] - 5000 < left <= 100_000 * runs["runs"]
        assert found["pace"]["left_s"] == pytest.approx(left / found["pace"]["per_second"])
        assert found["pace"]["end"] > found["time"]
        text = ask()
        assert f"at work: redundancy sweep, process {child.pid}" in text
        assert "running at step" in text
        assert "expected end of sweep: " in text
        wait_until(lambda: ask("--json")["runs"]["training"][0]["step"] > of["step"], "no more steps", 300, every=0.3)
    finally:
        child.kill()
        child.communicate()
    found = ask("--json")
    (owner,) = found["at_work"]
    assert owner["state"] == "gone"
    assert states(found)[4:] == ["stopped", "waiting"]
    assert (found["runs"]["running"], found["pace"]["end"]) == (0, None)
    assert "ended without giving the workdir back" in ask()
    assert "expected end: none, since nobody is at work" in ask()


@pytest.mark.soak
def test_a_bucket_of_many_runs_takes_few_requests(child_env, repo, tmp_path):
    config = config_lib.resolve(
        {"dataset": "digits", "trials": 5, "fractions": (0.9, 0.8, 0.7), "layers": ("start", "end")}
    )
    storage.write_json(str(tmp_path / "w/config.json"), {"config": config_lib.to_json(config)})
    names = [run.name for run in table.runs(config)]
    for name in names[:-2]:
        storage.write_json(str(tmp_path / f"w/runs/{name}/result.json"), {"steps": 1, "test_correct": 1})
        for step in range(20):
            storage.write_bytes(str(tmp_path / f"w/runs/{name}/checkpoints/{step}/x"), b"")
    lines = [json.dumps({"step": 10 * row, "time": 1e9 + row, "loss": 1.0}) for row in range(900)]
    storage.write_text(str(tmp_path / f"w/runs/{names[-2]}/metrics.jsonl"), "\n".join(lines))
    with gcs_emulator.running() as url:
        upload(tmp_path / "w", url)
        env = {**child_env, **gcs_emulator.environ(url)}
        done = subprocess.run(
            [sys.executable, "-c", COUNT, "gs://bucket/w"],
            cwd=repo,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    asked, methods, found, runs = json.loads(done.stdout.splitlines()[-1])
    assert (methods, found, runs) == (["GET"], len(names) - 2, len(names))
    assert asked < 10


def test_how_sure_one_is_already(tmp_path):
    config = config_lib.resolve(
        {
            "dataset": "digits",
            "trials": 6,
            "fractions": (0.9, 0.5),
            "methods": ("semantic",),
            "steps": 100,
            "warmup_steps": 10,
        }
    )
    root = str(tmp_path / "w")
    storage.write_json(f"{root}/config.json", {"config": config_lib.to_json(config)})
    correct = {
        "full-1.0000": (9300, 9310, 9290, 9305),
        "semantic-0.9000": (9295, 9315, 9280, 9305),
        "semantic-0.5000": (9200, 9220, 9185),
    }

    def write(trial):
        for number, (kind, of_kind) in enumerate(correct.items()):
            if trial < len(of_kind):
                path = f"{root}/runs/{kind}-trial{trial}/result.json"
                storage.write_json(path, {"steps": 100, "test_correct": of_kind[trial], "test_size": 10_000})
                os.utime(path, (at := 1e9 + 100 * (3 * trial + number), at))

    write(0)
    assert survey(root)["sure"] is None
    for trial in range(1, 4):
        write(trial)
    found = survey(root)
    first, second = found["sure"]["rows"]
    # −5, 5, −10 and 0 of 10,000: mean −2.5, standard deviation 6.4550, t with three degrees of freedom 3.1824.
    half = 3.182446 * 6.454972 / 2
    assert (first["pairs"], second["pairs"], found["sure"]["margin"]) == (4, 3, 0.002)
    assert first["mean"] == pytest.approx(-2.5e-4)
    assert first["low"] == pytest.approx((-2.5 - half) / 1e4)
    assert first["high"] == pytest.approx((-2.5 + half) / 1e4)
    assert (first["verdict"], second["verdict"]) == ("no worse", "worse")
    assert first["trials_more"] is None
    # −20, −10, −25 and −15: the interval reaches across the margin.
    correct["semantic-0.9000"] = (9280, 9300, 9265, 9290)
    for trial in range(4):
        write(trial)
    first = survey(root)["sure"]["rows"][0]
    needed = noninferiority.trials_needed(-17.5e-4, 6.454972e-4, 0.002)
    assert (first["verdict"], first["trials_more"]) == ("cannot tell", needed - 4)
    # A run of 100 steps takes 100 s, and a trial has three.
    assert first["seconds"] == pytest.approx((needed - 4) * 300, rel=0.01)
    text = status.render(survey(root))
    assert "in points; no worse is a loss below 0.2 points" in text
    more = words.trials(needed - 4)
    assert (
        f"semantic 0.9000  −0.18, 95% interval −0.28 to −0.07, 4 pairs: cannot tell, {more} more trials would" in text
    )
    assert "semantic 0.5000  −0.98, 95% interval −1.17 to −0.79, 3 pairs: worse" in text


def test_empty_and_no_workdir(tmp_path):
    (tmp_path / "w").mkdir()
    found = survey(str(tmp_path / "w"))
    assert states(found)[1:] == ["next", "waiting", "waiting", "not needed", "not needed"]
    assert status.status(str(tmp_path / "w"), out=io.StringIO()) == 0
    with pytest.raises(WorkdirError, match="none is no workdir: nothing is there"):
        survey(str(tmp_path / "none"))
    (tmp_path / "w" / "holiday.jpg").write_text("x")
    with pytest.raises(WorkdirError, match=r"w is no workdir: it holds holiday\.jpg"):
        survey(str(tmp_path / "w"))
    with pytest.raises(ConfigError, match="--watch=0: wanted seconds"):
        status.status(str(tmp_path / "w"), watch=0.0)


def test_damaged_files_are_named(copied):
    def cut(name):
        (copied / name).write_bytes((copied / name).read_bytes()[:-9])

    for name, damage in (
        ("config.json", cut),
        ("subsets/manifest.json", cut),
        ("runs/full-1.0000-trial0/result.json", cut),
        ("runs/full-1.0000-trial0/result.json", lambda name: (copied / name).write_bytes(b"")),
        ("embeddings/end/part-00001-of-00002.parquet", lambda name: (copied / name).unlink()),
        ("merges/end/part-00000-of-00010.parquet", lambda name: (copied / name).write_bytes(b"")),
        ("results.csv", lambda name: (copied / name).unlink()),
        ("report/index.html", lambda name: (copied / name).unlink()),
        ("config.json", lambda name: (copied / name).unlink()),
    ):
        before = (copied / name).read_bytes()
        damage(name)
        out = io.StringIO()
        assert status.status(str(copied), out=out) == 1, name
        (named,) = [line for line in out.getvalue().splitlines() if line.startswith("damaged: ")]
        assert str(copied / name) in named
        (copied / name).write_bytes(before)
    assert status.status(str(copied), out=io.StringIO()) == 0


def test_owners(copied, monkeypatch):
    now = time.time()

    def owner(name, **fields):
        own = {"token": "t", "pid": 7, "host": "far boot ns", "command": "sweep", "since": "2026-01-01T00:00:00+00:00"}
        (copied / name).write_text(json.dumps({**own, **fields}))

    owner(".lease-part-0-of-2.json", command="sweep --part=0/2", renewed=now)
    owner(".lease-part-1-of-2.json", command="sweep --part=1/2", renewed=now - 300)
    os.utime(copied / ".lease-part-1-of-2.json", (now - 300, now - 300))
    found = survey(str(copied))
    assert [(each["command"], each["host"], each["state"]) for each in found["at_work"]] == [
        ("sweep --part=0/2", "far", "working")
    ]
    (copied / ".lease-part-0-of-2.json").unlink()
    (found,) = survey(str(copied))["at_work"]
    assert found["state"] == "gone"
    assert found["silent_s"] == pytest.approx(300, abs=20)
    (copied / ".lease-part-1-of-2.json").unlink()
    owner(lease.LOCK)
    assert survey(str(copied))["at_work"][0]["state"] == "unknown"
    (copied / lease.LOCK).unlink()
    with lease.Lease(str(copied)):
        (found,) = survey(str(copied))["at_work"]
        assert (found["state"], found["pid"]) == ("working", os.getpid())
    assert survey(str(copied))["at_work"] == []


@pytest.mark.soak
def test_the_last_error_is_shown_until_the_command_succeeds(redundancy, tmp_path):
    np.save(tmp_path / "E.npy", np.random.default_rng(0).normal(size=(60, 4)))
    np.save(tmp_path / "Y.npy", np.arange(60) % 3)
    root = tmp_path / "w"
    config = ("--config=configs/embeddings.py", "--config.fractions=0.9", f"--workdir={root}")
    assert (
        redundancy(
            "import", f"--workdir={root}", f"--embeddings={tmp_path}/E.npy", f"--labels={tmp_path}/Y.npy"
        ).returncode
        == 0
    )
    assert redundancy("select", *config[:-1], "--config.fractions=7", config[-1]).returncode == 2
    assert not (root / "last_error.json").exists()
    assert redundancy("select", *config).returncode == 1
    (error,) = survey(str(root))["errors"]
    assert (error["command"], error["stage"], error["code"]) == ("select", "select", 1)
    assert 'run "redundancy link"' in error["message"]
    assert error["age_s"] < 60
    assert "last error: 0:0" in status.render(survey(str(root)))
    assert redundancy("link", *config).returncode == 0
    assert (root / "last_error.json").exists()
    assert redundancy("select", *config).returncode == 0
    assert not (root / "last_error.json").exists()
    found = survey(str(root))
    assert states(found) == ["not needed", "finished", "finished", "finished", "not needed", "not needed"]


def test_errors_of_parts_and_of_runs_are_kept_apart(copied):
    root = str(copied)
    last_error.record(root, "sweep", 1, "one", part=Part(0, 2))
    last_error.record(root, "sweep", 1, "two", part=Part(1, 2))
    last_error.record(root, "run", 1, "three", "report")
    assert {error["message"] for error in survey(root)["errors"]} == {"one", "two", "three"}
    last_error.forget(root, "sweep", Part(1, 2))
    last_error.forget(root, "embed")
    assert {error["message"] for error in survey(root)["errors"]} == {"one", "three"}
    last_error.forget(root, "sweep")
    last_error.forget(root, "report")
    assert survey(root)["errors"] == []
    last_error.record(str(copied / "none"), "run", 1, "x")
    assert not (copied / "none").exists()
    (copied / "last_error.json").write_text("{")
    assert "last_error.json" in survey(root)["damaged"][0]
    last_error.forget(root, "run")


def test_secrets_are_left_out():
    for text, kept in (
        ("https://me:hunter2@host/x failed", "failed"),
        ("refused: access_token=hunter2&x=1", "x=1"),
        ("{'Authorization': 'Bearer hunter2hunter2'}", "Bearer"),
        ("client_secret: hunter2, code 1", "code 1"),
        ("ya29.hunter2-hunter2 expired", "expired"),
        ("X-Goog-Signature=hunter2 bad", "bad"),
    ):
        assert "hunter2" not in last_error.without_secrets(text)
        assert kept in last_error.without_secrets(text)
    plain = 'config.epochs is 3, which is 7 steps; delete /data/runs/a and run "redundancy sweep" again.'
    assert last_error.without_secrets(plain) == plain
    assert len(last_error.without_secrets("x" * 10_000)) < 2100


def test_pauses_do_not_count():
    lines = [{"step": 10 * row, "time": 5.0 * row + (1e5 if row > 6 else 0)} for row in range(12)]
    assert pace.of_lines(lines) == pytest.approx(2)
    assert pace.of_lines(lines[:1]) is None
    packs = [(600.0 * row + (18_000 if row > 5 else 0) + 0.1 * run, 1) for row in range(10) for run in range(10)]
    assert pace.of_ends(packs) == pytest.approx(10 / 600, rel=0.02)
    assert pace.of_ends([(0, 5), (100, 5)]) == pytest.approx(0.05)
    assert pace.of_ends([]) is pace.of_ends([(3, 1)]) is None


def test_watching(copied, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def after(looks):
        def sleep(seconds):
            looks.append(seconds)
            if len(looks) == 3:
                raise KeyboardInterrupt

        return sleep

    for out, flags, lines in ((io.StringIO(), {}, 3), (io.StringIO(), {"json": True}, 3), (Terminal(), {}, None)):
        looks = []
        monkeypatch.setattr(status.time, "sleep", after(looks))
        assert status.status(str(copied), watch=5.0, out=out, **flags) == 0
        assert looks == [5.0] * 3
        if lines is None:
            assert out.getvalue().count("\x1b[H") == 3
        else:
            assert len(out.getvalue().splitlines()) == lines
            assert "\x1b" not in out.getvalue()
        if flags:
            assert {json.loads(line)["runs"]["done"] for line in out.getvalue().splitlines()} == {3}
        elif lines:
            assert "all stages finished, 3 of 3 runs done" in out.getvalue()
