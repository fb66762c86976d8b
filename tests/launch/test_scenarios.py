"""Whole runs of the controller on a fake cloud, with real hosts' processes: each ends well or with a clear error, and leaves
nothing behind.

The controller, its worker and the scripts between them are the real ones; only the program is a small one, that saves its
step, and needs no installation.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types

import pytest

from launch import __main__ as command_line
from launch import bundle, records, run, spec, start
from launch.backends.queued_resources import Backend, Gcloud
from launch.records import State
from redundancy.runtime.errors import UserError
from tests.launch.cloud import CAPACITY, DENIED, EXISTS, INVALID, QUOTA, RESERVATION, UNAVAILABLE, Scenario
from tests.tiers import soaked
from tests.waiting import wait_until

PROGRAM = """
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1]); here.mkdir(exist_ok=True)
saved, starts = here / f"step-{os.environ['TPU_WORKER_ID']}", here / f"starts-{os.environ['TPU_WORKER_ID']}"
with open(starts, "a") as file: file.write("x")
def end(*_):
    print("saved"); sys.exit(75)
signal.signal(signal.SIGTERM, end)
for step in range(int(saved.read_text() or 0) if saved.exists() else 0, int(sys.argv[2])):
    if len(sys.argv) > 3: exec(sys.argv[3])
    time.sleep(0.05)
    part = saved.with_suffix(".part"); part.write_text(str(step + 1)); part.replace(saved)
    print("step", step + 1, flush=True)
print("all", sys.argv[2], "steps")
"""


class Bench:
    """A run on the fake cloud, and what the tests ask of it."""

    def __init__(self, cloud, folder, monkeypatch):
        self.cloud, self.folder, self.said, self.patch, self.threads = cloud, folder, [], monkeypatch, []
        self.clock = time
        (folder / "program.py").write_text(PROGRAM)
        self.values = dict(
            run="r", project="p", bucket="gs://bucket", zones=("us-west4-a", "us-central1-a"), budget_chip_hours=1000.0,
            poll_s=0.15, mirror_s=0.15, self_delete=False, devices=(), python=sys.executable,
        )  # fmt: skip
        self.policy = dict(backoff_s=0.1, appear_s=0.5, settle_s=2.0, unready_s=0.5)
        self.arguments = [str(folder / "work"), "5"]
        self.ledger = {"dead": lambda _: True}  # what a test has started here before is no more
        job = start.job

        def small(*arguments):
            return job(*arguments) | {"argv": [sys.executable, str(folder / "program.py"), *self.arguments]}

        monkeypatch.setattr(start, "job", small)

    def spec(self):
        config = spec.defaults()
        for name, value in self.values.items():
            config[name] = value
        return spec.resolve(config)

    def task(self):
        options = dict(say=self.said.append, clock=self.clock, times=self.policy, ledger=self.ledger)
        task = run.Run(self.spec(), ["run", "{slice}"], **options)
        task.open()
        return task

    def go(self):
        return self.task().run()

    @property
    def text(self):
        return "\n".join(self.said)

    def steps(self, host=0):
        return int((self.folder / "work" / f"step-{host}").read_text())

    def starts(self, host=0):
        return len((self.folder / "work" / f"starts-{host}").read_text())

    def wait_for_step(self, step):
        saved = self.folder / "work" / "step-0"
        wait_until(lambda: saved.exists() and self.steps() >= step, lambda: self.text)

    def in_thread(self):
        """Runs the controller beside the test; returns what waits for its end."""
        task, codes = self.task(), []

        def work():
            try:
                codes.append(task.run())
            except UserError as error:
                codes.append(str(error))

        thread = threading.Thread(target=work)
        self.threads.append(thread)
        thread.start()

        def end():
            thread.join(120)
            assert not thread.is_alive(), self.text
            return codes[0]

        return end

    def other(self):
        """The run as another process finds it."""
        other = run.Run(self.spec(), [], say=self.said.append)
        assert other.ledger.load()
        return other

    def close(self):
        """Ends the controllers that a failed test has left."""
        while any(thread.is_alive() for thread in self.threads):
            self.other().down()
            for thread in self.threads:
                thread.join(1)

    def log(self, attempt, host=0):
        return (self.folder / f"buckets/bucket/launch/r/slice-0/attempt-{attempt}/host-{host}.log").read_text()

    def outcomes(self, index=0):
        content = json.loads((self.folder / "buckets/bucket/launch/r/run.json").read_text())
        return [attempt["outcome"] for attempt in content["slices"][index]["attempts"]]


@pytest.fixture(scope="module")
def code():
    return bundle.make(run.HERE.parent)


@pytest.fixture
def bench(cloud, gcloud_env, tmp_path, monkeypatch, code):
    monkeypatch.setattr(bundle, "make", lambda _: code)
    for name, value in gcloud_env.items():
        monkeypatch.setenv(name, value)
    made = Bench(cloud, tmp_path, monkeypatch)
    try:
        yield made
    finally:
        made.close()
    assert cloud.violations == []
    assert cloud.resources() == [], f"left: {cloud.resources()}\n{made.text}"


@pytest.mark.parametrize(
    ("scenarios", "outcomes", "creations"),
    [
        ([Scenario()], ["done"], 1),
        *soaked(([Scenario(create_error=CAPACITY)] * 3 + [Scenario()], ["capacity"] * 3 + ["done"], 1)),
        *soaked(([Scenario(create_error=QUOTA), Scenario()], ["capacity", "done"], 1)),
        *soaked(([Scenario(create_error=RESERVATION), Scenario()], ["capacity", "done"], 1)),
        *soaked(([Scenario(failed=CAPACITY), Scenario()], ["capacity", "done"], 2)),
        *soaked(([Scenario(creating=2, waiting=5, provisioning=2, deleting=5)], ["done"], 1)),
        *soaked(([Scenario(errors=(1, 3, 4, 6))], ["done"], 1)),
        *soaked(([Scenario(create_error=UNAVAILABLE), Scenario()], ["done"], 1)),
        ([Scenario(create_error=UNAVAILABLE, made=True)], ["done"], 1),
        ([Scenario(unreachable={1: 1})], ["done"], 1),
        *soaked(([Scenario(unreachable={0: 1, 1: 1})], ["done"], 1)),
        *soaked(([Scenario(dropped={0: 1, 1: 2})], ["done"], 1)),
        ([Scenario(unreachable={1: 9}), Scenario()], ["unfit", "done"], 2),
        *soaked(([Scenario(create_error=EXISTS, made=True)], ["done"], 1)),
    ],
    ids=[
        "all well", "no capacity", "quota", "reservation", "failed for want of capacity", "all takes its time",
        "describe is answered by 503", "create is answered by 503", "created, and answered by 503", "a host is unreachable",
        "no host is reachable", "connections drop, and commands run again", "a host stays unreachable", "gcloud has created twice",
    ],
)  # fmt: skip
def test_a_run_that_ends_well(bench, scenarios, outcomes, creations):
    bench.cloud.script("*", *scenarios)
    assert bench.go() == 0, bench.text
    assert bench.outcomes() == outcomes
    assert bench.cloud.creations("r-0") == creations
    assert (bench.steps(0), bench.steps(1)) == (5, 5)
    assert bench.starts(1) == 1
    assert bench.starts(0) == 1 or "unfit" in outcomes
    assert "all 5 steps" in bench.log(len(outcomes), 1)


@pytest.mark.parametrize(("node_only", "notice"), [(False, 2.0), *soaked((False, 0.0), (True, 0.0))])
def test_preempted_in_the_middle(bench, node_only, notice):
    bench.arguments[1:] = ["40", "while step == 30 and starts.stat().st_size < 2: time.sleep(0.05)"]
    bench.cloud.script("r-0", Scenario(preempted=4, node_only=node_only, notice=notice), Scenario())
    assert bench.go() == 0, bench.text
    assert bench.outcomes() == ["preempted", "done"]
    assert (bench.steps(0), bench.steps(1)) == (40, 40)
    assert bench.starts() == 2
    assert "step 1\n" not in bench.log(2), "it began anew"


@pytest.mark.soak
def test_the_slice_is_lost_just_before_the_program_is_started(bench):
    execute, lost = Backend.execute, []

    def losing(slices, name, *arguments, **values):
        if not lost:
            lost.append(name)
            bench.cloud.preempt(name)
        return execute(slices, name, *arguments, **values)

    bench.patch.setattr(Backend, "execute", losing)
    assert bench.go() == 0, bench.text  # gcloud reaches no host, and exits with 0
    assert bench.outcomes() == ["unfit", "done"]


def test_a_killed_process_counts_as_a_failure_and_runs_again(bench):
    bench.arguments[1] = "40"
    ended = bench.in_thread()
    bench.wait_for_step(3)
    pids = [pid for pid in bench.cloud.processes("r-0", 0) if "program.py" in command_of(pid)]
    os.kill(pids[0], signal.SIGKILL)
    assert ended() == 0, bench.text
    assert bench.outcomes() == ["failed", "done"]
    assert bench.cloud.creations("r-0") == 1
    assert "code 137" in bench.text


def command_of(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read()


def step_until(task, condition):
    """Steps of the controller until something holds."""
    wait_until(lambda: condition() or task.step(0), lambda: "\n".join(map(str, task.ledger.records)), every=0)


@pytest.mark.soak
def test_a_bug_in_the_program_stops_after_the_failure_budget(bench):
    bench.arguments[2:] = ["if step == 2: raise ZeroDivisionError('of the program')"]
    assert bench.go() == 1
    assert bench.outcomes() == ["failed"] * 3
    assert bench.cloud.creations("r-0") == 1, "a bug is no reason for another slice"
    assert "Traceback (most recent call last)" in bench.text
    assert bench.text.count("ZeroDivisionError: of the program") >= 3
    assert "the program failed 3 times (max_failures)" in bench.text
    assert bench.starts() == 3


@pytest.mark.parametrize("error", [DENIED, INVALID])
def test_what_the_cloud_forbids_is_told_at_once(bench, error):
    bench.cloud.script("*", Scenario(create_error=error))
    assert bench.go() == 1
    assert [request.command for request in bench.cloud.log].count("queued-resources.create") == 1
    assert error.message.split("'")[0] in bench.text


@pytest.mark.soak
def test_a_request_that_is_not_granted_expires_and_the_next_zone_is_tried(bench):
    later = [0.0]

    def sleep(seconds):
        time.sleep(seconds)
        if any(resource.state == "WAITING_FOR_RESOURCES" for resource in bench.cloud.resources()):
            later[0] = 4000.0

    bench.clock = types.SimpleNamespace(time=lambda: time.time() + later[0], monotonic=time.monotonic, sleep=sleep)
    bench.policy["wait_s"] = 3600.0
    bench.cloud.script("*", Scenario(waiting=10_000), Scenario())
    assert bench.go() == 0
    assert bench.outcomes() == ["capacity", "done"]
    assert {each.zone for each in bench.cloud.log if each.command.endswith("create")} == {*bench.values["zones"]}


def test_it_gives_up_on_capacity_in_the_end(bench):
    def now():
        return time.time() + 1000.0 * any(each.command == "queued-resources.create" for each in bench.cloud.log)

    bench.clock = types.SimpleNamespace(time=now, monotonic=time.monotonic, sleep=time.sleep)
    bench.policy["give_up_s"] = 900.0
    bench.cloud.script("*", Scenario(create_error=CAPACITY))
    assert bench.go() == 1
    assert "gave up after" in bench.text
    assert "no more capacity" in bench.text


def test_chips_that_another_process_holds(bench):
    device = bench.folder / "accel0"
    device.touch()
    bench.values["devices"] = (str(device),)
    code = f"import time; held = open({str(device)!r}); print('held', flush=True); time.sleep(300)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        assert bench.go() == 1
        assert holder.poll() is None, "it was killed"
        assert f"{device} by process {holder.pid} of " in bench.text
        assert not (bench.folder / "work").exists()
    finally:
        holder.kill()
        holder.wait()


def test_stop_saves_and_the_same_command_goes_on(bench):
    bench.arguments[1] = "20000"
    ended = bench.in_thread()
    bench.wait_for_step(3)
    bench.other().stop()
    assert ended() == 75, bench.text
    assert bench.cloud.resources() == []
    saved = bench.steps()
    assert saved >= 3
    bench.arguments[1] = str(saved + 3)
    assert bench.go() == 0, bench.text
    assert (bench.steps(), bench.starts()) == (saved + 3, 2)
    assert bench.outcomes() == ["stopped", "done"], bench.text


def test_a_stop_that_comes_while_the_program_is_started(bench):
    """Then whoever asks does not know of a program that could be asked; the controller does."""
    bench.arguments[1] = "20000"
    task = bench.task()
    step_until(task, lambda: task.records[0].last and task.records[0].last.created)
    other = bench.other()
    step_until(task, lambda: task.records[0].last.started)
    other.stop()
    assert "were asked" not in bench.text
    assert task.run() == 75, bench.text
    assert "hosts [0, 1] were asked to save and end" in bench.text


def test_stop_before_there_is_a_slice(bench):
    bench.cloud.script("*", Scenario(waiting=10_000))
    ended = bench.in_thread()
    wait_until(bench.cloud.resources, lambda: bench.text)
    bench.other().stop()
    assert ended() == 75, bench.text
    assert not (bench.folder / "work").exists()


@pytest.mark.soak
def test_the_bucket_does_not_answer_for_a_while(bench):
    bench.arguments[1] = "60"
    bench.ledger["pauses"] = (0.5,) * 20 + (0.0,)
    ended = bench.in_thread()
    bench.wait_for_step(3)
    down = bench.folder / "buckets" / ".down"
    down.touch()
    wait_until(lambda: down.stat().st_size >= 20, lambda: bench.text)  # so many requests have failed
    down.unlink()
    assert ended() == 0, bench.text
    assert bench.outcomes() == ["done"]
    assert (bench.starts(0), bench.starts(1)) == (1, 1)


def test_a_controller_that_slept_leaves_its_successor_alone(bench):
    bench.arguments[1:] = ["60", "while step == 30 and starts.stat().st_size < 2: time.sleep(0.05)"]
    bench.cloud.script("r-0", Scenario(), Scenario())
    old = bench.task()
    step_until(old, lambda: old.ledger.records[0].last and old.ledger.records[0].last.started)
    bench.cloud.preempt("r-0")
    step_until(old, lambda: old.ledger.records[0].last.outcome)
    ended = bench.in_thread()  # its successor
    begins = "starts the program on all hosts (attempt 2)"
    wait_until(lambda: bench.cloud.creations("r-0") >= 2 and begins in bench.text, lambda: bench.text)
    with pytest.raises(UserError, match="another controller, or down, has taken over the run"):
        old.step(0)
    assert ended() == 0, bench.text
    assert bench.cloud.creations("r-0") == 2, bench.text


@pytest.mark.parametrize("wrong", ["ssh", "command"])
def test_what_another_slice_would_not_mend_is_told_at_once(bench, wrong):
    if wrong == "ssh":
        bench.patch.setattr(Backend, "execute", lambda *_, **__: "me@127.0.0.1: Permission denied (publickey).\n")
    bench.arguments[2:] = ["print('Permission denied (publickey)'); sys.exit(2)"]
    assert bench.go() == 1
    assert bench.outcomes() == ["refused"]
    assert "Permission denied (publickey)" in bench.text


def test_a_second_controller_is_told_who_holds_the_run(bench):
    bench.arguments[1] = "20000"
    ended = bench.in_thread()
    bench.wait_for_step(1)
    second = run.Run(bench.spec(), ["run", "{slice}"])
    with pytest.raises(
        UserError, match=rf"another controller holds this run: .* \(process {os.getpid()}, since .*down"
    ):
        second.open()
    assert command_line.main(arguments(bench, "status", "r")) == 0
    bench.other().stop()
    assert ended() == 75, bench.text
    second.open()  # who held it has released it


def test_down_beside_a_controller(bench):
    bench.arguments[1] = "20000"
    ended = bench.in_thread()
    bench.wait_for_step(3)
    bench.other().down()
    assert "another controller, or down, has taken over the run" in ended()
    assert bench.cloud.resources() == []
    assert bench.outcomes() == ["stopped"]


def test_a_controller_that_dies_anywhere_is_followed_by_another(bench, monkeypatch):
    class Died(BaseException):
        pass

    calls, limit = [0], [1]
    original = Gcloud.attempt

    def dying(self, argv, *arguments, **values):
        calls[0] += 1
        if calls[0] > limit[0]:
            calls[0] = 0
            limit[0] += 2
            if limit[0] % 4 == 1:  # the command was carried out, and its answer is not heard
                original(self, argv, *arguments, **values)
            raise Died
        return original(self, argv, *arguments, **values)

    monkeypatch.setattr(Gcloud, "attempt", dying)
    for deaths in range(1000):  # noqa: B007
        try:
            assert bench.go() == 0, bench.text
            break
        except Died:
            pass
    assert 5 < deaths < 999
    assert bench.outcomes() == ["done"]
    assert bench.cloud.creations("r-0") == 1
    assert (bench.starts(0), bench.starts(1)) == (1, 1)


def test_another_command_of_the_same_name_is_refused(bench):
    assert bench.go() == 0
    task = run.Run(bench.spec(), ["another"], say=bench.said.append)
    with pytest.raises(UserError, match="there is a run r of another command"):
        task.open()


def test_a_slice_of_somebody_else_is_left_alone(bench):
    other = run.Run(dataclasses.replace(bench.spec()), ["theirs", "{slice}"], say=bench.said.append)
    other.ledger.records = [records.Record("r-0")]
    other.slices.create("r-0", "us-west4-a", other.labels(0), 3600.0)
    task = run.Run(bench.spec(), ["run", "{slice}"])
    with pytest.raises(UserError, match=r"there is a slice r-0 in us-west4-a, of owner .* with another command"):
        task.open()
    task.ledger.release()
    assert not task.ledger.load(), "a run that was refused has left a record"
    other.slices.delete("r-0", "us-west4-a")
    wait_for_state(other, "r-0", State.ABSENT)


def wait_for_state(task, name, state):
    wait_until(lambda: task.slices.describe(name, "us-west4-a").state is state, f"{name} is not {state}", every=0)


def test_a_slice_without_a_record_is_taken_over(bench):
    first = bench.task()
    first.slices.create("r-0", "us-central1-a", first.labels(0), 3600.0)
    (bench.folder / "buckets/bucket/launch/r/run.json").unlink()
    assert bench.go() == 0, bench.text
    assert bench.cloud.creations("r-0") == 1
    assert bench.outcomes() == ["done"]


def test_two_slices_with_a_command_each(bench):
    bench.values["slices"] = 2
    bench.cloud.script("r-1", Scenario(create_error=CAPACITY), Scenario())
    assert bench.go() == 0, bench.text
    assert bench.outcomes(0) == ["done"]
    assert bench.outcomes(1) == ["capacity", "done"]
    assert start.substituted(["--part={slice}/{slices}"], bench.spec(), 1) == ["--part=1/2"]


def test_the_budget_ends_the_program_in_time(bench):
    bench.arguments[1] = "2000"
    bench.values["budget_chip_hours"] = 16 * 300 / 3600  # 300 seconds of the slice, of which the program has eight
    bench.policy["least_s"] = 8.0
    assert bench.go() == 1
    assert bench.outcomes() == ["budget"]
    assert "budget_chip_hours is used up" in bench.text
    assert "saved" in bench.log(1)


def test_a_slice_that_nobody_watches_deletes_itself(bench, monkeypatch):
    bench.values |= {"self_delete": True, "idle_minutes": 0.01}
    task = bench.task()
    step_until(task, lambda: task.ledger.records[0].last and task.ledger.records[0].last.started)
    wait_for_state(task, "r-0", State.ABSENT)
    assert bench.cloud.resources() == []
    assert bench.steps() == 5
    assert bench.go() == 0, bench.text  # the results are there, and the program sees that they are
    assert bench.outcomes()[-1] == "done"


def arguments(bench, verb, *more):
    config = bench.folder / "config.py"
    config.write_text("from launch.spec import defaults\ndef get_config():\n    config = defaults()\n"
                      + "".join(f"    config.{name} = {value!r}\n" for name, value in bench.values.items())
                      + "    return config\n")  # fmt: skip
    return ["launch", verb, *more[:1], f"--config={config}", *more[1:]]


OF_REDUNDANCY = ["--", "link", "--config=configs/embeddings.py", "--workdir=gs://bucket/w"]


def test_ctrl_c_tells_what_runs_and_the_same_command_goes_on(bench, capsys, monkeypatch):
    bench.arguments[1] = "60"

    step = run.Run.step

    def interrupted(task, index):
        step(task, index)
        if (bench.folder / "work").exists():
            raise KeyboardInterrupt

    given = arguments(bench, "run")
    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "step", interrupted)
        assert command_line.main([*given, *OF_REDUNDANCY]) == 130
    out = capsys.readouterr().out
    assert "r-0 in us-west4-a, 16 chips" in out
    assert f"python -m launch down r {given[2]}" in out
    assert len(bench.cloud.resources()) == 1
    assert command_line.main(arguments(bench, "list")) == 0
    assert re.search(r"r-0 in us-west4-a: active, owner \w+, expires 20\d\d-", capsys.readouterr().out)
    assert command_line.main(arguments(bench, "status", "r")) == 0
    assert re.search(r"host 1 \(.*\): running, \d+ s ago: step \d+", capsys.readouterr().out)
    assert command_line.main([*given, *OF_REDUNDANCY]) == 0
    assert bench.cloud.creations("r-0") == 1
    assert bench.starts() == 1
    capsys.readouterr()

    assert command_line.main(arguments(bench, "logs", "r", "--host=1")) == 0
    out = capsys.readouterr().out
    assert "step 60" in out
    assert "launch: ended with code 0" in out
    assert command_line.main(arguments(bench, "status", "r")) == 0
    out = capsys.readouterr().out
    assert "ended with 0" in out
    assert "chip-hours used of 1,000.0 chip-hours" in out
    assert command_line.main(arguments(bench, "status", "x")) == 1
    assert "there is no run x" in capsys.readouterr().err


def test_gc_finds_what_was_lost_and_what_is_past_its_time(bench, capsys, monkeypatch):
    task = bench.task()
    for index, name in enumerate(("r-0", "r-1", "r-2")):
        labels = {**task.labels(0), "slice": str(index)}
        labels |= {"expires": "1000"} if index == 1 else {}
        task.slices.create(name, "us-west4-a", labels, 3600.0)
        wait_for_state(task, name, State.ACTIVE)
    task.slices.create("r-9", "us-west4-a", {**task.labels(0), "owner": "another", "expires": "1000"}, 3600.0)
    bench.cloud.preempt("r-0")
    assert command_line.main(arguments(bench, "gc")) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^(r-\d) in us-west4-a: (\w+)", out, re.M) == [("r-0", "suspended"), ("r-1", "active")]
    assert len(bench.cloud.resources()) == 4
    assert command_line.main(arguments(bench, "gc", "--yes")[:2] + arguments(bench, "gc")[2:] + ["--yes"]) == 0
    for name in ("r-0", "r-1"):
        wait_for_state(task, name, State.ABSENT)
    assert sorted(resource.name for resource in bench.cloud.resources()) == ["r-2", "r-9"]
    for name in ("r-2", "r-9"):
        task.slices.delete(name, "us-west4-a")
        wait_for_state(task, name, State.ABSENT)


def test_gc_names_what_was_asked_for_and_may_still_appear(bench, capsys):
    bench.cloud.script("*", Scenario(create_error=UNAVAILABLE))
    bench.task().step(0)
    assert command_line.main(arguments(bench, "gc")) == 0
    out = capsys.readouterr().out
    assert "r-0: was asked for a moment ago and may still appear" in out
    assert "no leftovers yet." in out


def test_plan_creates_nothing(bench, capsys):
    before = sorted((bench.folder / "buckets").rglob("*"))
    assert command_line.main([*arguments(bench, "plan"), *OF_REDUNDANCY]) == 0
    out = capsys.readouterr().out
    assert (
        "gcloud compute tpus queued-resources create r-0 --project=p --zone=us-west4-a --accelerator-type=v5lite" in out
    )
    assert "16 chips" in out
    assert "WARNING: gs://bucket is in " in out
    assert "at most     1,000.0 chip-hours: all slices at once for 62.5 h" in out
    assert sorted((bench.folder / "buckets").rglob("*")) == before
    assert [request for request in bench.cloud.log if request.method != "GET"] == []
