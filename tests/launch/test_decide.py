"""What the controller does next: a table of single decisions."""

import dataclasses

import pytest

from launch import controller
from launch.controller import Close, Create, Delete, End, Start, Wait
from launch.records import Attempt, Host, Policy, Record, Resource, Sight, State

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
        *((CLOSED | {"asked": NOW - 10, "outcome": outcome}, sight(State.ABSENT), Wait) for outcome in ("budget", "capacity")),
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
        (RUNNING, sight(State.BROKEN, hosts=BOTH), Close("done", "fine")),
        (RUNNING, sight(State.ABSENT, hosts=BOTH), Close("done", "fine")),
        (RUNNING, sight(State.ABSENT, hosts=BOTH[:1]), Close("preempted", "the slice is gone")),
        (RUNNING, sight(State.ABSENT), Close("preempted", "the slice is gone")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0, 75, expired=True), Host(1, 75)), used_s=1e6 - 60), Close("budget", "budget_chip_hours is used up; the program was asked to save and end")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0, 75, expired=True), Host(1, 75)), used_s=5e5), Close("share", "its share of the budget is used up; there is more now")),
        (CLOSED | {"outcome": "share"}, sight(State.ACTIVE, used_s=5e5), Start(2)),
        ({"created": NOW - 3500}, sight(State.BROKEN, message="FAILED"), Close("capacity", "FAILED")),
        ({"created": NOW - 60}, sight(State.WAITING, stop=True), Close("stopped", "as asked")),
        (RUNNING, sight(State.ACTIVE, hosts=(Host(0), Host(1)), stop=True), Wait),
        (CLOSED | {"outcome": "preempted"}, sight(State.ABSENT, stop=True), End(75, "stopped; the same command goes on")),
        (CLOSED | {"outcome": "failed"}, sight(State.ACTIVE, ready=False, failures=1), Delete),
        (RUNNING, sight(State.BROKEN, message="SUSPENDED"), Close("preempted", "SUSPENDED")),
        (RUNNING, sight(State.DELETING), Close),
        (CLOSED | {"outcome": "preempted"}, sight(State.BROKEN, preemptions=1), Delete),
        (CLOSED | {"outcome": "preempted"}, sight(State.DELETING, preemptions=1), Wait),
        (CLOSED | {"outcome": "preempted"}, sight(State.ABSENT, preemptions=1), Create(ZONES[0], 2)),
        (CLOSED | {"outcome": "preempted"}, sight(State.ABSENT, preemptions=6), End),
        (CLOSED | {"outcome": "capacity"}, sight(State.ABSENT), Create(ZONES[1], 2)),
        (CLOSED | {"outcome": "failed"}, sight(State.ACTIVE, failures=1), Start(2)),
        (CLOSED | {"outcome": "failed"}, sight(State.ACTIVE, failures=3), Delete),
        (CLOSED | {"outcome": "failed"}, sight(State.DELETING, failures=3), Wait),
        (CLOSED | {"outcome": "failed"}, sight(State.ABSENT, failures=3), End(1, "the program failed 3 times (max_failures); why")),
        (CLOSED | {"outcome": "failed"}, sight(State.UNKNOWN, failures=3), Wait),
        (CLOSED | {"outcome": "done"}, sight(State.ACTIVE), Delete),
        (CLOSED | {"outcome": "done"}, sight(State.ABSENT), End(0, "why")),
        (CLOSED | {"outcome": "refused"}, sight(State.ABSENT), End(1, "why")),
        (CLOSED | {"outcome": "preempted"}, sight(State.ABSENT, run_s=1e7), End),
    ],
)  # fmt: skip
def test_one_decision(last, seen, expected):
    given = record(**last) if last or seen.resource.state is not State.WAITING else Record("r-0")
    found = controller.decide(given, seen, POLICY)
    assert isinstance(found, expected) if isinstance(expected, type) else found == expected


def test_lack_of_capacity_tries_the_zones_and_then_waits_longer_and_longer():
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
    assert 0 < pauses[2] < pauses[4] < pauses[6] < pauses[8] <= max(pauses) <= 1.25 * POLICY.backoff_max_s + 1


def test_failures_long_apart_are_not_added_up():
    def failed(number, ran):
        return Attempt(number, ZONES[0], NOW, started=NOW, ended=NOW + ran, outcome="failed")

    assert controller.failures(Record("r", (failed(1, 10), failed(2, 10))), POLICY) == 2
    assert controller.failures(Record("r", (failed(1, 10), failed(2, 10), failed(3, 4000))), POLICY) == 1
    lost = dataclasses.replace(failed(2, 4000), outcome="preempted")
    assert controller.failures(Record("r", (failed(1, 10), lost, failed(3, 10))), POLICY) == 1
    assert controller.failures(Record("r", (failed(1, 10), failed(2, 10)), base=1), POLICY) == 1


def test_several_unfit_slices_end_the_run():
    def lost(number, outcome):
        return Attempt(number, ZONES[0], NOW - 100, created=NOW - 100, ended=NOW - 50, outcome=outcome, detail="why")

    given = Record("r-0", tuple(lost(number, "unfit") for number in range(1, 5)))
    message = "the last 4 slices could not run the program (max_failures); why"
    assert controller.decide(given, sight(State.ABSENT), POLICY) == End(1, message)
    given = Record("r-0", (*given.attempts[:2], lost(3, "preempted"), lost(4, "unfit")))
    assert not isinstance(controller.decide(given, sight(State.ABSENT), POLICY), End)
