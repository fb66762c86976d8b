"""Who controls a run, by whom it is stopped, and what the command line shows of it: on the fake cloud, as test_scenarios.py."""

import os
import re

import pytest

from launch import __main__ as command_line
from launch import records, run
from launch.backends.queued_resources import Gcloud
from launch.records import State
from redundancy.runtime.errors import UserError
from tests.launch.bench import arguments, step_until, wait_for_state
from tests.launch.scenario import UNAVAILABLE, Scenario
from tests.waiting import wait_until


@pytest.mark.soak
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


@pytest.mark.soak
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


@pytest.mark.soak
def test_stop_before_there_is_a_slice(bench):
    bench.cloud.script("*", Scenario(waiting=10_000))
    ended = bench.in_thread()
    wait_until(bench.cloud.resources, lambda: bench.text)
    bench.other().stop()
    assert ended() == 75, bench.text
    assert not (bench.folder / "work").exists()


@pytest.mark.soak
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


@pytest.mark.soak
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


@pytest.mark.soak
def test_down_beside_a_controller(bench):
    bench.arguments[1] = "20000"
    ended = bench.in_thread()
    bench.wait_for_step(3)
    bench.other().down()
    assert "another controller, or down, has taken over the run" in ended()
    assert bench.cloud.resources() == []
    assert bench.outcomes() == ["stopped"]


@pytest.mark.soak
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


@pytest.mark.soak
def test_another_command_of_the_same_name_is_refused(bench):
    assert bench.go() == 0
    task = run.Run(bench.spec(), ["another"], say=bench.said.append)
    with pytest.raises(UserError, match="there is a run r of another command"):
        task.open()


def test_a_slice_of_somebody_else_is_left_alone(bench):
    other = run.Run(bench.spec(), ["theirs", "{slice}"], say=bench.said.append)
    other.ledger.records = [records.Record("r-0")]
    other.slices.create("r-0", "us-west4-a", other.labels(0), 3600.0)
    task = run.Run(bench.spec(), ["run", "{slice}"])
    with pytest.raises(UserError, match=r"there is a slice r-0 in us-west4-a, of owner .* with another command"):
        task.open()
    task.ledger.release()
    assert not task.ledger.load(), "a run that was refused has left a record"
    other.slices.delete("r-0", "us-west4-a")
    wait_for_state(other, "r-0", State.ABSENT)


@pytest.mark.soak
def test_a_slice_without_a_record_is_taken_over(bench):
    first = bench.task()
    first.slices.create("r-0", "us-central1-a", first.labels(0), 3600.0)
    (bench.folder / "buckets/bucket/launch/r/run.json").unlink()
    assert bench.go() == 0, bench.text
    assert bench.cloud.creations("r-0") == 1
    assert bench.outcomes() == ["done"]


OF_REDUNDANCY = ["--", "link", "--config=configs/embeddings.py", "--workdir=gs://bucket/w"]


@pytest.mark.soak
def test_ctrl_c_tells_what_runs_and_the_same_command_goes_on(bench, capsys, monkeypatch):
    go = bench.folder / "go"
    bench.arguments[1:] = ["60", f"while step == 30 and not os.path.exists({str(go)!r}): time.sleep(0.05)"]
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

    def shown():
        assert command_line.main(arguments(bench, "status", "r")) == 0
        return re.search(r"host 1 \(.*\): running, \d+ s ago: step \d+", capsys.readouterr().out)

    wait_until(shown)
    go.touch()
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


@pytest.mark.soak
def test_ctrl_c_deletes_the_slices_if_that_was_asked_for(bench, capsys, monkeypatch):
    bench.arguments[1] = "20000"
    step = run.Run.step

    def interrupted(task, index):
        step(task, index)
        if (bench.folder / "work").exists() and not task.records[0].last.outcome:
            raise KeyboardInterrupt

    monkeypatch.setattr(run.Run, "step", interrupted)
    assert command_line.main([*arguments(bench, "run"), "--delete-on-exit", *OF_REDUNDANCY]) == 130
    assert "This launcher ends" not in capsys.readouterr().out
    assert bench.cloud.resources() == []
    assert bench.outcomes() == ["stopped"]


@pytest.mark.soak
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


def test_preflight_asks_what_a_run_needs(bench, capsys):
    assert command_line.main([*arguments(bench, "preflight"), *OF_REDUNDANCY]) == 1
    out = capsys.readouterr().out
    assert "account        FAILED: nobody is logged in. Wanted: gcloud auth login" in out
    assert "us-central1-a  v5litepod-16\nus-central1-a  v2-alpha-tpuv5-lite\n" in out
    assert "bucket         WARNING: gs://bucket is in us-central1, us-west4-a not" in out
    assert out.endswith("not ready\n")
    bench.values["runtime_version"] = "none"
    command_line.main([*arguments(bench, "preflight"), *OF_REDUNDANCY])
    assert (
        "us-west4-a     FAILED: there is no none, but v2-alpha-tpuv5-lite. Wanted: --config.runtime"
        in capsys.readouterr().out
    )
