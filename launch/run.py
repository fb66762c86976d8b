"""The loop around `controller.decide`: observes the slices of a run, saves the record in the bucket, and acts.

It may be killed at any moment and started again, here or elsewhere, with the same command: its whole state is in the bucket.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
import time
from collections.abc import Sequence

from launch import bundle as bundle_lib
from launch import controller, records, start
from launch.backends import PERMANENT, CloudError, backend
from launch.controller import Action, Close, Create, Delete, End, Start, Wait
from launch.ledger import Ledger
from launch.records import Attempt, Host, Policy, Record, Resource, Sight, State
from launch.spec import Spec, owner
from redundancy.runtime.errors import WorkdirError

HERE = pathlib.Path(__file__).resolve().parent
_SAY_S = 60.0


def fingerprint(spec: Spec, command: Sequence[str]) -> str:
    """Checksum of everything that must not change during a run."""
    names = ("root", "project", "backend", "accelerator_type", "slices", "hosts", "spot", "runtime_version")
    fixed = [*(getattr(spec, name) for name in names), list(command)]
    return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:12]


class Run:
    """One run: a command, given as arguments of `redundancy`, on each of its slices.

    For tests: `say`, `slices`, `clock` and `bundle` replace `print`, the spec's backend, `time` and this checkout's code;
    `times` are fields of the policy; `ledger` are arguments of `Ledger`.
    """

    def __init__(self, spec, command, say=None, slices=None, clock=time, bundle=None, times=None, ledger=None):
        self.spec, self.command, self.clock, self.bundle = spec, list(command), clock, bundle
        self.slices = slices or backend(spec)
        self.files = self.slices.files
        self.policy = Policy.of(spec, self.slices.zones, self.slices.chips, **(times or {}))
        self.ledger = Ledger(self.files, spec.run, clock, **(ledger or {}))
        self._say = say or (lambda text: print(time.strftime("%H:%M:%S"), text, flush=True))
        self._stop, self._stopped = False, set()
        self._said: dict[int, tuple[str, float]] = {}
        self._since: dict[tuple, tuple[object, float]] = {}

    @property
    def records(self) -> list[Record]:
        return self.ledger.records

    def name(self, index: int) -> str:
        return f"{self.spec.run}-{index}"

    def zone(self, index: int) -> str:
        last = self.records[index].last
        return last.zone if last else self.policy.zones[0]

    def folder(self, index: int, attempt: int) -> str:
        """Folder of the files of an attempt's hosts."""
        return f"{self.spec.run}/slice-{index}/attempt-{attempt}"

    def say(self, index: int, text: object) -> None:
        self._say(f"{self.name(index)}: {text}")

    def used_s(self) -> float:
        return sum(record.seconds(self.clock.time()) for record in self.records)

    def left_s(self) -> float:
        """Seconds for which each unfinished slice may still run."""
        working = sum(record.end is None for record in self.records) or self.spec.slices
        return (self.policy.budget_s - self.used_s()) / working

    def labels(self, index: int) -> dict[str, str]:
        left = self.policy.budget_s - self.used_s()  # a slice may use what others leave
        expires = self.clock.time() + self.spec.wait_hours * 3600 + left
        return {
            "app": "redundancy",
            "owner": self.ledger.head.get("owner", owner()),
            "run": self.spec.run,
            "slice": str(index),
            "hash": self.ledger.head.get("fingerprint", fingerprint(self.spec, self.command)),
            **({"expires": str(round(expires))} if math.isfinite(left) else {}),
        }

    # Beginning.

    def open(self) -> None:
        """Takes over the run's record, or creates one.

        Raises:
          WorkdirError: another controller holds the run, it has another command, or slices of its name belong to others.
        """
        mine, now = fingerprint(self.spec, self.command), self.clock.time()
        if self.ledger.load():
            head = self.ledger.head
            if head["fingerprint"] != mine:
                raise WorkdirError(
                    f"there is a run {self.spec.run} of another command ({' '.join(head['command'])}) or kind of slice "
                    f"({head['kind']}). Choose another --config.run, or end that one with down and remove "
                    f"{self.files.uri(self.spec.run)}."
                )
            ended = all(record.end for record in self.records)
            self.ledger.take(force=ended)
            for index, record in enumerate(self.records if ended else ()):
                if record.end[0] != records.DONE:  # it continues, with new budgets except for the chip-hours
                    base = record.last.number if record.last else 0
                    self.records[index] = dataclasses.replace(record, end=None, base=base)
                    head["began"] = now
        else:
            head = dict(run=self.spec.run, fingerprint=mine, command=self.command, kind=self.slices.kind)
            self.ledger.head |= head | dict(owner=owner(), began=now)
            self.ledger.records = [Record(self.name(index)) for index in range(self.spec.slices)]
            self.ledger.take()
        for resource in self.slices.existing():
            for index, record in enumerate(self.records):
                if resource.name == record.name and (record.last is None or record.last.zone != resource.zone):
                    self._adopt(index, resource)
        self.bundle = self.bundle or bundle_lib.make(HERE.parent)
        self.ledger.save()

    def _adopt(self, index: int, resource: Resource) -> None:
        """Takes over a slice that is not in the record."""
        record, now = self.records[index], self.clock.time()
        self._check_ours(resource)
        if record.last is not None and record.last.outcome is None:
            raise WorkdirError(f"there are two slices {record.name}, in {record.last.zone} and {resource.zone}.")
        number = record.last.number + 1 if record.last else 1
        self.records[index] = record.with_next(number, resource.zone, now, created=now)

    def _check_ours(self, resource: Resource) -> None:
        found, mine = resource.labels, self.labels(0)
        if any(found.get(key) != mine[key] for key in ("hash", "owner")):
            how = self.slices.delete_argv(resource.name, resource.zone) or ("launch", "down", self.spec.run)
            raise WorkdirError(
                f"there is a slice {resource.name} in {resource.zone}, of owner {found.get('owner')} and with another "
                f"command: choose another --config.run, or delete it ({' '.join(how)})."
            )

    # The loop.

    def run(self, patient: bool = False) -> int:
        """Runs until all slices have ended; returns their worst exit code. `patient`: continues even after permanent errors."""
        while True:
            self.look(patient)
            if all(record.end for record in self.records):
                return max((record.end[0] for record in self.records), key=lambda code: (code == 1, code))
            self.sleep()

    def look(self, patient: bool = False) -> None:
        """Observes each unfinished slice once, and acts."""
        for index, record in enumerate(self.records):
            try:
                if record.end is None:
                    self.step(index)
            except CloudError as error:
                if not patient:
                    raise
                self.say(index, error)

    def sleep(self) -> None:
        self.clock.sleep(self.spec.poll_s)
        try:
            self.ledger.renew()
        except CloudError as error:
            self._say(f"the bucket does not answer: {first_line(error)}")

    def step(self, index: int) -> None:
        """Observes a slice once, and acts."""
        resource = self.slices.describe(self.name(index), self.zone(index))
        if resource.state not in (State.ABSENT, State.UNKNOWN):
            self._check_ours(resource)
        self.update(index, controller.seen(self.records[index], resource, self.clock.time()))
        try:
            sight = self._look(index, resource)
        except CloudError as error:
            if error.kind in PERMANENT:
                raise
            return self._tell(index, Wait(f"the bucket: {first_line(error)}"))
        if sight.stop and resource.state is State.ACTIVE:
            self._stop_hosts(index, resource)
        action = self._act(index, sight)
        while isinstance(action, Close):
            bad = [host for host in sight.hosts if host.code and host.tail]
            if action.outcome in ("failed", "refused") and bad:
                first = controller.first_to_fail(bad)
                self.say(index, f"last lines of host {first.worker}:\n{first.tail}")
            sight = dataclasses.replace(sight, **self._counts())
            action = self._act(index, sight)

    def _act(self, index: int, sight: Sight) -> Action:
        """Decides, saves the record and acts.

        The record is saved before each action, even if unchanged, because a controller that was replaced must not act.
        """
        before = self.records[index]
        action = controller.decide(before, sight, self.policy)
        self._tell(index, action)
        self.update(index, controller.after(before, action, self.clock.time()), not isinstance(action, Wait))
        try:
            match action:
                case Create():
                    self._create(index, action, before)
                case Start():
                    start.start(self, index, action.attempt, sight.resource)
                case Delete():
                    self.slices.delete(self.name(index), self.zone(index))
        except CloudError as error:
            # In some states a slice cannot be deleted at the moment, which the cloud reports as "invalid".
            if error.kind in PERMANENT and not (isinstance(action, Delete) and error.kind == "invalid"):
                raise
            self.say(index, error)
        return action

    def _create(self, index: int, action: Create, before: Record) -> None:
        try:
            self.slices.create(self.name(index), action.zone, self.labels(index), self.left_s())
        except CloudError as error:
            record, now = self.records[index], self.clock.time()
            close = Close("capacity" if error.kind in ("capacity", "unavailable") else "refused", first_line(error))
            if error.kind == "capacity" or error.kind in PERMANENT:
                self._tell(index, close)
                return self.update(index, controller.refused(record, before, close, now))
            self.say(index, error)
            return self.update(index, controller.unanswered(record, self.policy, close, now))
        now = self.clock.time()
        return self.update(index, self.records[index].with_last(created=now, asked=now))

    def update(self, index: int, record: Record, always: bool = False) -> None:
        if always or record != self.records[index]:
            self.records[index] = record
            self.ledger.save()

    def close(self, index: int, outcome: str, detail: str) -> None:
        action = Close(outcome, detail)
        self._tell(index, action)
        self.update(index, controller.after(self.records[index], action, self.clock.time()))

    def _tell(self, index: int, action: Action) -> None:
        """Prints an action; repeats the same wait only after some time."""
        match action:
            case Wait(why):
                kind, now = why.partition(":")[0], self.clock.monotonic()
                before, at = self._said.get(index, ("", -math.inf))
                if kind == before and now - at <= _SAY_S:
                    return
                self._said[index] = (kind, now)
                return self.say(index, why if kind.startswith(("running", "setting")) else f"waits for {why}")
            case Create(zone, attempt):
                text = f"asks for a slice in {zone} (attempt {attempt})"
            case Start(attempt):
                text = f"starts the program on all hosts (attempt {attempt})"
            case Close(outcome, detail):
                text = f"{outcome}: {detail}"
            case Delete():
                text = "deletes the slice"
            case End(code, message):
                text = f"{'ended' if code else 'done'}: {message}"
        self._said.pop(index, None)
        self.say(index, text)

    # Looking.

    def _counts(self) -> dict:
        now = self.clock.time()
        return dict(
            now=now,
            failures=sum(controller.failures(record, self.policy) for record in self.records),
            preemptions=sum(map(controller.preemptions, self.records)),
            stop=self._stop,
            run_s=now - self.ledger.head["began"],
            used_s=self.used_s(),
        )

    def _look(self, index: int, resource: Resource) -> Sight:
        self._stop = self.ledger.asked_to_stop()
        last = self.records[index].last
        hosts, quiet, failing = (), 0.0, 0.0
        if resource.state is not State.UNKNOWN and _runs(last):
            statuses, fields = self.statuses(index, last.number), Host.__dataclass_fields__
            hosts = tuple(Host(**{name: status[name] for name in fields if name in status}) for status in statuses)
            beats = {status["worker"]: status["beat"] for status in statuses}
            waiting = set(range(last.hosts)) - {host.worker for host in hosts if host.code is not None}
            quiet = max(
                (self._unchanged_s((index, last.number, host), beats.get(host)) for host in waiting), default=0.0
            )
            failed = any(host.code for host in hosts)
            failing = failed * self._unchanged_s((index, last.number, "failing"), failed)
        not_ready = resource.state is State.ACTIVE and not resource.ready
        unready = not_ready * self._unchanged_s((index, "unready"), not_ready)
        times = dict(quiet_s=quiet, unready_s=unready, failing_s=failing)
        return Sight(resource=resource, hosts=hosts, **times, **self._counts())

    def _unchanged_s(self, key: tuple, value: object) -> float:
        """Seconds since a value last changed, by this machine's clock, since hosts' may be off; a value of None is unknown."""
        now = self.clock.monotonic()
        if key not in self._since or value not in (None, self._since[key][0]):
            self._since[key] = (value, now)
        return now - self._since[key][1]

    def statuses(self, index: int, attempt: int) -> list[dict]:
        """The last reports of the hosts of an attempt."""
        found = []
        for line in self.files.lines(f"{self.folder(index, attempt)}/host-*.json"):
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return sorted(found, key=lambda status: status["worker"])

    # By hand.

    def stop(self) -> None:
        """Asks the controller to end the run, and also the programs themselves, in case there is no controller."""
        self.ledger.ask_to_stop()
        for index in range(len(self.records)):
            self._stop_hosts(index, self.slices.describe(self.name(index), self.zone(index)))

    def _stop_hosts(self, index: int, resource: Resource) -> None:
        """Asks the running program to save and end, repeatedly until all hosts have acknowledged it."""
        last = self.records[index].last
        if _runs(last) and (index, last.number) not in self._stopped:
            acks, said = start.ask(self, index, "stop", last.number, last.bundle, resource)
            asked = f"hosts {sorted(acks)} were asked to save and end"
            self.say(index, asked if acks else f"no host answered: {said.strip()[-500:]}")
            self._stopped |= {(index, last.number)} if len(acks) == last.hosts else set()

    def down(self) -> None:
        """Deletes the run's slices in place of a controller; returns when no request can create another one."""
        for attempt in range(5):  # retries, since a controller may be saving at the same time
            self.ledger.take(force=True)
            for index, record in enumerate(self.records):  # also looks for slices of an ended run
                if record.last is not None and record.last.outcome is None:
                    record = controller.after(record, Close("stopped", "taken down"), self.clock.time())
                end = None if record.last else (records.STOPPED, "taken down")
                self.records[index] = dataclasses.replace(record, end=end)
            try:
                self.ledger.save()
                break
            except WorkdirError:
                if attempt == 4 or not self.ledger.load():
                    raise
        self.ledger.ask_to_stop()
        self.run(patient=True)
        self.ledger.release()


def _runs(last: Attempt | None) -> bool:
    return last is not None and last.started is not None and last.outcome is None


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
