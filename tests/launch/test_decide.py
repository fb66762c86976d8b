"""What the controller does next: a table of single decisions, and random histories of a cloud that does as it likes.

The histories run the whole controller on a cloud, a bucket and a clock in memory.
"""

import contextlib
import dataclasses
import json

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from launch import bundle, controller, run, spec
from launch.backends import CloudError, queued_resources
from launch.controller import Close, Create, Delete, End, Start, Wait
from launch.ledger import LEASE_S
from launch.records import Attempt, Host, Policy, Record, Resource, Sight, State
from redundancy.runtime.errors import WorkdirError
from tests.tiers import examples

assert queued_resources  # sets variables of the environment, which no test may do
ZONES = ("us-west4-a", "us-central1-a")
POLICY = Policy(
    ZONES, wait_s=3600, give_up_s=1e6, silent_s=600, max_preemptions=5, max_failures=3, budget_s=1e6, backoff_s=30
)
NOW = 10_000.0


def record(**last):
    if not last:
        return Record("r-0")
    return Record(
        "r-0",
        (Attempt(**{"number": 1, "zone": ZONES[0], "began": NOW - 500, "created": NOW - 500, "hosts": 2} | last),),
    )


def sight(state, **values):
    known = {name: values.pop(name) for name in ("ready", "message") if name in values}
    return Sight(resource=Resource("r-0", ZONES[0], state, hosts=2, **known), **{"now": NOW} | values)


FAULTS = ("capacity", "unavailable", "permission", "lost", "late", "lost and late", "crash", "crash and late")
CODE = bundle.Bundle((), b"code")
RUNNING, CLOSED = {"started": NOW - 100}, {"started": NOW - 100, "ended": NOW - 50, "detail": "why"}
BOTH = (Host(0, 0, line="fine"), Host(1, 0))


@pytest.mark.parametrize(
    ("last", "seen", "expected"),
    [
        ({}, sight(State.ABSENT), Create(ZONES[0], 1)),
        ({}, sight(State.UNKNOWN), Wait),
        ({"created": None}, sight(State.ABSENT), Create(ZONES[0], 1)),
        ({"created": NOW - 10}, sight(State.ABSENT), Wait),
        ({"asked": NOW - 10}, sight(State.ABSENT, stop=True), Close("stopped", "as asked")),
        (CLOSED | {"asked": NOW - 10, "outcome": "stopped"}, sight(State.ABSENT), Wait),
        (CLOSED | {"asked": NOW - 10, "outcome": "stopped"}, sight(State.WAITING), Delete),
        (CLOSED | {"asked": NOW - 241, "outcome": "stopped"}, sight(State.ABSENT), End(75, "stopped; the same command goes on")),
        ({}, sight(State.WAITING), Delete),
        ({"created": NOW - 60}, sight(State.WAITING), Wait),
        ({"created": NOW - 3601}, sight(State.WAITING), Close("capacity", "not granted in 1 h")),
        ({"created": NOW - 60}, sight(State.BROKEN, message="Quota 'X' exhausted"), Close("capacity", "Quota 'X' exhausted")),
        ({"created": NOW - 60}, sight(State.BROKEN, message="SUSPENDED"), Close("preempted", "SUSPENDED")),
        ({"created": NOW - 60}, sight(State.BROKEN, message="PERMISSION_DENIED: no"), Close("refused", "PERMISSION_DENIED: no")),
        ({"created": NOW - 60}, sight(State.ACTIVE), Start(1)),
        ({"created": NOW - 60}, sight(State.ACTIVE, ready=False, unready_s=10), Wait),
        (RUNNING, sight(State.ACTIVE, ready=False, unready_s=601), Close),
        (RUNNING, sight(State.UNKNOWN, quiet_s=1e5), Wait),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0), Host(1))), Wait),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0, 0),)), Wait),
        (RUNNING, sight(State.ACTIVE, hosts=BOTH), Close("done", "fine")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0), Host(1)), quiet_s=601), Close),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0), Host(1, 1))), Wait),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0), Host(1, 1, line="x")), failing_s=500), Close("failed", "host 1 ended with code 1: x")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0, 76, 1), Host(1, 1, 9, line="x"))), Close("failed", "host 1 ended with code 1: x")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0, 75), Host(1, 75))), Close("preempted", "host 0 ended with code 75: ")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0, 75, stopped=True), Host(1, 75))), Close("stopped", "as asked")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0, 2, line="x"), Host(1, 2))), Close("refused", "host 0 ended with code 2: x")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0, 1, tail="open(/dev/vfio/0): busy"), Host(1, 76))), Close("unfit", "host 0 ended with code 1: ")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0), Host(1)), used_s=1e6), Close("budget", "budget_chip_hours is used up")),
        (RUNNING, sight(State.ABSENT, hosts=BOTH), Close("done", "fine")),
        (RUNNING, sight(State.ABSENT, hosts=BOTH[:1]), Close("preempted", "the slice is gone")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0, 75, expired=True), Host(1, 75)), used_s=1e6 - 60), Close("budget", "budget_chip_hours is used up; the program was asked to save and end")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0, 75, expired=True), Host(1, 75)), used_s=5e5), Close("share", "its share of the budget is used up; there is more now")),
        (CLOSED | {"outcome": "share"}, sight(State.ACTIVE, used_s=5e5), Start(2)),
        ({"created": NOW - 3500}, sight(State.BROKEN, message="FAILED"), Close("capacity", "FAILED")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0), Host(1)), stop=True), Wait),
        (CLOSED | {"outcome": "preempted"}, sight(State.ABSENT, stop=True), End(75, "stopped; the same command goes on")),
        (CLOSED | {"outcome": "failed"}, sight(State.ACTIVE, ready=False, failures=1), Delete),
        (RUNNING, sight(State.BROKEN, message="SUSPENDED"), Close("preempted", "SUSPENDED")),
        (RUNNING, sight(State.DELETING), Close),
        (CLOSED | {"outcome": "preempted"}, sight(State.BROKEN, preemptions=1), Delete("why")),
        (CLOSED | {"outcome": "preempted"}, sight(State.DELETING, preemptions=1), Wait),
        (CLOSED | {"outcome": "preempted"}, sight(State.ABSENT, preemptions=1), Create(ZONES[0], 2)),
        (CLOSED | {"outcome": "preempted"}, sight(State.ABSENT, preemptions=6), End),
        (CLOSED | {"outcome": "capacity"}, sight(State.ABSENT), Create(ZONES[1], 2)),
        (CLOSED | {"outcome": "failed"}, sight(State.ACTIVE, failures=1), Start(2)),
        (CLOSED | {"outcome": "failed"}, sight(State.ACTIVE, failures=3), Delete),
        (CLOSED | {"outcome": "failed"}, sight(State.DELETING, failures=3), Wait),
        (CLOSED | {"outcome": "failed"}, sight(State.ABSENT, failures=3), End(1, "the program failed 3 times (max_failures); why")),
        (CLOSED | {"outcome": "done"}, sight(State.ACTIVE), Delete("why")),
        (CLOSED | {"outcome": "done"}, sight(State.ABSENT), End(0, "why")),
        (CLOSED | {"outcome": "refused"}, sight(State.ABSENT), End(1, "why")),
        (CLOSED | {"outcome": "preempted"}, sight(State.ABSENT, run_s=1e7), End),
    ],
)  # fmt: skip
def test_one_decision(last, seen, expected):
    given = record(**last) if last or seen.resource.state is not State.WAITING else Record("r-0")
    found = controller.decide(given, seen, POLICY)
    assert isinstance(found, expected) if isinstance(expected, type) else found == expected


def test_want_of_capacity_tries_the_zones_and_then_waits_longer_and_longer():
    given, now, pauses, zones = Record("r-0"), NOW, [], []
    for _ in range(16):
        at = now
        while isinstance(action := controller.decide(given, sight(State.ABSENT, now=at), POLICY), Wait):
            at += 1
        pauses.append(at - now)
        zones.append(action.zone)
        given = controller.refused(controller.after(given, action, at), given, Close("capacity", "none"), at)
        now = at
    assert zones == [*ZONES] * 8
    assert pauses[0] == 0
    assert pauses[1::2] == [0] * 8, "the other zone at once"
    assert 0 < pauses[2] < pauses[4] < pauses[6] < pauses[8] <= max(pauses) <= POLICY.backoff_max_s + 1


def test_failures_long_apart_are_not_added_up():
    def failed(number, ran):
        return Attempt(number, ZONES[0], NOW, started=NOW, ended=NOW + ran, outcome="failed")

    assert controller.failures(Record("r", (failed(1, 10), failed(2, 10))), POLICY) == 2
    assert controller.failures(Record("r", (failed(1, 10), failed(2, 10), failed(3, 4000))), POLICY) == 1
    lost = dataclasses.replace(failed(2, 4000), outcome="preempted")
    assert controller.failures(Record("r", (failed(1, 10), lost, failed(3, 10))), POLICY) == 1
    assert controller.failures(Record("r", (failed(1, 10), failed(2, 10)), base=1), POLICY) == 1


def test_slices_of_no_use_one_after_the_other_end_the_run():
    def lost(number, outcome):
        return Attempt(number, ZONES[0], NOW - 100, created=NOW - 100, ended=NOW - 50, outcome=outcome, detail="why")

    given = Record("r-0", tuple(lost(number, "unfit") for number in range(1, 5)))
    told = "4 slices in a row could not run the program (max_failures); why"
    assert controller.decide(given, sight(State.ABSENT), POLICY) == End(1, told)
    given = Record("r-0", (*given.attempts[:2], lost(3, "preempted"), lost(4, "unfit")))
    assert not isinstance(controller.decide(given, sight(State.ABSENT), POLICY), End)


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
        with pytest.raises(WorkdirError, match=r"another controller holds this run: \S+ on .*, heard of 0 s ago\."):
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
TestHistories.settings = examples(200, stateful_step_count=60)


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
