"""Random histories of a cloud that does as it likes: the whole controller, on a cloud, a bucket and a clock in memory."""

import contextlib
import dataclasses
import json

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from launch import bundle, run, spec
from launch.backends import CloudError, queued_resources
from launch.ledger import LEASE_S
from launch.records import Resource, State
from redundancy.runtime.errors import WorkdirError
from tests.tiers import examples

assert queued_resources  # sets variables of the environment, which no test may do
ZONES = ("us-west4-a", "us-central1-a")
FAULTS = ("capacity", "unavailable", "permission", "lost", "late", "lost and late", "crash", "crash and late")
CODE = bundle.Bundle((), b"code")


class Crash(BaseException):
    """The controller's machine goes down."""


class Clock:
    """A clock that others move; it sleeps by letting the cloud move on."""

    def __init__(self):
        self.now, self.moves = 1e6, lambda: None

    def time(self):
        return self.now

    monotonic = time

    def sleep(self, seconds):
        self.now += max(seconds, 1.0)
        self.moves()


class Cloud:
    """Slices in memory. What it is told to do wrong next is in `faults`.

    A late request takes effect after `LATE_S`, whatever has become of the controller, and only if there is no slice then.
    """

    LATE_S = 200.0
    zones, chips, kind, python, devices, env = ZONES, 16, "v5litepod-16", "python", (), {}

    def __init__(self, clock, files):
        self.clock, self.files, self.slices, self.faults, self.answered = clock, files, {}, {}, False
        self.late = []  # (when, zone, labels)
        self.wrong = []

    def take_effect(self):
        """Late requests whose time has come."""
        for request in [request for request in self.late if request[0] <= self.clock.now]:
            self.late.remove(request)
            self.make(*request[1:])

    def make(self, zone, labels):
        if zone not in self.slices:
            if self.slices:
                self.wrong.append("two slices of one name")
            self.slices[zone] = {"state": State.WAITING, "labels": labels, "ready": True}

    def create(self, name, zone, labels, left_s):
        fault = self.faults.pop("create", "")
        if fault in ("capacity", "unavailable", "permission"):
            raise CloudError(fault, fault)
        if not self.answered:
            self.wrong.append("created without knowing what exists")
        if "late" in fault:
            self.late.append((self.clock.now + self.LATE_S, zone, dict(labels)))
        else:
            self.make(zone, dict(labels))
        if "lost" in fault:
            raise CloudError("unavailable", "no answer")
        if "crash" in fault:
            raise Crash

    def describe(self, name, zone):
        self.take_effect()
        self.answered = not self.faults.get("describe")
        if not self.answered:
            return Resource(name, zone, State.UNKNOWN)
        found = self.slices.get(zone)
        if found is None:
            return Resource(name, zone, State.ABSENT)
        return Resource(name, zone, found["state"], found["ready"], 2, "", found["labels"])

    def delete(self, name, zone):
        if not self.answered:
            self.wrong.append("deleted what it could not see")
        if self.faults.pop("delete", None):
            raise CloudError("unavailable", "no answer")
        if zone in self.slices:
            self.slices[zone]["state"] = State.DELETING

    def delete_argv(self, name, zone):
        return None

    def denied(self, said):
        return False

    def existing(self):
        self.take_effect()
        return [Resource("r-0", zone, each["state"], labels=each["labels"]) for zone, each in self.slices.items()]

    def execute(self, name, zone, argv, workers, timeout):
        silent = self.faults.pop("execute", ())
        hosts = [host for host in workers or range(2) if host not in silent]
        return "\n".join(f"LAUNCH-ACK {json.dumps({'worker': host, 'state': 'started'})}" for host in hosts)


class Files:
    """A bucket in memory."""

    def __init__(self):
        self.content, self.hosts = {}, {}

    def uri(self, path):
        return f"gs://bucket/launch/{path}"

    def read(self, path):
        return self.content.get(path, (0, None))[1]

    def generation(self, path):
        return self.content.get(path, (0, None))[0]

    def write(self, path, data, generation=None):
        if generation not in (None, self.generation(path)):
            raise CloudError("changed", "changed")
        self.content[path] = (self.generation(path) + 1, data)

    def lines(self, pattern):
        attempt = int(pattern.split("attempt-")[1].split("/")[0])
        return [json.dumps(status) for (number, _), status in self.hosts.items() if number == attempt]


class Histories(RuleBasedStateMachine):
    """Anything may happen, in any order; the controller may be killed at any moment."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.files, self.beats = Files(), 0
        self.cloud = Cloud(self.clock, self.files)
        self.clock.moves = self.the_cloud_moves_on
        self.highest = 0
        config = spec.defaults()
        config.bucket, config.run, config.zones, config.budget_chip_hours = "gs://bucket", "r", ZONES, 1e5
        config.max_preemptions, config.max_failures = 4, 3
        self.spec = spec.resolve(config)
        self.begin()

    def controller(self, dead=True):
        """One that knows nothing but what is in the bucket, and whether the holder of the run is dead."""
        return run.Run(
            self.spec, ["run"], say=lambda _: None, slices=self.cloud, clock=self.clock, bundle=CODE,
            ledger={"dead": lambda _: dead},
        )  # fmt: skip

    def begin(self):
        self.task = self.controller()
        self.task.open()

    @property
    def found(self):
        return self.task.ledger.records[0]

    def step(self):
        if self.found.end is not None:
            return
        try:
            self.task.look()
        except (Crash, CloudError):
            self.begin()

    @rule()
    def look(self):
        self.step()

    @rule()
    def another_controller_comes_and_the_old_one_goes_on(self):
        old = self.task
        self.begin()
        self.step()
        if old.ledger.records[0].end is None:
            with contextlib.suppress(WorkdirError, CloudError, Crash):
                old.step(0)

    @rule()
    def a_second_controller_comes(self):
        if self.found.end is not None:
            return
        self.task.ledger.save()
        before = dict(self.files.content)
        with pytest.raises(WorkdirError, match=r"another controller holds this run: \S+ on .*, last saved 0 s ago\."):
            self.controller(dead=False).open()
        assert self.files.content == before

    @rule()
    def another_controller_comes_after_the_old_one_slept(self):
        self.clock.now += LEASE_S
        old, self.task = self.task, self.controller(dead=False)
        self.task.open()
        if old.ledger.records[0].end is None:
            with pytest.raises(WorkdirError, match="another controller, or down, has taken over the run"):
                old.ledger.save()

    @rule()
    def it_is_asked_to_stop(self):
        other = self.controller()
        if other.ledger.load() and not other.ledger.records[0].end:
            with contextlib.suppress(CloudError):
                other.stop()

    @rule()
    def it_is_asked_to_stop_in_the_middle_of_a_look(self):
        self.it_is_asked_to_stop()
        if self.found.end is None:
            try:
                self.task.step(0)
            except (Crash, CloudError):
                self.begin()

    @rule()
    def it_is_taken_down(self):
        other = self.controller()
        self.cloud.faults.pop("describe", None)  # down waits until the cloud answers
        assert other.ledger.load()
        other.down()
        assert not self.cloud.slices
        assert not self.cloud.late
        self.begin()

    @rule()
    def down_is_killed(self):
        other, moves = self.controller(), self.clock.moves
        assert other.ledger.load()
        self.clock.moves = self.crash
        with contextlib.suppress(Crash):
            other.down()
        self.clock.moves = moves
        self.task.ledger.load()
        self.nothing_is_wrong()
        self.begin()

    def crash(self):
        raise Crash

    @rule(minutes=st.sampled_from([0.5, 1, 3, 5, 30, 500]))
    def time_passes(self, minutes):
        self.clock.now += 60 * minutes

    @rule()
    def the_cloud_moves_on(self):
        for zone, each in [*self.cloud.slices.items()]:
            if each["state"] is State.DELETING:
                del self.cloud.slices[zone]
            elif each["state"] is State.WAITING:
                each["state"] = State.ACTIVE

    @rule(what=st.sampled_from(["suspended", "gone", "not ready"]))
    def the_slice_is_lost(self, what):
        for zone, each in [*self.cloud.slices.items()]:
            if what == "gone":
                del self.cloud.slices[zone]
            elif each["state"] is State.ACTIVE and what == "suspended":
                each["state"] = State.BROKEN
            else:
                each["ready"] = False

    @rule(fault=st.sampled_from(FAULTS))
    def the_next_request_goes_wrong(self, fault):
        self.cloud.faults["create"] = fault

    @rule(silent=st.sampled_from([(0,), (1,), (0, 1)]))
    def hosts_do_not_answer(self, silent):
        self.cloud.faults["execute"] = silent

    @rule(name=st.sampled_from(["delete", "describe"]))
    def the_cloud_does_not_answer(self, name):
        self.cloud.faults[name] = True

    @rule()
    def the_cloud_answers_again(self):
        self.cloud.faults.clear()

    @rule(host=st.integers(0, 1), code=st.sampled_from([None, 0, 0, 1, 2, 75, 76, 137]))
    def a_host_tells(self, host, code):
        self.tell(host, code)

    def tell(self, host, code):
        if self.found.last is None or not self.found.last.started:
            return
        self.beats += 1
        status = {"worker": host, "state": "running", "beat": self.beats, "line": "x", "tail": "x"}
        if code is not None:
            status |= {"state": "ended", "code": code, "ended": self.clock.now}
        self.files.hosts[self.found.last.number, host] = status

    @rule()
    def the_controller_is_killed(self):
        self.begin()

    @precondition(lambda self: self.found.end is not None)
    @rule()
    def it_is_run_again(self):
        self.begin()

    @invariant()
    def nothing_is_wrong(self):
        assert self.cloud.wrong == []
        assert len(self.cloud.slices) <= 1
        if self.found.end is not None:
            assert not self.cloud.slices, "a slice is left"
            assert not self.cloud.late, "a slice will be left"
        numbers = [attempt.number for attempt in self.found.attempts]
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= self.highest
        self.highest = len(numbers)
        assert sum(attempt.outcome is None for attempt in self.found.attempts) <= 1

    def teardown(self):
        """In a world where all goes well the run ends soon, and well if its budgets allow it."""
        self.cloud.faults.clear()
        for _ in range(60):
            self.step()
            self.nothing_is_wrong()
            if self.found.end is not None:
                break
            self.the_cloud_moves_on()
            self.clock.now += 1000
            if self.found.last is not None and self.found.last.outcome is None:
                for host in range(2):
                    self.tell(host, 0)
        assert self.found.end is not None


TestHistories = Histories.TestCase
TestHistories.settings = examples(100, stateful_step_count=60)


@pytest.mark.parametrize("ended", ["stop", "down", "budget"])
@pytest.mark.parametrize("fault", ["late", "lost and late", "crash and late"])
def test_a_run_does_not_end_while_a_request_may_still_bring_a_slice(fault, ended):
    history = Histories()
    history.the_next_request_goes_wrong(fault=fault)
    history.another_controller_comes_and_the_old_one_goes_on()
    if ended == "down":
        history.it_is_taken_down()
        assert history.clock.now >= 1e6 + Cloud.LATE_S
        return
    if ended == "stop":
        history.it_is_asked_to_stop()
    else:
        history.task.policy = dataclasses.replace(history.task.policy, budget_s=0.0)
    history.look()
    assert history.found.last.outcome == {"stop": "stopped", "budget": "budget"}[ended]
    assert history.found.end is None
    history.time_passes(minutes=3.5)
    history.look()
    history.the_cloud_moves_on()
    history.look()
    assert history.found.end is not None
    assert history.cloud.slices == {}
    assert history.cloud.late == []
