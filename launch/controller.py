"""What to do next about one slice: pure functions, with no clock and no cloud of their own.

`decide` names one action for a record and what was seen; the functions after it give the record that follows. That is saved
before the action is carried out, so that a controller may be killed at any moment and another one may go on.
"""

import dataclasses
import re
from collections.abc import Sequence

from launch.records import DONE, FAILED, STOPPED, Attempt, Host, Policy, Record, Resource, Sight, State

_SHARE_S = 900.0  # of the budget: less is not worth another start

# Words of the cloud for want of capacity and for what waiting cannot mend; words of a program whose host is to blame, from
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
class Create:  # once more, where `attempt` is the present one
    zone: str
    attempt: int


@dataclasses.dataclass(frozen=True)
class Start:  # a new attempt, where the present one has ended
    attempt: int


@dataclasses.dataclass(frozen=True)
class Close:  # the present attempt has ended
    outcome: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Delete:
    why: str


@dataclasses.dataclass(frozen=True)
class End:  # nothing is left to do, and no slice is left
    code: int
    message: str


Action = Wait | Create | Start | Close | Delete | End


def decide(record: Record, sight: Sight, policy: Policy) -> Action:
    """The next action: never deletes or creates while the cloud does not answer, nor ends or asks again while a request of an
    earlier attempt may still bring a slice."""
    last, state = record.last, sight.resource.state
    if state is State.UNKNOWN:
        return Wait(f"the cloud does not answer: {sight.resource.message}".rstrip(": "))
    if last is not None and last.outcome is None:
        return _within(last, sight, policy)
    if state is State.ABSENT and may_appear(record, sight.now, policy):
        return Wait("a request that may still bring a slice")
    if (end := _end(record, sight, policy)) is not None:
        if state is State.ABSENT:
            return end
        return Wait("deletion") if state is State.DELETING else Delete(end.message)
    number = last.number + 1 if last else 1
    if state is State.DELETING:
        return Wait("deletion")
    if state is State.ACTIVE and sight.resource.ready and record.counted and last.outcome in ("failed", "share"):
        return Wait("a moment before the next try") if sight.now < _retry_at(record, policy) else Start(number)
    if state is not State.ABSENT:
        return Delete(last.detail if last else "a slice of this name that no record tells of")
    if (left := _retry_at(record, policy) - sight.now) > 0:
        return Wait(f"{left:.0f} s before asking again ({last.detail})")
    return Create(_zone(last, policy.zones), number)


def may_appear(record: Record, now: float, policy: Policy) -> bool:
    """Whether a slice that is absent may still come of a request that was sent."""
    return record.last is not None and record.last.asked is not None and now - record.last.asked < policy.appear_s


def _within(last: Attempt, sight: Sight, policy: Policy) -> Action:
    """While an attempt lasts."""
    resource = sight.resource
    well = {host.worker for host in sight.hosts if host.code == 0}
    if last.started is not None and last.hosts and well >= set(range(last.hosts)):
        return Close("done", sight.hosts[0].line)  # whatever has become of the slice since
    if sight.used_s >= policy.budget_s:
        return Close("budget", "budget_chip_hours is used up")
    if sight.stop and last.started is None:
        return Close("stopped", "as asked")
    match resource.state:
        case State.ABSENT if last.created is None:
            return Create(last.zone, last.number)
        case State.ABSENT if sight.now - last.created < policy.appear_s and last.started is None:
            return Wait("the request to appear")
        case State.ABSENT:
            return Close("preempted", "the slice is gone")
        case State.WAITING:
            if sight.now - (last.created or last.began) > policy.wait_s:
                return Close("capacity", f"not granted in {policy.wait_s / 3600:g} h")
            return Wait(f"capacity in {last.zone}")
        case State.BROKEN if last.started is None and PERMANENT.search(resource.message):
            return Close("refused", resource.message)
        case State.BROKEN:
            expired = last.started is None and sight.now - (last.created or last.began) > 0.95 * policy.wait_s
            lost = not expired and (last.started is not None or not CAPACITY.search(resource.message))
            return Close("preempted" if lost else "capacity", resource.message or "suspended or failed")
        case State.DELETING:
            return Close("preempted", "the slice is being deleted, not by this launcher")
    if not resource.ready:
        if sight.unready_s > policy.unready_s:
            return Close("preempted", f"hosts not ready for {sight.unready_s:.0f} s: {resource.message}")
        return Wait(f"the hosts: {resource.message}" if resource.message else "the hosts")
    if last.started is None:
        return Start(last.number)
    return _judge(sight, policy)


def _judge(sight: Sight, policy: Policy) -> Action:
    """While the program should be running on all hosts."""
    bad = [host for host in sight.hosts if host.code]
    all_ended = sum(host.code is not None for host in sight.hosts) == sight.resource.hosts
    if bad and (all_ended or sight.failing_s > policy.settle_s):
        return _blame(bad, policy.budget_s - sight.used_s)
    if sight.quiet_s > policy.silent_s:
        return Close("preempted", f"a host was not heard of for {sight.quiet_s:.0f} s")
    lines = [host.line for host in sight.hosts if host.line]
    what = "the other hosts to end" if bad else "setting up" if any(h.setup for h in sight.hosts) else "running"
    return Wait(f"{what}: {lines[0]}" if lines else what)


def first_to_fail(bad: Sequence[Host]) -> Host:
    """The earliest host whose error was no mere echo of another's."""
    return min(bad, key=lambda host: (host.code in (75, 76), host.ended, host.worker))


def _blame(bad: Sequence[Host], left_s: float) -> Close:
    if any(host.expired for host in bad):
        if left_s > _SHARE_S:  # what slices that have ended since did not use
            return Close("share", "its share of the budget is used up; there is more now")
        return Close("budget", "budget_chip_hours is used up; the program was asked to save and end")
    if any(host.stopped for host in bad):
        return Close("stopped", "as asked")
    first = first_to_fail(bad)
    detail = f"host {first.worker} ended with code {first.code}: {first.line}"
    if first.code in (75, 76):
        return Close("preempted", detail)
    if first.code != 2 and _OF_THE_HOST.search(first.tail):
        return Close("unfit", detail)
    return Close("refused" if first.code == 2 and not first.setup else "failed", detail)


def _end(record: Record, sight: Sight, policy: Policy) -> End | None:
    """Whether, between two attempts, there will be no other one."""
    outcome, detail = (record.last.outcome, record.last.detail) if record.counted else (None, "")
    if outcome == "done":
        return End(DONE, detail)
    if outcome == "stopped" or sight.stop:
        return End(STOPPED, "stopped; the same command goes on")
    unfit = [*(attempt.outcome == "unfit" for attempt in reversed(record.counted)), False].index(False)
    for holds, why in (
        (outcome in ("refused", "budget"), ""),
        (sight.failures >= policy.max_failures, f"the program failed {sight.failures} times (max_failures); "),
        (unfit > policy.max_failures, f"{unfit} slices in a row could not run the program (max_failures); "),
        (sight.preemptions > policy.max_preemptions, f"{sight.preemptions} slices were lost (max_preemptions); "),
        (sight.used_s >= policy.budget_s, "budget_chip_hours is used up; "),
        (sight.run_s >= policy.give_up_s, f"gave up after {sight.run_s / 3600:.1f} h (give_up_hours); "),
    ):
        if holds:
            return End(FAILED, why + detail)
    return None


def _zone(last: Attempt | None, zones: Sequence[str]) -> str:
    """The zone of the last slice, or the next one after a want of capacity."""
    if last is None or last.zone not in zones:
        return zones[0]
    return zones[(zones.index(last.zone) + (last.outcome == "capacity")) % len(zones)]


def _retry_at(record: Record, policy: Policy) -> float:
    """When the next attempt may begin: at once in a new zone or after a preemption, later and later after that."""
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
    return last.ended + min(policy.backoff_max_s, policy.backoff_s * 2.0 ** min(rounds, 20))


def failures(record: Record, policy: Policy) -> int:
    """Failures of the program since it last ran for `healthy_s`."""
    count = 0
    for attempt in record.counted:
        count = (0 if attempt.ran_s >= policy.healthy_s else count) + (attempt.outcome == "failed")
    return count


def seen(record: Record, resource: Resource, now: float) -> Record:
    """The record after a look at the slice: what it costs is counted, and a request that was taken is known."""
    if resource.state is State.UNKNOWN:
        return record
    if resource.state is State.ACTIVE and record.active_since is None:
        record = dataclasses.replace(record, active_since=now)
    elif resource.state in (State.ABSENT, State.WAITING) and record.active_since is not None:
        record = dataclasses.replace(record, used_s=record.seconds(now), active_since=None)
    last = record.last
    if last is None or resource.state is State.ABSENT:
        return record
    # Of several requests another one may come late, after this slice is gone.
    asked = None if last.requests == 1 else last.asked
    created = now if last.outcome is None and last.created is None else last.created
    return record.with_last(asked=asked, created=created)


def after(record: Record, action: Action, now: float) -> Record:
    """The record to save before the action is carried out."""
    last = record.last
    match action:
        case Create() if last is None or action.attempt != last.number:
            attempt = Attempt(action.attempt, action.zone, now, asked=now, requests=1)
            return dataclasses.replace(record, attempts=(*record.attempts, attempt))
        case Create():
            return record.with_last(asked=now, requests=last.requests + 1)
        case Start() if action.attempt != last.number:  # once more on the same slice
            same = dict(asked=last.asked, requests=last.requests, created=last.created)
            attempt = Attempt(action.attempt, last.zone, now, **same)
            return dataclasses.replace(record, attempts=(*record.attempts, attempt))
        case Close():
            return record.with_last(outcome=action.outcome, detail=action.detail, ended=now)
        case End():
            return dataclasses.replace(record, end=(action.code, action.message))
    return record


def refused(record: Record, before: Record, close: Close, now: float) -> Record:
    """After the cloud refused the request: it brings nothing, but an earlier one, known from `before`, still may."""
    again = before.last is not None and before.last.number == record.last.number
    return after(record.with_last(asked=before.last.asked if again else None), close, now)


def unanswered(record: Record, policy: Policy, close: Close, now: float) -> Record:
    """After the cloud did not answer the request, or did not say why it failed; after `max_refusals` the attempt ends."""
    record = record.with_last(refusals=record.last.refusals + 1, asked=now)
    return record if record.last.refusals < policy.max_refusals else after(record, close, now)
