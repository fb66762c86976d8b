"""Data classes for observations and records of a slice. Times are seconds since 1970."""

import dataclasses
import enum
import math
from collections.abc import Mapping

from launch.spec import Spec

DONE, FAILED, STOPPED = 0, 1, 75


class State(enum.Enum):
    """The state of a slice, as far as it is relevant here."""

    ABSENT = "absent"
    WAITING = "waiting for capacity"
    ACTIVE = "active"
    BROKEN = "suspended or failed"
    DELETING = "being deleted"
    UNKNOWN = "unknown"  # the cloud did not answer


@dataclasses.dataclass(frozen=True)
class Resource:
    """A slice as described by the cloud. `ready`: whether its hosts can work; `message`: the cloud's message, if any."""

    name: str
    zone: str
    state: State
    ready: bool = True
    hosts: int = 0
    message: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.state.value + (f" ({self.message})" if self.message else "")


@dataclasses.dataclass(frozen=True)
class Host:
    """The last report of a host's worker."""

    worker: int
    code: int | None = None  # exit code of the program; None while it runs
    ended: float = 0.0
    stopped: bool = False  # whether it ended on request
    expired: bool = False
    setup: bool = False
    line: str = ""
    tail: str = ""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One start of the program on a slice."""

    number: int
    zone: str
    began: float
    bundle: str = ""  # SHA-256 of the code that was started
    # The time at which the latest request for the slice was sent or answered; None once the slice was seen or refused, since the
    # request can then no longer create a slice.
    asked: float | None = None
    requests: int = 0
    created: float | None = None  # time at which the cloud granted the request, if known
    refusals: int = 0  # number of requests without an answer
    started: float | None = None  # time at which all hosts had acknowledged the start
    hosts: int = 0
    outcome: str | None = None  # done, stopped, failed, preempted, unfit, capacity, share, budget, refused
    detail: str = ""
    ended: float | None = None

    @property
    def ran_s(self) -> float:
        """Seconds for which the program ran; 0 until the attempt has ended."""
        return self.ended - self.started if self.started and self.ended else 0.0


@dataclasses.dataclass(frozen=True)
class Record:
    """Everything that is recorded about a slice."""

    name: str
    attempts: tuple[Attempt, ...] = ()
    active_since: float | None = None  # start of the time for which chip-hours are counted
    used_s: float = 0.0  # active seconds before that
    base: int = 0  # attempts up to this number belong to an earlier, ended run and do not count for the budgets
    end: tuple[int, str] | None = None  # exit code and message, once the run has ended

    @classmethod
    def of(cls, found: dict) -> "Record":
        """Makes the record from its JSON."""
        attempts = tuple(Attempt(**attempt) for attempt in found["attempts"])
        return cls(**{**found, "attempts": attempts, "end": tuple(found["end"]) if found["end"] else None})

    @property
    def last(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def counted(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.number > self.base)

    def seconds(self, now: float) -> float:
        """Seconds for which slices of this record have been active."""
        return self.used_s + (now - self.active_since if self.active_since is not None else 0.0)

    def with_last(self, **changes) -> "Record":
        """The record with its last attempt changed."""
        return dataclasses.replace(self, attempts=(*self.attempts[:-1], dataclasses.replace(self.last, **changes)))

    def with_next(self, number: int, zone: str, now: float, **values) -> "Record":
        """The record with another attempt."""
        return dataclasses.replace(self, attempts=(*self.attempts, Attempt(number, zone, now, **values)), end=None)


@dataclasses.dataclass(frozen=True)
class Policy:
    """Time limits, in seconds, and the zones to try."""

    zones: tuple[str, ...]
    wait_s: float
    give_up_s: float
    silent_s: float
    max_preemptions: int
    max_failures: int
    budget_s: float
    appear_s: float = 240.0  # time in which a request may create a slice: gcloud takes up to 120 s, and its list too
    unready_s: float = 600.0
    settle_s: float = 180.0  # time from the failure of one host's program until those of the others have ended
    healthy_s: float = 3600.0  # after the program has run for this time, earlier failures and losses do not count
    max_refusals: int = 5
    last_s: float = 300.0  # part of the budget that is reserved for saving and deletion
    least_s: float = 60.0  # least time that the program gets
    backoff_s: float = 30.0
    backoff_max_s: float = 900.0

    @classmethod
    def of(cls, spec: Spec, zones: tuple[str, ...], chips: int, **others) -> "Policy":
        values = dict(
            wait_s=spec.wait_hours * 3600,
            give_up_s=spec.give_up_hours * 3600,
            silent_s=spec.silent_minutes * 60,
            budget_s=spec.budget_chip_hours / chips * 3600 or math.inf,
            settle_s=min(180.0, 6 * spec.mirror_s + 120.0),
            backoff_s=min(30.0, spec.poll_s),
        )
        return cls(zones, max_preemptions=spec.max_preemptions, max_failures=spec.max_failures, **(values | others))


@dataclasses.dataclass(frozen=True)
class Sight:
    """An observation of one slice at one moment, with the data of the whole run that budgets need."""

    now: float
    resource: Resource
    hosts: tuple[Host, ...] = ()  # hosts whose report of the present attempt has been read
    quiet_s: float = 0.0  # longest time since the last report of a host that has not ended
    unready_s: float = 0.0  # time for which the slice has been active without its hosts being ready
    failing_s: float = 0.0  # time since the first failure of a program was seen
    stop: bool = False  # whether somebody asked the run to stop
    failures: int = 0  # over all slices of the run, as the next two
    preemptions: int = 0
    used_s: float = 0.0
    run_s: float = 0.0  # time since the run began
