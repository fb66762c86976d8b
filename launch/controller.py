"""Decides what to do next about one slice: pure functions that access neither a clock nor the cloud.

`decide` returns one action for a record and an observation; the functions after it return the next record. This is saved
before the action is carried out, so that a controller may be killed at any moment and another one can continue.
"""

import dataclasses
import re
import zlib
from collections.abc import Sequence

from launch.records import DONE, FAILED, STOPPED, Attempt, Host, Policy, Record, Resource, Sight, State

_SHARE_S = 900.0  # seconds of the budget: with less, another start is not worthwhile

# The cloud's messages for a lack of capacity and for errors that are permanent; programs' messages for faults of the host, from
# marin's tpu_health.py and JAX's issues.
CAPACITY = re.compile(
    r"no more capacity|reserved capacity|valid.until|RESOURCE_\w*EXHAUSTED|quota|stockout|expired", re.I
)
PERMANENT = re.compile(r"PERMISSION_DENIED|INVALID_ARGUMENT|does not have (permission|access)|bad request", re.I)
_OF_THE_HOST = re.compile(
    r"Couldn't open iommu group|open\(/dev/vfio|Device or resource busy|Failed to initialize TPU system|"
    r"TPU initialization failed|No accelerator found|The TPU is already in use|libtpu_lockfile|SLICE_FAILURE_"
)


@dataclasses.dataclass(frozen=True)
class Wait:
    why: str


@dataclasses.dataclass(frozen=True)
class Create:  # repeats the request, if `attempt` is the present one
    zone: str
    attempt: int


@dataclasses.dataclass(frozen=True)
class Start:  # in a new attempt, if the present one has ended
    attempt: int


@dataclasses.dataclass(frozen=True)
class Close:  # ends the present attempt
    outcome: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Delete:
    pass


@dataclasses.dataclass(frozen=True)
class End:  # ends the run: no work and no slice is left
    code: int
    message: str


Action = Wait | Create | Start | Close | Delete | End


def decide(record: Record, sight: Sight, policy: Policy) -> Action:
    """The next action.

    As long as the cloud does not answer, this is neither Delete nor Create. As long as a request of an earlier attempt may still
    create a slice, this is neither End nor a new request.
    """
    last, state = record.last, sight.resource.state
    if state is State.UNKNOWN:
        return Wait(f"the cloud does not answer: {sight.resource.message}".rstrip(": "))
    if last is not None and last.outcome is None:
        return _within(last, sight, policy)
    if state is State.ABSENT and may_appear(record, sight.now, policy):
        return Wait("a request that may still bring a slice")
    if state is State.DELETING:
        return Wait("deletion")
    end, number = _end(record, sight, policy), last.number + 1 if last else 1
    if end is not None:
        return end if state is State.ABSENT else Delete()
    left = _retry_at(record, policy) - sight.now
    if state is State.ACTIVE and sight.resource.ready and record.counted and last.outcome in ("failed", "share"):
        return Wait("a moment before the next try") if left > 0 else Start(number)
    if state is not State.ABSENT:
        return Delete()
    return (
        Wait(f"{left:.0f} s before asking again ({last.detail})") if left > 0 else Create(_zone(last, policy), number)
    )


def may_appear(record: Record, now: float, policy: Policy) -> bool:
    """Whether a request that was sent may still create the slice, which does not exist yet."""
    return record.last is not None and record.last.asked is not None and now - record.last.asked < policy.appear_s


def _within(last: Attempt, sight: Sight, policy: Policy) -> Action:
    """The action during an attempt."""
    resource = sight.resource
    since = sight.now - (last.created or last.began)
    if last.started is not None and last.hosts and sum(host.code == 0 for host in sight.hosts) >= last.hosts:
        return Close("done", sight.hosts[0].line)  # even if the slice has been lost since
    if sight.used_s >= policy.budget_s:
        return Close("budget", "budget_chip_hours is used up")
    if sight.stop and last.started is None:
        return Close("stopped", "as asked")
    match resource.state:
        case State.ABSENT if last.created is None:
            return Create(last.zone, last.number)
        case State.ABSENT if since < policy.appear_s and last.started is None:
            return Wait("the request to appear")
        case State.ABSENT:
            return Close("preempted", "the slice is gone")
        case State.WAITING if since > policy.wait_s:
            return Close("capacity", f"not granted in {policy.wait_s / 3600:g} h")
        case State.WAITING:
            return Wait(f"capacity in {last.zone}")
        case State.BROKEN if last.started is None and PERMANENT.search(resource.message):
            return Close("refused", resource.message)
        case State.BROKEN:
            missed = last.started is None and (since > 0.95 * policy.wait_s or CAPACITY.search(resource.message))
            return Close("capacity" if missed else "preempted", resource.message or "suspended or failed")
        case State.DELETING:
            return Close("preempted", "the slice is being deleted, not by this launcher")
    if not resource.ready:
        if sight.unready_s > policy.unready_s:
            return Close("preempted", f"hosts not ready for {sight.unready_s:.0f} s: {resource.message}")
        return Wait(f"the hosts: {resource.message}" if resource.message else "the hosts")
    return Start(last.number) if last.started is None else _judge(sight, policy)


def _judge(sight: Sight, policy: Policy) -> Action:
    """The action while the program should be running on all hosts."""
    bad = [host for host in sight.hosts if host.code]
    all_ended = sum(host.code is not None for host in sight.hosts) == sight.resource.hosts
    if bad and (all_ended or sight.failing_s > policy.settle_s):
        return _blame(bad, policy.budget_s - sight.used_s)
    if sight.quiet_s > policy.silent_s:
        return Close("preempted", f"no report from a host for {sight.quiet_s:.0f} s")
    lines = [host.line for host in sight.hosts if host.line]
    what = "the other hosts to end" if bad else "setting up" if any(h.setup for h in sight.hosts) else "running"
    return Wait(f"{what}: {lines[0]}" if lines else what)


def first_to_fail(bad: Sequence[Host]) -> Host:
    """The host with the earliest error that was not a consequence of another host's error."""
    return min(bad, key=lambda host: (host.code in (75, 76), host.ended, host.worker))


def _blame(bad: Sequence[Host], left_s: float) -> Close:
    """The outcome of an attempt in which programs ended with an error."""
    if any(host.expired for host in bad):
        if left_s > _SHARE_S:  # slices that have ended since left enough budget
            return Close("share", "its share of the budget is used up; there is more now")
        return Close("budget", "budget_chip_hours is used up; the program was asked to save and end")
    if any(host.stopped for host in bad):
        return Close("stopped", "as asked")
    first = first_to_fail(bad)
    outcome = "failed"
    if first.code in (75, 76):
        outcome = "preempted"
    elif first.code == 2:
        outcome = "failed" if first.setup else "refused"
    elif _OF_THE_HOST.search(first.tail):
        outcome = "unfit"
    return Close(outcome, f"host {first.worker} ended with code {first.code}: {first.line}")


def _end(record: Record, sight: Sight, policy: Policy) -> End | None:
    """The end of the run, or None if another attempt follows."""
    outcome, detail = (record.last.outcome, record.last.detail) if record.counted else (None, "")
    if outcome == "done":
        return End(DONE, detail)
    if outcome == "stopped" or sight.stop:
        return End(STOPPED, "stopped; the same command goes on")
    unfit = [*(attempt.outcome == "unfit" for attempt in reversed(record.counted)), False].index(False)
    for holds, why in (
        (outcome in ("refused", "budget"), ""),
        (sight.failures >= policy.max_failures, f"the program failed {sight.failures} times (max_failures); "),
        (unfit > policy.max_failures, f"the last {unfit} slices could not run the program (max_failures); "),
        (sight.preemptions > policy.max_preemptions, f"{sight.preemptions} slices were lost (max_preemptions); "),
        (sight.used_s >= policy.budget_s, "budget_chip_hours is used up; "),
        (sight.run_s >= policy.give_up_s, f"gave up after {sight.run_s / 3600:.1f} h (give_up_hours); "),
    ):
        if holds:
            return End(FAILED, why + detail)
    return None


def _zone(last: Attempt | None, policy: Policy) -> str:
    """The zone of the last slice, or the next zone if that one had no capacity."""
    if last is None or last.zone not in policy.zones:
        return policy.zones[0]
    return policy.zones[(policy.zones.index(last.zone) + (last.outcome == "capacity")) % len(policy.zones)]


def _retry_at(record: Record, policy: Policy) -> float:
    """The earliest time of the next attempt: immediately in a new zone or after a preemption, else with a growing delay."""
    last = record.last
    if not record.counted or last.ended is None:
        return 0.0
    same = 0
    for attempt in reversed(record.counted):
        if attempt.outcome != last.outcome or attempt.ran_s >= policy.healthy_s:
            break
        same += 1
    rounds, rest = divmod(same, len(policy.zones)) if last.outcome == "capacity" else (same - 1, 0)
    if rounds <= 0 or rest:
        return last.ended
    pause = min(policy.backoff_max_s, policy.backoff_s * 2.0 ** min(rounds, 20))
    spread = zlib.crc32(f"{record.name} {last.number}".encode()) / 2**32  # spreads the requests of several slices
    return last.ended + pause * (0.75 + 0.5 * spread)


def failures(record: Record, policy: Policy) -> int:
    """Number of failures of the program since it last ran for `healthy_s`."""
    count = 0
    for attempt in record.counted:
        count = (0 if attempt.ran_s >= policy.healthy_s else count) + (attempt.outcome == "failed")
    return count


def preemptions(record: Record) -> int:
    return sum(attempt.outcome in ("preempted", "unfit") for attempt in record.counted)


def seen(record: Record, resource: Resource, now: float) -> Record:
    """The record after an observation of the slice: updates its cost, and notes that a request was granted."""
    if resource.state is State.UNKNOWN:
        return record
    if resource.state is State.ACTIVE and record.active_since is None:
        record = dataclasses.replace(record, active_since=now)
    elif resource.state in (State.ABSENT, State.WAITING) and record.active_since is not None:
        record = dataclasses.replace(record, used_s=record.seconds(now), active_since=None)
    last = record.last
    if last is None or resource.state is State.ABSENT:
        return record
    # If there were several requests, another one may still be granted after this slice is gone.
    asked = None if last.requests == 1 else last.asked
    created = now if last.outcome is None and last.created is None else last.created
    return record.with_last(asked=asked, created=created)


def after(record: Record, action: Action, now: float) -> Record:
    """The record to save before the action is carried out."""
    last = record.last
    match action:
        case Create() if last is None or action.attempt != last.number:
            return record.with_next(action.attempt, action.zone, now, asked=now, requests=1)
        case Create():
            return record.with_last(asked=now, requests=last.requests + 1)
        case Start() if action.attempt != last.number:  # another attempt on the same slice
            same = dict(asked=last.asked, requests=last.requests, created=last.created)
            return record.with_next(action.attempt, last.zone, now, **same)
        case Close():
            return record.with_last(outcome=action.outcome, detail=action.detail, ended=now)
        case End():
            return dataclasses.replace(record, end=(action.code, action.message))
    return record


def refused(record: Record, before: Record, close: Close, now: float) -> Record:
    """The record after a refused request. It creates nothing, but an earlier request, known from `before`, still may."""
    again = before.last is not None and before.last.number == record.last.number
    return after(record.with_last(asked=before.last.asked if again else None), close, now)


def unanswered(record: Record, policy: Policy, close: Close, now: float) -> Record:
    """The record after a request without an answer or a reason; the attempt ends after `max_refusals` of them."""
    record = record.with_last(refusals=record.last.refusals + 1, asked=now)
    return record if record.last.refusals < policy.max_refusals else after(record, close, now)
