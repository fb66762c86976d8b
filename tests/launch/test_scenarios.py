"""Whole runs of the controller on a fake cloud, with real hosts' processes: each ends well or with a clear error, and leaves
nothing behind.

The controller, its worker and the scripts between them are the real ones; only the program is a small one, that saves its
step, and needs no installation.
"""

import os
import signal
import subprocess
import sys
import time
import types

import pytest

from launch import start
from launch.backends.queued_resources import Backend
from launch.records import State
from tests.launch.bench import step_until, wait_for_state
from tests.launch.scenario import CAPACITY, DENIED, EXISTS, INVALID, QUOTA, RESERVATION, UNAVAILABLE, Scenario
from tests.tiers import soaked
from tests.waiting import wait_until


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
        *soaked(([Scenario(create_error=UNAVAILABLE, made=True)], ["done"], 1)),
        *soaked(([Scenario(unreachable={1: 1})], ["done"], 1)),
        *soaked(([Scenario(unreachable={0: 1, 1: 1})], ["done"], 1)),
        *soaked(([Scenario(dropped={0: 1, 1: 2})], ["done"], 1)),
        *soaked(([Scenario(unreachable={1: 9}), Scenario()], ["unfit", "done"], 2)),
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
@pytest.mark.soak
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


@pytest.mark.soak
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


@pytest.mark.soak
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


@pytest.mark.soak
@pytest.mark.parametrize("wrong", ["ssh", "command"])
def test_what_another_slice_would_not_mend_is_told_at_once(bench, wrong):
    if wrong == "ssh":
        bench.patch.setattr(Backend, "execute", lambda *_, **__: "me@127.0.0.1: Permission denied (publickey).\n")
    bench.arguments[2:] = ["print('Permission denied (publickey)'); sys.exit(2)"]
    assert bench.go() == 1
    assert bench.outcomes() == ["refused"]
    assert "Permission denied (publickey)" in bench.text


@pytest.mark.soak
def test_two_slices_with_a_command_each(bench):
    bench.values["slices"] = 2
    bench.cloud.script("r-1", Scenario(create_error=CAPACITY), Scenario())
    assert bench.go() == 0, bench.text
    assert bench.outcomes(0) == ["done"]
    assert bench.outcomes(1) == ["capacity", "done"]
    assert start.substituted(["--part={slice}/{slices}"], bench.spec(), 1) == ["--part=1/2"]


@pytest.mark.soak
def test_the_budget_ends_the_program_in_time(bench):
    bench.arguments[1] = "2000"
    bench.values["budget_chip_hours"] = 16 * 300 / 3600  # 300 seconds of the slice, of which the program has eight
    bench.policy["least_s"] = 8.0
    assert bench.go() == 1
    assert bench.outcomes() == ["budget"]
    assert "budget_chip_hours is used up" in bench.text
    assert "saved" in bench.log(1)


@pytest.mark.soak
def test_a_slice_that_nobody_watches_deletes_itself(bench, monkeypatch):
    bench.values |= {"self_delete": True, "idle_minutes": 0.01}
    task = bench.task()
    step_until(task, lambda: task.ledger.records[0].last and task.ledger.records[0].last.started)
    wait_for_state(task, "r-0", State.ABSENT)
    assert bench.cloud.resources() == []
    assert bench.steps() == 5
    assert bench.go() == 0, bench.text  # the results are there, and the program sees that they are
    assert bench.outcomes()[-1] == "done"
