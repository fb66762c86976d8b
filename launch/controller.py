"""What to do next about one slice: pure functions, with no clock, no cloud and no randomness of their own.

`decide` looks at a slice's record and at what was observed, and names one action. `after` gives the record that follows
from an action or a sight. The record is saved before each action is carried out, so that a controller may be killed at
any moment and started again anywhere.
"""

import dataclasses
import enum
import re
import zlib
from collections.abc import Mapping, Sequence

from launch.spec import Spec

DONE, FAILED, STOPPED = 0, 1, 75
_SHARE_S = 900.0  # of the budget: less is not worth another start


class State(enum.Enum):
    """Of a slice, as far as it matters here."""

    ABSENT = "absent"
    WAITING = "waiting for capacity"
    ACTIVE = "active"
    BROKEN = "suspended or failed"
    DELETING = "being deleted"
    UNKNOWN = "unknown"  # the cloud did not answer


@dataclasses.dataclass(frozen=True)
class Resource:
    """A slice as the cloud tells it. `ready`: its hosts can work; `message`: the cloud's own words, if any."""

    name: str
    zone: str
    state: State
    ready: bool = True
    hosts: int = 0
    message: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Host:
    """What a host's worker has told last. `code`: of the program, None while it runs; `stopped`: it was asked to end."""

    worker: int
    code: int | None = None
    ended: float = 0.0
    stopped: bool = False
    expired: bool = False
    setup: bool = False
    line: str = ""
    tail: str = ""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One start of the program on a slice; times are seconds since 1970.

    Attributes:
      asked: when the latest request for the slice was sent or answered, while that request may still bring one; None once
        the slice was seen, or the cloud has refused.
      requests: how often the slice was asked for.
      created: when the cloud took the request; None before, and if that is not known.
      refusals: how often the cloud did not answer the request.
      started: when every host had acknowledged the start; bundle: SHA-256 of the code that was started.
      hosts: how many there are.
      outcome: None while it lasts; done, stopped, failed, preempted, unfit, capacity, share, budget, refused.
    """

    number: int
    zone: str
    began: float
    bundle: str = ""
    asked: float | None = None
    requests: int = 0
    created: float | None = None
    refusals: int = 0
    started: float | None = None
    hosts: int = 0
    outcome: str | None = None
    detail: str = ""
    ended: float | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """All that is remembered of a slice.

    Attributes:
      active_since: chip-hours are counted from then on; used_s: seconds of those before.
      base: attempts up to this number belong to a run that had ended; they do not count in the budgets.
      end: exit code and message, once nothing is left to do.
    """

    name: str
    attempts: tuple[Attempt, ...] = ()
    active_since: float | None = None
    used_s: float = 0.0
    base: int = 0
    end: tuple[int, str] | None = None

    @property
    def last(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def counted(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.number > self.base)

    def seconds(self, now: float) -> float:
        """Seconds that slices of this record were active."""
        return self.used_s + (now - self.active_since if self.active_since is not None else 0.0)


@dataclasses.dataclass(frozen=True)
class Policy:
    """When to give up on what, in seconds, and where to try.

    Attributes:
      appear_s: a request may bring a slice for so long after it was sent or answered: gcloud ends within 120 s, and what
        the cloud took is listed within another 120 s.
      healthy_s: failures and losses before the program ran for so long are forgotten.
      settle_s: after a host's program has failed, the others' may take so long to end, too.
    """

    zones: tuple[str, ...]
    wait_s: float
    give_up_s: float
    silent_s: float
    max_preemptions: int
    max_failures: int
    budget_s: float
    appear_s: float = 240.0
    unready_s: float = 600.0
    settle_s: float = 180.0
    healthy_s: float = 3600.0
    max_refusals: int = 5
    backoff_s: float = 30.0
    backoff_max_s: float = 900.0


def policy(spec: Spec) -> Policy:
    hour, minute = 3600, 60
    zones = spec.zones or ("local",)
    return Policy(
        zones=zones,
        wait_s=spec.wait_hours * hour,
        give_up_s=spec.give_up_hours * hour,
        silent_s=spec.silent_minutes * minute,
        max_preemptions=spec.max_preemptions,
        max_failures=spec.max_failures,
        budget_s=spec.budget_hours * spec.slices * hour,
        settle_s=min(180.0, 6 * spec.mirror_s + 120.0),
        backoff_s=min(30.0, spec.poll_s),
    )


@dataclasses.dataclass(frozen=True)
class Sight:
    """What is known at one moment about one slice, and of the whole run what the budgets need.

    Attributes:
      hosts: those whose status of the present attempt has been seen; num_hosts: how many there are or were.
      quiet_s: since a host that has not ended was last heard of, the longest; 0 where none is late.
      unready_s: since when the slice is active, but its hosts are not ready.
      failing_s: since a program was first seen to have ended with an error.
      stop: somebody asked the run to stop.
      failures, preemptions: of all slices of the run, as the budgets count them.
      run_s: since the run began; used_s: seconds of all its slices.
    """

    now: float
    resource: Resource
    hosts: tuple[Host, ...] = ()
    num_hosts: int = 0
    quiet_s: float = 0.0
    unready_s: float = 0.0
    failing_s: float = 0.0
    stop: bool = False
    failures: int = 0
    preemptions: int = 0
    run_s: float = 0.0
    used_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Wait:
    why: str


@dataclasses.dataclass(frozen=True)
class Create:
    """Asks for the slice; where `attempt` is the present one, once more."""

    zone: str
    attempt: int


@dataclasses.dataclass(frozen=True)
class Start:
    """Starts the program on all hosts of the active slice; a new attempt where the present one has ended."""

    attempt: int


@dataclasses.dataclass(frozen=True)
class Close:
    """The present attempt has ended."""

    outcome: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Delete:
    why: str


@dataclasses.dataclass(frozen=True)
class End:
    """Nothing is left to do, and no slice is left."""

    code: int
    message: str


Action = Wait | Create | Start | Close | Delete | End

# Words of the cloud for want of capacity and for what no time will mend, and of a host that is to blame rather than the
# program; the latter from the lists that launchers of others keep (marin's tpu_health.py, JAX's issues).
CAPACITY = re.compile(
    r"no more capacity|reserved capacity|valid.until|RESOURCE_POOL_EXHAUSTED|RESOURCE_EXHAUSTED|Quota '|quota|stockout|expired",
    re.I,
)
PERMANENT = re.compile(r"PERMISSION_DENIED|INVALID_ARGUMENT|does not have (permission|access)|bad request", re.I)
_OF_THE_HOST = re.compile(
    r"Couldn't open iommu group|open\(/dev/vfio|Device or resource busy|Failed to initialize TPU system|"
    r"TPU initialization failed|No accelerator found|The TPU is already in use|libtpu_lockfile|SLICE_FAILURE_"
)


def decide(record: Record, sight: Sight, policy: Policy) -> Action:
    """The next action for a slice.

    It never deletes or creates while the cloud does not answer, and neither ends nor asks again while a request of an
    earlier attempt may still bring a slice.
    """
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
    return Create(_zone(record, policy), number)


def may_appear(record: Record, now: float, policy: Policy) -> bool:
    """Whether a slice that is absent may still come of a request that was sent."""
    return record.last is not None and record.last.asked is not None and now - record.last.asked < policy.appear_s


def _within(last: Attempt, sight: Sight, policy: Policy) -> Action:
    """While an attempt lasts."""
    resource = sight.resource
    if last.started is not None and (done := _done(sight)) is not None:
        return done
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
            return Close(
                "preempted" if lost else "capacity", resource.message or "the slice was suspended or has failed"
            )
        case State.DELETING:
            return Close("preempted", "the slice is being deleted, not by this launcher")
    if not resource.ready:
        if sight.unready_s > policy.unready_s:
            return Close("preempted", f"hosts not ready for {sight.unready_s:.0f} s: {resource.message}")
        return Wait(f"the hosts: {resource.message}" if resource.message else "the hosts")
    if last.started is None:
        return Start(last.number)
    return _judge(sight, policy)


def _done(sight: Sight) -> Close | None:
    """Whether the program has ended well on all hosts, whatever has become of the slice since."""
    told = {host.worker: host.code for host in sight.hosts}
    if sight.num_hosts and [told.get(worker) for worker in range(sight.num_hosts)] == [0] * sight.num_hosts:
        return Close("done", sight.hosts[0].line)
    return None


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
    """The outcome of an attempt some of whose programs ended with an error."""
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
    if outcome in ("refused", "budget"):
        return End(FAILED, detail)
    if sight.failures >= policy.max_failures:
        return End(FAILED, f"the program failed {sight.failures} times (max_failures); {detail}")
    if (count := _unfit(record)) > policy.max_failures:
        return End(FAILED, f"{count} slices in a row were of no use; {detail}")
    if sight.preemptions > policy.max_preemptions:
        return End(FAILED, f"{sight.preemptions} slices were lost (max_preemptions); {detail}")
    if sight.used_s >= policy.budget_s:
        return End(FAILED, f"budget_chip_hours is used up; {detail}")
    if sight.run_s >= policy.give_up_s:
        return End(FAILED, f"gave up after {sight.run_s / 3600:.1f} h (give_up_hours); {detail}")
    return None


def _zone(record: Record, policy: Policy) -> str:
    """The zone of the last slice, or the next one after a want of capacity."""
    last = record.last
    if last is None or last.zone not in policy.zones:
        return policy.zones[0]
    step = last.outcome == "capacity"
    return policy.zones[(policy.zones.index(last.zone) + step) % len(policy.zones)]


def _retry_at(record: Record, policy: Policy) -> float:
    """When the next attempt may begin: at once in a new zone or after a preemption, later and later after that."""
    last = record.last
    if not record.counted or last.ended is None:
        return 0.0
    same = 0
    for attempt in reversed(record.counted):
        if attempt.outcome != last.outcome or _ran_s(attempt) >= policy.healthy_s:
            break
        same += 1
    rounds, rest = divmod(same, len(policy.zones)) if last.outcome == "capacity" else (same - 1, 0)
    if rounds <= 0 or rest:
        return last.ended
    pause = min(policy.backoff_max_s, policy.backoff_s * 2.0 ** min(rounds, 20))
    spread = zlib.crc32(f"{record.name} {last.number}".encode()) / 2**32  # several slices do not ask in step
    return last.ended + pause * (0.75 + 0.5 * spread)


def failures(record: Record, policy: Policy) -> int:
    """Failures of the program that count: those since it last ran for `healthy_s`."""
    count = 0
    for attempt in record.counted:
        if _ran_s(attempt) >= policy.healthy_s:
            count = 0
        count += attempt.outcome == "failed"
    return count


def _ran_s(attempt: Attempt) -> float:
    """Seconds that the program ran in an attempt that has ended."""
    return attempt.ended - attempt.started if attempt.started and attempt.ended else 0.0


def _unfit(record: Record) -> int:
    """The latest attempts, one after the other, whose hosts could not run the program."""
    outcomes = [attempt.outcome for attempt in reversed(record.counted)]
    return next((index for index, outcome in enumerate(outcomes) if outcome != "unfit"), len(outcomes))


def preemptions(record: Record) -> int:
    return sum(attempt.outcome in ("preempted", "unfit") for attempt in record.counted)


def seen(record: Record, resource: Resource, now: float) -> Record:
    """The record after a look at the slice: what it costs is counted, and a request that was taken is known."""
    if resource.state is State.UNKNOWN:
        return record
    active = resource.state in (State.ACTIVE, State.BROKEN, State.DELETING)
    if resource.state is State.ACTIVE and record.active_since is None:
        record = dataclasses.replace(record, active_since=now)
    elif not active and record.active_since is not None:
        record = dataclasses.replace(record, used_s=record.seconds(now), active_since=None)
    last = record.last
    if last is None or resource.state is State.ABSENT:
        return record
    if last.requests == 1:  # of several requests another one may come late, after this slice is gone
        record = _with_last(record, asked=None)
    if last.outcome is None and last.created is None:
        record = _with_last(record, created=now)
    return record


def after(record: Record, action: Action, now: float) -> Record:
    """The record to save before the action is carried out."""
    last = record.last
    match action:
        case Create() | Start() if last is None or action.attempt != last.number:
            if isinstance(action, Create):
                attempt = Attempt(action.attempt, action.zone, now, asked=now, requests=1)
            else:
                # Another start on the same slice.
                attempt = Attempt(
                    action.attempt, last.zone, now, asked=last.asked, requests=last.requests, created=last.created
                )
            return dataclasses.replace(record, attempts=(*record.attempts, attempt))
        case Create():
            return _with_last(record, asked=now, requests=last.requests + 1)
        case Close():
            return _with_last(record, outcome=action.outcome, detail=action.detail, ended=now)
        case End():
            return dataclasses.replace(record, end=(action.code, action.message))
    return record


def created(record: Record, now: float) -> Record:
    """After the cloud took the request."""
    return _with_last(record, created=now, asked=now)


def refused(record: Record, before: Record, outcome: str, message: str, now: float) -> Record:
    """After the cloud refused the request: it brings nothing, but an earlier one, known from `before`, still may."""
    again = before.last is not None and before.last.number == record.last.number
    record = _with_last(record, asked=before.last.asked if again else None)
    return after(record, Close(outcome, message), now)


def unanswered(record: Record, policy: Policy, outcome: str, message: str, now: float) -> Record:
    """After the cloud did not answer the request, or did not say why it failed; after `max_refusals` the attempt ends."""
    record = _with_last(record, refusals=record.last.refusals + 1, asked=now)
    if record.last.refusals < policy.max_refusals:
        return record
    return after(record, Close(outcome, message), now)


def started(record: Record, now: float, bundle: str, hosts: int) -> Record:
    """After every host has acknowledged the start of the program with this code."""
    return _with_last(record, started=now, bundle=bundle, hosts=hosts)


def _with_last(record: Record, **changes) -> Record:
    return dataclasses.replace(
        record, attempts=(*record.attempts[:-1], dataclasses.replace(record.attempts[-1], **changes))
    )
